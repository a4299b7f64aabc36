// Times of the stages of the CPU's replay by themselves; bench/replay_kernels.py runs this and prints them.
//   bench_replay VIEWS ROUNDS NUM_OPS ERASE_PERCENT [portable]
// Views are drawn as ImageNet+ draws them (RandomResizedCrop, flip, RandAugment 2 x 9 of 31, erase 0.25) of
// crops as a decoder leaves them: each in its own memory, together larger than the caches, as the outputs
// are. Of every view and stage the fastest of all rounds counts,
// since others may use the machine.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "image/replay.h"

namespace dali_dr::image {
namespace {

constexpr Size kSource{375, 500}, kOut{224, 224};  // ImageNet's median photo, and what it is trained at
constexpr size_t kValues = size_t{3} * kOut.height * kOut.width;

struct Drawn {
  Plan plan;
  std::unique_ptr<uint8_t[]> pixels;
  Size size;
};

class Draw {
 public:
  double Real(double lo, double hi) { return std::uniform_real_distribution<double>(lo, hi)(bits_); }
  int Whole(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(bits_); }

  Drawn Next(int num_ops, double erase) {
    const Box crop = Crop();
    View view{};
    view.crop = {0, 0, crop.height, crop.width};
    view.flip = Whole(0, 1);
    if (Real(0, 1) < erase) {
      const int h = Whole(20, 120), w = Whole(20, 120);
      view.erase = {Whole(0, kOut.height - h), Whole(0, kOut.width - w), h, w};
    }
    view.num_ops = num_ops;
    // torchvision's RandAugment at bin 9 of 31 and 224 pixels; operations 1 to 9 draw a sign.
    constexpr float kMagnitudes[kNumRandAugmentOps] = {0,    .09f, .09f, 30.45f, 30.45f, 9, .27f,
                                                       .27f, .27f, .27f, 7,      178.5f, 0, 0};
    for (int i = 0; i < num_ops; ++i) {
      const int id = Whole(0, kNumRandAugmentOps - 1);
      view.ops[i] = {id, kMagnitudes[id] * (id >= 1 && id <= 9 && Whole(0, 1) ? -1.0f : 1.0f)};
    }
    Drawn drawn{{}, Pixels({crop.height, crop.width}), {crop.height, crop.width}};
    const std::string problem = MakePlan(view, drawn.size, 0, 0, kOut, kOut, 0, &drawn.plan);
    if (!problem.empty()) std::abort();
    return drawn;
  }

 private:
  Box Crop() {
    for (int i = 0; i < 10; ++i) {
      const double area = Real(0.08, 1) * kSource.height * kSource.width;
      const double ratio = std::exp(Real(std::log(0.75), std::log(4.0 / 3)));
      const int w = int(std::lround(std::sqrt(area * ratio))), h = int(std::lround(std::sqrt(area / ratio)));
      if (w > 0 && h > 0 && w <= kSource.width && h <= kSource.height) return {0, 0, h, w};
    }
    return {0, 0, kSource.height, kSource.width};
  }

  // Slow waves and a little noise, as photos are.
  std::unique_ptr<uint8_t[]> Pixels(Size size) {
    std::unique_ptr<uint8_t[]> pixels(new uint8_t[size_t{3} * size.height * size.width + kPad]);
    uint8_t* p = pixels.get();
    for (int y = 0; y < size.height; ++y) {
      for (int x = 0; x < size.width; ++x) {
        const double wave = 120 + 60 * std::sin(0.02 * x + 0.03 * y) + 40 * std::sin(0.11 * x - 0.07 * y);
        for (int c = 0; c < 3; ++c) *p++ = uint8_t(std::clamp(wave + 9 * c + int(bits_() % 16), 0.0, 255.0));
      }
    }
    return pixels;
  }

  std::mt19937 bits_{7};
};

using Clock = std::chrono::steady_clock;
double Nanoseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
}

int Run(int views, int rounds, int num_ops, double erase, const Kernels& kernels) {
  Draw draw;
  std::vector<Drawn> drawn;
  for (int i = 0; i < views; ++i) drawn.push_back(draw.Next(num_ops, erase));
  std::vector<float> floats(views * kValues);
  std::vector<uint16_t> halves(views * kValues);
  const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
  const Finish as_float(OutputType::kFloat32, false, mean, std),
      as_half(OutputType::kFloat16, false, mean, std);
  Scratch scratch(kernels);
  enum { kResize, kSteps, kFloat, kHalf, kStages };
  const char* const names[kStages] = {"resize", "steps", "float32", "float16"};
  std::vector<std::array<double, kStages>> best(views);
  for (auto& of_view : best) of_view.fill(1e30);
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < views; ++i) {
      const Drawn& d = drawn[i];
      auto begin = Clock::now();
      const auto lap = [&](int stage) {
        best[i][stage] = std::min(best[i][stage], Nanoseconds(begin));
        begin = Clock::now();
      };
      scratch.CropResizeFlip(d.plan, {d.pixels.get(), d.size}, Filter::kBilinear);
      lap(kResize);
      scratch.ApplySteps(d.plan);
      lap(kSteps);
      scratch.Write(d.plan, as_float, floats.data() + i * kValues);
      lap(kFloat);
      scratch.Write(d.plan, as_half, halves.data() + i * kValues);
      lap(kHalf);
    }
  }
  std::printf("{\"kernels\": \"%s\"", kernels.name);
  for (int s = 0; s < kStages; ++s) {
    double sum = 0;
    for (const auto& of_view : best) sum += of_view[s];
    std::printf(", \"%s\": %.0f", names[s], sum / views);
  }
  std::printf("}\n");
  return 0;
}

}  // namespace
}  // namespace dali_dr::image

int main(int argc, char** argv) {
  using namespace dali_dr::image;
  if (argc < 5) {
    std::fprintf(stderr, "usage: bench_replay VIEWS ROUNDS NUM_OPS ERASE_PERCENT [portable]\n");
    return 2;
  }
  const bool portable = argc > 5 && std::strcmp(argv[5], "portable") == 0;
  return Run(std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]), std::atof(argv[4]) / 100,
             portable ? kPortableKernels : BestKernels());
}
