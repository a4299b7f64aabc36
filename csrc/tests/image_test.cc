// Tests of csrc/image that need neither DALI nor Python: scalar functions against independent formulas, the
// parser against hostile words, and the AVX2 kernels against the portable ones on random data.
// (tests/test_replay.py compares whole views with Pillow.)
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "image/kernels.h"
#include "image/pixel.h"
#include "image/plan.h"
#include "image/replay.h"
#include "tests/random_view.h"
#include "view/parse.h"

namespace dali_dr::image {
namespace {

// Against the compiler's own conversion: all halves' neighbourhoods and random floats.
void TestHalfBits() {
  const auto check = [](float f) {
    if (std::isnan(f)) {
      CHECK((HalfBits(f) & 0x7fff) > 0x7c00, "NaN became %x", HalfBits(f));
      return;
    }
    const _Float16 want = static_cast<_Float16>(f);
    uint16_t bits;
    std::memcpy(&bits, &want, 2);
    CHECK(HalfBits(f) == bits, "%a: %x, not %x", f, HalfBits(f), bits);
  };
  for (uint32_t h = 0; h < 65536; ++h) {
    const uint16_t bits = uint16_t(h);
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    const float f = float(half);
    for (float v : {f, std::nextafter(f, INFINITY), std::nextafter(f, -INFINITY)}) check(v);
    uint32_t w = std::bit_cast<uint32_t>(f);
    for (uint32_t add : {0xfffu, 0x1000u, 0x1001u}) check(std::bit_cast<float>(w + add));  // around the ties
  }
  for (int i = 0; i < 2000000; ++i) check(std::bit_cast<float>(uint32_t(random_bits())));
}

// The nearer of the two neighbours that have 16 bits, in exact arithmetic; the even one of two that are
// equally near. Beyond the largest, infinity stands for the next power of two, as IEEE 754 has it.
uint16_t NearestBfloat(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f), low = bits >> 16;
  const auto magnitude = [](uint32_t upper) {
    const double v = std::fabs(std::bit_cast<float>(upper << 16));
    return std::isinf(v) ? std::ldexp(1.0, 128) : v;
  };
  if (std::isinf(f)) return uint16_t(low);
  const double below = std::fabs(f) - magnitude(low), above = magnitude(low + 1) - std::fabs(f);
  return uint16_t(below < above || (below == above && low % 2 == 0) ? low : low + 1);
}

void TestBfloatBits() {
  const auto check = [](float f) {
    const uint16_t got = BfloatBits(f);
    if (std::isnan(f)) {
      CHECK((got & 0x7fff) > 0x7f80, "NaN became %x", got);
    } else {
      CHECK(got == NearestBfloat(f), "%a: %x, not %x", f, got, NearestBfloat(f));
    }
  };
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    for (uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      check(std::bit_cast<float>(upper << 16 | lower));
  }
  for (int i = 0; i < 2000000; ++i) check(std::bit_cast<float>(uint32_t(random_bits())));
}

// Rounding to 16 bits, of any floats and any number of them, must give the portable bits.
void TestRounding(const Kernels& kernels) {
  for (int round = 0; round < 20000; ++round) {
    const size_t n = Uniform(0, 40);
    std::vector<float> in(n);
    for (float& f : in) f = std::bit_cast<float>(uint32_t(random_bits()) | (Uniform(0, 9) ? 0 : 0x7f800000));
    std::vector<uint16_t> got(n), want(n);
    kernels.round_half(in.data(), n, got.data());
    kPortableKernels.round_half(in.data(), n, want.data());
    CHECK(got == want, "%s kernels, half", kernels.name);
    kernels.round_bfloat(in.data(), n, got.data());
    kPortableKernels.round_bfloat(in.data(), n, want.data());
    CHECK(got == want, "%s kernels, bfloat", kernels.name);
  }
}

// Pillow's float32 sum of the smoothing kernel, over all sums that can occur.
void TestSmooth() {
  const float one = 1.0f / 13.0f, five = 5.0f / 13.0f;
  for (int i = 0; i < 3000000; ++i) {
    int p[9], sum = 0;
    for (int k = 0; k < 9; ++k)
      sum += (p[k] = i % 3 ? Uniform(0, 255) : Uniform(0, 1) * 255) * (k == 4 ? 5 : 1);
    float ss = 0.5f;
    ss += float(p[0]) * one + float(p[1]) * one + float(p[2]) * one;
    ss += float(p[3]) * one + float(p[4]) * five + float(p[5]) * one;
    ss += float(p[6]) * one + float(p[7]) * one + float(p[8]) * one;
    CHECK(Smooth(sum) == int(ss), "sum %d: %d, not %d", sum, Smooth(sum), int(ss));
  }
}

void TestWeights() {
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    for (int in = 1; in < 700; in += Uniform(1, 9)) {
      for (int out : {1, 2, 31, 224, 300}) {
        const Axis axis = MakeAxis(in, out, filter);
        std::vector<double> raw(MaxTaps(axis));
        std::vector<int32_t> weights(MaxTaps(axis));
        for (int x = 0; x < out; ++x) {
          int32_t begin;
          const int count = FixedWeights(axis, x, raw.data(), &begin, weights.data());
          CHECK(count >= 1 && count <= MaxTaps(axis) && begin >= 0 && begin + count <= in, "%d -> %d at %d",
                in, out, x);
          int64_t sum = 0;
          for (int i = 0; i < count; ++i) sum += weights[i];
          CHECK(std::llabs(sum - (1 << kWeightBits)) <= count, "%d -> %d at %d: sum %lld", in, out, x,
                (long long)sum);
        }
      }
    }
  }
}

