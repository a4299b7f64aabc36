// The AVX2 form of kernels.h. Every function is compiled for AVX2, FMA and F16C by attribute, so that the
// rest of the library stays portable x86-64; Avx2Kernels() checks the CPU.
#include "image/kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#define DR_AVX2 __attribute__((target("avx2,fma,f16c")))
#define DR_AVX2_INLINE DR_AVX2 __attribute__((always_inline)) inline

namespace dali_dr::image {
namespace {

DR_AVX2_INLINE __m256i Load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
DR_AVX2_INLINE __m128i LoadHalf(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
DR_AVX2_INLINE void Store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
DR_AVX2_INLINE void StoreHalf(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }

// 16 bytes of each of two rows.
DR_AVX2_INLINE __m256i LoadTwo(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(LoadHalf(low)), LoadHalf(high), 1);
}

DR_AVX2_INLINE __m256i Broadcast(const int16_t pair[2]) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// Weighted sums of one accumulator pair, rounded: ((high << 11) + low) >> 22. `low` starts at half a unit.
DR_AVX2_INLINE __m256i Rounded(__m256i low, __m256i high) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low), kWeightBits);
}

// ---- Resize
// ----------------------------------------------------------------------------------------------------

// kPairs == 0: any number of pairs.
template <int kPairs>
DR_AVX2 void ResizeRows(const uint8_t* const rows[4], const Taps& taps, int32_t width,
                        uint8_t* const out[4]) {
  const int32_t pairs = kPairs ? kPairs : taps.pairs;
  const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - 1));
  // Four RGB pixels of two rows -> 16-bit (R R, G G, B B) of the first two pixels, and of the second two.
  const __m256i first =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i second =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  const __m256i squeeze =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  for (int32_t x = 0; x < width; x += 4) {
    __m256i packed[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const TapPair* weight = taps.weight + size_t(x + j) * pairs;
      const size_t at = 3 * size_t(taps.start[x + j]);
      __m256i low01 = half, low23 = half, high01 = _mm256_setzero_si256(), high23 = _mm256_setzero_si256();
      for (int32_t p = 0; p < pairs; p += 2) {
        const __m256i in01 = LoadTwo(rows[0] + at + 6 * p, rows[1] + at + 6 * p);
        const __m256i in23 = LoadTwo(rows[2] + at + 6 * p, rows[3] + at + 6 * p);
        const __m256i low = Broadcast(weight[p].low), high = Broadcast(weight[p].high);
        const __m256i a01 = _mm256_shuffle_epi8(in01, first), a23 = _mm256_shuffle_epi8(in23, first);
        low01 = _mm256_add_epi32(low01, _mm256_madd_epi16(a01, low));
        high01 = _mm256_add_epi32(high01, _mm256_madd_epi16(a01, high));
        low23 = _mm256_add_epi32(low23, _mm256_madd_epi16(a23, low));
        high23 = _mm256_add_epi32(high23, _mm256_madd_epi16(a23, high));
        if (p + 1 < pairs) {
          const __m256i low2 = Broadcast(weight[p + 1].low), high2 = Broadcast(weight[p + 1].high);
          const __m256i b01 = _mm256_shuffle_epi8(in01, second), b23 = _mm256_shuffle_epi8(in23, second);
          low01 = _mm256_add_epi32(low01, _mm256_madd_epi16(b01, low2));
          high01 = _mm256_add_epi32(high01, _mm256_madd_epi16(b01, high2));
          low23 = _mm256_add_epi32(low23, _mm256_madd_epi16(b23, low2));
          high23 = _mm256_add_epi32(high23, _mm256_madd_epi16(b23, high2));
        }
      }
      packed[j] = _mm256_packs_epi32(Rounded(low01, high01), Rounded(low23, high23));
    }
    // Each half holds pixels (row, row + 2) alternating: gather four pixels of one row, drop the unused
    // fourth bytes.
    const __m256 q01 = _mm256_castsi256_ps(_mm256_packus_epi16(packed[0], packed[1]));
    const __m256 q23 = _mm256_castsi256_ps(_mm256_packus_epi16(packed[2], packed[3]));
    const __m256i rows01 =
        _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_shuffle_ps(q01, q23, 0x88)), squeeze);
    const __m256i rows23 =
        _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_shuffle_ps(q01, q23, 0xdd)), squeeze);
    StoreHalf(out[0] + 3 * x, _mm256_castsi256_si128(rows01));
    StoreHalf(out[1] + 3 * x, _mm256_extracti128_si256(rows01, 1));
    StoreHalf(out[2] + 3 * x, _mm256_castsi256_si128(rows23));
    StoreHalf(out[3] + 3 * x, _mm256_extracti128_si256(rows23, 1));
  }
}

