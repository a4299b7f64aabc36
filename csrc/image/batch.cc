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

// What a block needs to know of one view.
Job MakeJob(const Plan& plan, const Image& image, std::vector<Step>* steps) {
  Job job{};
  job.pitch = 3 * int64_t{image.size.width};
  job.crop = image.data + plan.crop.top * job.pitch + 3 * int64_t{plan.crop.left};
  job.height = plan.crop.height;
  job.width = plan.crop.width;
  job.resized = plan.resized;
  job.window_top = plan.window_top;
  job.window_left = plan.window_left;
  job.erase = plan.erase;
  job.flip = plan.flip;
  job.first_step = int32_t(steps->size());
  job.num_steps = plan.num_steps;
  job.partner = -1;
  steps->insert(steps->end(), plan.steps, plan.steps + plan.num_steps);
  return job;
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
  layout_[1] = {int32_t(plane), int32_t(plane), 0, kMaxReplicas, 0};
  for (int64_t band : {std::max(plane, kBandBytes), plane}) {
    const int64_t left = shared_limit_ - int64_t{sizeof(BlockTables)} - 3 * plane - band;
    const int64_t work = RoundDown(std::min(left, kMostTapsBytes));
    const int64_t replicas = std::min<int64_t>(kMaxReplicas, work / kHistogramBytes - 1);
    if (replicas < 1) continue;
    layout_[0] = {int32_t(plane), int32_t(band), int32_t(work), int32_t(replicas), 0};
    break;
  }
}

void Batch::Assign(Size out, std::span<const Task> tasks) {
  if (out.height != out_.height || out.width != out_.width) SetSize(out);
  steps_.clear();
  mixes_.clear();
  partners_.clear();
  for (auto& jobs : jobs_) jobs.clear();
  Need most{};
  for (const Task& task : tasks) {
    Job job = MakeJob(*task.plan, task.image, &steps_);
    job.out = task.out;
    Need need = NeedOf(*task.plan, filter_);
    if (task.partner_plan) {
      job.partner = int32_t(partners_.size());
      partners_.push_back(MakeJob(*task.partner_plan, task.partner_image, &steps_));
      job.first_mix = int32_t(mixes_.size());
      job.num_mixes = int32_t(task.mixes.size());
      mixes_.insert(mixes_.end(), task.mixes.begin(), task.mixes.end());
      const Need other = NeedOf(*task.partner_plan, filter_);
      need = {std::max(need.taps, other.taps), std::max(need.band, other.band)};
    }
    const bool shared = layout_[0].plane_bytes > 0 && need.taps <= layout_[0].taps_bytes &&
                        need.band <= layout_[0].band_bytes;
    if (!shared) most = {std::max(most.taps, need.taps), std::max(most.band, need.band)};
    jobs_[shared ? 0 : 1].push_back(job);
  }
  layout_[1].taps_bytes = int32_t(RoundUp(most.taps));
  // Twice the least, so that a band of rows needs one barrier rather than every row.
  layout_[1].band_bytes = int32_t(RoundUp(std::max<int64_t>(layout_[1].plane_bytes, 2 * most.band)));
  for (BlockLayout& layout : layout_) layout.parked_bytes = partners_.empty() ? 0 : 3 * layout.plane_bytes;
  const int64_t pixels = int64_t{out_.height} * out_.width;
  const auto cost = [&](const Job& job) {
    return Cost(job, pixels) + (job.partner < 0 ? 0 : Cost(partners_[job.partner], pixels));
  };
  for (auto& jobs : jobs_) {  // the longest first, so that all blocks end at about the same time
    std::stable_sort(jobs.begin(), jobs.end(), [&](const Job& a, const Job& b) { return cost(a) > cost(b); });
  }
}

size_t Batch::bytes() const {
  return kCounterBytes + (jobs_[0].size() + jobs_[1].size() + partners_.size()) * sizeof(Job) +
         mixes_.size() * sizeof(MixPlan) + steps_.size() * sizeof(Step);
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
  append(partners_);
  append(mixes_);
  append(steps_);
}

BlockBatch Batch::Argument(int part, uint8_t* data) const {
  BlockBatch batch{};
  const auto* jobs = reinterpret_cast<const Job*>(data + kCounterBytes);
  batch.jobs = part == 0 ? jobs : jobs + jobs_[0].size();
  batch.partners = jobs + jobs_[0].size() + jobs_[1].size();
  batch.mixes = reinterpret_cast<const MixPlan*>(batch.partners + partners_.size());
  batch.steps = reinterpret_cast<const Step*>(batch.mixes + mixes_.size());
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

bool Batch::hue_and_blur() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.kind == StepKind::kHue || step.kind == StepKind::kBlur;
  });
}

int64_t Batch::shared_bytes(int part) const {
  const BlockLayout& layout = layout_[part];
  return int64_t{sizeof(BlockTables)} +
         (part == 0 ? layout.pixel_bytes() + layout.taps_bytes : int64_t{layout.stats_bytes()});
}

int64_t Batch::slot_bytes(int part) const {
  const BlockLayout& layout = layout_[part];
  return layout.parked_bytes + (part == 0 ? 0 : layout.pixel_bytes() + layout.taps_bytes);
}

}  // namespace dali_dr::image
