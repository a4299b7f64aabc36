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

constexpr const char* kNames[] = {
    "draw_seed",    "draw_size",       "draw_crop_scale",        "draw_crop_ratio",  "draw_flip",
    "draw_num_ops", "draw_magnitudes", "draw_erase_probability", "draw_erase_scale", "draw_erase_ratio"};

template <typename T, size_t count>
std::array<T, count> Values(const dali::OpSpec& spec, const std::string& name) {
  const auto given = spec.GetRepeatedArgument<T>(name);
  if (given.size() != count)
    throw draw::SpecError(make_string("`", name, "`: want ", count, " numbers, got ", given.size()));
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
    .AddOptionalArg("draw_flip", "Probability of a horizontal flip: bits of a float64.", int64_t{0})
    .AddOptionalArg("draw_num_ops", "Operations of RandAugment per view, at most 8.", 0)
    .AddOptionalArg(
        "draw_magnitudes",
        "Their 14 magnitudes, physical and unsigned, in the order of torchvision's RandAugment. Not "
        "needed where ``draw_num_ops`` is 0.",
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
  drawn.crop = BoxOf(spec, "draw_crop");
  drawn.flip = Double(spec, "draw_flip");
  drawn.num_ops = spec.GetArgument<int>("draw_num_ops");
  if (drawn.num_ops != 0) drawn.magnitudes = Values<float, kNumRandAugmentOps>(spec, "draw_magnitudes");
  drawn.erase_probability = Double(spec, "draw_erase_probability");
  if (drawn.erase_probability != 0) drawn.erase = BoxOf(spec, "draw_erase");
  drawn.Check();
  return drawn;
}

}  // namespace dali_dr
