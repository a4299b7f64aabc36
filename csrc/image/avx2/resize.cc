// coverage: only with avx2
// Resizing of rows and columns, and the split of rows into planes.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

// Sums of 16 values as in BytePair: first + 128 is the rounded byte.
struct ByteSums {
  __m256i top, middle, bottom;
  DR_AVX2_INLINE __m256i Rounded() const {
    const __m256i rest = _mm256_add_epi16(middle, _mm256_srai_epi16(bottom, kByteBits));
    const __m256i sum = _mm256_add_epi16(top, _mm256_srai_epi16(rest, kByteBits));
    return _mm256_mulhrs_epi16(sum, _mm256_set1_epi16(128));  // (sum + 128) >> 8
  }
};

// Pixels less 128, as signed bytes; and back.
DR_AVX2_INLINE __m256i FlipTop(__m256i bytes) { return _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)); }

// Adds the pairs of pixels, one beside the other, times the weights.
template <bool kFirst>
DR_AVX2_INLINE void AddPairs(__m256i pixels, __m256i top, __m256i middle, __m256i bottom, ByteSums* sums) {
  const __m256i t = _mm256_maddubs_epi16(top, FlipTop(pixels)), m = _mm256_maddubs_epi16(pixels, middle),
                b = _mm256_maddubs_epi16(pixels, bottom);
  if (kFirst) {
    *sums = {t, m, b};
  } else {
    *sums = {_mm256_add_epi16(sums->top, t), _mm256_add_epi16(sums->middle, m),
             _mm256_add_epi16(sums->bottom, b)};
  }
}

// Four output pixels of one row, less 128: the first two in the lower half, six 16-bit values and two unused
// ones, and the second two in the upper.
template <int kPairs>
DR_AVX2_INLINE __m256i FourPixels(const uint8_t* left, const uint8_t* right, const ByteGroup* group) {
  const __m256i shuffle = Load(group[0].byte);
  ByteSums sums;
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; ++p) {
    const __m256i pixels = _mm256_shuffle_epi8(LoadTwo(left + 6 * p, right + 6 * p), shuffle);
    const __m256i top = Load(group[3 * p + 1].byte), middle = Load(group[3 * p + 2].byte),
                  bottom = Load(group[3 * p + 3].byte);
    p == 0 ? AddPairs<true>(pixels, top, middle, bottom, &sums)
           : AddPairs<false>(pixels, top, middle, bottom, &sums);
  }
  return sums.Rounded();
}

// Stores 6 bytes from either half of a register, and two that the next ones overwrite.
DR_AVX2_INLINE void StoreSixes(uint8_t* row, uint8_t* other_row, __m256i bytes) {
  const __m128i left = _mm256_castsi256_si128(bytes), right = _mm256_extracti128_si256(bytes, 1);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(row), left);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(row + 6), right);
  _mm_storeh_pi(reinterpret_cast<__m64*>(other_row), _mm_castsi128_ps(left));
  _mm_storeh_pi(reinterpret_cast<__m64*>(other_row + 6), _mm_castsi128_ps(right));
}

// Four output pixels from x on of four rows, to out[] and four bytes more. kPairs == 0: any number of pairs.
template <int kPairs>
DR_AVX2_INLINE void FourByPairs(const uint8_t* const rows[4], const Taps& taps, int32_t x,
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
  const __m256i rows01 = _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_shuffle_ps(q01, q23, 0x88)), squeeze);
  const __m256i rows23 = _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_shuffle_ps(q01, q23, 0xdd)), squeeze);
  StoreHalf(out[0], _mm256_castsi256_si128(rows01));
  StoreHalf(out[1], _mm256_extracti128_si256(rows01, 1));
  StoreHalf(out[2], _mm256_castsi256_si128(rows23));
  StoreHalf(out[3], _mm256_extracti128_si256(rows23, 1));
}

