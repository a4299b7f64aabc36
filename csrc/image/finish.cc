// See finish.h.
#include "image/finish.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

namespace dali_dr::image {
namespace {

// Looks for a scale and a bias whose fused multiply-add gives all 256 wanted values, near the straight line
// through them. The reference rounds three times, so the line alone often misses a few entries by one unit.
template <typename Equal>
bool FindLine(const float value[256], float* scale, float* bias, Equal equal) {
  const float slope = float((double(value[255]) - value[0]) / 255.0);
  for (int step = 0; step < 81; ++step) {
    float s = slope, b = value[0];
    const int ds = step % 9 - 4, db = step / 9 - 4;
    for (int i = 0; i < std::abs(ds); ++i) s = std::nextafter(s, ds < 0 ? -INFINITY : INFINITY);
    for (int i = 0; i < std::abs(db); ++i) b = std::nextafter(b, db < 0 ? -INFINITY : INFINITY);
    bool all = true;
    for (int v = 0; v < 256 && all; ++v) all = equal(v, std::fma(float(v), s, b));
    if (all) {
      *scale = s;
      *bias = b;
      return true;
    }
  }
  return false;
}

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// a / b for b's rounded reciprocal: one product and one fused correction (Markstein). Right for nearly all
// operands; the caller checks the ones that it uses.
float Divide(float a, float b, float reciprocal) {
  const float q = a * reciprocal;
  return std::fma(std::fma(-b, q, a), reciprocal, q);
}

Channel MakeChannel(OutputType type, bool normalise, float mean, float std) {
  const auto bits = [&](float x) {
    return ShortBits(type == OutputType::kBfloat16 ? type : OutputType::kFloat16, x);
  };
  Channel c{};
  c.mean = mean;
  c.std = std;
  c.inverse_std = 1.0f / std;
  for (int v = 0; v < 256; ++v) {
    c.value[v] = normalise ? Normalise(v, mean, std) : float(v);
    c.half[v] = bits(c.value[v]);
  }
  bool divide = normalise;
  for (int v = 0; v < 256 && divide; ++v) {
    divide = SameBits(Divide(Divide(float(v), 255.0f, 1.0f / 255.0f) - mean, std, c.inverse_std), c.value[v]);
  }
  const bool line =
      FindLine(c.value, &c.scale, &c.bias, [&](int v, float x) { return SameBits(x, c.value[v]); });
  c.rule = line ? Rule::kScale : divide ? Rule::kDivide : Rule::kTable;
  const bool half_line =
      FindLine(c.value, &c.half_scale, &c.half_bias, [&](int v, float x) { return bits(x) == c.half[v]; });
  c.half_rule = half_line ? Rule::kScale : divide ? Rule::kDivide : Rule::kTable;
  return c;
}

}  // namespace

Finish::Finish(OutputType type, bool channels_last, std::span<const float> mean, std::span<const float> std)
    : type_(type), channels_last_(channels_last) {
  for (int c = 0; c < 3; ++c) {
    channels_[c] =
        mean.empty() ? MakeChannel(type, false, 0.0f, 1.0f) : MakeChannel(type, true, mean[c], std[c]);
  }
}

}  // namespace dali_dr::image
