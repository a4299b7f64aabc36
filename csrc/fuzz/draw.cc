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
  for (float& magnitude : spec.magnitudes)
    magnitude = flags & 32 ? input->Take<float>() : static_cast<float>(input->Take<uint8_t>());
  return spec;
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
  Require(view.num_ops == spec.num_ops || spec.whole, "as many operations as asked for");
  for (int i = 0; i < view.num_ops; ++i)
    Require(std::fabs(view.ops[i].magnitude) == spec.magnitudes[view.ops[i].id], "the magnitude of the spec");
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
  std::vector<int32_t> words(draw::Drawer::words(spec)), again(words);
  draw::Drawer(spec, key, image).Draw(number, words);
  draw::Drawer(spec, key, image).Draw(number, again);
  fuzz::Require(words == again, "drawn the same again");
  RequireView(spec, image, words);
  return 0;
}
