// Whole views of the CPU path, by every set of kernels, against reference.h; and views mixed with others.
// (tests/test_replay.py compares the same with Pillow itself.)
#include "tests/reference.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "image/replay.h"
#include "tests/random_view.h"

namespace dali_dr::image {
namespace {

using testing::Picture;

Picture RandomPicture(Size size) {
  Picture picture(size.height, size.width);
  const auto pixels = RandomPixels(size);
  std::copy_n(pixels.get(), picture.pixels.size(), picture.pixels.data());
  return picture;
}

Image ImageOf(const Picture& p) { return {p.pixels.data(), {p.height, p.width}}; }

/// A geometric operation's magnitude is such that no pixel's middle falls on the border between two others,
/// where the last bit of a sine would decide.
View ViewOf(Size size, Size out) {
  constexpr float kShears[] = {0.3f, -0.13f, 0.0907f}, kAngles[] = {17.3f, -29.9f, 90.0f, 180.0f, 271.7f};
  View view = RandomView(size, out);
  for (int i = 0; i < view.num_ops; ++i) {
    Op& op = view.ops[i];
    if (op.id == kShearX || op.id == kShearY) op.magnitude = kShears[Uniform(0, 2)];
    if (op.id == kRotate) op.magnitude = kAngles[Uniform(0, out.height == out.width ? 4 : 1)];
  }
  return view;
}

void CheckView(const Kernels& kernels, Size size, Size out, const View& view, bool cubic) {
  const Picture image = RandomPicture(size);
  Plan plan;
  const std::string problem = MakePlan(view, size, 0, 0, out, out, 0, &plan);
  CHECK(problem.empty(), "%s", problem.c_str());
  Scratch scratch(kernels);
  std::vector<uint8_t> got(size_t(out.height) * out.width * 3);
  Replay(plan, ImageOf(image), cubic ? Filter::kBicubic : Filter::kBilinear,
         Finish(OutputType::kUint8, true, {}, {}), &scratch, got.data());
  const Picture want = testing::Show(image, view, out.height, out.width, cubic);
  CHECK(got == want.pixels, "%s: %dx%d -> %dx%d, %d operations, first %d (%g)", kernels.name, size.height,
        size.width, out.height, out.width, view.num_ops, view.ops[0].id, double(view.ops[0].magnitude));
}

void TestViews(const Kernels& kernels) {
  for (int round = 0; round < 1200; ++round) {
    const Size size{Uniform(1, 80), Uniform(1, 80)};
    Size out{Uniform(1, 40), Uniform(1, 40)};
    if (round % 3 == 0) out.width = out.height;
    CheckView(kernels, size, out, ViewOf(size, out), round % 2);
  }
}

/// Each operation by itself at several magnitudes, without a resize.
void TestOperations(const Kernels& kernels) {
  const Size size{33, 33};
  for (int32_t id = 0; id < kWindowTop; ++id) {
    for (float level : {0.11f, 0.3f, 0.5f, 0.9f}) {
      for (float sign : {1.0f, -1.0f}) {
        View view{};
        view.crop = {0, 0, size.height, size.width};
        view.num_ops = 1;
        const float magnitude = id == kPosterize                         ? 1 + 7 * level
                                : id == kSolarize                        ? 255 * level
                                : id == kRotate                          ? 97 * level
                                : id == kTranslateX || id == kTranslateY ? 40 * level
                                : id == kHue                             ? 0.5f * level
                                : id == kGaussianBlur                    ? 9 * level * level
                                                                         : level;
        view.ops[0] = {
            id, id == kPosterize || id == kSolarize || id == kGaussianBlur ? magnitude : sign * magnitude};
        if (id == kShearX || id == kShearY) view.ops[0].magnitude = sign * 0.3f * level;
        CheckView(kernels, size, size, view, false);
      }
    }
  }
}

/// x = lam a + (1 - lam) b, and then b inside the box, in float32; exchanged for the second of a pair.
void TestMixed(const Kernels& kernels) {
  const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
  for (int round = 0; round < 300; ++round) {
    const Size size{Uniform(1, 30), Uniform(1, 30)};
    const bool last = round % 2, swapped = round % 3 == 0;
    View views[2] = {ViewOf(size, size), ViewOf(size, size)};
    std::vector<Picture> images, shown;
    std::vector<Scratch> scratch;
    for (const View& view : views) {
      images.push_back(RandomPicture(size));
      shown.push_back(testing::Show(images.back(), view, size.height, size.width, false));
      Plan plan;
      CHECK(MakePlan(view, size, 0, 0, size, size, 0, &plan).empty(), "a plan");
      Scratch& s = scratch.emplace_back(kernels);
      s.CropResizeFlip(plan, ImageOf(images.back()), Filter::kBilinear);
      s.ApplySteps(plan);
      s.Erase(plan);
    }
    MixPlan mix{0, swapped, round % 4 ? 0.37f : 1.0f, {}};
    if (round % 5) mix.cut = {size.height / 3, size.width / 4, size.height - size.height / 3, 1};
    std::vector<float> got(size_t(size.height) * size.width * 3);
    scratch[0].WriteMixed(scratch[1], mix, size, Finish(OutputType::kFloat32, last, mean, std), got.data());
    for (int y = 0; y < size.height; ++y) {
      for (int x = 0; x < size.width; ++x) {
        for (int c = 0; c < 3; ++c) {
          const auto value = [&](const Picture& p) {
            return (float(p.at(y, x, c)) / 255.0f - mean[c]) / std[c];
          };
          const float a = value(shown[swapped]), b = value(shown[!swapped]);
          const bool cut = y >= mix.cut.top && y < mix.cut.top + mix.cut.height && x >= mix.cut.left &&
                           x < mix.cut.left + mix.cut.width;
          const volatile float own = mix.lam * a, other = (1.0f - mix.lam) * b;  // no fused sum
          const float want = cut ? b : mix.lam == 1.0f ? a : own + other;
          const size_t at =
              last ? (size_t(y) * size.width + x) * 3 + c : (size_t(c) * size.height + y) * size.width + x;
          CHECK(got[at] == want, "mixed %d: (%d, %d, %d) is %g, not %g", round, y, x, c, double(got[at]),
                double(want));
        }
      }
    }
  }
}

}  // namespace
}  // namespace dali_dr::image

int main() {
  using namespace dali_dr::image;
  for (const Kernels* kernels : {&BestKernels(), &kPortableKernels}) {
    TestViews(*kernels);
    TestOperations(*kernels);
    TestMixed(*kernels);
  }
  std::printf("reference: %d failures\n", failures);
  return failures != 0;
}
