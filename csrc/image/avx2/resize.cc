// coverage: only with avx2
// Resizing of rows and columns, and the split of rows into planes.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

// kPairs == 0: any number of pairs.
template <int kPairs>
DR_AVX2 void ResizeRowsBy(const uint8_t* const rows[4], const Taps& taps, int32_t width,
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

template <int kPairs>
DR_AVX2 void ResizeColumnBy(const uint8_t* const* rows, const TapPair* weight, int32_t any_pairs,
                            int32_t bytes, uint8_t* out) {
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

}  // namespace

DR_AVX2 void ResizeRows(const uint8_t* const rows[4], const Taps& taps, int32_t width,
                        uint8_t* const out[4]) {
  switch (taps.pairs) {
    case 1:
      return ResizeRowsBy<1>(rows, taps, width, out);
    case 2:
      return ResizeRowsBy<2>(rows, taps, width, out);
    case 3:
      return ResizeRowsBy<3>(rows, taps, width, out);
    case 4:
      return ResizeRowsBy<4>(rows, taps, width, out);
    default:
      return ResizeRowsBy<0>(rows, taps, width, out);
  }
}

DR_AVX2 void ResizeColumn(const uint8_t* const* rows, const TapPair* weight, int32_t pairs, int32_t bytes,
                          uint8_t* out) {
  switch (pairs) {
    case 1:
      return ResizeColumnBy<1>(rows, weight, pairs, bytes, out);
    case 2:
      return ResizeColumnBy<2>(rows, weight, pairs, bytes, out);
    case 3:
      return ResizeColumnBy<3>(rows, weight, pairs, bytes, out);
    default:
      return ResizeColumnBy<0>(rows, weight, pairs, bytes, out);
  }
}

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

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
