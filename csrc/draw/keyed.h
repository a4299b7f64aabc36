// Random numbers of draw.h: pure functions of a key and a place.
#ifndef DALI_DR_CSRC_DRAW_KEYED_H_
#define DALI_DR_CSRC_DRAW_KEYED_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace dali_dr::draw {

/// Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): one block.
std::array<uint64_t, 4> Philox(std::array<uint64_t, 4> counter, std::array<uint64_t, 2> key);

/// BLAKE2b (RFC 7693) without a key: the first `digest.size()` <= 64 bytes of the hash for that digest
/// length. `person`: the personalisation, at most 16 bytes, filled up with zeros.
void Blake2b(std::span<const uint8_t> message, std::string_view person, std::span<uint8_t> digest);

// Words of 64 bits per view; the stream's number is its place in the counter's highest word.
struct Stream {
  uint64_t number;
  int words;
};

// The uniforms of one view in one stream, a block of four computed when the first of them is asked for.
class Uniforms {
 public:
  Uniforms(const uint64_t key[2], Stream stream, int64_t view)
      : key_{key[0], key[1]},
        stream_(stream.number),
        first_(static_cast<uint64_t>(view) * static_cast<uint64_t>(stream.words / 4) + 1) {}

  double operator[](int word) {
    if (word / 4 != block_) {
      block_ = word / 4;
      words_ = Philox({first_ + static_cast<uint64_t>(block_), 0, 0, stream_}, key_);
    }
    return static_cast<double>(words_[word % 4] >> 11) * 0x1p-53;
  }

 private:
  std::array<uint64_t, 2> key_;
  uint64_t stream_, first_;
  int block_ = -1;
  std::array<uint64_t, 4> words_{};
};

}  // namespace dali_dr::draw

#endif  // DALI_DR_CSRC_DRAW_KEYED_H_
