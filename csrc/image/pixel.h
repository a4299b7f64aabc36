// The pixel arithmetic of Pillow and torchvision, written once for host and device.
// Every function gives the very bits of its reference: Pillow's libImaging (Resample.c, Geometry.c, Blend.c,
// Filter.c, Convert.c, BoxBlur.c), PIL.ImageOps / PIL.ImageEnhance, and torchvision's ToTensor + Normalize.
#ifndef DALI_DR_CSRC_IMAGE_PIXEL_H_
#define DALI_DR_CSRC_IMAGE_PIXEL_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>

#define DR_HD __host__ __device__ __forceinline__
#else
#define DR_HD inline
#endif

namespace dali_dr::image {

constexpr int32_t kMaxViewSize =
    8192;  ///< per side; far below the 32768 pixels of Pillow's 16.16 coordinates

// Products and sums that must never become a fused multiply-add. On the host -ffp-contract=off forbids the
// fusion.
#ifdef __CUDA_ARCH__
DR_HD float Mul(float a, float b) { return __fmul_rn(a, b); }
DR_HD float Add(float a, float b) { return __fadd_rn(a, b); }
DR_HD double Mul(double a, double b) { return __dmul_rn(a, b); }
DR_HD double Add(double a, double b) { return __dadd_rn(a, b); }
#else
DR_HD float Mul(float a, float b) { return a * b; }
DR_HD float Add(float a, float b) { return a + b; }
DR_HD double Mul(double a, double b) { return a * b; }
DR_HD double Add(double a, double b) { return a + b; }
#endif

// ---- Resize (Pillow, Resample.c)
// -------------------------------------------------------------------------------

enum class Filter : int32_t { kBilinear, kBicubic };

constexpr int kWeightBits = 22;  ///< PRECISION_BITS: fixed-point bits of a weight

/// One axis of a resize: `in` pixels become `out`.
struct Axis {
  double scale;          ///< in / out
  double support;        ///< half width of the filter in input pixels
  double inverse_scale;  ///< 1 / max(scale, 1)
  int32_t in, out;
  Filter filter;
};

DR_HD Axis MakeAxis(int32_t in, int32_t out, Filter filter) {
  const double scale = double(in) / out;
  const double filter_scale = scale < 1.0 ? 1.0 : scale;
  const double support = (filter == Filter::kBilinear ? 1.0 : 2.0) * filter_scale;
  return {scale, support, 1.0 / filter_scale, in, out, filter};
}

/// Upper bound of the number of taps of any output coordinate.
DR_HD int32_t MaxTaps(const Axis& axis) {
  const int32_t taps = int32_t(ceil(axis.support)) * 2 + 1;
  return taps < axis.in ? taps : axis.in;
}

DR_HD double Center(const Axis& axis, int32_t x) { return Mul(x + 0.5, axis.scale); }

/// First input pixel and number of input pixels that output coordinate `x` reads.
DR_HD void Window(const Axis& axis, int32_t x, int32_t* begin, int32_t* count) {
  const double center = Center(axis, x);
  int32_t first = int32_t(Add(Add(center, -axis.support), 0.5));
  int32_t last = int32_t(Add(Add(center, axis.support), 0.5));
  if (first < 0) first = 0;
  if (last > axis.in) last = axis.in;
  *begin = first;
  *count = last - first;
}

/// Weight of input pixel `i` for the output coordinate with this center, before the weights are normalised to
/// sum 1.
DR_HD double RawWeight(const Axis& axis, double center, int32_t i) {
  double x = Mul(Add(Add(double(i), -center), 0.5), axis.inverse_scale);
  if (x < 0.0) x = -x;
  if (axis.filter == Filter::kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return Add(Mul(Mul(Add(Mul(a + 2.0, x), -(a + 3.0)), x), x), 1.0);
  if (x < 2.0) return Mul(Add(Mul(Add(Mul(Add(x, -5.0), x), 8.0), x), -4.0), a);
  return 0.0;
}

DR_HD double ShareOfSum(double raw, double sum) { return sum != 0.0 ? raw / sum : raw; }

/// Fixed-point form of a normalised weight.
DR_HD int32_t FixedWeight(double weight) {
  const double scaled = Mul(weight, double(1 << kWeightBits));
  return int32_t(Add(scaled, weight < 0 ? -0.5 : 0.5));
}

/// All weights of output coordinate `x`; `raw` holds MaxTaps() doubles of scratch. Returns the number of
/// taps.
DR_HD int32_t FixedWeights(const Axis& axis, int32_t x, double* raw, int32_t* begin, int32_t* weights) {
  int32_t count;
  Window(axis, x, begin, &count);
  const double center = Center(axis, x);
  double sum = 0.0;
  for (int32_t i = 0; i < count; ++i) {
    raw[i] = RawWeight(axis, center, *begin + i);
    sum = Add(sum, raw[i]);
  }
  for (int32_t i = 0; i < count; ++i) weights[i] = FixedWeight(ShareOfSum(raw[i], sum));
  return count;
}

/// Whether the vertical pass comes first, which changes roundings: since Pillow 13 it does where it takes
/// away more than twice as many rows as the horizontal pass takes away columns. Earlier versions always began
/// horizontally.
DR_HD bool VerticalFirst(int32_t in_height, int32_t in_width, int32_t out_height, int32_t out_width) {
  return out_height < in_height && in_height - out_height > 2 * (in_width - out_width);
}

/// `sum` is the weighted sum of the pixels; this adds the rounding term.
DR_HD uint8_t RoundWeighted(int32_t sum) {
  const int32_t v = (sum + (1 << (kWeightBits - 1))) >> kWeightBits;
  return uint8_t(v < 0 ? 0 : v > 255 ? 255 : v);
}

// ---- Affine, nearest neighbour (Pillow, Geometry.c)
// ------------------------------------------------------------

/// 16.16 fixed-point inverse map: output pixel (x, y) shows input pixel ((x0 + x*xx + y*xy) >> 16, (y0 + x*yx
/// + y*yy) >> 16).
struct Affine {
  int32_t x0, xx, xy, y0, yx, yy;
};

/// Unsigned arithmetic, because the coordinates of pixels outside may wrap.
DR_HD int32_t FixedX(const Affine& a, int32_t x, int32_t y) {
  return int32_t(uint32_t(a.x0) + uint32_t(x) * uint32_t(a.xx) + uint32_t(y) * uint32_t(a.xy));
}
DR_HD int32_t FixedY(const Affine& a, int32_t x, int32_t y) {
  return int32_t(uint32_t(a.y0) + uint32_t(x) * uint32_t(a.yx) + uint32_t(y) * uint32_t(a.yy));
}

// ---- Colour (Pillow: Blend.c, Convert.c, Filter.c, ImageOps.py)
// ------------------------------------------------

/// PIL.Image.blend(degenerate, value, factor).
DR_HD uint8_t Blend(int32_t degenerate, int32_t value, float factor) {
  const float v = Add(float(degenerate), Mul(factor, float(value - degenerate)));
  return v <= 0.0f ? 0 : v >= 255.0f ? 255 : uint8_t(v);
}

/// convert("L")
DR_HD int32_t Grey(int32_t r, int32_t g, int32_t b) {
  return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
}

/// The degenerate image of ImageEnhance.Contrast: the rounded mean of the grey image.
DR_HD int32_t ContrastMean(uint64_t grey_sum, uint64_t pixels) {
  return int32_t(Add(double(grey_sum) / double(pixels), 0.5));
}

/// ImageFilter.SMOOTH; `sum` is the sum of the eight neighbours plus five times the pixel. Pillow's float32
/// sum lies within 1e-4 of sum/13 + 0.5, which is at least 1/26 away from any integer, so this integer form
/// is exact.
DR_HD int32_t Smooth(int32_t sum) { return (sum + 6) / 13; }

/// ImageOps.autocontrast: the new value of `v` in a channel with extremes lo and hi.
DR_HD uint8_t AutoContrast(int32_t v, int32_t lo, int32_t hi) {
  if (hi <= lo) return uint8_t(v);
  const double scale = 255.0 / (hi - lo);
  const int32_t out = int32_t(Add(Mul(double(v), scale), Mul(double(-lo), scale)));
  return uint8_t(out < 0 ? 0 : out > 255 ? 255 : out);
}

/// ImageOps.equalize: the step of a channel with `pixels` pixels of which `last` have the highest value that
/// occurs; 0 means that the channel stays as it is. (A channel of one value has last == pixels, hence step
/// 0.)
DR_HD uint32_t EqualizeStep(uint32_t pixels, uint32_t last) { return (pixels - last) / 255; }

/// The new value of a level with `below` pixels of lower levels.
DR_HD uint8_t Equalize(uint32_t below, uint32_t step) {
  const uint32_t out = (step / 2 + below) / step;
  return uint8_t(out > 255 ? 255 : out);
}

// ---- Hue (Pillow: Convert.c; torchvision: _functional_pil.py)
// ---------------------------------------------------------------

/// A pixel in bytes, as convert("HSV") gives it.
struct Hsv {
  int32_t hue, saturation, value;
};

/// rgb2hsv: in float32, but where a double constant makes the sums double.
DR_HD Hsv ToHsv(int32_t r, int32_t g, int32_t b) {
  const int32_t high = r > g ? (r > b ? r : b) : (g > b ? g : b);
  const int32_t low = r < g ? (r < b ? r : b) : (g < b ? g : b);
  if (high == low) return {0, 0, high};
  const float range = float(high - low), saturation = range / float(high);
  const float to_r = float(high - r) / range, to_g = float(high - g) / range, to_b = float(high - b) / range;
  const float sixths = r == high   ? Add(to_b, -to_g)
                       : g == high ? float(Add(Add(2.0, double(to_r)), -double(to_b)))
                                   : float(Add(Add(4.0, double(to_g)), -double(to_r)));
  const double turn = Add(double(sixths) / 6.0, 1.0);  // its fmod by 1, exactly, is what follows
  const float hue = float(turn < 1.0 ? turn : Add(turn, -1.0));
  return {int32_t(Mul(double(hue), 255.0)), int32_t(Mul(double(saturation), 255.0)), high};
}

/// hsv2rgb; R, G and B are the lowest bytes of the result, in this order. For all 2^24 pixels, rounding by
/// + 0.5 is what its round() does.
DR_HD uint32_t FromHsv(const Hsv& pixel) {
  const int32_t v = pixel.value;
  if (pixel.saturation == 0) return uint32_t(v) * 0x010101u;
  const double sixths = Mul(double(pixel.hue), 6.0) / 255.0;
  const int32_t sector = int32_t(sixths);
  const float part = float(Add(sixths, -double(sector)));
  const float saturation = float(double(pixel.saturation) / 255.0);
  const auto level = [&](double taken) {
    return uint32_t(int32_t(Add(Mul(double(v), Add(1.0, -taken)), 0.5)));
  };
  const uint32_t p = level(double(saturation)), q = level(double(Mul(saturation, part)));
  const uint32_t t = level(Mul(double(saturation), Add(1.0, -double(part)))), value = uint32_t(v);
  switch (sector % 6) {
    case 0:
      return value | t << 8 | p << 16;
    case 1:
      return q | value << 8 | p << 16;
    case 2:
      return p | value << 8 | t << 16;
    case 3:
      return p | q << 8 | value << 16;
    case 4:
      return t | p << 8 | value << 16;
    default:
      return value | p << 8 | q << 16;
  }
}

/// adjust_hue: `shift` is added to the hue modulo 256. Bytes as FromHsv gives them.
DR_HD uint32_t TurnHue(int32_t r, int32_t g, int32_t b, int32_t shift) {
  Hsv pixel = ToHsv(r, g, b);
  pixel.hue = (pixel.hue + shift) & 0xff;
  return FromHsv(pixel);
}

// ---- Blur (Pillow, BoxBlur.c)
// ------------------------------------------------------------------------------------------------

/// One pass along a line: the pixels at most `radius` away weigh `weight`, the two beyond them `edge`, in
/// 2^-24. `weight` 0: no pass.
struct BoxBlur {
  int32_t radius;
  uint32_t weight, edge;
};

/// ImageFilter.GaussianBlur: so many passes of the first along rows, then as many of the second along
/// columns.
struct Blur {
  BoxBlur across, down;
};
constexpr int kBlurPasses = 3;

/// `inner`: the sum of the pixels that weigh `weight`; `ends`: of the two that weigh `edge`. Modulo 2^32, as
/// in Pillow.
DR_HD uint8_t Boxed(uint32_t inner, uint32_t ends, const BoxBlur& box) {
  return uint8_t((inner * box.weight + ends * box.edge + (1u << 23)) >> 24);
}

/// Pixel `at` of a line of `n` pixels, each `step` bytes behind the one before; the first and the last go on
/// for ever.
DR_HD uint8_t BoxedAt(const uint8_t* line, int32_t step, int32_t n, int32_t at, const BoxBlur& box) {
  const int32_t last = n - 1, from = at - box.radius, to = at + box.radius;
  const int32_t first_inside = from < 0 ? 0 : from, last_inside = to > last ? last : to;
  uint32_t inner = uint32_t(first_inside - from) * line[0] + uint32_t(to - last_inside) * line[last * step];
  for (int32_t i = first_inside; i <= last_inside; ++i) inner += line[i * step];
  const uint32_t ends =
      uint32_t{line[(from > 0 ? from - 1 : 0) * step]} + line[(to < last ? to + 1 : last) * step];
  return Boxed(inner, ends, box);
}

// ---- Output (torchvision's ToTensor + Normalize)
// ---------------------------------------------------------------

enum class OutputType : int32_t { kUint8, kFloat16, kBfloat16, kFloat32 };

DR_HD float Normalise(int32_t v, float mean, float std) { return Add(float(v) / 255.0f, -mean) / std; }

/// MixUp of two finished values (torchvision.transforms.v2.MixUp): lam * a + rest * b, rest being 1 - lam.
DR_HD float MixUp(float lam, float a, float rest, float b) { return Add(Mul(lam, a), Mul(rest, b)); }

/// IEEE binary16 bits of a float, rounded to nearest even.
DR_HD uint16_t HalfBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return uint16_t(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));  // NaN, made quiet
#ifdef __CUDA_ARCH__
  return __half_as_ushort(__float2half_rn(value));
#endif
  if (bits >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to infinity
  if (bits < 0x38800000u) {                                  // subnormal or zero
    if (bits < 0x33000000u) return uint16_t(sign);
    const uint32_t shift = 126u - (bits >> 23);  // 14 .. 24
    const uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
    const uint32_t half = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), tie = 1u << (shift - 1);
    return uint16_t(sign | (half + (rest > tie || (rest == tie && (half & 1u)))));
  }
  return uint16_t(sign | ((bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13));
}

/// bfloat16 bits of a float, rounded to nearest even.
DR_HD uint16_t BfloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40u);  // NaN, made quiet
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Bits of a value in the 16-bit type.
DR_HD uint16_t ShortBits(OutputType type, float value) {
  return type == OutputType::kFloat16 ? HalfBits(value) : BfloatBits(value);
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_PIXEL_H_
