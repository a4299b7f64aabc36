// Weights of a resize, their forms of three bytes, and the kernels that use them, against the portable
// kernels over random axes and over the pixels that make every sum as large or as small as it can be.
#include "image/taps.h"

#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/random_view.h"

namespace dali_dr::image {
namespace {

struct Case {
  Axis axis;
  int32_t first, count;
};

Case RandomCase(bool cubic) {
  const int in = Uniform(1, Uniform(0, 3) ? 700 : 40), out = Uniform(1, Uniform(0, 3) ? 300 : 30);
  const int32_t count = Uniform(0, 2) ? out : Uniform(1, out);
  return {MakeAxis(in, out, cubic ? Filter::kBicubic : Filter::kBilinear), Uniform(0, out - count), count};
}

/// Two bytes of a pair as signed numbers, or unsigned ones.
int Byte(uint32_t pair, int i, bool is_signed) {
  const auto byte = uint8_t(pair >> (8 * i));
  return is_signed ? int8_t(byte) : byte;
}

int64_t seen = 0, fitting = 0;  // coordinates of at most four taps

/// What split_weights made of the weights of one coordinate.
void CheckSplit(const std::vector<int32_t>& weight, const std::vector<uint32_t>& bytes) {
  int tops = 0;
  int64_t above[3] = {}, below[3] = {};  // sums of middle, bottom, and 128 * middle + bottom
  for (size_t i = 0; i < weight.size(); ++i) {
    const uint32_t* const pair = bytes.data() + i / 2 * 3;
    const int top = Byte(pair[0], i % 2, false), middle = Byte(pair[1], i % 2, true),
              bottom = Byte(pair[2], i % 2, true);
    const int sum = top * (1 << 14) + middle * (1 << 7) + bottom;
    CHECK(sum == weight[i] || (weight[i] == 1 << 22 && sum == weight[i] - 1), "%d became %d", weight[i], sum);
    tops += top;
    const int low[3] = {middle, bottom, 128 * middle + bottom};
    for (int k = 0; k < 3; ++k) (low[k] > 0 ? above : below)[k] += 255 * low[k];
  }
  CHECK(tops == 256, "tops sum up to %d", tops);
  for (int k = 0; k < 3; ++k) {
    const int64_t unit = k == 2 ? 128 : 1;
    CHECK(above[k] < 32768 * unit && below[k] >= -32768 * unit, "sum %d may be %lld or %lld", k,
          (long long)above[k], (long long)below[k]);
  }
}

void TestWeights(const Kernels& kernels) {
  for (int round = 0; round < 3000; ++round) {
    const Case c = RandomCase(round % 4 == 0);
    TapTable table;
    table.Set(kernels, TapTable::Pass::kVertical, c.axis, c.first, c.count);
    const int32_t slots = 2 * table.pairs(), stride = (c.count + kTapPadding - 1) / kTapPadding * kTapPadding;
    std::vector<int32_t> start(stride), got(size_t(slots) * stride), want(got.size());
    for (int32_t x = 0; x < stride; ++x) start[x] = table.start(std::min(x, c.count - 1));
    const Coordinates range{&c.axis, c.first, c.count, start.data(), slots, stride};
    kernels.weigh(range, got.data());
    kPortableKernels.weigh(range, want.data());
    std::vector<uint32_t> bytes(size_t(slots) / 2 * 3 * stride);
    std::vector<uint8_t> fits(stride);
    const bool split =
        kernels.split_weights && slots <= 2 * kMaxBytePairs && c.axis.filter == Filter::kBilinear;
    bool all = split && kernels.split_weights(range, want.data(), bytes.data(), fits.data());
    for (int32_t x = 0; x < c.count; ++x) {
      std::vector<int32_t> weight(slots);
      int64_t sum = 0;
      for (int32_t i = 0; i < slots; ++i) {
        weight[i] = want[size_t(i) * stride + x];
        sum += weight[i];
        CHECK(got[size_t(i) * stride + x] == weight[i], "%s: %d -> %d: weight %d of %d is %d, not %d",
              kernels.name, c.axis.in, c.axis.out, i, x, got[size_t(i) * stride + x], weight[i]);
      }
      CHECK(std::abs(sum - (1 << kWeightBits)) <= slots, "weights sum up to %lld", (long long)sum);
      if (!split) continue;
      seen += slots <= 4;
      fitting += slots <= 4 && fits[x];
      CHECK(!all || fits[x], "not all fit");
      if (!fits[x]) continue;
      std::vector<uint32_t> own;
      for (int32_t k = 0; k < slots / 2 * 3; ++k) own.push_back(bytes[size_t(k) * stride + x]);
      CheckSplit(weight, own);
    }
  }
}

/// Bytes of which most runs are 0 or 255, as the sums of a weighted window need them to be extreme.
std::vector<uint8_t> Extremes(size_t n, int kind) {
  std::vector<uint8_t> bytes = RandomBytes(n);
  if (kind == 0) return bytes;
  for (auto& b : bytes) b = b < (kind == 1 ? 128 : 24) ? 0 : 255;
  return bytes;
}

void TestRows(const Kernels& kernels) {
  for (int round = 0; round < 1500; ++round) {
    const Case c = RandomCase(round % 8 == 0);
    TapTable table, plain;
    table.Set(kernels, TapTable::Pass::kHorizontal, c.axis, c.first, c.count);
    plain.Set(kPortableKernels, TapTable::Pass::kHorizontal, c.axis, c.first, c.count);
    const size_t in_bytes = 3 * size_t(std::max(c.axis.in, 2 * table.pairs())) + kPad;
    const size_t out_bytes = 3 * size_t(c.count);
    std::vector<uint8_t> in[4], got[4], want[4];
    const uint8_t* rows[4];
    uint8_t *to[4], *expected[4];
    for (int r = 0; r < 4; ++r) {
      in[r] = Extremes(in_bytes, round % 3);
      got[r].resize(out_bytes + kPad);
      want[r].resize(out_bytes + kPad);
      rows[r] = in[r].data();
      to[r] = got[r].data();
      expected[r] = want[r].data();
    }
    kernels.resize_rows(rows, table.columns(), c.count, to);
    kPortableKernels.resize_rows(rows, plain.columns(), c.count, expected);
    for (int r = 0; r < 4; ++r) {
      CHECK(std::memcmp(to[r], expected[r], out_bytes) == 0, "%s: rows %d -> %d (%d from %d)", kernels.name,
            c.axis.in, c.axis.out, c.count, c.first);
    }
  }
}

void TestColumns(const Kernels& kernels) {
  for (int round = 0; round < 1500; ++round) {
    const Case c = RandomCase(round % 8 == 0);
    TapTable table, plain;
    table.Set(kernels, TapTable::Pass::kVertical, c.axis, c.first, c.count);
    plain.Set(kPortableKernels, TapTable::Pass::kVertical, c.axis, c.first, c.count);
    const int32_t bytes = Uniform(1, 100), y = Uniform(0, c.count - 1);
    std::vector<std::vector<uint8_t>> in;
    std::vector<const uint8_t*> rows;
    for (int32_t i = 0; i < 2 * table.pairs(); ++i) in.push_back(Extremes(bytes + kPad, round % 3));
    for (const auto& row : in) rows.push_back(row.data());
    std::vector<uint8_t> got(bytes + kPad), want(bytes + kPad);
    kernels.resize_column(rows.data(), table.row(y), bytes, got.data());
    kPortableKernels.resize_column(rows.data(), plain.row(y), bytes, want.data());
    CHECK(std::memcmp(got.data(), want.data(), bytes) == 0, "%s: row %d of %d -> %d", kernels.name, y,
          c.axis.in, c.axis.out);
  }
}

}  // namespace
}  // namespace dali_dr::image

int main() {
  using namespace dali_dr::image;
  for (const Kernels* kernels : {&BestKernels(), &kPortableKernels}) {
    TestWeights(*kernels);
    TestRows(*kernels);
    TestColumns(*kernels);
  }
  // Else the fast form would be there in vain.
  CHECK(fitting >= seen * 95 / 100, "only %lld of %lld coordinates fit bytes", (long long)fitting,
        (long long)seen);
  std::printf("taps: %lld of %lld coordinates fit bytes, %d failures\n", (long long)fitting, (long long)seen,
              failures);
  return failures != 0;
}
