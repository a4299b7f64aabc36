// See operations.h.
#include "draw/operations.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dali_dr::draw {
namespace {

constexpr Stream kOpsStream{2, 2 * kMaxDrawnOps}, kLevelStream{17, 2 * kMaxDrawnOps}, kColourStream{18, 12};
// Words of kColourStream; the factors are numbers 2 to 5.
constexpr int kJitterGate = 0, kJitterOrder = 1, kJitterFactor = 2, kGreyGate = 6, kBlurGate = 7,
              kBlurRadius = 8;
// Words of kLevelStream for AutoAugment.
constexpr int kPolicy = 0, kStepGate = 1, kStepSign = 3;
constexpr int kMaxJitterOps = 4;

bool IsSigned(int32_t op) { return op >= kShearX && op <= kSharpness; }

bool IsJitter(int32_t op) { return op == kBrightness || op == kContrast || op == kColor || op == kHue; }

// Half of the signed ones negative; never -0.0.
float WithSign(int32_t op, float magnitude, double u) {
  return IsSigned(op) && u < 0.5 && magnitude != 0 ? -magnitude : magnitude;
}

size_t Level(double u) { return static_cast<size_t>(u * kLevels); }

// Writes operations one after another.
class Writer {
 public:
  explicit Writer(std::span<int32_t> out) : out_(out.data()) {}

  void Write(bool applied, int32_t op, float magnitude) {
    *out_++ = applied ? op : int32_t{kIdentity};
    *out_++ = std::bit_cast<int32_t>(applied ? magnitude : 0.0f);
  }

 private:
  int32_t* out_;
};

// Brightness, contrast, saturation and hue, those that are changed, in the order of number floor(k! * u).
void WriteJitter(const OpTables& tables, Uniforms& u, Writer* writer) {
  const auto count = static_cast<int>(tables.jitter_ops.size());
  int left[kMaxJitterOps] = {0, 1, 2, 3}, factorial = 1;
  for (int i = 2; i <= count; ++i) factorial *= i;
  const bool applied = u[kJitterGate] < tables.jitter_probability;
  auto code = static_cast<int>(factorial * u[kJitterOrder]);
  for (int rest = count; rest > 0; --rest) {
    factorial /= rest;
    const int place = code / factorial, kind = left[place];
    code %= factorial;
    std::copy(left + place + 1, left + rest, left + place);
    const size_t level = Level(u[kJitterFactor + kind]);
    writer->Write(applied, tables.jitter_ops[static_cast<size_t>(kind)],
                  tables.jitter_magnitudes[static_cast<size_t>(kind) * kLevels + level]);
  }
}

void CheckColour(const OpTables& tables) {
  const size_t count = tables.jitter_ops.size();
  CheckProbability("jitter_probability", tables.jitter_probability);
  if (count > kMaxJitterOps) Fail("jitter_ops", "at most 4 operations", count);
  for (const int32_t op : tables.jitter_ops)
    if (!IsJitter(op)) Fail("jitter_ops", "brightness, contrast, colour and hue", "operation ", op);
  if (tables.jitter_magnitudes.size() != count * kLevels)
    Fail("jitter_magnitudes", "32 numbers for each operation", tables.jitter_magnitudes.size());
  for (size_t i = 0; i < tables.jitter_magnitudes.size(); ++i) {
    const float m = tables.jitter_magnitudes[i];
    const bool hue = tables.jitter_ops[i / kLevels] == kHue;
    if (!(m >= (hue ? -0.5f : -1.0f) && m <= (hue ? 0.5f : kMaxMagnitude)))
      Fail("jitter_magnitudes", hue ? "a hue of -0.5 to 0.5" : "a factor less 1 of -1 to 10^6", m);
  }
  CheckProbability("greyscale", tables.greyscale);
  CheckProbability("blur_probability", tables.blur_probability);
  if (!tables.blur_radii.empty() && tables.blur_radii.size() != kLevels)
    Fail("blur_radii", "32 numbers or none", tables.blur_radii.size());
  for (const float radius : tables.blur_radii)
    if (!(radius > 0 && radius <= kMaxMagnitude)) Fail("blur_radii", "numbers above 0, at most 10^6", radius);
}

void CheckMagnitudes(const char* name, std::span<const float> magnitudes) {
  for (const float m : magnitudes)
    if (!(m >= 0 && m <= kMaxMagnitude)) Fail(name, "numbers 0 to 10^6", m);
}

}  // namespace