DR_AVX2 void ResizeRowsAny(const uint8_t* const rows[4], const Taps& taps, int32_t width,
                           uint8_t* const out[4]) {
  switch (taps.pairs) {
    case 1:
      return ResizeRows<1>(rows, taps, width, out);
    case 2:
      return ResizeRows<2>(rows, taps, width, out);
    case 3:
      return ResizeRows<3>(rows, taps, width, out);
    case 4:
      return ResizeRows<4>(rows, taps, width, out);
    default:
      return ResizeRows<0>(rows, taps, width, out);
  }
}

template <int kPairs>
DR_AVX2 void ResizeColumn(const uint8_t* const* rows, const TapPair* weight, int32_t any_pairs, int32_t bytes,
                          uint8_t* out) {
  const int32_t pairs = kPairs ? kPairs : any_pairs;
  const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - 1)), zero = _mm256_setzero_si256();
  for (int32_t x = 0; x < bytes; x += 32) {
    __m256i low0 = half, low1 = half, low2 = half, low3 = half;
    __m256i high0 = zero, high1 = zero, high2 = zero, high3 = zero;
    for (int32_t p = 0; p < pairs; ++p) {
      const __m256i a = Load(rows[2 * p] + x), b = Load(rows[2 * p + 1] + x);
      const __m256i low = Broadcast(weight[p].low), high = Broadcast(weight[p].high);
      const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
      const __m256i ab0 = _mm256_unpacklo_epi8(ab_low, zero), ab1 = _mm256_unpackhi_epi8(ab_low, zero);
      const __m256i ab2 = _mm256_unpacklo_epi8(ab_high, zero), ab3 = _mm256_unpackhi_epi8(ab_high, zero);
      low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(ab0, low));
      low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(ab1, low));
      low2 = _mm256_add_epi32(low2, _mm256_madd_epi16(ab2, low));
      low3 = _mm256_add_epi32(low3, _mm256_madd_epi16(ab3, low));
      high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(ab0, high));
      high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(ab1, high));
      high2 = _mm256_add_epi32(high2, _mm256_madd_epi16(ab2, high));
      high3 = _mm256_add_epi32(high3, _mm256_madd_epi16(ab3, high));
    }
    const __m256i words01 = _mm256_packs_epi32(Rounded(low0, high0), Rounded(low1, high1));
    const __m256i words23 = _mm256_packs_epi32(Rounded(low2, high2), Rounded(low3, high3));
    Store(out + x, _mm256_packus_epi16(words01, words23));
  }
}

DR_AVX2 void ResizeColumnAny(const uint8_t* const* rows, const TapPair* weight, int32_t pairs, int32_t bytes,
                             uint8_t* out) {
  switch (pairs) {
    case 1:
      return ResizeColumn<1>(rows, weight, pairs, bytes, out);
    case 2:
      return ResizeColumn<2>(rows, weight, pairs, bytes, out);
    case 3:
      return ResizeColumn<3>(rows, weight, pairs, bytes, out);
    default:
      return ResizeColumn<0>(rows, weight, pairs, bytes, out);
  }
}

