// Views as columns for a writer of records, and the order in which it stores them.
#ifndef DALI_DR_CSRC_TESTS_WRITE_COLUMNS_H_
#define DALI_DR_CSRC_TESTS_WRITE_COLUMNS_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <vector>

#include "record/views.h"
#include "record/write.h"
#include "tests/make_record.h"

namespace dali_dr::testing {

inline void AddView(const int32_t* words, uint32_t num_ops, record::ViewColumns* to) {
  to->crop.push_back({words[0], words[1], words[2], words[3]});
  to->flip.push_back(static_cast<uint8_t>(words[4]));
  to->erase.push_back({words[5], words[6], words[7], words[8]});
  for (uint32_t slot = 0; slot < num_ops; ++slot) {
    to->ops.push_back(static_cast<uint8_t>(words[10 + 2 * slot]));
    to->magnitudes.push_back(std::bit_cast<float>(words[11 + 2 * slot]));
  }
}

/// Probabilities that sum to more than what a record may hold are scaled, in `views`, too.
inline record::Reinforcements ColumnsOf(const RecordShape& shape, std::vector<ExpectedView>* views) {
  record::Reinforcements r;
  r.num_ops = shape.num_ops;
  r.topk = shape.topk;
  r.mixing = shape.partners >= 0;
  for (ExpectedView& view : *views) {
    AddView(view.words.data(), shape.num_ops, &r.views);
    const float sum = std::accumulate(view.probs.begin(), view.probs.end(), 0.0f);
    for (float& p : view.probs) p = sum > 1.0009f ? p / sum : p;
    r.ids.insert(r.ids.end(), view.ids.begin(), view.ids.end());
    r.probs.insert(r.probs.end(), view.probs.begin(), view.probs.end());
    if (!r.mixing) continue;
    const int32_t* mix = view.words.data() + 10 + 2 * shape.num_ops;
    r.partner.push_back(mix[0]);
    r.swapped.push_back(static_cast<uint8_t>(mix[1]));
    r.lam.push_back(std::bit_cast<float>(mix[2]));
    r.cut.push_back({mix[3], mix[4], mix[5], mix[6]});
    AddView(mix + 7, shape.num_ops, &r.partner_views);
  }
  return r;
}

inline record::WriteSettings SettingsOf(const RecordShape& shape) {
  record::WriteSettings settings;
  settings.image_height = shape.image_height, settings.image_width = shape.image_width;
  settings.view_height = shape.view_height, settings.view_width = shape.view_width;
  settings.encoding = static_cast<record::Encoding>(shape.encoding);
  settings.log_step = std::clamp(shape.log_step, 0.1f, 1.0f);
  return settings;
}

/// `views` by falling confidence, pairs by the sum of both.
inline std::vector<ExpectedView> InOrder(const std::vector<ExpectedView>& views, uint32_t topk, bool pairs) {
  const size_t step = pairs ? 2 : 1;
  std::vector<size_t> order(views.size() / step);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto confidence = [&](size_t at) {
    const float first = views[at * step].probs[0];
    return pairs ? first + views[at * step + 1].probs[0] : first;
  };
  if (topk > 0)
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return confidence(a) > confidence(b); });
  std::vector<ExpectedView> sorted;
  for (const size_t at : order)
    for (size_t i = 0; i < step; ++i) sorted.push_back(views[at * step + i]);
  return sorted;
}

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_WRITE_COLUMNS_H_
