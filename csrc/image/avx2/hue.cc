// coverage: only with avx2
// TurnHue() of eight pixels at a time: its float32 and double operations, lane by lane.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

// Eight values in double, as two halves.
struct Doubles {
  __m256d low, high;
};

DR_AVX2_INLINE Doubles ToDoubles(__m256 v) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}
DR_AVX2_INLINE Doubles All(double v) { return {_mm256_set1_pd(v), _mm256_set1_pd(v)}; }
DR_AVX2_INLINE Doubles Plus(Doubles a, Doubles b) {
  return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
DR_AVX2_INLINE Doubles Minus(Doubles a, Doubles b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
DR_AVX2_INLINE Doubles Times(Doubles a, Doubles b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
DR_AVX2_INLINE __m256i Truncated(Doubles v) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvttpd_epi32(v.low)),
                                 _mm256_cvttpd_epi32(v.high), 1);
}

DR_AVX2_INLINE __m256i Choose(__m256i mask, __m256i then, __m256i otherwise) {
  return _mm256_blendv_epi8(otherwise, then, mask);
}
DR_AVX2_INLINE __m256 Choose(__m256i mask, __m256 then, __m256 otherwise) {
  return _mm256_blendv_ps(otherwise, then, _mm256_castsi256_ps(mask));
}

// ToHsv(). Of greys the hue and the saturation are 0: their numerators are.
DR_AVX2_INLINE void ToHsv8(__m256i r, __m256i g, __m256i b, __m256i* hue, __m256i* saturation,
                           __m256i* value) {
  const __m256i high = _mm256_max_epi32(r, _mm256_max_epi32(g, b)),
                low = _mm256_min_epi32(r, _mm256_min_epi32(g, b));
  const __m256i one = _mm256_set1_epi32(1), spread = _mm256_sub_epi32(high, low);
  const __m256 range = _mm256_cvtepi32_ps(_mm256_max_epi32(spread, one));
  const auto part = [&](__m256i channel) __attribute__((target("avx2,fma,f16c"), always_inline)) {
    return _mm256_div_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(high, channel)), range);
  };
  const __m256 to_r = part(r), to_g = part(g), to_b = part(b);
  const __m256i is_r = _mm256_cmpeq_epi32(r, high), is_g = _mm256_cmpeq_epi32(g, high);
  const __m256 first = Choose(is_r, to_b, Choose(is_g, to_r, to_g));
  const __m256 second = Choose(is_r, to_g, Choose(is_g, to_b, to_r));
  const __m256 sector = Choose(is_r, _mm256_setzero_ps(), Choose(is_g, _mm256_set1_ps(2), _mm256_set1_ps(4)));
  // In the red sector the difference of two floats, which double holds exactly, is rounded once, too.
  const Doubles sum = Minus(Plus(ToDoubles(sector), ToDoubles(first)), ToDoubles(second));
  const Doubles sixths = {_mm256_cvtps_pd(_mm256_cvtpd_ps(sum.low)),
                          _mm256_cvtps_pd(_mm256_cvtpd_ps(sum.high))};
  const __m256d six = _mm256_set1_pd(6), whole = _mm256_set1_pd(1);
  const auto turned = [&](__m256d v) __attribute__((target("avx2,fma,f16c"), always_inline)) {
    const __m256d turn = _mm256_add_pd(_mm256_div_pd(v, six), whole);
    const __m256d over = _mm256_and_pd(_mm256_cmp_pd(turn, whole, _CMP_GE_OQ), whole);
    return _mm256_cvtps_pd(_mm256_cvtpd_ps(_mm256_sub_pd(turn, over)));
  };
  *hue = Truncated(Times(Doubles{turned(sixths.low), turned(sixths.high)}, All(255)));
  const __m256 share =
      _mm256_div_ps(_mm256_cvtepi32_ps(spread), _mm256_cvtepi32_ps(_mm256_max_epi32(high, one)));
  *saturation = Truncated(Times(ToDoubles(share), All(255)));
  *value = high;
}

// What FromHsv() makes of the hue and of the saturation alone.
struct HsvTables {
  int32_t sector[256];
  float part[256], saturation[256];

  HsvTables() {
    for (int v = 0; v < 256; ++v) {
      const double sixths = Mul(double(v), 6.0) / 255.0;
      sector[v] = int32_t(sixths) % 6;
      part[v] = float(Add(sixths, -double(int32_t(sixths))));
      saturation[v] = float(double(v) / 255.0);
    }
  }
};

// FromHsv(). With saturation 0 all levels are the value, as there.
DR_AVX2_INLINE void FromHsv8(const HsvTables& tables, __m256i hue, __m256i saturation, __m256i value,
                             __m256i out[3]) {
  const __m256i sector = _mm256_i32gather_epi32(tables.sector, hue, 4);
  const __m256 part = _mm256_i32gather_ps(tables.part, hue, 4);
  const __m256 share = _mm256_i32gather_ps(tables.saturation, saturation, 4);
  const Doubles v = ToDoubles(_mm256_cvtepi32_ps(value)), one = All(1), half = All(0.5);
  const auto level = [&](Doubles taken) __attribute__((target("avx2,fma,f16c"), always_inline)) {
    return Truncated(Plus(Times(v, Minus(one, taken)), half));
  };
  const __m256i p = level(ToDoubles(share)), q = level(ToDoubles(_mm256_mul_ps(share, part)));
  const __m256i t = level(Times(ToDoubles(share), Minus(one, ToDoubles(part))));
  const auto is = [&](int n) __attribute__((target("avx2,fma,f16c"), always_inline)) {
    return _mm256_cmpeq_epi32(sector, _mm256_set1_epi32(n));
  };
  const __m256i is0 = is(0), is1 = is(1), is2 = is(2), is3 = is(3), is4 = is(4), is5 = is(5);
  const auto either = [&](__m256i a, __m256i b) __attribute__((target("avx2,fma,f16c"), always_inline)) {
    return _mm256_or_si256(a, b);
  };
  out[0] = Choose(either(is0, is5), value, Choose(is1, q, Choose(is4, t, p)));
  out[1] = Choose(either(is1, is2), value, Choose(is0, t, Choose(is3, q, p)));
  out[2] = Choose(either(is3, is4), value, Choose(is2, t, Choose(is5, q, p)));
}

DR_AVX2_INLINE void StoreEight(uint8_t* to, __m256i v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}

DR_AVX2_INLINE __m256i LoadEight(const uint8_t* from) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

}  // namespace

DR_AVX2 void Hue(int32_t shift, uint8_t* const planes[3], size_t n) {
  static const HsvTables tables;
  const __m256i add = _mm256_set1_epi32(shift), byte = _mm256_set1_epi32(255);
  for (size_t i = 0; i < n; i += 8) {  // what lies behind the planes is turned along
    __m256i hue, saturation, value, out[3];
    ToHsv8(LoadEight(planes[0] + i), LoadEight(planes[1] + i), LoadEight(planes[2] + i), &hue, &saturation,
           &value);
    FromHsv8(tables, _mm256_and_si256(_mm256_add_epi32(hue, add), byte), saturation, value, out);
    for (int c = 0; c < 3; ++c) StoreEight(planes[c] + i, out[c]);
  }
}

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
