// What Python asks a pipeline while it runs: where its time goes, and which fault stopped it. Operators with
// the argument monitor=i tell monitor i; -1: none. Two pipelines that live at once need numbers of their own,
// of which there are as many as ints. Knows nothing of DALI, nor of what the operators do.
#ifndef DALI_DR_CSRC_OPERATORS_MONITOR_H_
#define DALI_DR_CSRC_OPERATORS_MONITOR_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "fault.h"
#include "operators/decoding.h"

namespace dali_dr {

/// The first fault of a batch in the batch's order, and all others' numbers.
struct BatchFault {
  Fault fault{};
  int place = -1;  // in the batch; -1: it is of no sample alone
  std::vector<int64_t>
      failed{};          // numbers of all samples of the batch that have a fault, where they are known
  bool partner = false;  // at fault is the image that the sample at `place` is mixed with
};

class Monitor {
 public:
  /// The monitor of that number, made when first asked for and there until the process ends (some hundred
  /// bytes); null for a negative number.
  static Monitor* Get(int number);

  void ReadBegins() { begin_ = Now(); }
  void ReadEnds();
  void ReplayBegins();
  /// `decoding`: what of it was decoding, its seconds divided by the number of threads.
  void ReplayEnds(const Decoding& decoding = {});

  /// Adds what was decoded outside of replay.
  void Decoded(const Decoding& decoding);

  struct Sums {
    double read = 0, decode = 0, replay = 0;  // seconds
    int64_t batches = 0;                      // replayed
    Decoding decoding{};                      // by our own decoder
  };
  /// Since the start.
  Sums Since();

  /// Keeps the fault unless there is one already: what follows a fault is mostly its consequence.
  void Fail(BatchFault fault);
  /// The fault, which is then gone.
  std::optional<BatchFault> TakeFault();

  /// Sets the times to 0. A fault stays until it is taken.
  void ResetTimes();

  /// What the C function below gave out last, to which its pointers point.
  BatchFault given_out;

 private:
  static double Now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  std::mutex mutex_;
  double begin_ = 0, replay_begin_ = 0;  // of the batch in work; one of each at a time
  Sums sums_;
  std::deque<double> read_ends_;
  std::optional<BatchFault> fault_;
};

}  // namespace dali_dr

/// Monitor::Sums for ctypes (dali_dr/loader/stopwatch.py has the same fields).
struct DaliDrTimes {
  double read, decode, replay;
  int64_t batches, sliced, whole, misfit;
};

/// A BatchFault for ctypes (dali_dr/loader/faults.py has the same fields); -1 and empty texts are unknown.
/// The pointers are valid until the next dali_dr_monitor_fault of the same number.
struct DaliDrFault {
  int32_t kind;  // Fault::Kind
  int32_t place;
  int32_t whole_file;
  int32_t partner;
  int64_t sample, offset;
  const char *key, *shard, *message;
  const int64_t* failed;
  int64_t num_failed;
};

#endif  // DALI_DR_CSRC_OPERATORS_MONITOR_H_
