// The contract of a record that was accepted: its views are inside their bounds, or a RecordError.
#ifndef DALI_DR_CSRC_FUZZ_RECORD_VIEWS_H_
#define DALI_DR_CSRC_FUZZ_RECORD_VIEWS_H_

#include <vector>

#include "fuzz/fuzz.h"
#include "record/record.h"

namespace dali_dr::fuzz {

/// A packed view, of an image of `height` x `width`.
inline void RequireView(const record::Record& record, const int32_t* view, int64_t height, int64_t width) {
  const auto inside = [](int64_t start, int64_t extent, int64_t length) {
    return start >= 0 && extent >= 0 && start + extent <= length;
  };
  Require(inside(view[0], view[2], height) && view[2] > 0, "crop rows");
  Require(inside(view[1], view[3], width) && view[3] > 0, "crop columns");
  Require(inside(view[5], view[7], record.view_height()) && inside(view[6], view[8], record.view_width()),
          "erase box");
  Require((view[4] & ~1) == 0 && view[9] == record.num_ops(), "flip, number of operations");
  for (int op = 0; op < record.num_ops(); ++op)
    Require(view[10 + 2 * op] >= 0 && view[10 + 2 * op] < kNumOpIds, "operation");
}

inline void RequireMix(const record::Record& record, const int32_t* words) {
  float lam;
  std::memcpy(&lam, words + 2, sizeof lam);
  Require(words[0] >= kSelfPartner, "partner");
  Require(lam >= 0 && lam <= 1, "mixup weight");
  Require(words[3] >= 0 && words[5] >= 0 && words[3] + words[5] <= int64_t{record.view_height()} &&
              words[4] >= 0 && words[6] >= 0 && words[4] + words[6] <= int64_t{record.view_width()},
          "cutmix box");
  const bool self = words[0] == kSelfPartner;
  RequireView(record, words + kMixWords, self ? record.image_height() : 65535,
              self ? record.image_width() : 65535);
}

/// Reads up to 16 views of `from`, a Record or a Reader that has `record` open.
template <typename From>
void RequireViews(From& from, const record::Record& record) {
  std::vector<int32_t> view(record.view_words()), ids(record.topk());
  std::vector<float> probs(record.topk());
  const uint32_t step = record.views() / 16 + 1;
  for (uint32_t row = 0; row < record.views(); row += step) {
    from.ReadView(row, view, ids, probs);
    RequireView(record, view.data(), record.image_height(), record.image_width());
    if (record.mixing()) RequireMix(record, view.data() + record.plain_words());
    for (size_t k = 0; k < probs.size(); ++k)
      Require(ids[k] >= 0 && probs[k] >= 0 && probs[k] <= (k ? probs[k - 1] : 1), "prediction");
  }
}

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_RECORD_VIEWS_H_
