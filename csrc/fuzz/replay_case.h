// The input of the replay target: how views are shown, images, and the words of views of one image. Its
// mutator mends words, because random ones are refused.
#ifndef DALI_DR_CSRC_FUZZ_REPLAY_CASE_H_
#define DALI_DR_CSRC_FUZZ_REPLAY_CASE_H_

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "fuzz/fuzz.h"
#include "image/replay.h"
#include "image/view_plans.h"

namespace dali_dr::fuzz {

inline constexpr int kMostViews = 2, kMostOps = 4, kMostSide = 40;

struct ReplayCase {
  image::Shown shown;
  image::Filter filter;
  image::OutputType type;
  bool channels_last, normalise, mixing;
  image::Placed image, partner;
  uint16_t pixels, partner_pixels;  // how they are filled
  int32_t shared;                   // kB of shared memory of the GPU's plan
  int views, ops;
  size_t words() const {
    const size_t plain = ViewWords(ops);
    return mixing ? MixedWords(plain) : plain;
  }
};

inline ReplayCase TakeCase(Input* input) {
  ReplayCase c{};
  const auto flags = input->Take<uint8_t>();
  c.filter = flags & 1 ? image::Filter::kBicubic : image::Filter::kBilinear;
  c.mixing = flags & 2;
  c.channels_last = flags & 4;
  c.normalise = flags & 8;
  c.type = static_cast<image::OutputType>(flags >> 4 & 3);
  const auto size = [&](int32_t least, int32_t most) {
    const int32_t height = input->Range(least, most);
    return image::Size{height, input->Range(least, most)};
  };
  c.shown.out = size(1, kMostSide);
  c.shown.stored = size(0, kMostSide);
  if (flags & 64) c.shown.resize_shorter = input->Range(0, 2 * kMostSide);
  for (image::Placed* placed : {&c.image, &c.partner}) {
    placed->size = size(1, kMostSide);
    placed->top = input->Range(0, 8);
    placed->left = input->Range(0, 8);
  }
  c.pixels = input->Take<uint16_t>();
  c.partner_pixels = input->Take<uint16_t>();
  c.shared = input->Range(0, 240);
  c.views = input->Range(1, kMostViews);
  c.ops = input->Range(0, kMostOps);
  return c;
}

/// The words of all views; zeros where the input has no more.
inline std::vector<int32_t> TakeWords(Input* input, const ReplayCase& c) {
  std::vector<int32_t> words(c.words() * static_cast<size_t>(c.views));
  for (int32_t& word : words) word = input->Take<int32_t>();
  return words;
}

/// Makes words those of a view that may be shown, nearly always.
class Mender {
 public:
  Mender(std::minstd_rand* random, bool resized) : random_(*random), resized_(resized) {}

  void View(std::span<int32_t> words, image::Placed in, image::Size stored) {
    Part(&words[0], &words[2], in.top, in.size.height);
    Part(&words[1], &words[3], in.left, in.size.width);
    words[4] &= 1;
    if (random_() % 2) words[7] = words[8] = 0;
    if (words[7] != 0) {
      Part(&words[5], &words[7], 0, stored.height);
      Part(&words[6], &words[8], 0, stored.width);
    } else {
      words[5] = words[6] = words[8] = 0;
    }
    words[9] = static_cast<int32_t>(words.size() - kViewHeaderWords) / 2;
    for (size_t i = kViewHeaderWords; i < words.size(); i += 2) {
      words[i] = Modulo(words[i], resized_ ? kNumOpIds : kWindowTop);
      words[i + 1] = std::bit_cast<int32_t>(Magnitude(words[i], std::bit_cast<float>(words[i + 1])));
    }
  }

  void Mix(std::span<int32_t> words, image::Size stored) {
    if (words[0] < 0) words[0] = -1 - (words[0] & 1);
    words[1] &= 1;
    const float lam = std::fabs(std::bit_cast<float>(words[2]));
    words[2] = std::bit_cast<int32_t>(lam <= 1 ? lam : 1.0f);
    if (words[5] != 0) {
      Part(&words[3], &words[5], 0, stored.height);
      Part(&words[4], &words[6], 0, stored.width);
    } else {
      words[3] = words[4] = words[6] = 0;
    }
    if (words[0] == kNoPartner) {
      std::fill(words.begin() + 1, words.begin() + kMixWords, 0);
      words[2] = std::bit_cast<int32_t>(1.0f);
    }
  }

 private:
  static int32_t Modulo(int32_t value, int32_t n) {
    return static_cast<int32_t>(static_cast<uint32_t>(value) % static_cast<uint32_t>(n));
  }

  static void Part(int32_t* start, int32_t* extent, int32_t origin, int32_t length) {
    const int32_t at = Modulo(*start - std::min(*start, origin), length);
    *start = origin + at;
    if (*extent < 1 || *extent > length - at) *extent = 1 + Modulo(*extent, length - at);
  }

  float Magnitude(int32_t op, float value) {
    if (!(std::fabs(value) <= kMaxMagnitude)) value = static_cast<float>(random_() % 2001) / 1000 - 1;
    if (op == kHue) return std::fmod(value, 0.5f);
    if (op == kGaussianBlur) return value == 0 ? 1.0f : std::fabs(value);
    if (op >= kWindowTop) return static_cast<float>(random_() % 8 * (random_() % 4));
    if (op == kPosterize && !(value >= 1 && value < 9)) return static_cast<float>(1 + random_() % 8);
    return value;
  }

  std::minstd_rand& random_;
  const bool resized_;  // there is a resize, of which views may be parts
};

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_REPLAY_CASE_H_
