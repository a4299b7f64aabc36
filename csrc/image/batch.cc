// See batch.h.
#include "image/batch.h"

#include <algorithm>
#include <cstring>

namespace dali_dr::image {
namespace {

constexpr int64_t kBandBytes = 48 << 10;  // enough rows between the passes that barriers do not count
constexpr int64_t kMostTapsBytes = 64 << 10;
constexpr size_t kCounterBytes = 16;  // the two parts' counters of jobs taken

int64_t RoundUp(int64_t v) { return (v + 15) / 16 * 16; }
int64_t RoundDown(int64_t v) { return v / 16 * 16; }

struct Need {
  int64_t taps, band;
};

Need NeedOf(const Plan& plan, Filter filter) {
  const Box& crop = plan.crop;
  const Passes passes = MakePasses(crop.height, crop.width, plan.resized);
  const Axis columns = MakeAxis(crop.width, plan.resized.width, filter);
  const Axis rows = MakeAxis(crop.height, plan.resized.height, filter);
  Need need{};
  if (passes.horizontal) need.taps += AxisTableBytes(columns, plan.out.width);
  if (passes.vertical) need.taps += AxisTableBytes(rows, plan.out.height);
  if (passes.horizontal && passes.vertical)
    need.band = BandRowBytes(passes, crop.width, plan.out) * (passes.vertical_first ? 1 : MaxTaps(rows));
  return need;
}

// About proportional to the time that a view takes.
int64_t Cost(const Job& job, int64_t out_pixels) {
  return int64_t{job.height} * job.width + out_pixels * (1 + job.num_steps);
}

}  // namespace

void Batch::SetSize(Size out) {
  out_ = out;
  layout_[0] = {};
  const int64_t plane = RoundUp(int64_t{out.height} * out.width);
  layout_[1] = {int32_t(plane), int32_t(plane), 0, kMaxReplicas};
  for (int64_t band : {std::max(plane, kBandBytes), plane}) {
    const int64_t left = shared_limit_ - int64_t{sizeof(BlockTables)} - 3 * plane - band;
    const int64_t work = RoundDown(std::min(left, kMostTapsBytes));
    const int64_t replicas = std::min<int64_t>(kMaxReplicas, work / kHistogramBytes - 1);
    if (replicas < 1) continue;
    layout_[0] = {int32_t(plane), int32_t(band), int32_t(work), int32_t(replicas)};
    break;
  }
}

void Batch::Assign(Size out, std::span<const Task> tasks) {
  if (out.height != out_.height || out.width != out_.width) SetSize(out);
  steps_.clear();
  for (auto& jobs : jobs_) jobs.clear();
  Need most{};
  for (const Task& task : tasks) {
    const Plan& plan = *task.plan;
    const Box& crop = plan.crop;
    Job job{};
    job.pitch = 3 * int64_t{task.image.size.width};
    job.crop = task.image.data + crop.top * job.pitch + 3 * int64_t{crop.left};
    job.out = task.out;
    job.height = crop.height;
    job.width = crop.width;
    job.resized = plan.resized;
    job.window_top = plan.window_top;
    job.window_left = plan.window_left;
    job.erase = plan.erase;
    job.flip = plan.flip;
    job.first_step = int32_t(steps_.size());
    job.num_steps = plan.num_steps;
    steps_.insert(steps_.end(), plan.steps, plan.steps + plan.num_steps);
    const Need need = NeedOf(plan, filter_);
    const bool shared = layout_[0].plane_bytes > 0 && need.taps <= layout_[0].taps_bytes &&
                        need.band <= layout_[0].band_bytes;
    if (!shared) most = {std::max(most.taps, need.taps), std::max(most.band, need.band)};
    jobs_[shared ? 0 : 1].push_back(job);
  }
  layout_[1].taps_bytes = int32_t(RoundUp(most.taps));
  // Twice the least, so that a band of rows needs one barrier rather than every row.
  layout_[1].band_bytes = int32_t(RoundUp(std::max<int64_t>(layout_[1].plane_bytes, 2 * most.band)));
  const int64_t pixels = int64_t{out_.height} * out_.width;
  for (auto& jobs : jobs_) {  // the longest first, so that all blocks end at about the same time
    std::stable_sort(jobs.begin(), jobs.end(),
                     [&](const Job& a, const Job& b) { return Cost(a, pixels) > Cost(b, pixels); });
  }
}

size_t Batch::bytes() const {
  return kCounterBytes + (jobs_[0].size() + jobs_[1].size()) * sizeof(Job) + steps_.size() * sizeof(Step);
}

void Batch::Write(uint8_t* to) const {
  std::memset(to, 0, kCounterBytes);
  to += kCounterBytes;
  const auto append = [&](const auto& items) {
    const size_t n = items.size() * sizeof(items[0]);
    if (n > 0) std::memcpy(to, items.data(), n);
    to += n;
  };
  append(jobs_[0]);
  append(jobs_[1]);
  append(steps_);
}

BlockBatch Batch::Argument(int part, uint8_t* data) const {
  BlockBatch batch{};
  const auto* jobs = reinterpret_cast<const Job*>(data + kCounterBytes);
  batch.jobs = part == 0 ? jobs : jobs + jobs_[0].size();
  batch.steps = reinterpret_cast<const Step*>(jobs + jobs_[0].size() + jobs_[1].size());
  batch.next = reinterpret_cast<uint32_t*>(data) + part;
  batch.num_jobs = num_jobs(part);
  batch.out = out_;
  batch.filter = filter_;
  batch.type = finish_->type();
  batch.channels_last = finish_->channels_last();
  batch.layout = layout_[part];
  for (int c = 0; c < 3; ++c) std::copy_n(finish_->channel(c).value, kLevels, batch.base[c]);
  return batch;
}

int64_t Batch::shared_bytes(int part) const {
  const BlockLayout& layout = layout_[part];
  return int64_t{sizeof(BlockTables)} +
         (part == 0 ? layout.pixel_bytes() + layout.taps_bytes : int64_t{layout.stats_bytes()});
}

int64_t Batch::slot_bytes() const { return layout_[1].pixel_bytes() + layout_[1].taps_bytes; }

}  // namespace dali_dr::image
