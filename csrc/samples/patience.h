// How long one waits for what may come back: a store that does not answer, a file that is being copied.
#ifndef DALI_DR_CSRC_SAMPLES_PATIENCE_H_
#define DALI_DR_CSRC_SAMPLES_PATIENCE_H_

#include <chrono>
#include <map>
#include <string>

#include "fault.h"

namespace dali_dr::samples {

/// Decides whether what failed is tried again. A file is waited for once; if it is not there after that,
/// further faults of it stand as they are for twenty times as long, so that a lost shard costs a moment and
/// not one for each of its samples. Each is tried at least once, whatever happened before. For one thread at
/// a time.
class Patience {
 public:
  using Clock = std::chrono::steady_clock;

  /// `seconds` to wait in all, from the first failure on; 0: nothing is waited for.
  explicit Patience(double seconds) : seconds_(seconds) {}

  /// Waiting for one or several files together.
  class Series {
   public:
    explicit Series(const Patience& patience) : patience_(patience) {}

    /// Sleeps, longer each time, and returns true: try again. Or false: the time is over.
    bool Wait();

   private:
    const Patience& patience_;
    std::chrono::duration<double> next_{0.02};
    Clock::time_point begin_ = Clock::now();
  };

  /// Whether it is worthwhile to try again after this fault.
  bool Has(const Fault& fault) const;

  /// Notes that a series ended without the file.
  void Lose(const Fault& fault);

 private:
  std::chrono::duration<double> seconds_;
  std::map<std::string, Clock::time_point> lost_;  // files, and until when they are not waited for
};

}  // namespace dali_dr::samples

#endif  // DALI_DR_CSRC_SAMPLES_PATIENCE_H_
