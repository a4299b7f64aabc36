// Any specification of fresh views, key, number and image: refused, or every view that is drawn is one of
// that image, with operations of the specification, and drawn the same again.
#include "draw/draw.h"

#include <bit>
#include <cmath>
#include <vector>

#include "fuzz/fuzz.h"
#include "view/parse.h"

using namespace dali_dr;

namespace {

// What specs had later: a fixed resize, colour, pairs of operations and levels of strength.
template <typename Number, typename Magnitude>
void TakeMore(fuzz::Input* input, const Number& number, const Magnitude& magnitude, draw::Spec* spec) {
  const auto parts = input->Take<uint8_t>();
  if (parts & 1) {
    spec->resize = input->Take<uint16_t>();
    spec->random_window = parts & 2;
  }
  if (parts & 4) {
    spec->jitter_probability = number();
    for (int n = input->Take<uint8_t>() % 6; n > 0; --n) spec->jitter_ops.push_back(input->Take<int8_t>());
    for (size_t i = 0; i < spec->jitter_ops.size() * draw::kLevels; ++i)
      spec->jitter_magnitudes.push_back(magnitude());
    for (float& m : spec->jitter_magnitudes) m /= parts & 2 ? 1024 : 1;  // within a hue's range
  }
  if (parts & 8) spec->greyscale = number();
  if (parts & 16) {
    spec->blur_probability = number();
    for (int i = 0; i < draw::kLevels; ++i) spec->blur_radii.push_back(magnitude() + 1);
  }
  if (parts & 32) {
    spec->policies.resize(input->Take<uint8_t>() % 4);
    for (auto& pair : spec->policies)
      for (auto& step : pair) step = {input->Take<int8_t>(), number(), magnitude()};
  }
  if (parts & 64) {
    spec->op_probability = number();
    spec->strengths.resize(1 + input->Take<uint8_t>() % 4);
    for (auto& strength : spec->strengths) {
      strength.end = number();
      for (float& m : strength.magnitudes) m = magnitude();
    }
    if (parts & 128) spec->strengths.back().end = 1;
  }
}

draw::Spec TakeSpec(fuzz::Input* input) {
  draw::Spec spec;
  const auto flags = input->Take<uint8_t>();
  spec.whole = flags % 16 == 15;
  spec.seed = input->Take<uint64_t>();
  spec.size = input->Take<int32_t>();
  spec.num_ops = input->Take<int8_t>();
  const auto number = [&] {  // whole numbers of thousandths are found sooner than the bits of a double
    return flags & 16 ? input->Take<double>() : input->Take<uint16_t>() / 1000.0;
  };
  const auto pair = [&] {
    const double low = number();
    return std::array<double, 2>{low, number()};
  };
  const auto crop_scale = pair(), crop_ratio = pair(), erase_scale = pair(), erase_ratio = pair();
  spec.crop = draw::RandomBox(crop_scale, crop_ratio);
  spec.erase = draw::RandomBox(erase_scale, erase_ratio);
  spec.flip = number();
  spec.erase_probability = number();
  const auto magnitude = [&] {
    return flags & 32 ? input->Take<float>() : static_cast<float>(input->Take<uint8_t>());
  };
  for (float& strength : spec.magnitudes) strength = magnitude();
  if (flags & 64) TakeMore(input, number, magnitude, &spec);
  return spec;
}

// That it is one of the specification's.
void RequireOperation(const draw::Spec& spec, Op op) {
  const float magnitude = std::fabs(op.magnitude);
  bool found = op.id == kIdentity && magnitude == 0;
  found |= spec.greyscale > 0 && op.id == kColor && op.magnitude == -1;
  for (const float radius : spec.blur_radii) found |= op.id == kGaussianBlur && op.magnitude == radius;
  for (size_t i = 0; i < spec.jitter_magnitudes.size(); ++i)
    found |= op.id == spec.jitter_ops[i / draw::kLevels] && op.magnitude == spec.jitter_magnitudes[i];
  for (const auto& pair : spec.policies)
    for (const auto& step : pair) found |= op.id == step.op && magnitude == step.magnitude;
  if (op.id < kNumRandAugmentOps) {
    const auto id = static_cast<size_t>(op.id);
    found |= spec.num_ops > 0 && spec.strengths.empty() && magnitude == spec.magnitudes[id];
    for (const auto& strength : spec.strengths) found |= magnitude == strength.magnitudes[id];
  }
  fuzz::Require(found, "an operation of the specification at one of its magnitudes");
}

void RequireView(const draw::Spec& spec, image::Size size, const std::vector<int32_t>& words) {
  using fuzz::Require;
  View view;
  const std::string problem = ParseView(words.data(), static_cast<int64_t>(words.size()), &view);
  Require(problem.empty(), problem);
  Require(view.crop.top + view.crop.height <= size.height && view.crop.left + view.crop.width <= size.width,
          "the crop is inside the image");
  Require(view.erase.top + view.erase.height <= std::max(spec.size, 0) || spec.whole, "erase rows");
  Require(view.erase.left + view.erase.width <= std::max(spec.size, 0) || spec.whole, "erase columns");
  Require((view.erase.height == 0) == (view.erase.width == 0), "an erase box is whole or none");
  Require(spec.erase_probability > 0 || view.erase.height == 0, "no erase without its probability");
  Require(spec.flip > 0 || !view.flip, "no flip without its probability");
  const int window = spec.random_window && !spec.whole ? 2 : 0;
  Require(view.num_ops == window + spec.count(), "as many operations as asked for");
  if (spec.resize > 0 && !spec.whole)
    Require(view.crop.height == size.height && view.crop.width == size.width, "the whole image");
  for (int i = 0; i < window; ++i) {
    Require(view.ops[i].id == (i == 0 ? kWindowTop : kWindowLeft), "the window comes first");
    const double side = i == 0 ? size.height : size.width, shorter = std::min(size.height, size.width);
    const auto resized = static_cast<float>(std::floor(spec.resize * side / shorter));
    Require(view.ops[i].magnitude >= 0 && view.ops[i].magnitude + static_cast<float>(spec.size) <= resized,
            "the window is inside the resized image");
  }
  for (int i = window; i < view.num_ops; ++i) RequireOperation(spec, view.ops[i]);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input({data, size});
  const draw::Spec spec = TakeSpec(&input);
  const image::Size image{1 + static_cast<int32_t>(input.Take<uint32_t>() % kMaxCoordinate),
                          1 + static_cast<int32_t>(input.Take<uint32_t>() % kMaxCoordinate)};
  const auto number = static_cast<int64_t>(input.Take<uint64_t>() >> 11);
  const std::string key(input.rest().begin(), input.rest().end());
  try {
    spec.Check();
  } catch (const draw::SpecError&) {
    return 0;
  }
  // A window that far into a resized image cannot be said, nor so large an image be resized.
  const double longer = std::max(image.height, image.width), shorter = std::min(image.height, image.width);
  if (spec.random_window && !spec.whole && spec.resize * longer / shorter > kMaxMagnitude) return 0;
  std::vector<int32_t> words(draw::Drawer::words(spec)), again(words);
  draw::Drawer(spec, key, image).Draw(number, words);
  draw::Drawer(spec, key, image).Draw(number, again);
  fuzz::Require(words == again, "drawn the same again");
  RequireView(spec, image, words);
  return 0;
}