// Shuffles that collect one channel of 16 RGB pixels from three 16-byte blocks; [flip][channel][block].
struct SplitMasks {
  alignas(16) int8_t mask[2][3][3][16];
  constexpr SplitMasks() : mask() {
    for (int flip = 0; flip < 2; ++flip) {
      for (int c = 0; c < 3; ++c) {
        for (int block = 0; block < 3; ++block) {
          for (int i = 0; i < 16; ++i) {
            const int byte = 3 * (flip ? 15 - i : i) + c - 16 * block;
            mask[flip][c][block][i] = int8_t(byte >= 0 && byte < 16 ? byte : -1);
          }
        }
      }
    }
  }
};
constexpr SplitMasks kSplitMasks;

DR_AVX2 void SplitRow(const uint8_t* row, int32_t width, bool flip, uint8_t* const planes[3]) {
  const auto& masks = kSplitMasks.mask[flip];
  for (int32_t x = 0; x < width; x += 16) {
    const uint8_t* from = row + 3 * ptrdiff_t(flip ? width - 16 - x : x);
    const __m128i in0 = LoadHalf(from), in1 = LoadHalf(from + 16), in2 = LoadHalf(from + 32);
    for (int c = 0; c < 3; ++c) {
      const __m128i v = _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(in0, LoadHalf(masks[c][0])),
                                                  _mm_shuffle_epi8(in1, LoadHalf(masks[c][1]))),
                                     _mm_shuffle_epi8(in2, LoadHalf(masks[c][2])));
      StoreHalf(planes[c] + x, v);
    }
  }
}

// ---- Operations
// ------------------------------------------------------------------------------------------------

// Sixteen 16-entry tables looked up by the low nibble, then a tree of selections by the four high bits.
DR_AVX2 void Lut(const uint8_t table[256], uint8_t* data, size_t n) {
  __m256i part[16];
  for (int i = 0; i < 16; ++i) part[i] = _mm256_broadcastsi128_si256(LoadHalf(table + 16 * i));
  const __m256i nibble = _mm256_set1_epi8(15);
  for (size_t i = 0; i < n; i += 32) {
    const __m256i v = Load(data + i), index = _mm256_and_si256(v, nibble);
    const __m256i bit4 = _mm256_slli_epi16(v, 3), bit5 = _mm256_slli_epi16(v, 2),
                  bit6 = _mm256_slli_epi16(v, 1);
    __m256i level[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m256i a = _mm256_blendv_epi8(_mm256_shuffle_epi8(part[4 * k], index),
                                           _mm256_shuffle_epi8(part[4 * k + 1], index), bit4);
      const __m256i b = _mm256_blendv_epi8(_mm256_shuffle_epi8(part[4 * k + 2], index),
                                           _mm256_shuffle_epi8(part[4 * k + 3], index), bit4);
      level[k] = _mm256_blendv_epi8(a, b, bit5);
    }
    const __m256i low = _mm256_blendv_epi8(level[0], level[1], bit6);
    const __m256i high = _mm256_blendv_epi8(level[2], level[3], bit6);
    Store(data + i, _mm256_blendv_epi8(low, high, v));
  }
}

DR_AVX2 void Mask(uint8_t bits, uint8_t* data, size_t n) {
  const __m256i mask = _mm256_set1_epi8(char(bits));
  for (size_t i = 0; i < n; i += 32) Store(data + i, _mm256_and_si256(Load(data + i), mask));
}

DR_AVX2 void Solarize(uint8_t threshold, uint8_t* data, size_t n) {
  const __m256i limit = _mm256_set1_epi8(char(threshold));
  for (size_t i = 0; i < n; i += 32) {
    const __m256i v = Load(data + i);
    Store(data + i, _mm256_xor_si256(v, _mm256_cmpeq_epi8(_mm256_max_epu8(v, limit), v)));  // v >= limit
  }
}

DR_AVX2 void MinMax(const uint8_t* data, size_t n, uint8_t* lo, uint8_t* hi) {
  if (n < 32) return kPortableKernels.min_max(data, n, lo, hi);
  __m256i low = Load(data), high = low;
  for (size_t i = 0; i < n; i += 32) {
    const __m256i v = Load(data + (i + 32 <= n ? i : n - 32));  // the last block overlaps
    low = _mm256_min_epu8(low, v);
    high = _mm256_max_epu8(high, v);
  }
  uint8_t lows[32], highs[32], unused;
  Store(lows, low);
  Store(highs, high);
  kPortableKernels.min_max(lows, 32, lo, &unused);
  kPortableKernels.min_max(highs, 32, &unused, hi);
}