void CheckProbability(const char* name, double value) {
  if (!(value >= 0 && value <= 1)) Fail(name, "a probability in 0 to 1", value);
}

void OpTables::CheckOperations() const {
  if (num_ops < 0 || num_ops > kMaxDrawnOps) Fail("num_ops", "0 to 8 operations", num_ops);
  CheckMagnitudes("magnitudes", magnitudes);
  CheckProbability("op_probability", op_probability);
  if (strengths.size() > kMaxStrengths) Fail("level_ends", "at most 256 numbers", strengths.size());
  double before = 0;
  for (const Strength& strength : strengths) {
    if (!(strength.end >= before)) Fail("level_ends", "rising numbers from 0 on", strength.end);
    before = strength.end;
    CheckMagnitudes("magnitudes", strength.magnitudes);
  }
  if (!strengths.empty() && before != 1) Fail("level_ends", "1 as the last of them", before);
  CheckColour(*this);
  if (policies.size() > kMaxPolicies) Fail("policy_ops", "at most 256 pairs", policies.size());
  if (!policies.empty() && num_ops > 0) Fail("policy_ops", "either these or `draw_num_ops`", "both");
  for (const auto& pair : policies) {
    for (const Step& step : pair) {
      if (step.op < 0 || step.op >= kNumRandAugmentOps) Fail("policy_ops", "numbers 0 to 13", step.op);
      CheckProbability("policy_probabilities", step.probability);
      CheckMagnitudes("policy_magnitudes", {&step.magnitude, 1});
    }
  }
}

int32_t OpTables::count() const {
  return static_cast<int32_t>(jitter_ops.size()) + (greyscale > 0) + !blur_radii.empty() +
         (policies.empty() ? 0 : 2) + num_ops;
}

void OpTables::DrawOperations(const uint64_t key[2], int64_t number, std::span<int32_t> out) const {
  Writer writer(out);
  Uniforms colour(key, kColourStream, number), u(key, kOpsStream, number), level(key, kLevelStream, number);
  if (!jitter_ops.empty()) WriteJitter(*this, colour, &writer);
  if (greyscale > 0) writer.Write(colour[kGreyGate] < greyscale, kColor, -1.0f);
  if (!blur_radii.empty()) {
    const float radius = blur_radii[Level(colour[kBlurRadius])];
    writer.Write(colour[kBlurGate] < blur_probability, kGaussianBlur, radius);
  }
  if (!policies.empty()) {
    const auto& pair = policies[static_cast<size_t>(level[kPolicy] * static_cast<double>(policies.size()))];
    for (int i = 0; i < 2; ++i) {
      const Step& step = pair[static_cast<size_t>(i)];
      const float magnitude = WithSign(step.op, step.magnitude, level[kStepSign + i]);
      writer.Write(level[kStepGate + i] < step.probability, step.op, magnitude);
    }
  }
  for (int i = 0; i < num_ops; ++i) {
    const auto op = static_cast<int32_t>(u[2 * i] * kNumRandAugmentOps);
    const Magnitudes* at = &magnitudes;
    if (!strengths.empty()) {
      const double place = level[2 * i];
      at = &std::upper_bound(strengths.begin(), strengths.end(), place,
                             [](double value, const Strength& strength) { return value < strength.end; })
                ->magnitudes;
    }
    const bool applied = op_probability >= 1 || level[2 * i + 1] < op_probability;
    writer.Write(applied, op, WithSign(op, (*at)[static_cast<size_t>(op)], u[2 * i + 1]));
  }
}

}  // namespace dali_dr::draw