// No word sequence may be read out of bounds or give a plan that leads out of the image or the view.
void TestHostileWords() {
  std::vector<int32_t> good = {0, 0, 20, 30, 1, 1, 2, 3, 4, 2, kRotate, 0, kShearX, 0};
  good[11] = std::bit_cast<int32_t>(9.0f);
  good[13] = std::bit_cast<int32_t>(0.3f);
  View view;
  CHECK(ParseView(good.data(), good.size(), &view).empty(), "good words are refused");
  CHECK(view.num_ops == 2 && view.flip && view.ops[1].magnitude == 0.3f, "good words are misread");
  const int32_t odd[] = {0,
                         1,
                         -1,
                         2,
                         14,
                         16,
                         17,
                         19,
                         20,
                         21,
                         30,
                         31,
                         1 << 24,
                         std::numeric_limits<int32_t>::max(),
                         std::numeric_limits<int32_t>::min(),
                         0x7f800000,
                         0x7fc00000,
                         0x49742400,
                         -0x40000000};
  int accepted = 0;
  for (int i = 0; i < 300000; ++i) {
    auto words = good;
    for (int k = Uniform(1, 4); k > 0; --k)
      words[Uniform(0, 13)] = Uniform(0, 3) ? odd[Uniform(0, 18)] : int(random_bits());
    // A heap block of the exact size, so that AddressSanitizer sees any step outside.
    const int count = Uniform(0, 14);
    std::unique_ptr<int32_t[]> block(new int32_t[count]);
    std::copy_n(words.begin(), count, block.get());
    Plan plan;
    if (!ParseView(block.get(), count, &view).empty()) continue;
    if (!MakePlan(view, {20, 31}, 0, 0, {16, 17}, {20, 21}, i % 3 ? 0 : 18, &plan).empty()) continue;
    ++accepted;
    const auto inside = [](const Box& b, Size s) {
      return b.top >= 0 && b.left >= 0 && b.height >= 0 && b.width >= 0 && b.top + b.height <= s.height &&
             b.left + b.width <= s.width;
    };
    CHECK(inside(plan.crop, {20, 31}) && inside(plan.erase, {16, 17}), "a box leads outside");
    CHECK(plan.num_steps >= 0 && plan.num_steps <= kMaxOps, "%d steps", plan.num_steps);
  }
  CHECK(accepted > 100, "only %d accepted", accepted);
}

// All colours, at shifts of either sign.
void TestHues(const Kernels& kernels) {
  constexpr size_t kBlock = 1 << 16;
  std::vector<uint8_t> got[3], want[3];
  for (int shift : {0, 25, 128, 129, 231}) {
    for (int r = 0; r < 256; ++r) {
      uint8_t *got_planes[3], *want_planes[3];
      for (int c = 0; c < 3; ++c) {
        got[c].assign(kBlock + kPad, 0);
        for (size_t i = 0; i < kBlock; ++i) got[c][i] = uint8_t(c == 0 ? r : c == 1 ? i >> 8 : i);
        want[c] = got[c];
        got_planes[c] = got[c].data();
        want_planes[c] = want[c].data();
      }
      kernels.hue(shift, got_planes, kBlock);
      kPortableKernels.hue(shift, want_planes, kBlock);
      for (int c = 0; c < 3; ++c)
        CHECK(std::equal(got[c].begin(), got[c].begin() + kBlock, want[c].begin()),
              "%s kernels, hue %d, red %d", kernels.name, shift, r);
    }
  }
}

// Every kernel set must give the bytes of the portable one, for whole views of random shapes and operations.
// Images are heap blocks of the exact size, so that AddressSanitizer sees reads past them.
void TestKernels(const Kernels& kernels) {
  Scratch scratch(kernels), portable(kPortableKernels);
  const std::vector<Finish> finishes = AllFinishes();
  for (int round = 0; round < 4000; ++round) {
    const int most = round % 50 ? 90 : 700;
    const Size size{Uniform(1, most), Uniform(1, most)}, out{Uniform(1, 70), Uniform(1, 70)};
    const auto pixels = RandomPixels(size);
    View view = RandomView(size, out);
    Plan plan;
    const int shorter = Uniform(0, 3) ? 0 : Uniform(std::max(out.height, out.width), 100);
    if (shorter && Uniform(0, 1)) AddCorner(shorter, out, &view);
    const std::string problem = MakePlan(view, size, 0, 0, out, out, shorter, &plan);
    if (shorter && !problem.empty()) continue;  // so narrow that its longer side would become too long
    CHECK(problem.empty(), "%s", problem.c_str());
    const Image image{pixels.get(), size};
    const Filter filter = round % 2 ? Filter::kBilinear : Filter::kBicubic;
    const Finish& finish = finishes[round % finishes.size()];
    const size_t bytes_out = size_t(out.height) * out.width * 3 * finish.value_bytes();
    std::unique_ptr<uint8_t[]> got(new uint8_t[bytes_out]), want(new uint8_t[bytes_out]);
    Replay(plan, image, filter, finish, &scratch, got.get());
    Replay(plan, image, filter, finish, &portable, want.get());
    CHECK(std::memcmp(got.get(), want.get(), bytes_out) == 0,
          "%s kernels, round %d: %dx%d -> %dx%d, %d steps, first %d", kernels.name, round, size.height,
          size.width, out.height, out.width, plan.num_steps, plan.num_steps ? int(plan.steps[0].kind) : -1);
  }
}

}  // namespace
}  // namespace dali_dr::image

int main() {
  using namespace dali_dr::image;
  TestHalfBits();
  TestBfloatBits();
  TestSmooth();
  TestWeights();
  TestHostileWords();
  TestRounding(BestKernels());
  TestHues(BestKernels());
  TestKernels(BestKernels());
  std::printf("image: %s kernels, %d failures\n", BestKernels().name, failures);
  return failures != 0;
}