// Grey() of 16 pixels given as 16-bit channels, as 32-bit values in the order of unpacklo / unpackhi.
// 38470 does not fit 16 bits; it is split as 19235 + 19235.
DR_AVX2_INLINE void Greys(__m256i r, __m256i g, __m256i b, __m256i* low, __m256i* high) {
  const __m256i rg = _mm256_set1_epi32(19595 | 19235 << 16), gb = _mm256_set1_epi32(19235 | 7471 << 16);
  const __m256i half = _mm256_set1_epi32(0x8000);
  *low = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(r, g), rg),
                          _mm256_madd_epi16(_mm256_unpacklo_epi16(g, b), gb));
  *high = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(r, g), rg),
                           _mm256_madd_epi16(_mm256_unpackhi_epi16(g, b), gb));
  *low = _mm256_srli_epi32(_mm256_add_epi32(*low, half), 16);
  *high = _mm256_srli_epi32(_mm256_add_epi32(*high, half), 16);
}

DR_AVX2_INLINE __m256i Words(const uint8_t* p) { return _mm256_cvtepu8_epi16(LoadHalf(p)); }

DR_AVX2 uint64_t GreySum(const uint8_t* const planes[3], size_t n) {
  constexpr size_t kBlock = size_t{1} << 20;  // pixels whose greys are summed in 32 bits
  uint64_t total = 0;
  size_t i = 0;
  while (i + 16 <= n) {
    __m256i sum = _mm256_setzero_si256();
    for (const size_t end = i + kBlock < n ? i + kBlock : n; i + 16 <= end; i += 16) {
      __m256i low, high;
      Greys(Words(planes[0] + i), Words(planes[1] + i), Words(planes[2] + i), &low, &high);
      sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
    }
    uint32_t sums[8];
    Store(sums, sum);
    for (uint32_t s : sums) total += s;
  }
  const uint8_t* const rest[3] = {planes[0] + i, planes[1] + i, planes[2] + i};
  return total + kPortableKernels.grey_sum(rest, n - i);
}

// Blend() of 8 values. Saturation in the packing that follows does the clamping.
DR_AVX2_INLINE __m256i Blend8(__m256i degenerate, __m256i value, __m256 factor) {
  const __m256 difference = _mm256_cvtepi32_ps(_mm256_sub_epi32(value, degenerate));
  return _mm256_cvttps_epi32(
      _mm256_add_ps(_mm256_cvtepi32_ps(degenerate), _mm256_mul_ps(factor, difference)));
}

// Stores 16 values given in the order of unpacklo / unpackhi, saturated to bytes.
DR_AVX2_INLINE void Store16(uint8_t* p, __m256i low, __m256i high) {
  const __m256i words = _mm256_packs_epi32(low, high);
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
  StoreHalf(p, _mm256_castsi256_si128(bytes));
}

DR_AVX2 void Color(float factor, uint8_t* const planes[3], size_t n) {
  const __m256 f = _mm256_set1_ps(factor);
  const __m256i zero = _mm256_setzero_si256();
  for (size_t i = 0; i < n; i += 16) {
    const __m256i in[3] = {Words(planes[0] + i), Words(planes[1] + i), Words(planes[2] + i)};
    __m256i low, high;
    Greys(in[0], in[1], in[2], &low, &high);
    for (int c = 0; c < 3; ++c) {
      Store16(planes[c] + i, Blend8(low, _mm256_unpacklo_epi16(in[c], zero), f),
              Blend8(high, _mm256_unpackhi_epi16(in[c], zero), f));
    }
  }
}

