// coverage: only with avx2
// Weights of a resize, several output coordinates at a time, and their forms for 8-bit multiplications.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

DR_AVX2_INLINE __m128i LoadFour(const int32_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

// Of the weights of eight coordinates.
struct Split {
  __m256i part[2 * kMaxBytePairs], rest[2 * kMaxBytePairs];
};

// value = (part << kShift) + rest, where rests of both signs cancel as far as they can: as many of the
// largest as needed are made negative. No part becomes larger than `most`.
template <int kSlots, int kShift>
DR_AVX2_INLINE void SplitEvenly(const __m256i value[kSlots], int most, Split* out) {
  const __m256i unit = _mm256_set1_epi32(1 << kShift), one = _mm256_set1_epi32(1);
  __m256i sum = _mm256_set1_epi32(1 << (kShift - 1)), key[kSlots], rank[kSlots];
#pragma GCC unroll 8
  for (int i = 0; i < kSlots; ++i) {
    out->part[i] = _mm256_srai_epi32(value[i], kShift);
    out->rest[i] = _mm256_and_si256(value[i], _mm256_sub_epi32(unit, one));
    sum = _mm256_add_epi32(sum, out->rest[i]);
    const __m256i full = _mm256_cmpgt_epi32(out->part[i], _mm256_set1_epi32(most - 1));
    key[i] = _mm256_or_si256(out->rest[i], full);  // -1: never
    rank[i] = _mm256_setzero_si256();
  }
  // The rank of a slot: how many others come before it. Of equal ones the first does.
#pragma GCC unroll 8
  for (int i = 1; i < kSlots; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < i; ++j) {
      const __m256i later = _mm256_cmpgt_epi32(key[i], key[j]);  // -1: i comes before j
      rank[j] = _mm256_sub_epi32(rank[j], later);
      rank[i] = _mm256_add_epi32(rank[i], _mm256_add_epi32(one, later));
    }
  }
  const __m256i times = _mm256_srai_epi32(sum, kShift);
#pragma GCC unroll 8
  for (int i = 0; i < kSlots; ++i) {
    const __m256i taken = _mm256_and_si256(_mm256_cmpgt_epi32(times, rank[i]),
                                           _mm256_cmpgt_epi32(key[i], _mm256_set1_epi32(-1)));
    out->part[i] = _mm256_sub_epi32(out->part[i], taken);
    out->rest[i] = _mm256_sub_epi32(out->rest[i], _mm256_and_si256(taken, unit));
  }
}

// Whether sums of pixels (0 to 255) times these always lie in -32768 * kUnit .. 32768 * kUnit - 1.
template <int kSlots, int kUnit>
DR_AVX2_INLINE __m256i SumsFit(const __m256i value[kSlots]) {
  constexpr int kAbove = (32768 * kUnit - 1) / 255, kBelow = 32768 * kUnit / 255;
  __m256i above = _mm256_setzero_si256(), below = above;
#pragma GCC unroll 8
  for (int i = 0; i < kSlots; ++i) {
    above = _mm256_add_epi32(above, _mm256_max_epi32(value[i], _mm256_setzero_si256()));
    below = _mm256_add_epi32(below, _mm256_min_epi32(value[i], _mm256_setzero_si256()));
  }
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(above, _mm256_set1_epi32(kAbove)),
                             _mm256_cmpgt_epi32(below, _mm256_set1_epi32(-kBelow - 1)));
}

// Two neighbours as the low bytes of 32 bits.
DR_AVX2_INLINE void StorePair(uint32_t* to, const __m256i value[2]) {
  const __m256i byte = _mm256_set1_epi32(255);
  Store(to, _mm256_or_si256(_mm256_and_si256(value[0], byte),
                            _mm256_slli_epi32(_mm256_and_si256(value[1], byte), 8)));
}

template <int kSlots>
DR_AVX2 bool SplitBy(const Coordinates& range, const int32_t* weight, uint32_t* bytes, uint8_t* fits) {
  const size_t stride = range.stride;
  const __m256i zero = _mm256_setzero_si256(), single = _mm256_set1_epi32(1 << kWeightBits);
  bool all = true;
  for (int32_t x = 0; x < range.stride; x += 8) {
    __m256i value[kSlots], tops = zero;
#pragma GCC unroll 8
    for (int i = 0; i < kSlots; ++i) {
      value[i] = Load(weight + i * stride + x);
      // A single pixel: one less gives the same rounded byte, and a top of 255 instead of 256.
      value[i] = _mm256_add_epi32(value[i], _mm256_cmpeq_epi32(value[i], single));
    }
    Split high, low;
    SplitEvenly<kSlots, 2 * kByteBits>(value, 255, &high);
    SplitEvenly<kSlots, kByteBits>(high.rest, 127, &low);
    __m256i outside = zero;
#pragma GCC unroll 8
    for (int i = 0; i < kSlots; ++i) {
      tops = _mm256_add_epi32(tops, high.part[i]);
      outside = _mm256_or_si256(outside, _mm256_cmpgt_epi32(high.part[i], _mm256_set1_epi32(255)));
    }
    __m256i good = _mm256_andnot_si256(outside, _mm256_cmpeq_epi32(tops, _mm256_set1_epi32(256)));
    good = _mm256_and_si256(good, SumsFit<kSlots, 1>(low.part));
    good = _mm256_and_si256(good, SumsFit<kSlots, 1>(low.rest));
    good = _mm256_and_si256(good, SumsFit<kSlots, 1 << kByteBits>(high.rest));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(good), _mm256_extracti128_si256(good, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(fits + x), _mm_packs_epi16(words, words));
    const int beyond = x + 8 > range.count ? 0xff << (range.count - x) : 0;
    all &= ((_mm256_movemask_ps(_mm256_castsi256_ps(good)) | beyond) & 0xff) == 0xff;
#pragma GCC unroll 4
    for (int p = 0; p < kSlots / 2; ++p) {
      uint32_t* const to = bytes + 3 * p * stride + x;
      StorePair(to, high.part + 2 * p);
      StorePair(to + stride, low.part + 2 * p);
      StorePair(to + 2 * stride, low.rest + 2 * p);
    }
  }
  return all;
}

}  // namespace

