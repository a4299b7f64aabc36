// Random images and views for the C++ tests, and how they report.
#ifndef DALI_DR_CSRC_TESTS_RANDOM_VIEW_H_
#define DALI_DR_CSRC_TESTS_RANDOM_VIEW_H_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "image/replay.h"
#include "view/parse.h"

namespace dali_dr::image {

inline int failures = 0;

#define CHECK(condition, ...)                                     \
  do {                                                            \
    if (!(condition) && ++failures <= 20) {                       \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
    }                                                             \
  } while (0)

inline std::mt19937 random_bits(1);

inline int Uniform(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(random_bits); }

inline std::vector<uint8_t> RandomBytes(size_t n) {
  std::vector<uint8_t> bytes(n);
  for (auto& b : bytes) b = uint8_t(random_bits());
  return bytes;
}

// Noise, two values, extremes or a narrow range. A heap block of the exact size, so that AddressSanitizer
// sees reads past it.
inline std::unique_ptr<uint8_t[]> RandomPixels(Size size) {
  const size_t n = size_t(size.height) * size.width * 3;
  std::unique_ptr<uint8_t[]> pixels(new uint8_t[n]);
  const auto bytes = RandomBytes(n);
  const int kind = Uniform(0, 3);
  for (size_t i = 0; i < n; ++i) {
    pixels[i] = kind == 0   ? bytes[i]
                : kind == 1 ? bytes[i] % 2 * 201
                : kind == 2 ? bytes[i] % 2 * 255
                            : 90 + bytes[i] % 8;
  }
  return pixels;
}

// Mostly that of a usual blur; else one that changes nothing, or whose windows are wider than the view.
inline float RandomRadius() {
  const int kind = Uniform(0, 9);
  const float unit = float(Uniform(1, 1000)) / 1000;
  return kind == 0 ? 1e-4f * unit : kind == 1 ? 300 * unit : kind < 4 ? 60 * unit : 5 * unit;
}

// Adds operations that say where the view begins in its crop resized to `shorter`.
inline void AddCorner(int32_t shorter, Size out, View* view) {
  const Box& crop = view->crop;
  const int64_t longer =
      int64_t{shorter} * std::max(crop.height, crop.width) / std::min(crop.height, crop.width);
  const bool upright = crop.height >= crop.width;
  const int rows = int(upright ? longer : shorter) - out.height,
            columns = int(upright ? shorter : longer) - out.width;
  const auto place = [](int gap) { return float(Uniform(0, 3) ? Uniform(0, gap) : Uniform(0, 1) * gap); };
  view->ops[view->num_ops++] = {kWindowTop, place(rows)};
  view->ops[view->num_ops++] = {kWindowLeft, place(columns)};
}

// A view of an image of this size: crops often touch the edges, and often have the output's width or height.
inline View RandomView(Size size, Size out) {
  View view{};
  view.crop.height = Uniform(1, size.height);
  view.crop.width = Uniform(1, size.width);
  view.crop.top = Uniform(0, 1) * (size.height - view.crop.height);
  view.crop.left = Uniform(0, 1) * (size.width - view.crop.width);
  if (Uniform(0, 7) == 0) view.crop.width = std::min(out.width, size.width - view.crop.left);
  if (Uniform(0, 7) == 0) view.crop.height = std::min(out.height, size.height - view.crop.top);
  view.flip = Uniform(0, 1);
  view.num_ops = Uniform(0, 3);
  const float scale[kNumOpIds] = {0, .4f, .4f, 30, 30, 200, 1.2f, 1.2f, 1.2f, 1.2f, 0, 0, 0, 0, .5f};
  for (int i = 0; i < view.num_ops; ++i) {
    const int id = Uniform(0, kGaussianBlur);
    const float unit = float(Uniform(-1000, 1000)) / 1000;
    view.ops[i] = {id, id == kPosterize      ? float(Uniform(1, 8))
                       : id == kSolarize     ? float(Uniform(0, 256))
                       : id == kGaussianBlur ? RandomRadius()
                                             : unit * scale[id]};
  }
  view.erase.height = Uniform(0, out.height);
  view.erase.width = Uniform(0, out.width);
  return view;
}

// Every output type and layout, with and without normalisation.
inline std::vector<Finish> AllFinishes() {
  const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
  const float odd_mean[3] = {0.0f, 0.3f, 2.0f}, odd_std[3] = {1.0f, 1e-3f, 7.7f};
  std::vector<Finish> finishes;
  for (OutputType type :
       {OutputType::kUint8, OutputType::kFloat16, OutputType::kBfloat16, OutputType::kFloat32}) {
    for (bool last : {false, true}) {
      finishes.emplace_back(type, last, std::span<const float>{}, std::span<const float>{});
      if (type == OutputType::kUint8) continue;
      finishes.emplace_back(type, last, mean, std);
      finishes.emplace_back(type, last, odd_mean, odd_std);
    }
  }
  return finishes;
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_RANDOM_VIEW_H_
