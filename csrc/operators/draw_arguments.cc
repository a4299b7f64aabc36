// See draw_arguments.h.
//
// Views are drawn in float64, and C++ and Python must agree in every bit, but DALI 2.4 has no float64
// argument: an argument from Python is stored as float32 (OpSpec::AddArg knows float alone, and
// nvidia.dali.types converts to no other), and a float64 argument input would be a tensor per sample of what
// is one number per pipeline. int64 arguments are exact. So a float64 travels as its bits, as does the uint64
// seed; dali_dr.augment.fresh.draw_arguments makes them.
#include "operators/draw_arguments.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "dali/core/format.h"
#include "dali/pipeline/operator/op_schema.h"

namespace dali_dr {
namespace {

using dali::make_string;

constexpr const char* kNames[] = {"draw_seed",
                                  "draw_size",
                                  "draw_crop_scale",
                                  "draw_crop_ratio",
                                  "draw_resize",
                                  "draw_random_window",
                                  "draw_flip",
                                  "draw_jitter_probability",
                                  "draw_jitter_ops",
                                  "draw_jitter_magnitudes",
                                  "draw_greyscale",
                                  "draw_blur_probability",
                                  "draw_blur_radii",
                                  "draw_policy_ops",
                                  "draw_policy_probabilities",
                                  "draw_policy_magnitudes",
                                  "draw_num_ops",
                                  "draw_op_probability",
                                  "draw_level_ends",
                                  "draw_magnitudes",
                                  "draw_erase_probability",
                                  "draw_erase_scale",
                                  "draw_erase_ratio"};

template <typename T>
std::vector<T> Values(const dali::OpSpec& spec, const std::string& name, size_t count) {
  auto given = spec.GetRepeatedArgument<T>(name);
  if (given.size() != count)
    throw draw::SpecError(make_string("`", name, "`: want ", count, " numbers, got ", given.size()));
  return given;
}

template <typename T, size_t count>
std::array<T, count> Values(const dali::OpSpec& spec, const std::string& name) {
  const std::vector<T> given = Values<T>(spec, name, count);
  std::array<T, count> values{};
  std::copy(given.begin(), given.end(), values.begin());
  return values;
}

double Double(const dali::OpSpec& spec, const std::string& name) {
  return std::bit_cast<double>(spec.GetArgument<int64_t>(name));
}

draw::RandomBox BoxOf(const dali::OpSpec& spec, const std::string& name) {
  const auto interval = [&](const std::string& part) {
    return std::bit_cast<std::array<double, 2>>(Values<int64_t, 2>(spec, name + part));
  };
  return {interval("_scale"), interval("_ratio")};
}

// Those of colour jitter, greyscale and blur.
void SetColour(const dali::OpSpec& spec, draw::OpTables* tables) {
  tables->jitter_probability = Double(spec, "draw_jitter_probability");
  for (const int op : spec.GetRepeatedArgument<int>("draw_jitter_ops")) tables->jitter_ops.push_back(op);
  tables->jitter_magnitudes = spec.GetRepeatedArgument<float>("draw_jitter_magnitudes");
  tables->greyscale = Double(spec, "draw_greyscale");
  tables->blur_probability = Double(spec, "draw_blur_probability");
  tables->blur_radii = spec.GetRepeatedArgument<float>("draw_blur_radii");
}

// Those of AutoAugment.
void SetPolicies(const dali::OpSpec& spec, draw::OpTables* tables) {
  const auto ops = spec.GetRepeatedArgument<int>("draw_policy_ops");
  if (ops.size() % 2 != 0)
    throw draw::SpecError(make_string("`draw_policy_ops`: want pairs, got ", ops.size(), " numbers"));
  const auto probabilities = Values<int64_t>(spec, "draw_policy_probabilities", ops.size());
  const auto magnitudes = Values<float>(spec, "draw_policy_magnitudes", ops.size());
  tables->policies.resize(ops.size() / 2);
  for (size_t i = 0; i < ops.size(); ++i)
    tables->policies[i / 2][i % 2] = {ops[i], std::bit_cast<double>(probabilities[i]), magnitudes[i]};
}

// Those of RandAugment or TrivialAugmentWide.
void SetStrengths(const dali::OpSpec& spec, draw::OpTables* tables) {
  tables->num_ops = spec.GetArgument<int>("draw_num_ops");
  if (tables->num_ops == 0) return;
  if (spec.HasArgument("draw_op_probability")) tables->op_probability = Double(spec, "draw_op_probability");
  const auto ends = spec.GetRepeatedArgument<int64_t>("draw_level_ends");
  if (ends.empty()) {
    tables->magnitudes = Values<float, kNumRandAugmentOps>(spec, "draw_magnitudes");
    return;
  }
  const auto magnitudes = Values<float>(spec, "draw_magnitudes", ends.size() * kNumRandAugmentOps);
  tables->strengths.resize(ends.size());
  for (size_t i = 0; i < ends.size(); ++i) {
    tables->strengths[i].end = std::bit_cast<double>(ends[i]);
    std::copy_n(magnitudes.begin() + static_cast<ptrdiff_t>(i * kNumRandAugmentOps), kNumRandAugmentOps,
                tables->strengths[i].magnitudes.begin());
  }
}

}  // namespace

DALI_SCHEMA(dr__DrawArguments)
    .DocStr("What fresh views are drawn from; dali_dr.augment.fresh.draw_arguments makes these arguments.")
    .AddOptionalArg("draw_whole",
                    "Fresh views are the whole image, not augmented; then no other ``draw_...``.", false)
    .AddOptionalArg("draw_size",
                    "Edge of the fresh views in pixels, at most 8192. 0: there are no fresh views, unless "
                    "``draw_whole``.",
                    0)
    .AddOptionalArg("draw_seed", "Bits of the uint64 seed.", int64_t{0})
    .AddOptionalArg("draw_crop_scale",
                    "Lowest and highest area of the crop as a part of the image: bits of two float64.",
                    std::vector<int64_t>{})
    .AddOptionalArg("draw_crop_ratio",
                    "Lowest and highest aspect ratio, width / height, of the crop: bits of two float64.",
                    std::vector<int64_t>{})
    .AddOptionalArg("draw_resize",
                    "Pixels of the image's shorter side after a resize, of which the view is a part; then no "
                    "``draw_crop_...``. 0: none.",
                    0)
    .AddOptionalArg("draw_random_window",
                    "With ``draw_resize``: views are anywhere in the resized image, not in its centre.",
                    false)
    .AddOptionalArg("draw_flip", "Probability of a horizontal flip: bits of a float64.", int64_t{0})
    .AddOptionalArg("draw_jitter_probability", "Probability of colour jitter: bits of a float64.", int64_t{0})
    .AddOptionalArg("draw_jitter_ops", "Numbers of its operations, in torchvision's order.",
                    std::vector<int>{})
    .AddOptionalArg("draw_jitter_magnitudes", "32 magnitudes of each, one of which is drawn.",
                    std::vector<float>{})
    .AddOptionalArg("draw_greyscale", "Probability that a view is made grey: bits of a float64.", int64_t{0})
    .AddOptionalArg("draw_blur_probability", "Probability of a Gaussian blur: bits of a float64.", int64_t{0})
    .AddOptionalArg("draw_blur_radii", "32 radii in pixels, one of which is drawn. None: there is no blur.",
                    std::vector<float>{})
    .AddOptionalArg("draw_policy_ops", "Numbers of AutoAugment's operations, pair after pair.",
                    std::vector<int>{})
    .AddOptionalArg("draw_policy_probabilities", "Of each of them to be applied: bits of float64.",
                    std::vector<int64_t>{})
    .AddOptionalArg("draw_policy_magnitudes", "Of each of them, physical and unsigned.", std::vector<float>{})
    .AddOptionalArg("draw_num_ops", "Operations of RandAugment or TrivialAugmentWide per view, at most 8.", 0)
    .AddOptionalArg("draw_op_probability", "Of each of them to be applied: bits of a float64. Not given: 1.",
                    int64_t{0})
    .AddOptionalArg(
        "draw_level_ends",
        "Rising ends of the levels of strength, 1 the last: the first above a uniform is drawn; bits of "
        "float64. Not given: there is one level.",
        std::vector<int64_t>{})
    .AddOptionalArg(
        "draw_magnitudes",
        "Their 14 magnitudes, physical and unsigned, in the order of torchvision's RandAugment, level after "
        "level. Not needed where ``draw_num_ops`` is 0.",
        std::vector<float>{})
    .AddOptionalArg("draw_erase_probability", "Probability of an erase: bits of a float64.", int64_t{0})
    .AddOptionalArg(
        "draw_erase_scale",
        "Lowest and highest area of the erase box as a part of the view: bits of two float64. Not "
        "needed where ``draw_erase_probability`` is 0.",
        std::vector<int64_t>{})
    .AddOptionalArg("draw_erase_ratio",
                    "Lowest and highest aspect ratio, height / width, of the erase box: bits of two float64. "
                    "Not needed where ``draw_erase_probability`` is 0.",
                    std::vector<int64_t>{});

std::optional<draw::Spec> DrawSpec(const dali::OpSpec& spec) {
  draw::Spec drawn;
  drawn.whole = spec.GetArgument<bool>("draw_whole");
  drawn.size = spec.GetArgument<int>("draw_size");
  if (drawn.whole || drawn.size == 0) {
    for (const char* name : kNames)
      if (spec.HasArgument(name))
        throw draw::SpecError(make_string("`", name, "`: is of no use ",
                                          drawn.whole ? "beside `draw_whole`" : "without `draw_size`"));
    return drawn.whole ? std::optional(drawn) : std::nullopt;
  }
  drawn.seed = static_cast<uint64_t>(spec.GetArgument<int64_t>("draw_seed"));
  drawn.resize = spec.GetArgument<int>("draw_resize");
  drawn.random_window = spec.GetArgument<bool>("draw_random_window");
  if (drawn.resize == 0) drawn.crop = BoxOf(spec, "draw_crop");
  drawn.flip = Double(spec, "draw_flip");
  SetColour(spec, &drawn);
  SetPolicies(spec, &drawn);
  SetStrengths(spec, &drawn);
  drawn.erase_probability = Double(spec, "draw_erase_probability");
  if (drawn.erase_probability != 0) drawn.erase = BoxOf(spec, "draw_erase");
  drawn.Check();
  return drawn;
}

}  // namespace dali_dr
