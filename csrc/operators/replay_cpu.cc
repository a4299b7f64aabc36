// fn.dr.replay on the CPU, from encoded images or from pixels.
#include <algorithm>
#include <utility>

#include "dali/core/format.h"
#include "operators/replay.h"
#include "operators/report.h"

namespace dali_dr {
namespace {

// What making the views of an image costs grows with the bytes that are read of it and with the pixels that
// are decoded and resized, by about as many nanoseconds for each.
int64_t Cost(const PixelSource& source, std::span<const image::Plan* const> plans, image::Filter filter) {
  if (plans.empty()) return 0;
  const jpeg::Region region = NeededBy(plans, filter);
  const int64_t area = int64_t{region.height} * region.width;
  if (source.jpeg.empty()) return area;
  const int64_t bottom = region.top + region.height;
  return area + static_cast<int64_t>(source.jpeg.size()) * bottom / source.pixels.size.height;
}

}  // namespace

// The plans of an item's views: those of the image, and those of its partner.
std::array<std::vector<const image::Plan*>, 2> ReplayCpu::PlansOf(const Item& item) const {
  std::array<std::vector<const image::Plan*>, 2> plans;
  for (int64_t k = item.begin; k < item.end; ++k) {
    if (views_.IsRepeated(k)) continue;
    plans[0].push_back(&views_.plan(k));
    if (views_.IsMixed(k)) plans[views_.IsSelf(k) ? 0 : 1].push_back(&views_.partner_plan(k));
  }
  return plans;
}

ReplayCpu::Failure ReplayCpu::ShowViews(const Item& item, Worker* worker) const {
  auto& [view, partners_view] = worker->scratch;
  auto& [image, partner] = worker->images;
  const auto plans = PlansOf(item);
  image.Begin(item.source, plans[0], filter_);
  partner.Begin(item.partner, plans[1], filter_);
  const int64_t view_bytes = 3 * int64_t{shown_.out.height} * shown_.out.width * finish_->value_bytes();
  uint8_t* out = item.out;
  for (int64_t k = item.begin; k < item.end; ++k) {
    if (views_.IsRepeated(k)) continue;  // written with the view that it repeats
    std::string problem = image.Show(views_.plan(k), &view);
    if (!problem.empty()) return {std::move(problem), false};
    view.ApplySteps(views_.plan(k));
    if (!views_.IsMixed(k)) {
      view.Write(views_.plan(k), *finish_, out);
      out += view_bytes;
      continue;
    }
    view.Erase(views_.plan(k));
    const bool self = views_.IsSelf(k);
    problem = (self ? image : partner).Show(views_.partner_plan(k), &partners_view);
    if (!problem.empty()) return {std::move(problem), !self};
    partners_view.ApplySteps(views_.partner_plan(k));
    partners_view.Erase(views_.partner_plan(k));
    for (const image::MixPlan& mix : views_.mixes(k)) {
      view.WriteMixed(partners_view, mix, shown_.out, *finish_, out);
      out += view_bytes;
    }
  }
  return {};
}

// What there is to do: an image that is decoded is one piece of work with all its views; of pixels each view
// is.
void ReplayCpu::MakeItems(dali::Workspace& ws) {
  auto& output = ws.Output<dali::CPUBackend>(0);
  const int64_t view_bytes = 3 * int64_t{shown_.out.height} * shown_.out.width * finish_->value_bytes();
  items_.clear();
  for (int i = 0; i < views_.images(); ++i) {
    Item item{.place = i,
              .begin = views_.first(i),
              .end = views_.first(i + 1),
              .source = given_[i][0],
              .partner = given_[i][1],
              .out = static_cast<uint8_t*>(output.raw_mutable_tensor(i))};
    if (!item.source.jpeg.empty() || !item.partner.jpeg.empty()) {
      items_.push_back(item);
      continue;
    }
    for (int64_t k = views_.first(i), next; k < views_.first(i + 1); k = next) {
      for (next = k + 1; next < views_.first(i + 1) && views_.IsRepeated(next);) ++next;
      item.begin = k;
      item.end = next;
      items_.push_back(item);
      item.out += view_bytes * (next - k);
    }
  }
}

void ReplayCpu::RunImpl(dali::Workspace& ws) {
  auto& pool = ws.GetThreadPool();
  while (workers_.size() < static_cast<size_t>(pool.NumThreads()))
    workers_.push_back(std::make_unique<Worker>());
  SetLayout(ws);
  MakeItems(ws);
  failures_.assign(items_.size(), {});
  // Largest first, so that the threads end at about the same time. A failure is a value: an exception in one
  // of DALI's threads would lose the others, and the order.
  for (size_t n = 0; n < items_.size(); ++n) {
    const Item& item = items_[n];
    const auto plans = PlansOf(item);
    pool.AddWork(
        [this, n](int thread) {
          failures_[n] = ShowViews(items_[n], workers_[static_cast<size_t>(thread)].get());
        },
        Cost(item.source, plans[0], filter_) + Cost(item.partner, plans[1], filter_));
  }
  pool.RunAll();
  Decoding decoding;
  for (const auto& worker : workers_)
    for (EncodedImage& image : worker->images) decoding.Add(image.TakeDecoding());
  decoding.seconds /= pool.NumThreads();
  if (monitor_) monitor_->ReplayEnds(decoding);
  Reporting(monitor_, [&] { ThrowFailure(); });
}

void ReplayCpu::ThrowFailure() const {
  for (size_t n = 0; n < items_.size(); ++n) {
    const auto& [problem, partner] = failures_[n];
    if (problem.empty()) continue;
    FailImage(items_[n].place, partner, problem);
  }
}

DALI_REGISTER_OPERATOR(dr__Replay, ReplayCpu, dali::CPU);

}  // namespace dali_dr