DR_AVX2 void Sharpness(float factor, const uint8_t* in, int32_t height, int32_t width, uint8_t* out) {
  const __m256 f = _mm256_set1_ps(factor);
  const __m256i zero = _mm256_setzero_si256(), six = _mm256_set1_epi16(6);
  const __m256i inverse = _mm256_set1_epi16(5042);  // (v * 5042) >> 16 == v / 13 for v < 6553
  std::memcpy(out, in, width);
  for (int32_t y = 1; y < height - 1; ++y) {
    const uint8_t* const row = in + size_t(y) * width;
    uint8_t* const to = out + size_t(y) * width;
    for (int32_t x = 1; x < width - 1; x += 16) {
      const uint8_t *above = row - width + x, *below = row + width + x;
      const __m256i middle = Words(row + x);
      __m256i sum = _mm256_add_epi16(_mm256_slli_epi16(middle, 2), middle);
      sum = _mm256_add_epi16(sum, _mm256_add_epi16(Words(row + x - 1), Words(row + x + 1)));
      sum = _mm256_add_epi16(sum, _mm256_add_epi16(Words(above - 1), Words(above + 1)));
      sum = _mm256_add_epi16(sum, _mm256_add_epi16(Words(below - 1), Words(below + 1)));
      sum = _mm256_add_epi16(sum, _mm256_add_epi16(Words(above), Words(below)));
      const __m256i smooth = _mm256_mulhi_epu16(_mm256_add_epi16(sum, six), inverse);
      Store16(to + x, Blend8(_mm256_unpacklo_epi16(smooth, zero), _mm256_unpacklo_epi16(middle, zero), f),
              Blend8(_mm256_unpackhi_epi16(smooth, zero), _mm256_unpackhi_epi16(middle, zero), f));
    }
    to[0] = row[0];  // blocks may have run over both borders
    to[width - 1] = row[width - 1];
  }
  std::memcpy(out + size_t(height - 1) * width, in + size_t(height - 1) * width, width);
}

// Whether the coordinates of all blocks of 16 pixels of a view stay in int32 and move at most one pixel per
// pixel.
bool StepsShort(const Affine& map, int32_t height, int32_t width) {
  const auto one = int64_t{1} << 16, limit = int64_t{1} << 31;
  if (std::abs(int64_t{map.xx}) > one || std::abs(int64_t{map.yx}) > one) return false;
  for (const int64_t x : {int64_t{0}, int64_t{width} + 16}) {
    for (const int64_t y : {int64_t{0}, int64_t{height}}) {
      if (std::abs(map.x0 + x * map.xx + y * map.xy) >= limit ||
          std::abs(map.y0 + x * map.yx + y * map.yy) >= limit) {
        return false;
      }
    }
  }
  return true;
}

