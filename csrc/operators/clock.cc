// See clock.h. The two C functions are what dali_dr/iterator.py calls through ctypes.
#include "operators/clock.h"

#include <algorithm>

namespace dali_dr {

Clock* Clock::Get(int number) {
  static std::array<Clock, kClocks> clocks;
  return number < 0 ? nullptr : &clocks[number % kClocks];
}

}  // namespace dali_dr

extern "C" {

// Writes seconds in read, decode, replay, and the number of batches.
__attribute__((visibility("default"))) void dali_dr_clock_sums(int number, double out[4]) {
  const auto sums = dali_dr::Clock::Get(std::max(number, 0))->Sums();
  std::copy(sums.begin(), sums.end(), out);
}

__attribute__((visibility("default"))) void dali_dr_clock_reset(int number) {
  dali_dr::Clock::Get(std::max(number, 0))->Reset();
}
}
