// coverage: only with avx2
// Operations on planes of pixels.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

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

}  // namespace

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

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