// Sixteen neighbours of an output row come from at most 16 columns of at most 16 input rows. Each of these
// rows is loaded once and shuffled into place. Reads up to 16 bytes before a plane.
DR_AVX2 void General(const Affine& map, const uint8_t* const in[3], int32_t height, int32_t width,
                     uint8_t* const out[3]) {
  if (!StepsShort(map, height, width)) return kPortableKernels.affine(map, in, height, width, out);
  const __m256i lane0 = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i lane8 = _mm256_add_epi32(lane0, _mm256_set1_epi32(8));
  const __m256i step_x = _mm256_set1_epi32(map.xx), step_y = _mm256_set1_epi32(map.yx);
  const __m256i x0 = _mm256_mullo_epi32(lane0, step_x), x8 = _mm256_mullo_epi32(lane8, step_x);
  const __m256i y0 = _mm256_mullo_epi32(lane0, step_y), y8 = _mm256_mullo_epi32(lane8, step_y);
  const __m128i ones = _mm_set1_epi8(-1);
  for (int32_t y = 0; y < height; ++y) {
    int32_t fx = FixedX(map, 0, y), fy = FixedY(map, 0, y);
    for (int32_t x = 0; x < width; x += 16, fx += 16 * map.xx, fy += 16 * map.yx) {
      const size_t at = size_t(y) * width + x;
      const int32_t xa = fx >> 16, xb = (fx + 15 * map.xx) >> 16, ya = fy >> 16,
                    yb = (fy + 15 * map.yx) >> 16;
      const int32_t left = xa < xb ? xa : xb, top = ya < yb ? ya : yb, bottom = ya < yb ? yb : ya;
      __m128i result[3] = {};
      if (left > -16 && left < width) {
        // Columns and rows of the 16 pixels, relative to left and top, as bytes in 0..15.
        const __m256i fx_rest = _mm256_set1_epi32(fx - left * 65536),
                      fy_rest = _mm256_set1_epi32(fy - top * 65536);
        const __m256i columns = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(fx_rest, x0), 16),
                                                   _mm256_srai_epi32(_mm256_add_epi32(fx_rest, x8), 16));
        const __m256i rows = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(fy_rest, y0), 16),
                                                _mm256_srai_epi32(_mm256_add_epi32(fy_rest, y8), 16));
        // Packing works within halves, which hold dwords 0..3, 8..11 and 4..7, 12..15.
        const __m256i both = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(columns, rows),
                                                         _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        const __m128i column = _mm256_castsi256_si128(both), row = _mm256_extracti128_si256(both, 1);
        const int32_t low = left < 0 ? -left : 0, high = width - 1 - left < 15 ? width - 1 - left : 15;
        const __m128i outside = _mm_or_si128(_mm_cmpgt_epi8(_mm_set1_epi8(char(low)), column),
                                             _mm_cmpgt_epi8(column, _mm_set1_epi8(char(high))));
        const __m128i index = _mm_or_si128(column, outside);  // a set top bit shuffles in 0
        const int32_t first = top < 0 ? 0 : top, last = bottom < height ? bottom : height - 1;
        for (int32_t r = first; r <= last; ++r) {
          const __m128i here = _mm_cmpeq_epi8(row, _mm_set1_epi8(char(r - top)));
          const __m128i take = _mm_or_si128(index, _mm_xor_si128(here, ones));
          const ptrdiff_t from = ptrdiff_t(r) * width + left;
          for (int c = 0; c < 3; ++c) {
            result[c] = _mm_or_si128(result[c], _mm_shuffle_epi8(LoadHalf(in[c] + from), take));
          }
        }
      }
      for (int c = 0; c < 3; ++c) StoreHalf(out[c] + at, result[c]);
    }
  }
}

// ---- Output
// ----------------------------------------------------------------------------------------------------

// Shuffles that spread 16 values of one channel over three 16-byte blocks of RGB pixels; [block][channel].
struct JoinMasks {
  alignas(16) int8_t mask[3][3][16];
  constexpr JoinMasks() : mask() {
    for (int i = 0; i < 48; ++i) {
      for (int c = 0; c < 3; ++c) mask[i / 16][c][i % 16] = int8_t(i % 3 == c ? i / 3 : -1);
    }
  }
};
constexpr JoinMasks kJoinMasks;

DR_AVX2 void Join(const uint8_t* const planes[3], size_t n, uint8_t* out) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m128i r = LoadHalf(planes[0] + i), g = LoadHalf(planes[1] + i), b = LoadHalf(planes[2] + i);
    for (int block = 0; block < 3; ++block) {
      const auto& mask = kJoinMasks.mask[block];
      const __m128i rg =
          _mm_or_si128(_mm_shuffle_epi8(r, LoadHalf(mask[0])), _mm_shuffle_epi8(g, LoadHalf(mask[1])));
      StoreHalf(out + 3 * i + 16 * block, _mm_or_si128(rg, _mm_shuffle_epi8(b, LoadHalf(mask[2]))));
    }
  }
  const uint8_t* const rest[3] = {planes[0] + i, planes[1] + i, planes[2] + i};
  kPortableKernels.join(rest, n - i, out + 3 * i);
}

DR_AVX2_INLINE __m256 Divide8(__m256 a, __m256 b, __m256 reciprocal) {
  const __m256 q = _mm256_mul_ps(a, reciprocal);
  return _mm256_fmadd_ps(_mm256_fnmadd_ps(b, q, a), reciprocal, q);
}

