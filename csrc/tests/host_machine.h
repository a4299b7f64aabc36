// Host threads in the place of a GPU: a std::thread for every thread of a block and a real barrier, with
// memory of the exact size, so that AddressSanitizer sees a step outside and ThreadSanitizer a missing
// barrier.
#ifndef DALI_DR_CSRC_TESTS_HOST_MACHINE_H_
#define DALI_DR_CSRC_TESTS_HOST_MACHINE_H_

#include <chrono>
#include <memory>
#include <vector>

#include "tests/machine.h"

namespace dali_dr::image {

class HostMachine : public Machine {
 public:
  // `backward`: a thread's share runs from its end, to show what depends on order.
  HostMachine(int blocks, int threads, bool backward)
      : blocks_(blocks), threads_(threads), backward_(backward), marks_(kMarks) {}

  DeviceLimits limits() const override;
  Row Facts() const override;
  std::vector<Row> Kernels() const override { return {}; }
  size_t guard_bytes() const override { return 0; }
  size_t cache_bytes() const override { return 1 << 20; }
  uint8_t* Allocate(size_t bytes, int stream) override;
  void Free(uint8_t* memory, int stream) override;
  uint8_t* AllocatePinned(size_t bytes) override;
  void Upload(uint8_t* to, const uint8_t* from, size_t bytes, int stream) override;
  void Download(uint8_t* to, const uint8_t* from, size_t bytes, int stream) override;
  void Copy(uint8_t* to, const uint8_t* from, size_t bytes, int stream) override;
  void Fill(uint8_t* to, uint8_t value, size_t bytes, int stream) override;
  int64_t ScratchBytes(const Batch&) const override { return 0; }  // Launch() has its own, of the exact size
  void Launch(const Batch& batch, uint8_t* data, uint8_t* scratch, int stream) override;
  void Mark(int number) override;
  double Seconds(int begin, int end) override;
  void Wait() override {}

 private:
  int blocks_, threads_;
  bool backward_;
  std::vector<std::chrono::steady_clock::time_point> marks_;
  std::vector<std::unique_ptr<uint8_t[]>> pinned_;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_HOST_MACHINE_H_
