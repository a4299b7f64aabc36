// What the fuzz targets share: values taken from an input's bytes, and how a broken contract ends the
// program.
//
// A target is one file with LLVMFuzzerTestOneInput, which libFuzzer or driver.cc calls, and perhaps
// LLVMFuzzerCustomMutator.
#ifndef DALI_DR_CSRC_FUZZ_FUZZ_H_
#define DALI_DR_CSRC_FUZZ_FUZZ_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
/// Changes the `size` bytes at `data`, of which there may become `most`; returns how many there are then.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);
[[gnu::weak]] size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed);
}

namespace dali_dr::fuzz {

/// Ends the program, so that the input is a finding, unless the contract is kept.
inline void Require(bool kept, const std::string& contract) {
  if (kept) return;
  std::fprintf(stderr, "CONTRACT BROKEN: %s\n", contract.c_str());
  std::abort();
}

/// Values from the front of the input; zeros where it is at its end.
class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <typename T>
  T Take() {
    T value{};
    const size_t count = std::min(sizeof value, bytes_.size());
    if (count > 0) std::memcpy(&value, bytes_.data(), count);
    bytes_ = bytes_.subspan(count);
    return value;
  }

  /// Of lowest to highest, which differ by less than 65536.
  int32_t Range(int32_t lowest, int32_t highest) {
    return lowest + Take<uint16_t>() % (highest - lowest + 1);
  }

  std::span<const uint8_t> Take(size_t count) {
    const auto taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }

  std::span<const uint8_t> rest() const { return bytes_; }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_FUZZ_H_
