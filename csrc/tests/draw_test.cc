// Tests of csrc/draw and image/header that need neither DALI nor Python: known answers of the hash and the
// generator, specs that are refused, and hostile image headers (run under sanitizers). tests/test_draw_cpp.py
// compares with Python and Pillow.
#include "draw/draw.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "image/header.h"
#include "tests/check.h"

namespace dali_dr::draw {
namespace {

using dali_dr::testing::Check;

std::string Hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (uint8_t b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

std::string Hash(const std::string& message, const std::string& person, size_t length) {
  std::vector<uint8_t> digest(length);
  Blake2b({reinterpret_cast<const uint8_t*>(message.data()), message.size()}, person, digest);
  return Hex(digest);
}

// RFC 7693 appendix A, and Python's hashlib.blake2b for the rest.
void TestBlake2b() {
  Check(Hash("abc", "", 64) ==
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
            "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
        "BLAKE2b of abc");
  Check(Hash(std::string(0, 'x'), "dali_dr draw 1", 16) == "3fd044273b048a32cd18272d03e00eee",
        "BLAKE2b of 0 bytes");
  Check(Hash(std::string(1, 'x'), "dali_dr draw 1", 16) == "2ea9956342f454f2562b3d29441f7ce4",
        "BLAKE2b of 1 bytes");
  Check(Hash(std::string(127, 'x'), "dali_dr draw 1", 16) == "251086471ee4a60b490ef482f324c01d",
        "BLAKE2b of 127 bytes");
  Check(Hash(std::string(128, 'x'), "dali_dr draw 1", 16) == "5a7a14ac2c419e7f51b97f20f7cd1b70",
        "BLAKE2b of 128 bytes");
  Check(Hash(std::string(129, 'x'), "dali_dr draw 1", 16) == "049cef30d53a21bbe1ba0df9c3457763",
        "BLAKE2b of 129 bytes");
  Check(Hash(std::string(256, 'x'), "dali_dr draw 1", 16) == "c767ec98e26d840533f0849d8c5392b7",
        "BLAKE2b of 256 bytes");
  Check(Hash(std::string(300, 'x'), "dali_dr draw 1", 16) == "95ac428fad3b9d7e8d2eac092332b4ad",
        "BLAKE2b of 300 bytes");
}

// Random123's known answers (kat_vectors, philox4x64 10).
void TestPhilox() {
  const std::array<uint64_t, 4> zero = Philox({0, 0, 0, 0}, {0, 0});
  Check(zero == std::array<uint64_t, 4>{0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b,
                                        0x7e68b68aec7ba23b},
        "Philox of zeros");
  constexpr uint64_t f = ~uint64_t{0};
  const std::array<uint64_t, 4> ones = Philox({f, f, f, f}, {f, f});
  Check(ones == std::array<uint64_t, 4>{0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6,
                                        0xa09caebf594f0ba0},
        "Philox of ones");
}

// RandomResizedCrop, flip, RandAugment and RandomErasing with torchvision's numbers.
Spec FullSpec() {
  Spec spec;
  spec.seed = UINT64_MAX;
  spec.size = 224;
  spec.crop = RandomBox({0.08, 1.0}, {3.0 / 4, 4.0 / 3});
  spec.flip = 0.5;
  spec.num_ops = 2;
  spec.magnitudes = {0, 0.09f, 0.09f, 30.4f, 30.4f, 9, 0.27f, 0.27f, 0.27f, 0.27f, 7, 178.5f, 0, 0};
  spec.erase_probability = 0.25;
  spec.erase = RandomBox({0.02, 0.33}, {0.3, 3.3});
  return spec;
}

// One level of strength for each of `count`, each as likely as the others.
std::vector<OpTables::Strength> Strengths(int count) {
  std::vector<OpTables::Strength> strengths;
  for (int i = 1; i <= count; ++i) {
    Magnitudes magnitudes{};
    magnitudes.fill(static_cast<float>(i) / 100);
    strengths.push_back({i == count ? 1.0 : static_cast<double>(i) / count, magnitudes});
  }
  return strengths;
}

// A fixed resize, colour jitter, greyscale, blur and as many operations as there can be: 16 in all.
Spec FullestSpec() {
  Spec spec = FullSpec();
  spec.resize = 256;
  spec.random_window = true;
  spec.jitter_probability = 0.8;
  spec.jitter_ops = {kBrightness, kContrast, kColor, kHue};
  for (int i = 0; i < 4 * kLevels; ++i)
    spec.jitter_magnitudes.push_back((static_cast<float>(i % kLevels) - 15.5f) / 100);
  spec.greyscale = 0.2;
  spec.blur_probability = 0.5;
  for (int i = 0; i < kLevels; ++i) spec.blur_radii.push_back(0.1f + static_cast<float>(i) / 16);
  spec.num_ops = 8;
  spec.strengths = Strengths(31);
  spec.op_probability = 0.5;
  return spec;
}

// AutoAugment beside a crop in the centre.
Spec PolicySpec() {
  Spec spec = FullSpec();
  spec.resize = 224;
  spec.num_ops = 0;
  spec.policies = {{{{kPosterize, 0.4, 4.0f}, {kRotate, 0.6, 30.0f}}},
                   {{{kSolarize, 1.0, 0.0f}, {kEqualize, 0.0, 0.0f}}}};
  return spec;
}

// Expects that `spec` after `change` is refused with `word` in the message.
void Refused(Spec spec, const std::string& word, const std::function<void(Spec*)>& change) {
  change(&spec);
  try {
    spec.Check();
    Check(false, "accepted: " + word);
  } catch (const SpecError& error) {
    Check(std::string(error.what()).find(word) != std::string::npos,
          "message about " + word + ": " + error.what());
  }
}

void TestCheckOperations() {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr float no_number = std::numeric_limits<float>::quiet_NaN();
  FullestSpec().Check();
  PolicySpec().Check();
  const auto refused = [](const std::string& word, const std::function<void(Spec*)>& change) {
    Refused(FullestSpec(), word, change);
  };
  for (int32_t resize : {-1, 223, 16385})
    refused("`draw_resize`: want `draw_size` to 16384 pixels, got", [&](Spec* s) { s->resize = resize; });
  refused("`draw_random_window`", [](Spec* s) { s->resize = 0; });
  for (double p : {-0.1, 1.1, nan}) {
    refused("`draw_jitter_probability`", [&](Spec* s) { s->jitter_probability = p; });
    refused("`draw_greyscale`", [&](Spec* s) { s->greyscale = p; });
    refused("`draw_blur_probability`", [&](Spec* s) { s->blur_probability = p; });
    refused("`draw_op_probability`", [&](Spec* s) { s->op_probability = p; });
    Refused(PolicySpec(), "`draw_policy_probabilities`", [&](Spec* s) { s->policies[1][0].probability = p; });
  }
  refused("`draw_jitter_ops`: want brightness", [](Spec* s) { s->jitter_ops[1] = kRotate; });
  refused("`draw_jitter_ops`: want at most 4", [](Spec* s) { s->jitter_ops.push_back(kHue); });
  refused("`draw_jitter_magnitudes`: want 32", [](Spec* s) { s->jitter_magnitudes.pop_back(); });
  for (float m : {-1.1f, 2e6f, no_number})
    refused("`draw_jitter_magnitudes`: want a factor", [&](Spec* s) { s->jitter_magnitudes[3] = m; });
  refused("`draw_jitter_magnitudes`: want a hue", [](Spec* s) { s->jitter_magnitudes[3 * kLevels] = 0.6f; });
  refused("`draw_blur_radii`: want 32", [](Spec* s) { s->blur_radii.pop_back(); });
  for (float radius : {0.0f, -1.0f, no_number})
    refused("`draw_blur_radii`: want numbers above 0", [&](Spec* s) { s->blur_radii[31] = radius; });
  for (double end : {-0.1, nan, 0.5})
    refused("`draw_level_ends`", [&](Spec* s) { s->strengths[30].end = end; });
  refused("`draw_level_ends`: want 1 as the last", [](Spec* s) { s->strengths.pop_back(); });
  refused("`draw_level_ends`: want at most 256", [](Spec* s) { s->strengths = Strengths(257); });
  refused("`draw_magnitudes`", [](Spec* s) { s->strengths[30].magnitudes[13] = -1; });
  refused("`draw_policy_ops`: want either", [](Spec* s) { s->policies = PolicySpec().policies; });
  for (int32_t op : {-1, 14})
    Refused(PolicySpec(), "`draw_policy_ops`", [&](Spec* s) { s->policies[0][1].op = op; });
  Refused(PolicySpec(), "`draw_policy_magnitudes`", [](Spec* s) { s->policies[0][1].magnitude = -1; });
}

// Ends of the uniforms: nothing is applied at probability 0, everything at 1, and pairs stay pairs.
void TestOperations() {
  Spec spec = FullestSpec();
  std::vector<int32_t> words(Drawer::words(spec));
  Check(words.size() == ViewWords(kMaxOps), "as many operations as a view can have");
  const auto op = [&](int i) { return words[kViewHeaderWords + 2 * static_cast<size_t>(i)]; };
  for (double p : {0.0, 1.0}) {
    spec.jitter_probability = spec.greyscale = spec.blur_probability = spec.op_probability = p;
    spec.greyscale = std::max(p, 1e-300);  // else it has no place
    for (int n = 0; n < 200; ++n) {
      Drawer(spec, "key", {300, 400}).Draw(n, words);
      Check(words[9] == 16 && op(0) == kWindowTop && op(1) == kWindowLeft, "the window");
      Check(words[0] == 0 && words[1] == 0 && words[2] == 300 && words[3] == 400, "the whole image");
      int kinds = 0;
      for (int i = 2; i < 6; ++i) kinds |= 1 << op(i);
      const int jitter = 1 << kBrightness | 1 << kContrast | 1 << kColor | 1 << kHue;
      Check(kinds == (p > 0 ? jitter : 1 << kIdentity), "each of the jitter's operations once, or none");
      Check(op(6) == (p > 0 ? kColor : kIdentity) && op(7) == (p > 0 ? kGaussianBlur : kIdentity),
            "grey and blur");
    }
  }
  spec = PolicySpec();
  words.resize(Drawer::words(spec));
  bool seen[2] = {};
  for (int n = 0; n < 400; ++n) {
    Drawer(spec, "key", {300, 400}).Draw(n, words);
    seen[op(0) == kSolarize] = true;
    Check(op(0) == kSolarize
              ? op(1) == kIdentity
              : (op(0) == kPosterize || op(0) == kIdentity) && (op(1) == kRotate || op(1) == kIdentity),
          "operations of one pair");
  }
  Check(seen[0] && seen[1], "both pairs are drawn");
}

void TestCheck() {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  FullSpec().Check();
  Check(FullSpec().crop.log_ratio[1] == std::log(4.0 / 3), "the logarithms of a box");
  Spec whole;
  whole.whole = true;
  whole.Check();
  whole.resize = 7, whole.random_window = true;  // of no concern
  whole.Check();
  Check(Drawer::words(whole) == ViewWords(0), "whole images have no window");
  const auto refused = [](const std::string& word, const std::function<void(Spec*)>& change) {
    Refused(FullSpec(), word, change);
  };
  for (int32_t size : {0, -1, 8193})
    refused("`draw_size`: want 1 to 8192 pixels, got " + std::to_string(size),
            [&](Spec* s) { s->size = size; });
  for (double p : {-0.1, 1.1, nan}) {
    refused("`draw_flip`: want a probability in 0 to 1, got", [&](Spec* s) { s->flip = p; });
    refused("`draw_erase_probability`", [&](Spec* s) { s->erase_probability = p; });
  }
  for (const auto& part : {std::array{0.0, 1.0}, {0.9, 0.5}, {0.5, 1.5}, {nan, 1.0}, {0.5, nan}}) {
    refused("`draw_crop_scale`", [&](Spec* s) { s->crop = RandomBox(part, {1, 1}); });
    refused("`draw_erase_scale`", [&](Spec* s) { s->erase = RandomBox(part, {1, 1}); });
  }
  for (const auto& ratio :
       {std::array{0.0, 1.0}, {-1.0, 1.0}, {0.9, 0.5}, {0.5, 2e6}, {nan, 1.0}, {0.5, nan}}) {
    refused("`draw_crop_ratio`", [&](Spec* s) { s->crop = RandomBox({0.5, 1}, ratio); });
    refused("`draw_erase_ratio`", [&](Spec* s) { s->erase = RandomBox({0.5, 1}, ratio); });
  }
  for (int32_t ops : {-1, 9}) refused("`draw_num_ops`: want 0 to 8", [&](Spec* s) { s->num_ops = ops; });
  refused("`draw_num_ops`", [](Spec* s) { s->whole = true, s->num_ops = -1; });  // words of whole views, too
  for (float m : {-1.f, 2e6f, std::numeric_limits<float>::quiet_NaN()})
    refused("`draw_magnitudes`", [&](Spec* s) { s->magnitudes[3] = m; });
  Spec spec = FullSpec();  // what is not drawn does not matter
  spec.erase_probability = 0;
  spec.erase = RandomBox({nan, 0}, {-1, 0});
  spec.Check();
}

// Specs whose tries mostly fail, so that the fallbacks are drawn, too.
void TestFallbacks() {
  Spec spec = FullSpec();
  spec.crop = RandomBox({0.9, 1.0}, {2.0, 3.0});
  spec.erase_probability = 1;
  spec.erase = RandomBox({0.9, 1.0}, {20.0, 30.0});
  std::vector<int32_t> words(Drawer::words(spec));
  const auto draw = [&](image::Size size) { Drawer(spec, "key", size).Draw(3, words); };
  draw({100, 50});  // too narrow for any ratio
  Check(words[0] == 37 && words[1] == 0 && words[2] == 25 && words[3] == 50,
        "the centre of an upright image");
  draw({50, 400});  // too wide
  Check(words[0] == 0 && words[1] == 125 && words[2] == 50 && words[3] == 150, "the centre of a wide image");
  Check(words[7] == 0 && words[8] == 0, "no erase where no box fits");
  draw({1, 1});
  Check(words[2] == 1 && words[3] == 1, "one pixel");
  spec.erase = RandomBox({1e-9, 1e-9}, {1.0, 1.0});
  draw({50, 50});
  Check(words[7] == 0 && words[8] == 0, "no erase of no pixels");
}

// Whatever the image and the number, a view can be replayed.
void TestViewsAreValid() {
  std::mt19937_64 bits(2);
  const Spec spec = FullSpec();
  std::vector<int32_t> words(Drawer::words(spec));
  for (int i = 0; i < 20000; ++i) {
    const image::Size size{1 + int32_t(bits() % (i % 2 ? 40 : kMaxCoordinate)),
                           1 + int32_t(bits() % (i % 3 ? 40 : kMaxCoordinate))};
    Drawer(spec, std::string(bits() % 300, 'k'), size).Draw(int64_t(bits() >> 11), words);
    View view;
    image::Plan plan;
    std::string problem = ParseView(words.data(), int64_t(words.size()), &view);
    if (problem.empty()) problem = image::MakePlan(view, size, 0, 0, {224, 224}, {224, 224}, 0, &plan);
    Check(problem.empty(), problem);
  }
}

// A JPEG with the segments that real ones have before the frame header; its size is 300 x 200.
std::vector<uint8_t> Jpeg() {
  std::vector<uint8_t> bytes{0xff, 0xd8, 0xff, 0xe0, 0, 16};
  bytes.insert(bytes.end(), 14, 0xff);
  bytes.insert(bytes.end(), {0xff, 0xff, 0xdb, 0, 67});
  bytes.insert(bytes.end(), 65, 0xc0);
  bytes.insert(bytes.end(),
               {0xff, 0xc2, 0, 17, 8, 1, 44, 0, 200, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xda});
  return bytes;
}

std::vector<uint8_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

void TestHeaders() {
  using namespace std::string_literals;
  std::vector<std::vector<uint8_t>> images{
      Jpeg(),
      Bytes("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\xc8\0\0\x01\x2c\x08\x02"s),
      Bytes("RIFF\0\1\0\0WEBPVP8 \0\1\0\0\x10\0\0\x9d\x01\x2a\xc8\x40\x2c\xc1"s),  // scaling bits set
      Bytes("RIFF\0\1\0\0WEBPVP8L\0\1\0\0\x2f\xc7\xc0\x4a\x00"s),
      Bytes("RIFF\0\1\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xc7\0\0\x2b\x01\0"s),
  };
  std::mt19937_64 bits(3);
  for (const auto& image : images) {
    image::Size size{};
    const std::string problem = image::ReadSize(image, &size);
    Check(problem.empty() && size.height == 300 && size.width == 200,
          "size " + std::to_string(size.height) + "x" + std::to_string(size.width) + " " + problem);
    for (size_t length = 0; length < image.size(); ++length) {
      // In memory of exactly this length, so that a byte read past it is found.
      const std::vector<uint8_t> cut(image.begin(), image.begin() + ptrdiff_t(length));
      if (image::ReadSize(cut, &size).empty())
        Check(size.height == 300 && size.width == 200, "size of a part");
    }
    for (int i = 0; i < 100000; ++i) {
      std::vector<uint8_t> changed = image;
      for (int n = 1 + int(bits() % 3); n > 0; --n)
        changed[bits() % changed.size()] = bits() % 2 ? uint8_t(bits()) : uint8_t(bits() % 2 ? 0xff : 0);
      changed.resize(changed.size() - (bits() % 2 ? 0 : bits() % changed.size()));
      if (image::ReadSize(changed, &size).empty())
        Check(size.height >= 1 && size.width >= 1 && size.height <= kMaxCoordinate &&
                  size.width <= kMaxCoordinate,
              "a size in range");
    }
  }
}

// Not a check: the time of a view, for the log.
void Measure() {
  const Spec spec = FullSpec();
  std::vector<int32_t> words(Drawer::words(spec));
  const int count = 200000;
  int64_t sum = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    Drawer(spec, "n01440764/n01440764_10026", {375, 500}).Draw(i, words);
    sum += words[0];
  }
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
  std::printf("%.2f us per view of its own image (mean top %.1f)\n", time.count() / count,
              double(sum) / count);
}

}  // namespace
}  // namespace dali_dr::draw

int main() {
  using namespace dali_dr::draw;
  TestBlake2b();
  TestPhilox();
  TestCheck();
  TestCheckOperations();
  TestOperations();
  TestFallbacks();
  TestViewsAreValid();
  TestHeaders();
  Measure();
  return dali_dr::testing::Verdict("draw");
}
