// See patience.h.
#include "samples/patience.h"

#include <algorithm>
#include <thread>

namespace dali_dr::samples {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr Seconds kLongest{0.5};   // between two tries
constexpr double kForgotten = 20;  // times as long as the waiting

}  // namespace

bool Patience::Series::Wait() {
  const Seconds left = patience_.seconds_ - (Clock::now() - begin_);
  if (left <= Seconds::zero()) return false;
  std::this_thread::sleep_for(std::min(next_, left));
  next_ = std::min(2 * next_, kLongest);
  return true;
}

bool Patience::Has(const Fault& fault) const {
  if (!fault.passing || seconds_ <= Seconds::zero()) return false;
  const auto lost = lost_.find(fault.shard);
  return lost == lost_.end() || lost->second < Clock::now();
}

void Patience::Lose(const Fault& fault) {
  lost_[fault.shard] = Clock::now() + std::chrono::duration_cast<Clock::duration>(kForgotten * seconds_);
}

}  // namespace dali_dr::samples