// FixedWeights() of four coordinates at a time, in the order of its sums: what a window does not have adds 0.
DR_AVX2 void Weigh(const Coordinates& range, int32_t* weight) {
  const Axis& axis = *range.axis;
  if (axis.filter != Filter::kBilinear) return kPortableKernels.weigh(range, weight);
  const __m256d half = _mm256_set1_pd(0.5), one = _mm256_set1_pd(1.0), zero = _mm256_setzero_pd();
  const __m256d support = _mm256_set1_pd(axis.support), sign = _mm256_set1_pd(-0.0);
  for (int32_t x = 0; x < range.stride; x += 4) {
    const __m128i number = _mm_add_epi32(_mm_set1_epi32(range.first + x), _mm_setr_epi32(0, 1, 2, 3));
    const __m256d center =
        _mm256_mul_pd(_mm256_add_pd(_mm256_cvtepi32_pd(number), half), _mm256_set1_pd(axis.scale));
    const __m128i begin = _mm_max_epi32(
        _mm256_cvttpd_epi32(_mm256_add_pd(_mm256_sub_pd(center, support), half)), _mm_setzero_si128());
    const __m128i end = _mm_min_epi32(
        _mm256_cvttpd_epi32(_mm256_add_pd(_mm256_add_pd(center, support), half)), _mm_set1_epi32(axis.in));
    const __m128i start = LoadFour(range.start + x);
    const auto raw = [&](int32_t slot) __attribute__((target("avx2,fma,f16c"), always_inline)) {
      const __m128i pixel = _mm_add_epi32(start, _mm_set1_epi32(slot));
      const __m128i inside = _mm_andnot_si128(_mm_cmpgt_epi32(begin, pixel), _mm_cmpgt_epi32(end, pixel));
      const __m256d at = _mm256_add_pd(_mm256_sub_pd(_mm256_cvtepi32_pd(pixel), center), half);
      const __m256d distance = _mm256_andnot_pd(sign, _mm256_mul_pd(at, _mm256_set1_pd(axis.inverse_scale)));
      const __m256d value = _mm256_max_pd(_mm256_sub_pd(one, distance), zero);
      return _mm256_and_pd(value, _mm256_castsi256_pd(_mm256_cvtepi32_epi64(inside)));
    };
    __m256d sum = zero;
    for (int32_t i = 0; i < range.slots; ++i) sum = _mm256_add_pd(sum, raw(i));
    const __m256d nothing = _mm256_cmp_pd(sum, zero, _CMP_EQ_OQ);
    sum = _mm256_blendv_pd(sum, one, nothing);
    for (int32_t i = 0; i < range.slots; ++i) {
      const __m256d scaled =
          _mm256_mul_pd(_mm256_div_pd(raw(i), sum), _mm256_set1_pd(double(1 << kWeightBits)));
      StoreHalf(weight + i * size_t(range.stride) + x, _mm256_cvttpd_epi32(_mm256_add_pd(scaled, half)));
    }
  }
}

DR_AVX2 bool SplitWeights(const Coordinates& range, const int32_t* weight, uint32_t* bytes, uint8_t* fits) {
  static_assert(kMaxBytePairs == 4);
  switch (range.slots) {
    case 2:
      return SplitBy<2>(range, weight, bytes, fits);
    case 4:
      return SplitBy<4>(range, weight, bytes, fits);
    case 6:
      return SplitBy<6>(range, weight, bytes, fits);
    default:
      return SplitBy<8>(range, weight, bytes, fits);
  }
}

DR_AVX2 int32_t GroupWeights(const Coordinates& range, const uint32_t* bytes, const uint8_t* fits,
                             int32_t* offsets, ByteGroup* groups) {
  const int32_t registers = 3 * (range.slots / 2);
  int32_t wide = 0;
  // Of four coordinates' 32 bits: the low 16 of the first, three times, and of the second; of the others.
  const __m256i thrice = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, -1, -1, -1, -1,  //
                                          8, 9, 8, 9, 8, 9, 12, 13, 12, 13, 12, 13, -1, -1, -1, -1);
  for (int32_t x = 0; x < range.stride; x += kTapGroup) {
    const int32_t* const start = range.start + x;
    const int32_t left = 3 * (start[1] - start[0]), right = 3 * (start[3] - start[2]);
    const uint8_t* const good = fits + x;
    bool fit = left >= 0 && left <= 10 && right >= 0 && right <= 10;  // else not in 16 bytes
    for (int i = 0; i < kTapGroup; ++i) fit &= good[i] || x + i >= range.count;
    wide += !fit;
    *offsets++ = fit ? 3 * start[0] : -1;
    *offsets++ = 3 * start[2];
    const char l = char(left), r = char(right);
    Store(groups++,
          _mm256_setr_epi8(0, 3, 1, 4, 2, 5, l, l + 3, l + 1, l + 4, l + 2, l + 5, -1, -1, -1, -1,  //
                           0, 3, 1, 4, 2, 5, r, r + 3, r + 1, r + 4, r + 2, r + 5, -1, -1, -1, -1));
    for (int32_t i = 0; i < registers; ++i) {
      const __m256i four = _mm256_broadcastsi128_si256(LoadHalf(bytes + i * size_t(range.stride) + x));
      Store(groups++, _mm256_shuffle_epi8(four, thrice));
    }
  }
  return wide;
}

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
