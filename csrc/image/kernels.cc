// The portable form of kernels.h: plain loops over the functions of pixel.h. The definition of what AVX2 must
// equal.
#include "image/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace dali_dr::image {
namespace {

void Weigh(const Coordinates& range, int32_t* weight) {
  std::vector<double> raw(MaxTaps(*range.axis));
  std::vector<int32_t> fixed(raw.size());
  for (int32_t x = 0; x < range.count; ++x) {
    int32_t begin;
    const int32_t taps = FixedWeights(*range.axis, range.first + x, raw.data(), &begin, fixed.data());
    const int32_t before = begin - range.start[x];
    for (int32_t i = 0; i < range.slots; ++i)
      weight[i * size_t(range.stride) + x] = i < before || i >= before + taps ? 0 : fixed[i - before];
  }
}

int32_t Weight(const TapPair& w, int i) { return w.high[i] * (1 << kLowBits) + w.low[i]; }

void ResizeRows(const uint8_t* const rows[4], const Taps& taps, int32_t width, uint8_t* const out[4]) {
  for (int r = 0; r < 4; ++r) {
    for (int32_t x = 0; x < width; ++x) {
      const uint8_t* in = rows[r] + 3 * size_t(taps.start[x]);
      const TapPair* weight = taps.weight + size_t(x) * taps.pairs;
      int32_t sum[3] = {};
      for (int32_t i = 0; i < 2 * taps.pairs; ++i) {
        const int32_t w = Weight(weight[i / 2], i % 2);
        for (int c = 0; c < 3; ++c) sum[c] += w * in[3 * i + c];
      }
      for (int c = 0; c < 3; ++c) out[r][3 * x + c] = RoundWeighted(sum[c]);
    }
  }
}

void ResizeColumn(const uint8_t* const* rows, const RowWeights& weights, int32_t bytes, uint8_t* out) {
  for (int32_t x = 0; x < bytes; ++x) {
    int32_t sum = 0;
    for (int32_t i = 0; i < 2 * weights.pairs; ++i) sum += Weight(weights.weight[i / 2], i % 2) * rows[i][x];
    out[x] = RoundWeighted(sum);
  }
}

void SplitRow(const uint8_t* row, int32_t width, bool flip, uint8_t* const planes[3]) {
  for (int c = 0; c < 3; ++c) {
    for (int32_t x = 0; x < width; ++x) planes[c][x] = row[3 * (flip ? width - 1 - x : x) + c];
  }
}

void Lut(const uint8_t table[256], uint8_t* data, size_t n) {
  for (size_t i = 0; i < n; ++i) data[i] = table[data[i]];
}

void Mask(uint8_t bits, uint8_t* data, size_t n) {
  for (size_t i = 0; i < n; ++i) data[i] &= bits;
}

void Solarize(uint8_t threshold, uint8_t* data, size_t n) {
  for (size_t i = 0; i < n; ++i) data[i] = data[i] >= threshold ? ~data[i] : data[i];
}

void MinMax(const uint8_t* data, size_t n, uint8_t* lo, uint8_t* hi) {
  *lo = *std::min_element(data, data + n);
  *hi = *std::max_element(data, data + n);
}

uint64_t GreySum(const uint8_t* const planes[3], size_t n) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; ++i) sum += Grey(planes[0][i], planes[1][i], planes[2][i]);
  return sum;
}

void Color(float factor, uint8_t* const planes[3], size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const int32_t grey = Grey(planes[0][i], planes[1][i], planes[2][i]);
    for (int c = 0; c < 3; ++c) planes[c][i] = Blend(grey, planes[c][i], factor);
  }
}

void Hue(int32_t shift, uint8_t* const planes[3], size_t n) {
  uint8_t *const r = planes[0], *const g = planes[1], *const b = planes[2];
  for (size_t i = 0; i < n; ++i) {
    const uint32_t turned = TurnHue(r[i], g[i], b[i], shift);
    r[i] = uint8_t(turned);
    g[i] = uint8_t(turned >> 8);
    b[i] = uint8_t(turned >> 16);
  }
}

