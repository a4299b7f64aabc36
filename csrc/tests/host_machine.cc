// See host_machine.h.
#include "tests/host_machine.h"

#include <atomic>
#include <barrier>
#include <cstring>
#include <thread>

#include "image/block/block.h"

namespace dali_dr::image {
namespace {

// One thread of an emulated block.
class HostBlock {
 public:
  static constexpr bool kHueAndBlur = true;

  HostBlock(int thread, int threads, bool backward, std::barrier<>* barrier)
      : thread_(thread), threads_(threads), backward_(backward), barrier_(barrier) {}

  template <typename F>
  void ForEach(int32_t n, F f) {
    if (backward_) {
      const int32_t last = thread_ + (n - 1 - thread_) / threads_ * threads_;
      if (thread_ < n) {
        for (int32_t i = last; i >= 0; i -= threads_) f(i);
      }
    } else {
      for (int32_t i = thread_; i < n; i += threads_) f(i);
    }
  }
  void Sync() { barrier_->arrive_and_wait(); }
  bool Leader() const { return thread_ == 0; }
  int32_t Replica() const { return thread_; }
  void Count(uint32_t* p, uint32_t n) { std::atomic_ref(*p).fetch_add(n, std::memory_order_relaxed); }
  void Lower(int32_t* p, int32_t v) {
    int32_t old = std::atomic_ref(*p).load(std::memory_order_relaxed);
    while (v < old && !std::atomic_ref(*p).compare_exchange_weak(old, v, std::memory_order_relaxed)) {
    }
  }
  void Raise(int32_t* p, int32_t v) {
    int32_t old = std::atomic_ref(*p).load(std::memory_order_relaxed);
    while (v > old && !std::atomic_ref(*p).compare_exchange_weak(old, v, std::memory_order_relaxed)) {
    }
  }
  void Sum(uint64_t* p, uint32_t n) { std::atomic_ref(*p).fetch_add(n, std::memory_order_relaxed); }
  uint32_t Take(uint32_t* p) { return std::atomic_ref(*p).fetch_add(1, std::memory_order_relaxed); }

 private:
  int thread_, threads_;
  bool backward_;
  std::barrier<>* barrier_;
};

constexpr uint8_t kGarbage = 0xa5;  // memory is not zero at the start, and neither is a GPU's

std::unique_ptr<uint8_t[]> Garbage(size_t n) {
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[n]);
  std::memset(bytes.get(), kGarbage, n);
  return bytes;
}

}  // namespace

DeviceLimits HostMachine::limits() const { return {blocks_, 227 << 10}; }

Row HostMachine::Facts() const {
  return Row().Add("machine", "host threads, no GPU").Add("blocks", blocks_).Add("threads", threads_);
}

uint8_t* HostMachine::Allocate(size_t bytes, int) { return Garbage(bytes).release(); }
void HostMachine::Free(uint8_t* memory, int) { delete[] memory; }
uint8_t* HostMachine::AllocatePinned(size_t bytes) { return pinned_.emplace_back(Garbage(bytes)).get(); }

void HostMachine::Upload(uint8_t* to, const uint8_t* from, size_t bytes, int) {
  std::memcpy(to, from, bytes);
}
void HostMachine::Download(uint8_t* to, const uint8_t* from, size_t bytes, int) {
  std::memcpy(to, from, bytes);
}
void HostMachine::Copy(uint8_t* to, const uint8_t* from, size_t bytes, int) { std::memcpy(to, from, bytes); }
void HostMachine::Fill(uint8_t* to, uint8_t value, size_t bytes, int) { std::memset(to, value, bytes); }

void HostMachine::Mark(int number) { marks_.at(number) = std::chrono::steady_clock::now(); }
double HostMachine::Seconds(int begin, int end) {
  return std::chrono::duration<double>(marks_.at(end) - marks_.at(begin)).count();
}

// As Launch() of device.h does.
void HostMachine::Launch(const Batch& batch, uint8_t* data, uint8_t*, int) {
  for (int part = 0; part < 2; ++part) {
    if (batch.num_jobs(part) == 0) continue;
    const BlockBatch argument = batch.Argument(part, data);
    std::vector<std::unique_ptr<uint8_t[]>> memory;
    std::vector<std::unique_ptr<std::barrier<>>> barriers;
    std::vector<std::thread> running;
    for (int b = 0; b < blocks_; ++b) {
      uint8_t* const shared = memory.emplace_back(Garbage(batch.shared_bytes(part))).get();
      uint8_t* const slot = memory.emplace_back(Garbage(batch.slot_bytes(part))).get();
      std::barrier<>* barrier = barriers.emplace_back(std::make_unique<std::barrier<>>(threads_)).get();
      for (int t = 0; t < threads_; ++t) {
        running.emplace_back([=, this, &argument] {
          HostBlock block(t, threads_, backward_, barrier);
          const BlockLayout& layout = argument.layout;
          BlockReplay<HostBlock>(
              block, argument,
              part == 0 ? DivideShared(layout, shared, slot) : DivideGlobal(layout, shared, slot))
              .Run();
        });
      }
    }
    for (auto& thread : running) thread.join();
  }
}

}  // namespace dali_dr::image
