// Packed words (layout.h) read as a View.
#ifndef DALI_DR_CSRC_VIEW_PARSE_H_
#define DALI_DR_CSRC_VIEW_PARSE_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "view/layout.h"

namespace dali_dr {

struct Op {
  int32_t id;       // OpId
  float magnitude;  // final signed physical value
};

struct View {
  Box crop;   // source pixels
  Box erase;  // output pixels of the stored view size; height 0 = no erase
  bool flip;  // left to right, after the resize
  int32_t num_ops;
  Op ops[kMaxOps];
};

// Reads the `count` words of a view. Trusts nothing. Returns an empty string, or what is wrong; `view` is
// then unspecified.
inline std::string ParseView(const int32_t* words, int64_t count, View* view) {
  if (count < kViewHeaderWords) {
    return "a view has " + std::to_string(count) + " words, fewer than the " +
           std::to_string(kViewHeaderWords) + " of the header";
  }
  view->crop = {words[0], words[1], words[2], words[3]};
  view->erase = {words[5], words[6], words[7], words[8]};
  for (const Box& box : {view->crop, view->erase}) {
    for (int32_t v : {box.top, box.left, box.height, box.width}) {
      if (v < 0 || v > kMaxCoordinate) return "box coordinate " + std::to_string(v) + " is out of range";
    }
  }
  if (view->crop.height == 0 || view->crop.width == 0) return "the crop box is empty";
  if (words[4] != 0 && words[4] != 1) return "flip is " + std::to_string(words[4]) + ", not 0 or 1";
  view->flip = words[4] != 0;
  if (words[9] < 0 || words[9] > kMaxOps || count < kViewHeaderWords + 2 * int64_t{words[9]}) {
    return "number of operations " + std::to_string(words[9]) + " does not fit " + std::to_string(count) +
           " words (at most " + std::to_string(kMaxOps) + " operations of two words each after " +
           std::to_string(kViewHeaderWords) + " words)";
  }
  view->num_ops = words[9];
  for (int i = 0; i < view->num_ops; ++i) {
    Op& op = view->ops[i];
    op.id = words[kViewHeaderWords + 2 * i];
    op.magnitude = std::bit_cast<float>(words[kViewHeaderWords + 2 * i + 1]);
    if (op.id < 0 || op.id >= kNumOpIds)
      return "operation " + std::to_string(op.id) + " is unknown (0 to " + std::to_string(kNumOpIds - 1) + " are known)";
    if (!(std::fabs(op.magnitude) <= kMaxMagnitude)) {  // also refuses NaN
      return "magnitude " + std::to_string(op.magnitude) + " of operation " + std::to_string(op.id) +
             " is out of range";
    }
  }
  return {};
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_VIEW_PARSE_H_