// Where a window lies inside a line, its sum is that of the one before with a pixel added and one taken away.
void BlurRows(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out) {
  const int32_t radius = box.radius, inside = width - radius - 1;  // at radius + 1 .. inside - 1
  for (int32_t y = 0; y < height; ++y) {
    const uint8_t* const line = in + size_t(y) * width;
    uint8_t* const to = out + size_t(y) * width;
    int32_t x = 0;
    for (; x < width && x <= radius; ++x) to[x] = BoxedAt(line, 1, width, x, box);
    if (x < inside) {
      uint32_t sum = 0;
      for (int32_t i = x - radius - 1; i < x + radius; ++i) sum += line[i];
      for (; x < inside; ++x) {
        const uint32_t before = line[x - radius - 1];
        sum += line[x + radius] - before;
        to[x] = Boxed(sum, before + line[x + radius + 1], box);
      }
    }
    for (; x < width; ++x) to[x] = BoxedAt(line, 1, width, x, box);
  }
}

// As many columns at a time as sums may wait for the next row.
void BlurColumns(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out) {
  constexpr int32_t kColumns = 64;
  const int32_t last = height - 1, radius = box.radius;
  const auto row = [&](int32_t y) { return in + size_t(y < 0 ? 0 : y > last ? last : y) * width; };
  for (int32_t x0 = 0; x0 < width; x0 += kColumns) {
    const int32_t columns = std::min(kColumns, width - x0);
    uint32_t sums[kColumns] = {};
    const int32_t inside =
        std::min(radius, height);  // of the window of row -1, whose other rows are the border's
    for (int32_t x = 0; x < columns; ++x) {
      sums[x] = uint32_t(radius + 1) * row(0)[x0 + x] + uint32_t(radius - inside) * row(last)[x0 + x];
      for (int32_t y = 0; y < inside; ++y) sums[x] += row(y)[x0 + x];
    }
    for (int32_t y = 0; y < height; ++y) {
      const uint8_t *const before = row(y - radius - 1) + x0, *const after = row(y + radius + 1) + x0;
      const uint8_t* const added = row(y + radius) + x0;
      uint8_t* const to = out + size_t(y) * width + x0;
      for (int32_t x = 0; x < columns; ++x) {
        sums[x] += uint32_t{added[x]} - before[x];
        to[x] = Boxed(sums[x], uint32_t{before[x]} + after[x], box);
      }
    }
  }
}

void Sharpness(float factor, const uint8_t* in, int32_t height, int32_t width, uint8_t* out) {
  std::memcpy(out, in, size_t(height) * width);
  for (int32_t y = 1; y < height - 1; ++y) {
    for (int32_t x = 1; x < width - 1; ++x) {
      const uint8_t* p = in + size_t(y) * width + x;
      int32_t sum = 4 * p[0];
      for (int32_t dy : {-width, 0, width}) sum += p[dy - 1] + p[dy] + p[dy + 1];
      out[size_t(y) * width + x] = Blend(Smooth(sum), p[0], factor);
    }
  }
}

void General(const Affine& map, const uint8_t* const in[3], int32_t height, int32_t width,
             uint8_t* const out[3]) {
  for (int32_t y = 0; y < height; ++y) {
    for (int32_t x = 0; x < width; ++x) {
      const int32_t sx = FixedX(map, x, y) >> 16, sy = FixedY(map, x, y) >> 16;
      const bool inside = uint32_t(sx) < uint32_t(width) && uint32_t(sy) < uint32_t(height);
      for (int c = 0; c < 3; ++c) out[c][size_t(y) * width + x] = inside ? in[c][size_t(sy) * width + sx] : 0;
    }
  }
}

void Join(const uint8_t* const planes[3], size_t n, uint8_t* out) {
  for (size_t i = 0; i < n; ++i) {
    for (int c = 0; c < 3; ++c) out[3 * i + c] = planes[c][i];
  }
}

void FinishFloat(const Channel& channel, const uint8_t* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = channel.value[in[i]];
}

void FinishShort(const Channel& channel, const uint8_t* in, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = channel.half[in[i]];
}

void RoundHalf(const float* in, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = HalfBits(in[i]);
}

void RoundBfloat(const float* in, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = BfloatBits(in[i]);
}

}  // namespace

const Kernels kPortableKernels = {
    "portable", Weigh,    nullptr, nullptr,     ResizeRows,  ResizeColumn, SplitRow,  Lut,
    Mask,       Solarize, MinMax,  GreySum,     Color,       Hue,          BlurRows,  BlurColumns,
    Sharpness,  General,  Join,    FinishFloat, FinishShort, FinishShort,  RoundHalf, RoundBfloat,
};

const Kernels& BestKernels() {
  static const Kernels* avx2 = Avx2Kernels();
  return avx2 ? *avx2 : kPortableKernels;
}

}  // namespace dali_dr::image
