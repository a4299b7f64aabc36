// Tests of csrc/draw and image/header that need neither DALI nor Python: known answers of the hash and the
// generator, hostile specs, and hostile image headers (run under sanitizers). tests/test_draw_cpp.py compares
// with Python and Pillow.
#include "draw/draw.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "image/header.h"

namespace dali_dr::draw {
namespace {

int failures = 0;

void Check(bool good, const std::string& what) {
  if (good) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

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

const std::string kSpec =
    "seed=18446744073709551615 size=224 flip=0.5 crop_scale=0.08,1.0 crop_ratio=0.75,1.3333333333333333 "
    "num_ops=2 "
    "magnitudes=0,0.09,0.09,30.4,30.4,9,0.27,0.27,0.27,0.27,7,178.5,0,0 erase_probability=0.25 "
    "erase_scale=0.02,0.33 "
    "erase_ratio=0.3,3.3";

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  Check(at != text.npos, "the test's text has " + from);
  return text.replace(at, from.size(), to);
}

void TestParse() {
  const Spec spec = Spec::Parse(kSpec);
  Check(spec.seed == UINT64_MAX && spec.size == 224 && spec.num_ops == 2 && spec.crop.ratio[1] == 4.0 / 3.0 &&
            spec.magnitudes[3] == 30.4f && spec.erase.scale[1] == 0.33 && !spec.whole,
        "the values of a spec");
  Check(Spec::Parse("whole").whole, "whole");
  const auto refused = [&](const std::string& text, const std::string& word) {
    try {
      Spec::Parse(text);
      Check(false, "accepted: " + text);
    } catch (const SpecError& error) {
      Check(std::string(error.what()).find(word) != std::string::npos,
            "message about " + word + ": " + error.what());
    }
  };
  refused("", "seed");
  refused("nonsense", "NAME=VALUE");
  refused(kSpec + " seed=1", "seed: stands there twice");
  refused(kSpec + " x=1", "x: is unknown");
  refused(Replaced(kSpec, "seed=18446744073709551615", "seed=18446744073709551616"), "seed");
  refused(Replaced(kSpec, "size=224", "size=0"), "size");
  refused(Replaced(kSpec, "flip=0.5", "flip=nan"), "flip");
  refused(Replaced(kSpec, "0.08,1.0", "0.08"), "crop_scale");
  refused(Replaced(kSpec, "0.08,1.0", "0.08,1.0,2"), "crop_scale");
  refused(Replaced(kSpec, "0.08,1.0", "0.08,1.0,"), "crop_scale");
  refused(Replaced(kSpec, "0.08,1.0", "0.9,0.5"), "crop_scale");
  refused(Replaced(kSpec, "0.75,", "0,"), "crop_ratio");
  refused(Replaced(kSpec, "num_ops=2", "num_ops=9"), "num_ops");
  refused(Replaced(kSpec, "num_ops=2", "num_ops=0"), "magnitudes");
  refused(Replaced(kSpec, "0,0.09", "-1,0.09"), "magnitudes");
  std::mt19937_64 bits(1);
  for (int i = 0; i < 20000; ++i) {
    std::string text = kSpec;
    for (int n = 1 + int(bits() % 4); n > 0; --n) {
      const size_t at = bits() % text.size();
      if (bits() % 2)
        text[at] = char(bits());
      else
        text.erase(at, 1 + bits() % 20);
    }
    try {
      Spec::Parse(text);
    } catch (const SpecError&) {
    }
  }
}

// Whatever the image and the number, a view can be replayed.
void TestViewsAreValid() {
  std::mt19937_64 bits(2);
  const Spec spec = Spec::Parse(kSpec);
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
  const Spec spec = Spec::Parse(kSpec);
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
  TestParse();
  TestViewsAreValid();
  TestHeaders();
  Measure();
  std::printf("%s\n", failures ? "FAILED" : "all good");
  return failures != 0;
}
