// What both formats ask of their rows: boxes inside images, probabilities, class ids.
#ifndef DALI_DR_CSRC_PUBLISHED_CHECKS_H_
#define DALI_DR_CSRC_PUBLISHED_CHECKS_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "published/error.h"
#include "record/views.h"

namespace dali_dr::published {

struct Size {
  uint32_t height = 0, width = 0;
};

/// A box of at least a pixel inside an image; whole numbers of any size.
inline Box InsideBox(size_t row, const char* what, int64_t top, int64_t left, int64_t height, int64_t width,
                     Size size) {
  const bool inside = top >= 0 && left >= 0 && height >= 1 && width >= 1 && top <= size.height &&
                      left <= size.width && height <= size.height - top && width <= size.width - left;
  if (!inside)
    Fail("view ", row, ": the ", what, " (top ", top, ", left ", left, ", height ", height, ", width ", width,
         ") is empty or outside of ", size.height, "x", size.width);
  return {static_cast<int32_t>(top), static_cast<int32_t>(left), static_cast<int32_t>(height),
          static_cast<int32_t>(width)};
}

/// Predictions of all views of an image together; sets have 400 views of 10 classes, or 500 of 1,000.
inline constexpr uint64_t kMostPredictions = uint64_t{4} << 20;

/// Throws if there are more, before memory is taken for them: a small file can name one list again and again.
inline void RequireFewPredictions(uint64_t views, uint64_t classes) {
  if (views > 0 && classes > kMostPredictions / views)
    Fail("there are ", views, " views with predictions of ", classes, " classes each, more than ",
         kMostPredictions, " in all, which no file of this kind has");
}

inline float Probability(size_t row, double p) {
  if (!(p >= 0 && p <= 1)) Fail("view ", row, ": the probability ", p, " is not in 0 to 1");
  return static_cast<float>(p);
}

/// Throws if a class id of the row occurs twice. `copy` is room that is kept from row to row.
inline void RequireDistinct(size_t row, std::span<const int32_t> ids, std::vector<int32_t>* copy) {
  constexpr size_t kFew = 16;  // compared with each other, which takes less time than sorting
  bool some = ids.size() > kFew;
  for (size_t i = 1; !some && i < ids.size(); ++i)
    for (size_t j = 0; j < i; ++j) some |= ids[i] == ids[j];
  if (!some) return;
  copy->assign(ids.begin(), ids.end());
  std::sort(copy->begin(), copy->end());
  const auto twice = std::adjacent_find(copy->begin(), copy->end());
  if (twice != copy->end()) Fail("view ", row, " has the class id ", *twice, " twice");
}

}  // namespace dali_dr::published

#endif  // DALI_DR_CSRC_PUBLISHED_CHECKS_H_
