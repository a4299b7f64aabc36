// See plan.h. The matrices follow torchvision.transforms.functional.affine and PIL.Image.Image.rotate line by
// line, in the same double arithmetic, because their last bits decide which pixel a coordinate falls on.
#include "image/plan.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

namespace dali_dr::image {
namespace {

constexpr double kPi = 3.141592653589793;
constexpr int32_t kMaxResized = 1 << 16;  // longest side of a resized image of which a view is a part

struct Matrix {  // Pillow's order: x' = a*x + b*y + c, y' = d*x + e*y + f
  double a, b, c, d, e, f;
};

// floor(x * out / stored + 0.5) for x >= 0
int32_t Rescale(int64_t x, int32_t out, int32_t stored) {
  return out == stored ? int32_t(x) : int32_t((2 * x * out + stored) / (2 * int64_t{stored}));
}

// Python's round(x, 15): correctly rounded decimal and back.
double Round15(double x) {
  char text[64];
  const char* end = std::to_chars(text, text + sizeof text, x, std::chars_format::fixed, 15).ptr;
  double out = 0;
  std::from_chars(text, end, out);
  return out;
}

// torchvision's _get_inverse_affine_matrix with angle 0 and scale 1; shears in degrees.
Matrix ShearTranslate(double cx, double cy, double tx, double ty, double shear_x, double shear_y) {
  const double sx = shear_x * (kPi / 180.0), sy = shear_y * (kPi / 180.0), rot = 0.0;
  const double a = std::cos(rot - sy) / std::cos(sy);
  const double b = -std::cos(rot - sy) * std::tan(sx) / std::cos(sy) - std::sin(rot);
  const double c = std::sin(rot - sy) / std::cos(sy);
  const double d = -std::sin(rot - sy) * std::tan(sx) / std::cos(sy) + std::cos(rot);
  Matrix m{d, -b, 0.0, -c, a, 0.0};
  m.c += m.a * (-cx - tx) + m.b * (-cy - ty);
  m.f += m.d * (-cx - tx) + m.e * (-cy - ty);
  m.c += cx;
  m.f += cy;
  return m;
}

// PIL.Image.Image.rotate around the middle; `angle` in [0, 360] degrees.
Matrix Rotation(double angle, Size size) {
  const double w = size.width / 2.0, h = size.height / 2.0, t = -(angle * (kPi / 180.0));
  Matrix m{Round15(std::cos(t)), Round15(std::sin(t)), 0.0, Round15(-std::sin(t)), Round15(std::cos(t)), 0.0};
  const double c = m.a * -w + m.b * -h + m.c, f = m.d * -w + m.e * -h + m.f;
  m.c = c + w;
  m.f = f + h;
  return m;
}

int32_t Fix(double v) { return int32_t(std::floor(v * 65536.0 + 0.5)); }

// Pillow's check_fixed at the four corners: outside it, Pillow leaves 16.16 arithmetic.
bool FitsFixed(const Matrix& m, Size size) {
  for (int x : {0, size.width}) {
    for (int y : {0, size.height}) {
      if (!(std::fabs(x * m.a + y * m.b + m.c) < 32768.0 && std::fabs(x * m.d + y * m.e + m.f) < 32768.0))
        return false;
    }
  }
  return true;
}

// Pillow has a second path for b == d == 0 (ImagingScaleAffine: float steps, truncation, negative = outside).
// Here a and e are then ±1 and c and f multiples of 0.5, for which 16.16 steps with floor select the same
// pixels.
bool ToFixed(const Matrix& m, Size size, Affine* out) {
  if (!FitsFixed(m, size)) return false;
  *out = {Fix(m.c + m.a * 0.5 + m.b * 0.5), Fix(m.a), Fix(m.b),
          Fix(m.f + m.d * 0.5 + m.e * 0.5), Fix(m.d), Fix(m.e)};
  return true;
}

bool IsIdentity(const Affine& a) {
  return a.xx == 65536 && a.yy == 65536 && a.xy == 0 && a.yx == 0 && (a.x0 >> 16) == 0 && (a.y0 >> 16) == 0;
}

// A translation of `magnitude` pixels, truncated at the stored size as torchvision does, then rescaled.
double Translation(float magnitude, int32_t out, int32_t stored) {
  const int32_t scaled = Rescale(int64_t(std::fabs(magnitude)), out, stored);
  const int32_t pixels = std::min(scaled, out);  // further out is as black
  return magnitude < 0 ? -pixels : pixels;
}

// Turns one operation into a step; false if it changes nothing. Sets `error` if it cannot be done.
bool MakeStep(const Op& op, Size out, Size stored, Step* step, std::string* error) {
  *step = Step{};
  const double magnitude = op.magnitude;
  Matrix matrix;
  switch (op.id) {
    case kShearX:
    case kShearY: {
      const double degrees = std::atan(magnitude) * (180.0 / kPi);
      matrix =
          op.id == kShearX ? ShearTranslate(0, 0, 0, 0, degrees, 0) : ShearTranslate(0, 0, 0, 0, 0, degrees);
      break;
    }
    case kTranslateX:
      matrix = ShearTranslate(out.width * 0.5, out.height * 0.5,
                              Translation(op.magnitude, out.width, stored.width), 0, 0, 0);
      break;
    case kTranslateY:
      matrix = ShearTranslate(out.width * 0.5, out.height * 0.5, 0,
                              Translation(op.magnitude, out.height, stored.height), 0, 0);
      break;
    case kRotate: {
      double angle = std::fmod(magnitude, 360.0);  // Python's %: the sign of the divisor
      if (angle < 0) angle += 360.0;
      if (angle == 0) return false;
      matrix = Rotation(angle, out);
      // Pillow transposes for 90, 180 and 270 degrees; the matrices of these angles select the same pixels.
      break;
    }
    case kBrightness:
    case kColor:
    case kContrast:
    case kSharpness:
      step->kind = op.id == kBrightness ? StepKind::kBrightness
                   : op.id == kColor    ? StepKind::kColor
                   : op.id == kContrast ? StepKind::kContrast
                                        : StepKind::kSharpness;
      step->factor = float(1.0 + magnitude);
      // Factor 1 copies the image, and so does the 3x3 filter of an image that it does not fit.
      return step->factor != 1.0f && !(op.id == kSharpness && (out.height < 3 || out.width < 3));
    case kPosterize: {
      const int bits = int(op.magnitude);
      if (bits < 1 || bits > 8) {
        *error = "Posterize keeps 1 to 8 bits, not " + std::to_string(op.magnitude);
        return false;
      }
      step->kind = StepKind::kPosterize;
      step->value = 0xff & ~((1 << (8 - bits)) - 1);
      return bits != 8;
    }
    case kSolarize:
      step->kind = StepKind::kSolarize;
      step->value = int32_t(std::ceil(std::clamp(op.magnitude, 0.0f, 256.0f)));
      return step->value < 256;
    case kAutoContrast:
      step->kind = StepKind::kAutoContrast;
      return true;
    case kEqualize:
      step->kind = StepKind::kEqualize;
      return true;
    default:
      return false;
  }
  step->kind = StepKind::kAffine;
  if (!ToFixed(matrix, out, &step->affine)) {
    *error = "magnitude " + std::to_string(op.magnitude) + " of operation " + std::to_string(op.id) +
             " moves pixels further than 32767";
    return false;
  }
  return !IsIdentity(step->affine);
}

std::string Text(const Box& b) {
  return "(top " + std::to_string(b.top) + ", left " + std::to_string(b.left) + ", height " +
         std::to_string(b.height) + ", width " + std::to_string(b.width) + ")";
}

// A box by its edges.
Box Rescale(const Box& box, Size out, Size stored) {
  const int32_t y0 = Rescale(box.top, out.height, stored.height);
  const int32_t x0 = Rescale(box.left, out.width, stored.width);
  const int32_t y1 = Rescale(box.top + box.height, out.height, stored.height);
  const int32_t x1 = Rescale(box.left + box.width, out.width, stored.width);
  return {y0, x0, y1 - y0, x1 - x0};
}

std::string Text(Size s) { return std::to_string(s.height) + "x" + std::to_string(s.width); }

// torchvision's CenterCrop along one axis: round((resized - out) / 2), halves to even. Where the axis keeps
// its size, the crop moves instead of the window.
void CentreAxis(int32_t out, int32_t* resized, int32_t* window, int32_t* begin, int32_t* length) {
  const int32_t gap = *resized - out, half = gap / 2;
  *window = half + (gap % 2 != 0 && half % 2 != 0);
  if (*resized != *length) return;
  *begin += *window;
  *length = *resized = out;
  *window = 0;
}

}  // namespace

std::string MakePlan(const View& view, Size image, int64_t origin_top, int64_t origin_left, Size out,
                     Size stored, int32_t resize_shorter, Plan* plan) {
  const Box& crop = view.crop;
  const int64_t top = crop.top - origin_top, left = crop.left - origin_left;
  if (top < 0 || left < 0 || top + crop.height > image.height || left + crop.width > image.width) {
    return "crop box " + Text(crop) + " is not inside the given " + Text(image) +
           " pixels, whose top-left corner is at (" + std::to_string(origin_top) + ", " +
           std::to_string(origin_left) +
           ") of the source: pass the whole image, or a part that holds the box with its `origin`";
  }
  plan->crop = {int32_t(top), int32_t(left), crop.height, crop.width};
  plan->out = plan->resized = out;
  plan->window_top = plan->window_left = 0;
  plan->flip = view.flip;
  if (resize_shorter > 0) {
    const int64_t shorter = std::min(crop.height, crop.width), longer = std::max(crop.height, crop.width);
    const int64_t length = int64_t{resize_shorter} * longer / shorter;
    if (length > kMaxResized) {
      return "its " + Text(Size{crop.height, crop.width}) + " pixels would be resized to " +
             std::to_string(length) + " on the longer side, more than " + std::to_string(kMaxResized);
    }
    const bool upright = crop.height >= crop.width;
    plan->resized = upright ? Size{int32_t(length), resize_shorter} : Size{resize_shorter, int32_t(length)};
    if (plan->resized.height < out.height || plan->resized.width < out.width) {
      return "the view of " + Text(out) + " does not fit into the image resized to " + Text(plan->resized) +
             ": pass a larger `resize_shorter`";
    }
    CentreAxis(out.height, &plan->resized.height, &plan->window_top, &plan->crop.top, &plan->crop.height);
    CentreAxis(out.width, &plan->resized.width, &plan->window_left, &plan->crop.left, &plan->crop.width);
  }

  const Box& erase = view.erase;
  plan->erase = Box{};
  if (erase.height > 0 && erase.width > 0) {
    if (erase.top + erase.height > stored.height || erase.left + erase.width > stored.width) {
      return "erase box " + Text(erase) + " is not inside the stored view of " + Text(stored) +
             ": pass the size at which the views were drawn as `stored_size`";
    }
    plan->erase = Rescale(erase, out, stored);
  }

  plan->num_steps = 0;
  std::string error;
  for (int i = 0; i < view.num_ops; ++i) {
    if (MakeStep(view.ops[i], out, stored, &plan->steps[plan->num_steps], &error)) ++plan->num_steps;
    if (!error.empty()) return error;
  }
  return {};
}

std::string MakeMixPlan(const int32_t* words, Size out, Size stored, MixPlan* plan) {
  const Box cut{words[3], words[4], words[5], words[6]};
  *plan = {words[0], words[1], std::bit_cast<float>(words[2]), Box{}};
  if (plan->partner < kSelfPartner)
    return "partner " + std::to_string(plan->partner) + " is no sample number";
  if (plan->swapped != 0 && plan->swapped != 1)
    return "swapped is " + std::to_string(plan->swapped) + ", not 0 or 1";
  if (!(plan->lam >= 0.0f && plan->lam <= 1.0f))  // also refuses NaN
    return "mixup weight " + std::to_string(plan->lam) + " is not in 0 to 1";
  if (cut.height > 0 && cut.width > 0) {
    if (cut.top < 0 || cut.left < 0 || cut.height > stored.height || cut.width > stored.width ||
        cut.top > stored.height - cut.height || cut.left > stored.width - cut.width) {
      return "cutmix box " + Text(cut) + " is not inside the stored view of " + Text(stored) +
             ": pass the size at which the views were drawn as `stored_size`";
    }
    plan->cut = Rescale(cut, out, stored);
  } else if (cut.top != 0 || cut.left != 0 || cut.height != 0 || cut.width != 0) {
    return "cutmix box " + Text(cut) + " is empty without being all zero";
  }
  if (plan->partner == kNoPartner && (plan->swapped != 0 || plan->lam != 1.0f || cut.height > 0))
    return "the view is mixed, but has no partner";
  return {};
}

}  // namespace dali_dr::image
