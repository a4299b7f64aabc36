// A view made ready for one image and one output size: boxes checked and rescaled, matrices in fixed point,
// operations that change nothing dropped. The plan is plain data; the CPU path and the GPU kernel execute the
// same plan.
#ifndef DALI_DR_CSRC_IMAGE_PLAN_H_
#define DALI_DR_CSRC_IMAGE_PLAN_H_

#include <cstdint>
#include <string>

#include "image/pixel.h"
#include "view/parse.h"

namespace dali_dr::image {

struct Size {
  int32_t height, width;
};

/// An image may be so many times as long as wide, and be shown by evaluation whatever it is resized to. A
/// shard holds images of up to 65,535 pixels a side, so all of them are.
constexpr int32_t kMaxAspect = 1 << 16;
/// Longest side of a resized image of which a view is a part. Nothing is as long as that: it keeps
/// coordinates, and twice their differences, inside int32.
constexpr int32_t kMaxResized = kMaxAspect * kMaxViewSize;
static_assert(kMaxResized <= 1 << 29);

enum class StepKind : int32_t {
  kAffine,      ///< affine
  kBrightness,  ///< factor
  kColor,       ///< factor
  kContrast,    ///< factor
  kSharpness,   ///< factor
  kPosterize,   ///< value: the mask of the bits that stay
  kSolarize,    ///< value: levels >= value are inverted
  kAutoContrast,
  kEqualize,
  kHue,   ///< value: what is added to the hue, 0 to 255
  kBlur,  ///< blur
};

struct Step {
  StepKind kind;
  int32_t value;
  float factor;
  union {
    Affine affine;
    Blur blur;
  };
};

struct Plan {
  Box crop;   ///< relative to the top-left pixel of the given image
  Box erase;  ///< in output pixels, inside the output; height or width 0 = none
  Size out;
  /// The crop is resized to `resized`, of which the view is the part of size `out` from `window` on. Mostly
  /// the whole: resized == out, window 0. An axis that keeps its size has resized == out, too: the crop is
  /// then the part.
  Size resized;
  int32_t window_top, window_left;
  int32_t flip;
  int32_t num_steps;
  Step steps[kMaxOps];
};

/// How a finished view is mixed with that of a partner image: x = lam * a + (1 - lam) * b in float32 (a: the
/// view, b: the partner's; exchanged if `swapped`), each operation rounded, and then x = b inside `cut`.
struct MixPlan {
  int32_t partner;  ///< sample number, kNoPartner or kSelfPartner
  int32_t swapped;
  float lam;  ///< 1: no MixUp
  Box cut;    ///< output pixels; height or width 0 = none
};

/// Reads the kMixWords words between a view and its partner's view, trusting nothing, and rescales the CutMix
/// box as MakePlan does erase boxes. Returns an empty string, or what is wrong.
std::string MakeMixPlan(const int32_t* words, Size out, Size stored, MixPlan* plan);

/// `image` is the size of the given pixels, (origin_top, origin_left) their place in the source image, in
/// whose pixels the crop box is stored. `stored` is the view size at which erase boxes and translations were
/// stored; edges of erase boxes and translations are multiplied by out / stored and rounded half up, per
/// axis. `resize_shorter`: 0, or the length to which the crop's shorter side is resized, keeping its aspect
/// ratio; the view is then the centre of that, as in torchvision's Resize(resize_shorter) and
/// CenterCrop(out), or begins where the operations WindowTop and WindowLeft say. It is given for the stored
/// size, as are these: all are multiplied by out / stored, the length by the greater of both axes'. Returns
/// an empty string, or what is wrong and what to do.
std::string MakePlan(const View& view, Size image, int64_t origin_top, int64_t origin_left, Size out,
                     Size stored, int32_t resize_shorter, Plan* plan);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_PLAN_H_