// Values of 8 bytes by the rule of the channel; see Rule.
struct Line {
  __m256 scale, bias;
};
struct Division {
  __m256 mean, std, inverse_std;
};
DR_AVX2_INLINE __m256 Apply(const Line& r, __m256 v) { return _mm256_fmadd_ps(v, r.scale, r.bias); }
DR_AVX2_INLINE __m256 Apply(const Division& r, __m256 v) {
  const __m256 unit = Divide8(v, _mm256_set1_ps(255.0f), _mm256_set1_ps(1.0f / 255.0f));
  return Divide8(_mm256_sub_ps(unit, r.mean), r.std, r.inverse_std);
}
// How eight values are stored.
struct AsFloat {
  DR_AVX2_INLINE static void Put(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
};
struct AsHalf {
  DR_AVX2_INLINE static void Put(uint16_t* p, __m256 v) {
    StoreHalf(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};
struct AsBfloat {  // see BfloatBits
  DR_AVX2_INLINE static void Put(uint16_t* p, __m256 v) {
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words =
        _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
    StoreHalf(p, _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
};

template <typename As, typename R, typename T>
DR_AVX2_INLINE void FinishBy(const R& rule, const T* table, const uint8_t* in, size_t n, T* out) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m128i bytes = LoadHalf(in + i);
    As::Put(out + i, Apply(rule, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))));
    As::Put(out + i + 8, Apply(rule, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))));
  }
  for (; i < n; ++i) out[i] = table[in[i]];
}

template <typename As, typename T>
DR_AVX2_INLINE void FinishAny(const Channel& c, Rule rule, float scale, float bias, const T* table,
                              const uint8_t* in, size_t n, T* out) {
  if (rule == Rule::kScale) {
    FinishBy<As>(Line{_mm256_set1_ps(scale), _mm256_set1_ps(bias)}, table, in, n, out);
  } else if (rule == Rule::kDivide) {
    FinishBy<As>(Division{_mm256_set1_ps(c.mean), _mm256_set1_ps(c.std), _mm256_set1_ps(c.inverse_std)},
                 table, in, n, out);
  } else {
    for (size_t i = 0; i < n; ++i) out[i] = table[in[i]];
  }
}

DR_AVX2 void FinishFloat(const Channel& c, const uint8_t* in, size_t n, float* out) {
  FinishAny<AsFloat>(c, c.rule, c.scale, c.bias, c.value, in, n, out);
}

template <typename As>
DR_AVX2 void FinishShort(const Channel& c, const uint8_t* in, size_t n, uint16_t* out) {
  FinishAny<As>(c, c.half_rule, c.half_scale, c.half_bias, c.half, in, n, out);
}

DR_AVX2 void RoundHalf(const float* in, size_t n, uint16_t* out) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) AsHalf::Put(out + i, _mm256_loadu_ps(in + i));
  kPortableKernels.round_half(in + i, n - i, out + i);
}

DR_AVX2 void RoundBfloat(const float* in, size_t n, uint16_t* out) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) AsBfloat::Put(out + i, _mm256_loadu_ps(in + i));
  kPortableKernels.round_bfloat(in + i, n - i, out + i);
}

constexpr Kernels kAvx2Kernels = {
    "AVX2",
    ResizeRowsAny,
    ResizeColumnAny,
    SplitRow,
    Lut,
    Mask,
    Solarize,
    MinMax,
    GreySum,
    Color,
    Sharpness,
    General,
    Join,
    FinishFloat,
    FinishShort<AsHalf>,
    FinishShort<AsBfloat>,
    RoundHalf,
    RoundBfloat,
};

}  // namespace

const Kernels* Avx2Kernels() {
  __builtin_cpu_init();
  const bool runs =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return runs ? &kAvx2Kernels : nullptr;
}

}  // namespace dali_dr::image

#else

namespace dali_dr::image {
const Kernels* Avx2Kernels() { return nullptr; }
}  // namespace dali_dr::image

#endif
