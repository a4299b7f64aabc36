// See pooling.h.
#include "labels/pooling.h"

#include <algorithm>
#include <cmath>

#include "record/error.h"

namespace dali_dr::labels {
namespace {

// Where [start, start + length) of an axis of `whole` pixels begins and ends on an axis of `side` cells.
struct Extent {
  float begin, end;

  Extent(int32_t start, int32_t length, int32_t whole, uint32_t side) {
    const double from = static_cast<double>(start) / whole, part = static_cast<double>(length) / whole;
    const auto cells = static_cast<float>(side);
    begin = static_cast<float>(from) * cells - 0.5f;
    end = static_cast<float>(part + from) * cells - 0.5f;
  }
};

// What each cell of one axis weighs in the samples that RoIAlign takes along it; returns how many it takes.
double Weigh(const Extent& extent, std::vector<double>* weights) {
  const auto side = static_cast<int>(weights->size());
  std::fill(weights->begin(), weights->end(), 0.0);
  const float bin = std::max(extent.end - extent.begin, 1.0f);
  const float grid = std::ceil(bin);
  const float step = bin / grid;
  for (int i = 0; i < static_cast<int>(grid); ++i) {
    float at = extent.begin + (static_cast<float>(i) + 0.5f) * step;
    if (at < -1.0f || at > static_cast<float>(side)) continue;
    at = std::max(at, 0.0f);
    const int low = static_cast<int>(at);
    if (low >= side - 1) {
      (*weights)[static_cast<size_t>(side - 1)] += 1.0;
      continue;
    }
    const float part = at - static_cast<float>(low);
    (*weights)[static_cast<size_t>(low)] += 1.0f - part;
    (*weights)[static_cast<size_t>(low + 1)] += part;
  }
  return static_cast<double>(grid);
}

}  // namespace

void Pooler::Pool(const LabelMap& map, const Crop& crop, Order order) {
  const size_t side = map.side;
  rows_.resize(side);
  columns_.resize(side);
  const Extent vertical(crop.top, crop.height, crop.image_height, map.side);
  const Extent horizontal(crop.left, crop.width, crop.image_width, map.side);
  // x, the first of a corner, goes along the columns of the map.
  double count = Weigh(order == Order::kCode ? vertical : horizontal, &columns_);
  count *= Weigh(order == Order::kCode ? horizontal : vertical, &rows_);
  logits_.assign(map.classes.size(), 0.0);
  for (size_t y = 0; y < side; ++y) {
    if (rows_[y] == 0) continue;
    for (size_t d = 0; d < map.depth; ++d) {
      const size_t row = (d * side + y) * side;
      for (size_t x = 0; x < side; ++x)
        logits_[map.entries[row + x]] += rows_[y] * columns_[x] * static_cast<double>(map.scores[row + x]);
    }
  }
  for (double& logit : logits_) logit /= count;
}

void Pooler::Target(const LabelMap& map, const Crop& crop, Order order, std::span<int32_t> ids,
                    std::span<float> probs) {
  const size_t found = map.classes.size(), others = map.num_classes - found;
  if (found > ids.size())
    record::Fail("the label map has ", found, " classes, but `topk` is ", ids.size(),
                 ": the data set was changed, or `topk` is not that of its dataset.json");
  Pool(map, crop, order);
  double highest =
      others > 0 ? 0.0 : logits_.front();  // the logit of a class that the map does not have is 0
  for (const double logit : logits_) highest = std::max(highest, logit);
  const double other = std::exp(-highest);
  double sum = other * static_cast<double>(others);
  for (double& logit : logits_) sum += logit = std::exp(logit - highest);
  const auto before = [](const Likely& a, const Likely& b) {
    return a.prob != b.prob ? a.prob > b.prob : a.id < b.id;
  };
  likely_.clear();
  for (size_t i = 0; i < found; ++i)
    likely_.push_back({static_cast<float>(logits_[i] / sum), map.classes[i]});
  std::sort(likely_.begin(), likely_.end(), before);
  const auto rest = static_cast<float>(other / sum);
  size_t next = 0;  // in the map's classes, which rise
  for (int32_t id = 0; likely_.size() < ids.size(); ++id) {
    if (next < found && map.classes[next] == id) {
      ++next;
    } else {
      likely_.push_back({rest, id});
    }
  }
  std::inplace_merge(likely_.begin(), likely_.begin() + static_cast<ptrdiff_t>(found), likely_.end(), before);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = likely_[i].id;
    probs[i] = likely_[i].prob;
  }
}

}  // namespace dali_dr::labels