template <int kPairs>
DR_AVX2 void ResizeRowsBy(const uint8_t* const rows[4], const Taps taps, int32_t width,
                          uint8_t* const out[4]) {
  if (kPairs == 0 || !taps.offsets) {
    for (int32_t x = 0; x < width; x += kTapGroup) {
      uint8_t* const to[4] = {out[0] + 3 * x, out[1] + 3 * x, out[2] + 3 * x, out[3] + 3 * x};
      FourByPairs<kPairs>(rows, taps, x, to);
    }
    return;
  }
  // Two rows at a time, so that their addresses and the weights stay in registers.
  for (int r = 0; r < 4; r += 2) {
    const uint8_t *const first = rows[r], *const second = rows[r + 1];
    uint8_t *to = out[r], *other = out[r + 1];
    const int32_t* offsets = taps.offsets;
    const ByteGroup* group = taps.groups;
    for (int32_t x = 0; x < width; x += kTapGroup) {
      const int32_t left = offsets[0], right = offsets[1];
      if (left >= 0) {
        StoreSixes(to, other,
                   FlipTop(_mm256_packs_epi16(FourPixels<kPairs>(first + left, first + right, group),
                                              FourPixels<kPairs>(second + left, second + right, group))));
      }
      offsets += 2;
      group += 1 + 3 * kPairs;
      to += 3 * kTapGroup;
      other += 3 * kTapGroup;
    }
  }
  for (int32_t x = 0, left = taps.wide_groups; left > 0; x += kTapGroup) {
    if (taps.offsets[x / 2] >= 0) continue;
    --left;
    uint8_t pixels[4][16];
    uint8_t* const to[4] = {pixels[0], pixels[1], pixels[2], pixels[3]};
    FourByPairs<kPairs>(rows, taps, x, to);
    for (int r = 0; r < 4; ++r)
      std::memcpy(out[r] + 3 * x, pixels[r], 3 * kTapGroup);  // and nothing past them
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

// By weights of bytes.
template <int kPairs>
DR_AVX2 void ResizeColumnByBytes(const uint8_t* const* rows, const RowWeights& weights, int32_t bytes,
                                 uint8_t* out) {
  __m256i top[kPairs], middle[kPairs], bottom[kPairs];
  for (int p = 0; p < kPairs; ++p) {
    const uint32_t* const of_pair = weights.bytes + 3 * p * size_t(weights.stride);
    top[p] = _mm256_set1_epi16(int16_t(of_pair[0]));
    middle[p] = _mm256_set1_epi16(int16_t(of_pair[weights.stride]));
    bottom[p] = _mm256_set1_epi16(int16_t(of_pair[2 * size_t(weights.stride)]));
  }
  for (int32_t x = 0; x < bytes; x += 32) {
    ByteSums low, high;
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
      const __m256i a = Load(rows[2 * p] + x), b = Load(rows[2 * p + 1] + x);
      const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
      if (p == 0) {
        AddPairs<true>(ab_low, top[p], middle[p], bottom[p], &low);
        AddPairs<true>(ab_high, top[p], middle[p], bottom[p], &high);
      } else {
        AddPairs<false>(ab_low, top[p], middle[p], bottom[p], &low);
        AddPairs<false>(ab_high, top[p], middle[p], bottom[p], &high);
      }
    }
    Store(out + x, FlipTop(_mm256_packs_epi16(low.Rounded(), high.Rounded())));
  }
}

// Shuffles that collect one channel of 16 RGB pixels from three 16-byte blocks; [flip][channel][block], the
// same in both halves.
struct SplitMasks {
  alignas(32) int8_t mask[2][3][3][32];
  constexpr SplitMasks() : mask() {
    for (int flip = 0; flip < 2; ++flip) {
      for (int c = 0; c < 3; ++c) {
        for (int block = 0; block < 3; ++block) {
          for (int i = 0; i < 32; ++i) {
            const int byte = 3 * (flip ? 15 - i % 16 : i % 16) + c - 16 * block;
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

DR_AVX2 void ResizeColumn(const uint8_t* const* rows, const RowWeights& weights, int32_t bytes,
                          uint8_t* out) {
  const int32_t pairs = weights.pairs;
  if (weights.bytes) {
    switch (pairs) {
      case 1:
        return ResizeColumnByBytes<1>(rows, weights, bytes, out);
      case 2:
        return ResizeColumnByBytes<2>(rows, weights, bytes, out);
      case 3:
        return ResizeColumnByBytes<3>(rows, weights, bytes, out);
      case 4:
        return ResizeColumnByBytes<4>(rows, weights, bytes, out);
    }
  }
  switch (pairs) {
    case 1:
      return ResizeColumnBy<1>(rows, weights.weight, pairs, bytes, out);
    case 2:
      return ResizeColumnBy<2>(rows, weights.weight, pairs, bytes, out);
    case 3:
      return ResizeColumnBy<3>(rows, weights.weight, pairs, bytes, out);
    default:
      return ResizeColumnBy<0>(rows, weights.weight, pairs, bytes, out);
  }
}

DR_AVX2 void SplitRow(const uint8_t* row, int32_t width, bool flip, uint8_t* const planes[3]) {
  const auto& masks = kSplitMasks.mask[flip];
  uint8_t* const to[3] = {planes[0], planes[1], planes[2]};
  for (int32_t x = 0; x < width; x += 32) {
    // The second 16 pixels lie behind the first, or before them. Past the row's end the first are read twice.
    const uint8_t* const first = row + 3 * ptrdiff_t(flip ? width - 16 - x : x);
    const uint8_t* const second = x + 16 < width ? first + (flip ? -48 : 48) : first;
    const __m256i in0 = LoadTwo(first, second), in1 = LoadTwo(first + 16, second + 16),
                  in2 = LoadTwo(first + 32, second + 32);
#pragma GCC unroll 3
    for (int c = 0; c < 3; ++c) {
      const __m256i v = _mm256_or_si256(_mm256_or_si256(_mm256_shuffle_epi8(in0, Load(masks[c][0])),
                                                        _mm256_shuffle_epi8(in1, Load(masks[c][1]))),
                                        _mm256_shuffle_epi8(in2, Load(masks[c][2])));
      Store(to[c] + x, v);
    }
  }
}

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
