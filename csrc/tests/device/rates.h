// Times of the replay kernels by themselves, by marks in the stream around each launch.
#ifndef DALI_DR_CSRC_TESTS_DEVICE_RATES_H_
#define DALI_DR_CSRC_TESTS_DEVICE_RATES_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/machine.h"
#include "tests/replay_cases.h"

namespace dali_dr::image {

enum class Mixing { kNone, kPartner, kDouble };  // kDouble: both views of a pair from one replay

// What is timed: views drawn by `draw` of images of 375 x 500 pixels.
struct Workload {
  std::string name;
  std::function<View()> draw;
  int batch = 256;
  Size out{224, 224};
  OutputType type = OutputType::kFloat16;
  bool channels_last = false;
  Filter filter = Filter::kBilinear;
  Mixing mixing = Mixing::kNone;
  int64_t shared_limit = kHopper;
};

struct Timing {
  double kernel_seconds;  // median of one batch's kernels
  double batch_seconds;   // mean of one batch with the copy of its parameters, back to back
  double bytes_per_view;  // that must move: the crop's pixels in, the view's values out
  int batch, views;       // images of a batch, and its outputs
};

class Stopwatch {
 public:
  // `small`: few and small, where host threads stand for a GPU. `seconds`: about so long per workload.
  Stopwatch(Machine& machine, double seconds, bool small);
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;

  // Bytes read and written per second by a copy much larger than any cache: the ceiling.
  double CopyBandwidth();
  Timing Time(const Workload& workload);

 private:
  struct Prepared;
  std::unique_ptr<Prepared> Prepare(const Workload& workload, int number, uint8_t* out);

  Machine& machine_;
  const double seconds_;
  const bool small_;
  uint8_t* pool_;  // images of kImage, one behind the other, together larger than the cache
  int images_;
};

// The tables "rates" and "parts" of the report. `time_left` is asked before every row; `only`: rows whose
// name contains it.
using TimeLeft = std::function<bool()>;
void ReportRates(Stopwatch& stopwatch, double copy_bandwidth, bool small, const std::string& only,
                 const TimeLeft& time_left, Report* report);
void ReportParts(Stopwatch& stopwatch, int multiprocessors, bool small, const TimeLeft& time_left,
                 Report* report);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_DEVICE_RATES_H_
