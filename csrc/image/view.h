// The packed parameters of one view (one stored augmentation of one image), and their parser.
// This is the only layout of view parameters that the read operator, the replay operator and Python share.
#ifndef DALI_DR_CSRC_IMAGE_VIEW_H_
#define DALI_DR_CSRC_IMAGE_VIEW_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

namespace dali_dr::image {

// The operations of torchvision.transforms.RandAugment in its index order.
enum OpId : int32_t {
  kIdentity,
  kShearX,
  kShearY,
  kTranslateX,
  kTranslateY,
  kRotate,
  kBrightness,
  kColor,
  kContrast,
  kSharpness,
  kPosterize,
  kSolarize,
  kAutoContrast,
  kEqualize,
  kNumOpIds
};

constexpr int kMaxOps = 16;           // of one view; RandAugment uses 2
constexpr int kViewHeaderWords = 10;  // everything but the operations
constexpr int kMixWords = 7;          // partner; swapped; lam; CutMix top, left, height, width
constexpr int32_t kNoPartner = -1, kSelfPartner = -2;  // in place of a partner's sample number
constexpr float kMaxMagnitude = 1e6f;                  // keeps 255 * magnitude inside int32
constexpr int32_t kMaxCoordinate =
    1 << 24;  // the largest integer range that Pillow's float boxes hold exactly

struct Box {
  int32_t top, left, height, width;
};

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

// Reads `count` little-endian words: crop top, left, height, width; flip; erase top, left, height, width;
// number of operations n; then n pairs (operation, float32 bits of the magnitude). Words after the n-th pair
// are ignored, so that views with fewer operations may stand in a rectangular batch. Trusts nothing. Returns
// an empty string, or what is wrong; `view` is then unspecified.
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
      return "operation " + std::to_string(op.id) + " is unknown (0 to 13 are known)";
    if (!(std::fabs(op.magnitude) <= kMaxMagnitude)) {  // also refuses NaN
      return "magnitude " + std::to_string(op.magnitude) + " of operation " + std::to_string(op.id) +
             " is out of range";
    }
  }
  return {};
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_VIEW_H_
