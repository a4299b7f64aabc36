// coverage: only with avx2
// From planes of levels to output values.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

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
struct AsStream {  // past the caches; p is aligned to 32 bytes
  DR_AVX2_INLINE static void Put(float* p, __m256 v) { _mm256_stream_ps(p, v); }
};
// From so many values on they are not read back soon: a view's plane, and no line of one that is being mixed.
constexpr size_t kStreamed = 4096;
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

}  // namespace

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

DR_AVX2 void FinishFloat(const Channel& c, const uint8_t* in, size_t n, float* out) {
  if (n < kStreamed) return FinishAny<AsFloat>(c, c.rule, c.scale, c.bias, c.value, in, n, out);
  for (; (uintptr_t(out) & 31) != 0; --n) *out++ = c.value[*in++];
  FinishAny<AsStream>(c, c.rule, c.scale, c.bias, c.value, in, n, out);
  _mm_sfence();
}

DR_AVX2 void FinishHalf(const Channel& c, const uint8_t* in, size_t n, uint16_t* out) {
  FinishAny<AsHalf>(c, c.half_rule, c.half_scale, c.half_bias, c.half, in, n, out);
}

DR_AVX2 void FinishBfloat(const Channel& c, const uint8_t* in, size_t n, uint16_t* out) {
  FinishAny<AsBfloat>(c, c.half_rule, c.half_scale, c.half_bias, c.half, in, n, out);
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

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
