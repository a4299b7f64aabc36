// The words of a packed view (one stored or drawn augmentation of one image): the only layout of view
// parameters that records, drawing, replay and Python share. Knows nothing else.
//
// A view is kViewHeaderWords int32 words and two for each of its n operations:
//   0-3  crop top, left, height, width, in pixels of the source image
//   4    flip, 0 or 1: left to right, after the resize
//   5-8  erase top, left, height, width, in output pixels of the stored view size; height 0: no erase
//   9    n; then n times an OpId and the bits of a float32, the final signed physical magnitude
// A mixed view is such a view, kMixWords words, and the view of the partner, as long as the first:
//   0    the partner's sample number, kNoPartner or kSelfPartner
//   1    1 where image and partner change places, else 0
//   2    bits of the float32 MixUp weight lam, 1: none
//   3-6  CutMix top, left, height, width, in output pixels of the stored view size; all zero: none
// Words after the n-th operation are ignored, so that views with fewer operations may stand in a rectangular
// batch.
#ifndef DALI_DR_CSRC_VIEW_LAYOUT_H_
#define DALI_DR_CSRC_VIEW_LAYOUT_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dali_dr {

// What is done to a view after the crop: the operations of torchvision.transforms.RandAugment in its index
// order, then others. Records hold these numbers: a further operation goes to the end.
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
  kHue,           // torchvision's adjust_hue; magnitude: hue_factor, -0.5 to 0.5
  kGaussianBlur,  // Pillow's ImageFilter.GaussianBlur; magnitude: radius > 0, in pixels of the stored view size
  kWindowTop,     // changes no pixel: where the view begins in the image of a fixed resize (plan.h), whole pixels
  kWindowLeft,
  kNumOpIds
};
inline constexpr int kNumRandAugmentOps = kEqualize + 1;  // those that RandAugment draws from

inline constexpr int kMaxOps = 16;                            // of one view; RandAugment uses 2
inline constexpr int kViewHeaderWords = 10;                   // everything but the operations
inline constexpr int kMixWords = 7;                           // between a mixed view and its partner's
inline constexpr int32_t kNoPartner = -1, kSelfPartner = -2;  // in place of a partner's sample number
inline constexpr float kMaxMagnitude = 1e6f;                  // keeps 255 * magnitude inside int32
inline constexpr int32_t kMaxCoordinate = 1
                                          << 24;  // the largest range that Pillow's float boxes hold exactly

struct Box {
  int32_t top, left, height, width;
};

constexpr size_t ViewWords(int num_ops) { return kViewHeaderWords + 2 * static_cast<size_t>(num_ops); }

// Of a mixed view whose two views have `view_words` each.
constexpr size_t MixedWords(size_t view_words) { return 2 * view_words + kMixWords; }

// Whether so many words are those of a mixed view: views have an even number.
constexpr bool IsMixedWords(size_t words) { return words % 2 != 0 && words >= MixedWords(kViewHeaderWords); }

// The mix words and the partner's view of a view without partner (`words` has kMixWords and those of the
// partner's view): one pixel, left as it is.
inline void FillNoPartner(std::span<int32_t> words) {
  std::fill(words.begin(), words.end(), 0);
  words[0] = kNoPartner;
  words[2] = std::bit_cast<int32_t>(1.0f);
  const auto view = words.subspan(kMixWords);
  view[2] = view[3] = 1;
  view[kViewHeaderWords - 1] = static_cast<int32_t>(view.size() - kViewHeaderWords) / 2;
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_VIEW_LAYOUT_H_
