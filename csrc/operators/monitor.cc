// See monitor.h. The C functions are what dali_dr calls through ctypes.
#include "operators/monitor.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

namespace dali_dr {

Monitor* Monitor::Get(int number) {
  if (number < 0) return nullptr;
  // Never destroyed: threads of a pipeline may outlive main.
  static auto& mutex = *new std::mutex;
  static auto& monitors = *new std::map<int, std::unique_ptr<Monitor>>;
  const std::lock_guard lock(mutex);
  auto& monitor = monitors[number];
  if (!monitor) monitor = std::make_unique<Monitor>();
  return monitor.get();
}

void Monitor::ReadEnds() {
  const std::lock_guard lock(mutex_);
  const double now = Now();
  sums_.read += now - begin_;
  read_ends_.push_back(now);
}

// Between a batch's read and its replay lies its decode.
void Monitor::ReplayBegins() {
  const std::lock_guard lock(mutex_);
  replay_begin_ = Now();
  if (read_ends_.empty()) return;
  sums_.decode += replay_begin_ - read_ends_.front();
  read_ends_.pop_front();
}

void Monitor::ReplayEnds(const Decoding& decoding) {
  const std::lock_guard lock(mutex_);
  sums_.decode += decoding.seconds;
  sums_.replay += Now() - replay_begin_ - decoding.seconds;
  sums_.decoding.Add(decoding);
  ++sums_.batches;
}

void Monitor::Decoded(const Decoding& decoding) {
  const std::lock_guard lock(mutex_);
  sums_.decoding.Add(decoding);
}

Monitor::Sums Monitor::Since() {
  const std::lock_guard lock(mutex_);
  return sums_;
}

void Monitor::Fail(BatchFault fault) {
  const std::lock_guard lock(mutex_);
  if (!fault_) fault_ = std::move(fault);
}

std::optional<BatchFault> Monitor::TakeFault() {
  const std::lock_guard lock(mutex_);
  return std::exchange(fault_, std::nullopt);
}

void Monitor::ResetTimes() {
  const std::lock_guard lock(mutex_);
  sums_ = {};
  read_ends_.clear();
}

}  // namespace dali_dr

extern "C" {

// Writes the times, and how many images were decoded in which way.
__attribute__((visibility("default"))) void dali_dr_monitor_sums(int number, DaliDrTimes* out) {
  const auto sums = dali_dr::Monitor::Get(std::max(number, 0))->Since();
  const auto& [sliced, whole, misfit] = sums.decoding.images;
  *out = {sums.read, sums.decode, sums.replay, sums.batches, sliced, whole, misfit};
}

// Sets the times to 0.
__attribute__((visibility("default"))) void dali_dr_monitor_reset(int number) {
  dali_dr::Monitor::Get(std::max(number, 0))->ResetTimes();
}

// Takes out the fault of a pipeline: 1 if there is one, else 0.
__attribute__((visibility("default"))) int dali_dr_monitor_fault(int number, DaliDrFault* out) {
  dali_dr::Monitor& monitor = *dali_dr::Monitor::Get(std::max(number, 0));
  auto taken = monitor.TakeFault();
  if (!taken) return 0;
  monitor.given_out = *std::move(taken);
  const auto& [fault, place, failed, partner] = monitor.given_out;
  *out = {static_cast<int32_t>(fault.kind),
          place,
          fault.whole_file,
          partner,
          fault.sample,
          fault.offset,
          fault.key.c_str(),
          fault.shard.c_str(),
          fault.message.c_str(),
          failed.data(),
          static_cast<int64_t>(failed.size())};
  return 1;
}
}
