// See step.h. The matrices follow torchvision.transforms.functional.affine and PIL.Image.Image.rotate line by
// line, in the same double arithmetic, because their last bits decide which pixel a coordinate falls on.
#include "image/step.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace dali_dr::image {
namespace {

constexpr double kPi = 3.141592653589793;

struct Matrix {  // Pillow's order: x' = a*x + b*y + c, y' = d*x + e*y + f
  double a, b, c, d, e, f;
};

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

// Of the geometric operations; false if it changes nothing.
bool MakeMatrix(const Op& op, Size out, Size stored, Matrix* matrix) {
  const double magnitude = op.magnitude, degrees = std::atan(magnitude) * (180.0 / kPi);
  const double cx = out.width * 0.5, cy = out.height * 0.5;
  switch (op.id) {
    case kShearX:
      *matrix = ShearTranslate(0, 0, 0, 0, degrees, 0);
      return true;
    case kShearY:
      *matrix = ShearTranslate(0, 0, 0, 0, 0, degrees);
      return true;
    case kTranslateX:
      *matrix = ShearTranslate(cx, cy, Translation(op.magnitude, out.width, stored.width), 0, 0, 0);
      return true;
    case kTranslateY:
      *matrix = ShearTranslate(cx, cy, 0, Translation(op.magnitude, out.height, stored.height), 0, 0);
      return true;
    default: {                                     // kRotate
      double angle = std::fmod(magnitude, 360.0);  // Python's %: the sign of the divisor
      if (angle < 0) angle += 360.0;
      // Pillow transposes for 90, 180 and 270 degrees; the matrices of these angles select the same pixels.
      if (angle != 0) *matrix = Rotation(angle, out);
      return angle != 0;
    }
  }
}

bool MakeAffine(const Op& op, Size out, Size stored, Step* step, std::string* error) {
  Matrix matrix;
  step->kind = StepKind::kAffine;
  if (!MakeMatrix(op, out, stored, &matrix)) return false;
  if (!ToFixed(matrix, out, &step->affine)) {
    *error = "magnitude " + std::to_string(op.magnitude) + " of operation " + std::to_string(op.id) +
             " moves pixels further than 32767";
    return false;
  }
  return !IsIdentity(step->affine);
}

bool MakeBlend(StepKind kind, float magnitude, Step* step) {
  step->kind = kind;
  step->factor = float(1.0 + double{magnitude});
  return step->factor != 1.0f;  // factor 1 copies the image
}

bool MakePosterize(float magnitude, Step* step, std::string* error) {
  const int bits = int(magnitude);
  if (bits < 1 || bits > 8) {
    *error = "Posterize keeps 1 to 8 bits, not " + std::to_string(magnitude);
    return false;
  }
  step->kind = StepKind::kPosterize;
  step->value = 0xff & ~((1 << (8 - bits)) - 1);
  return bits != 8;
}

bool MakeHue(float magnitude, Step* step, std::string* error) {
  if (!(std::fabs(magnitude) <= 0.5f)) {
    *error = "Hue turns by -0.5 to 0.5, not " + std::to_string(magnitude);
    return false;
  }
  step->kind = StepKind::kHue;
  step->value = int32_t(double{magnitude} * 255) & 0xff;  // torchvision cuts towards zero and wraps around
  return true;                                            // also by 0: to HSV and back rounds
}

// Pillow's _gaussian_blur_radius: the radius of the box that, passed so often, blurs like a Gaussian.
float BoxRadius(float radius) {
  const float variance = radius * radius / kBlurPasses;
  const float length = float(std::sqrt(12.0 * variance + 1.0));
  const float whole = float(std::floor((length - 1.0) / 2.0));
  float part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
  part /= 6 * (variance - (whole + 1) * (whole + 1));
  return whole + part;
}

BoxBlur MakeBox(float radius) {
  const float box = BoxRadius(radius);
  if (box == 0) return {};  // Pillow leaves out these passes
  const auto whole = int32_t(box);
  const auto weight = uint32_t(float(1 << 24) / (box * 2 + 1));
  return {whole, weight, ((1u << 24) - uint32_t(whole * 2 + 1) * weight) / 2};
}

bool MakeBlur(float magnitude, Size out, Size stored, Step* step, std::string* error) {
  if (!(magnitude > 0)) {
    *error = "GaussianBlur has a radius above 0, not " + std::to_string(magnitude);
    return false;
  }
  const auto scaled = [&](int32_t to, int32_t from) { return MakeBox(float(double{magnitude} * to / from)); };
  step->kind = StepKind::kBlur;
  step->blur = {scaled(out.width, stored.width), scaled(out.height, stored.height)};
  return step->blur.across.weight != 0 || step->blur.down.weight != 0;
}

}  // namespace

bool MakeStep(const Op& op, Size out, Size stored, Step* step, std::string* error) {
  *step = Step{};
  switch (op.id) {
    case kShearX:
    case kShearY:
    case kTranslateX:
    case kTranslateY:
    case kRotate:
      return MakeAffine(op, out, stored, step, error);
    case kBrightness:
      return MakeBlend(StepKind::kBrightness, op.magnitude, step);
    case kColor:
      return MakeBlend(StepKind::kColor, op.magnitude, step);
    case kContrast:
      return MakeBlend(StepKind::kContrast, op.magnitude, step);
    case kSharpness:  // the 3x3 filter copies an image that it does not fit
      return MakeBlend(StepKind::kSharpness, op.magnitude, step) && out.height >= 3 && out.width >= 3;
    case kPosterize:
      return MakePosterize(op.magnitude, step, error);
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
    case kHue:
      return MakeHue(op.magnitude, step, error);
    case kGaussianBlur:
      return MakeBlur(op.magnitude, out, stored, step, error);
    default:  // kIdentity; kWindowTop and kWindowLeft, which plan.cc reads
      return false;
  }
}

}  // namespace dali_dr::image
