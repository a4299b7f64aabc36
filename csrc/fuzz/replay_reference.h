// What the replay target's views must look like, by tests/reference.h: rescaling, the centre of a resized
// crop and mixing are written here anew.
#ifndef DALI_DR_CSRC_FUZZ_REPLAY_REFERENCE_H_
#define DALI_DR_CSRC_FUZZ_REPLAY_REFERENCE_H_

#include <algorithm>
#include <optional>

#include "fuzz/replay_case.h"
#include "tests/reference.h"
#include "view/parse.h"

namespace dali_dr::fuzz {

inline constexpr float kMean[3] = {0.485f, 0.456f, 0.406f}, kStd[3] = {0.229f, 0.224f, 0.225f};

/// value * out / stored, rounded half up.
inline int32_t Scaled(int64_t value, int32_t out, int32_t stored) {
  return static_cast<int32_t>((2 * value * out + stored) / (2 * int64_t{stored}));
}

inline Box Scaled(const Box& box, image::Size out, image::Size stored) {
  if (box.height == 0 || box.width == 0) return {};
  const int32_t top = Scaled(box.top, out.height, stored.height);
  const int32_t left = Scaled(box.left, out.width, stored.width);
  return {top, left, Scaled(box.top + box.height, out.height, stored.height) - top,
          Scaled(box.left + box.width, out.width, stored.width) - left};
}

/// Whether the middle of no pixel is moved so close to the border of two that last bits decide.
inline bool IsClear(const Op& op, image::Size out) {
  if (op.id != kShearX && op.id != kShearY && op.id != kRotate) return true;
  const double m = op.magnitude;
  if (op.id == kRotate && std::fmod(m, 90.0) == 0) return true;
  const double t = m * 3.141592653589793 / 180, h = out.height / 2.0, w = out.width / 2.0;
  const auto close = [](double v) { return std::fabs(v - std::nearbyint(v)) < 2e-3; };
  for (int32_t y = 0; y < out.height; ++y) {
    for (int32_t x = 0; x < out.width; ++x) {
      const double px = x + 0.5, py = y + 0.5;
      const bool hit = op.id == kShearX   ? close(px + m * py)
                       : op.id == kShearY ? close(py + m * px)
                                          : close(w + (px - w) * std::cos(t) - (py - h) * std::sin(t)) ||
                                                close(h + (px - w) * std::sin(t) + (py - h) * std::cos(t));
      if (hit) return false;
    }
  }
  return true;
}

/// torchvision's round((resized - out) / 2), halves to even.
inline int32_t Window(int32_t resized, int32_t out) {
  return static_cast<int32_t>(std::nearbyint((resized - out) / 2.0));
}

inline testing::Picture PictureOf(const image::Image& image) {
  testing::Picture picture(image.size.height, image.size.width);
  std::copy_n(image.data, picture.pixels.size(), picture.pixels.data());
  return picture;
}

/// Pixels of a resized image that are computed here, all of them, where replay computes those of the view.
constexpr int64_t kMostResized = 1 << 18;

/// The view that these words show of an image whose corner is at `placed`; none where last bits decide, or
/// where it is a part of too large an image.
inline std::optional<testing::Picture> Expected(const ReplayCase& c, std::span<const int32_t> words,
                                                const image::Placed& placed, const image::Image& image) {
  View view;
  Require(ParseView(words.data(), static_cast<int64_t>(words.size()), &view).empty(), "parsed again");
  const image::Size out = c.shown.out, stored = c.shown.stored;
  const Box crop{view.crop.top - placed.top, view.crop.left - placed.left, view.crop.height, view.crop.width};
  const bool cubic = c.filter == image::Filter::kBicubic;
  testing::Picture shown = testing::Crop(PictureOf(image), crop);
  if (const int32_t given = c.shown.resize_shorter; given > 0) {
    const int32_t shorter =
        std::max(Scaled(given, out.height, stored.height), Scaled(given, out.width, stored.width));
    const bool upright = crop.height >= crop.width;
    const int32_t longer = static_cast<int32_t>(int64_t{shorter} * std::max(crop.height, crop.width) /
                                                std::min(crop.height, crop.width));
    if (int64_t{shorter} * longer > kMostResized) return std::nullopt;
    shown = testing::Resize(shown, upright ? longer : shorter, upright ? shorter : longer, cubic);
    Box part{Window(shown.height, out.height), Window(shown.width, out.width), out.height, out.width};
    const auto* const begin = view.ops;
    const auto* const end = begin + view.num_ops;
    if (std::any_of(begin, end, [](const Op& op) { return op.id >= kWindowTop; })) part.top = part.left = 0;
    for (const auto* op = begin; op != end; ++op) {
      const auto pixels = static_cast<int64_t>(op->magnitude);
      if (op->id == kWindowTop)
        part.top = std::min(Scaled(pixels, out.height, stored.height), shown.height - out.height);
      if (op->id == kWindowLeft)
        part.left = std::min(Scaled(pixels, out.width, stored.width), shown.width - out.width);
    }
    shown = testing::Crop(shown, part);
  } else {
    shown = testing::Resize(shown, out.height, out.width, cubic);
  }
  if (view.flip) shown = testing::Flip(shown);
  for (int i = 0; i < view.num_ops; ++i) {
    Op op = view.ops[i];
    if (!IsClear(op, out)) return std::nullopt;
    if (op.id == kTranslateX || op.id == kTranslateY) {
      const int32_t length = op.id == kTranslateX ? out.width : out.height;
      const int32_t whole = op.id == kTranslateX ? stored.width : stored.height;
      const auto pixels =
          static_cast<float>(Scaled(static_cast<int64_t>(std::fabs(op.magnitude)), length, whole));
      op.magnitude = op.magnitude < 0 ? -pixels : pixels;
    }
    if (op.id == kGaussianBlur) {
      const auto radius = [&](int32_t length, int32_t whole) {
        return static_cast<float>(double{op.magnitude} * length / whole);
      };
      shown = testing::Blur(shown, radius(out.width, stored.width), radius(out.height, stored.height));
      continue;
    }
    shown = testing::Apply(shown, op);
  }
  return testing::Erase(shown, Scaled(view.erase, out, stored));
}

/// The place of a value in an output of three channels.
inline size_t Place(const ReplayCase& c, int y, int x, int channel) {
  const auto [height, width] = c.shown.out;
  return c.channels_last ? (size_t(y) * width + x) * 3 + channel : (size_t(channel) * height + y) * width + x;
}

/// `got` are uint8.
inline void RequireReference(const ReplayCase& c, std::span<const int32_t> words, const image::Image& image,
                             const std::vector<uint8_t>& got) {
  const size_t plain = ViewWords(c.ops);
  const auto want = Expected(c, words.first(plain), c.image, image);
  if (!want) return;
  for (int y = 0; y < want->height; ++y)
    for (int x = 0; x < want->width; ++x)
      for (int channel = 0; channel < 3; ++channel)
        Require(got[Place(c, y, x, channel)] == want->at(y, x, channel), "a view is that of the reference");
}

/// `got` are float32.
inline void RequireMixedReference(const ReplayCase& c, std::span<const int32_t> words,
                                  const image::Image images[2], const std::vector<uint8_t>& got) {
  const size_t plain = ViewWords(c.ops);
  const auto mix = words.subspan(plain, kMixWords);
  const bool self = mix[0] == kSelfPartner;
  const auto own = Expected(c, words.first(plain), c.image, images[0]);
  const auto partner = Expected(c, words.last(plain), self ? c.image : c.partner, images[1]);
  if (!own || !partner) return;
  const testing::Picture& first = mix[1] ? *partner : *own;
  const testing::Picture& second = mix[1] ? *own : *partner;
  const auto lam = std::bit_cast<float>(mix[2]);
  const Box cut = Scaled({mix[3], mix[4], mix[5], mix[6]}, c.shown.out, c.shown.stored);
  for (int y = 0; y < first.height; ++y) {
    for (int x = 0; x < first.width; ++x) {
      const bool inside =
          y >= cut.top && y < cut.top + cut.height && x >= cut.left && x < cut.left + cut.width;
      for (int channel = 0; channel < 3; ++channel) {
        const auto value = [&](const testing::Picture& p) {
          const auto level = static_cast<float>(p.at(y, x, channel));
          return c.normalise ? (level / 255.0f - kMean[channel]) / kStd[channel] : level;
        };
        const float a = value(first), b = value(second);
        const volatile float one = lam * a, rest = (1.0f - lam) * b;  // no fused sum
        const float want = inside ? b : lam == 1.0f ? a : one + rest;
        float value_got;
        std::memcpy(&value_got, &got[4 * Place(c, y, x, channel)], 4);
        Require(value_got == want, "a mixed view is that of the reference");
      }
    }
  }
}

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_REPLAY_REFERENCE_H_
