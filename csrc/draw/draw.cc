// See draw.h. Every expression keeps the order of operations of draw.py, because its last bits decide
// roundings.
#include "draw/draw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace dali_dr::draw {
namespace {

constexpr int kTries = 10;                    // of a box, as torchvision's
constexpr char kPerson[] = "dali_dr draw 1";  // of the derivation of Philox's key
constexpr double kMaxRatio = 1e6;             // of a side to the other
constexpr int32_t kMaxResize = 16384;         // dali_dr.augment.members.MAX_RESIZE
constexpr int kTop = 2 * kTries, kLeft = kTop + 1, kFlip = kTop + 2,
              kGate = kTop + 2;  // words of the streams

constexpr Stream kCropStream{0, 24}, kEraseStream{1, 24}, kWindowStream{16, 4};

// Try i of a box: round(sqrt(area * ratio)) and round(sqrt(area / ratio)).
void Try(const RandomBox& box, double whole, Uniforms& u, int i, double* times, double* over) {
  const double area = whole * (box.scale[0] + u[2 * i] * (box.scale[1] - box.scale[0]));
  const double ratio = std::exp(box.log_ratio[0] + u[2 * i + 1] * (box.log_ratio[1] - box.log_ratio[0]));
  *times = std::nearbyint(std::sqrt(area * ratio));
  *over = std::nearbyint(std::sqrt(area / ratio));
}

// A box of this size at a uniform place in the outer one.
Box Place(Uniforms& u, double height, double width, image::Size outer) {
  const double top = std::floor(u[kTop] * (outer.height - height + 1));
  const double left = std::floor(u[kLeft] * (outer.width - width + 1));
  return {static_cast<int32_t>(top), static_cast<int32_t>(left), static_cast<int32_t>(height),
          static_cast<int32_t>(width)};
}

// torchvision's fallback: the largest centred box of an allowed ratio (and, unlike its, never empty).
Box CentreCrop(const RandomBox& box, image::Size size) {
  int32_t height = size.height, width = size.width;
  const double ratio = static_cast<double>(width) / height;
  if (ratio < box.ratio[0])
    height = std::max(static_cast<int32_t>(std::nearbyint(width / box.ratio[0])), 1);
  else if (ratio > box.ratio[1])
    width = std::max(static_cast<int32_t>(std::nearbyint(height * box.ratio[1])), 1);
  return {(size.height - height) / 2, (size.width - width) / 2, height, width};
}

void CheckBox(const RandomBox& box, const char* scale, const char* ratio) {
  if (!(box.scale[0] > 0 && box.scale[0] <= box.scale[1] && box.scale[1] <= 1))
    Fail(scale, "two numbers 0 < low <= high <= 1", box.scale[0], ", ", box.scale[1]);
  if (!(box.ratio[0] > 0 && box.ratio[0] <= box.ratio[1] && box.ratio[1] <= kMaxRatio))
    Fail(ratio, "two numbers 0 < low <= high <= 10^6", box.ratio[0], ", ", box.ratio[1]);
}

}  // namespace

RandomBox::RandomBox(std::array<double, 2> area, std::array<double, 2> aspect)
    : scale(area), ratio(aspect), log_ratio{std::log(aspect[0]), std::log(aspect[1])} {}

void Spec::Check() const {
  CheckOperations();
  if (whole) return;
  if (size < 1 || size > image::kMaxViewSize) Fail("size", "1 to 8192 pixels", size);
  if (resize != 0 && (resize < size || resize > kMaxResize))
    Fail("resize", "`draw_size` to 16384 pixels", resize);
  if (resize == 0 && random_window) Fail("random_window", "it with `draw_resize` only", "it alone");
  if (resize == 0) CheckBox(crop, "crop_scale", "crop_ratio");
  CheckProbability("flip", flip);
  CheckProbability("erase_probability", erase_probability);
  if (erase_probability > 0) CheckBox(erase, "erase_scale", "erase_ratio");
}

Drawer::Drawer(const Spec& spec, std::string_view key, image::Size size) : spec_(spec), key_{}, size_(size) {
  if (spec.whole) return;
  uint8_t small[256];  // as long as nearly every key
  std::vector<uint8_t> large;
  uint8_t* message = small;
  if (key.size() + 8 > sizeof small) {
    large.resize(key.size() + 8);
    message = large.data();
  }
  std::memcpy(message, &spec.seed, 8);
  if (!key.empty()) std::memcpy(message + 8, key.data(), key.size());
  uint8_t digest[16];
  Blake2b({message, key.size() + 8}, kPerson, digest);
  std::memcpy(key_, digest, sizeof key_);
}

Box Drawer::Crop(int64_t number, bool* flip) const {
  Uniforms u(key_, kCropStream, number);
  *flip = u[kFlip] < spec_.flip;
  if (spec_.resize > 0) return {0, 0, size_.height, size_.width};
  const double area = static_cast<double>(int64_t{size_.height} * size_.width);
  Box box = CentreCrop(spec_.crop, size_);
  for (int i = 0; i < kTries; ++i) {
    double width, height;
    Try(spec_.crop, area, u, i, &width, &height);
    if (width >= 1 && width <= size_.width && height >= 1 && height <= size_.height) {
      box = Place(u, height, width, size_);
      break;
    }
  }
  return box;
}

Box Drawer::Erase(int64_t number) const {
  Uniforms u(key_, kEraseStream, number);
  if (!(u[kGate] < spec_.erase_probability)) return {};
  const double area = static_cast<double>(int64_t{spec_.size} * spec_.size);
  for (int i = 0; i < kTries; ++i) {
    double height, width;
    Try(spec_.erase, area, u, i, &height, &width);
    if (height < spec_.size && width < spec_.size) {
      if (height == 0 || width == 0) return {};
      return Place(u, height, width, {spec_.size, spec_.size});
    }
  }
  return {};
}

// torchvision's Resize, then its RandomCrop.
void Drawer::Window(int64_t number, std::span<int32_t> out) const {
  Uniforms u(key_, kWindowStream, number);
  const double shorter = std::min(size_.height, size_.width);
  const int32_t sides[2] = {size_.height, size_.width}, ops[2] = {kWindowTop, kWindowLeft};
  for (int i = 0; i < 2; ++i) {
    const double resized = std::floor(static_cast<double>(int64_t{spec_.resize} * sides[i]) / shorter);
    const auto place = static_cast<float>(std::floor(u[i] * (resized - spec_.size + 1)));
    out[2 * i] = ops[i];
    out[2 * i + 1] = std::bit_cast<int32_t>(place);
  }
}

void Drawer::Draw(int64_t number, std::span<int32_t> out) const {
  Box crop{0, 0, size_.height, size_.width}, erase{};
  bool flip = false;
  if (!spec_.whole) {
    crop = Crop(number, &flip);
    if (spec_.erase_probability > 0) erase = Erase(number);
  }
  const int32_t window = spec_.window_ops();
  const int32_t head[kViewHeaderWords] = {
      crop.top,  crop.left,  crop.height,  crop.width,  flip,
      erase.top, erase.left, erase.height, erase.width, window + spec_.count()};
  std::memcpy(out.data(), head, sizeof head);
  if (window > 0) Window(number, out.subspan(kViewHeaderWords));
  spec_.DrawOperations(key_, number, out.subspan(static_cast<size_t>(kViewHeaderWords + 2 * window)));
}

}  // namespace dali_dr::draw
