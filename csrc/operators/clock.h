// Where a pipeline's time goes: read and replay note when they begin and end, and Python asks for the sums.
// An operator with argument clock=i uses the i-th clock; -1: none. Knows nothing of what the operators do.
#ifndef DALI_DR_CSRC_OPERATORS_CLOCK_H_
#define DALI_DR_CSRC_OPERATORS_CLOCK_H_

#include <array>
#include <chrono>
#include <deque>
#include <mutex>

namespace dali_dr {

class Clock {
 public:
  static constexpr int kClocks = 256;  // pipelines of a process that are told apart

  // The clock of that number (modulo kClocks), or null for a negative one.
  static Clock* Get(int number);

  void ReadBegins() { begin_ = Now(); }
  void ReadEnds() {
    const std::lock_guard lock(mutex_);
    const double now = Now();
    read_ += now - begin_;
    read_ends_.push_back(now);
  }
  // Between a batch's read and its replay lies its decode.
  void ReplayBegins() {
    const std::lock_guard lock(mutex_);
    replay_begin_ = Now();
    if (read_ends_.empty()) return;
    decode_ += replay_begin_ - read_ends_.front();
    read_ends_.pop_front();
  }
  void ReplayEnds() {
    const std::lock_guard lock(mutex_);
    replay_ += Now() - replay_begin_;
    ++batches_;
  }

  // Seconds in read, decode, replay since the start, and batches replayed.
  std::array<double, 4> Sums() {
    const std::lock_guard lock(mutex_);
    return {read_, decode_, replay_, static_cast<double>(batches_)};
  }

  void Reset() {
    const std::lock_guard lock(mutex_);
    read_ = decode_ = replay_ = 0;
    batches_ = 0;
    read_ends_.clear();
  }

 private:
  static double Now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  std::mutex mutex_;
  double begin_ = 0, replay_begin_ = 0;  // of the batch in work; one of each at a time
  double read_ = 0, decode_ = 0, replay_ = 0;
  int64_t batches_ = 0;
  std::deque<double> read_ends_;
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_CLOCK_H_
