// What the AVX2 kernels share, and their list. Internal to this folder; the rest of the library calls them
// through Kernels (kernels.h), where every one is described.
//
// Every function is compiled for AVX2, FMA and F16C by attribute, so that the rest of the library stays
// portable x86-64; Avx2Kernels() checks the CPU.
#ifndef DALI_DR_CSRC_IMAGE_AVX2_AVX2_H_
#define DALI_DR_CSRC_IMAGE_AVX2_AVX2_H_

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define DR_HAS_AVX2 1

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "image/kernels.h"

#define DR_AVX2 __attribute__((target("avx2,fma,f16c")))
#define DR_AVX2_INLINE DR_AVX2 __attribute__((always_inline)) inline

namespace dali_dr::image::avx2 {

DR_AVX2_INLINE __m256i Load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
DR_AVX2_INLINE __m128i LoadHalf(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
DR_AVX2_INLINE void Store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
DR_AVX2_INLINE void StoreHalf(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }

/// 16 bytes of each of two rows.
DR_AVX2_INLINE __m256i LoadTwo(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(LoadHalf(low)), LoadHalf(high), 1);
}

DR_AVX2_INLINE __m256i Broadcast(const int16_t pair[2]) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof bits);
  return _mm256_set1_epi32(bits);
}

/// Weighted sums of one accumulator pair, rounded: ((high << 11) + low) >> 22. `low` starts at half a unit.
DR_AVX2_INLINE __m256i Rounded(__m256i low, __m256i high) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low), kWeightBits);
}

DR_AVX2_INLINE __m256i Words(const uint8_t* p) { return _mm256_cvtepu8_epi16(LoadHalf(p)); }

// taps.cc
void Weigh(const Coordinates& range, int32_t* weight);
bool SplitWeights(const Coordinates& range, const int32_t* weight, uint32_t* bytes, uint8_t* fits);
int32_t GroupWeights(const Coordinates& range, const uint32_t* bytes, const uint8_t* fits, int32_t* offsets,
                     ByteGroup* groups);

// resize.cc
void ResizeRows(const uint8_t* const rows[4], const Taps& taps, int32_t width, uint8_t* const out[4]);
void ResizeColumn(const uint8_t* const* rows, const RowWeights& weights, int32_t bytes, uint8_t* out);
void SplitRow(const uint8_t* row, int32_t width, bool flip, uint8_t* const planes[3]);

// operations.cc
void Lut(const uint8_t table[256], uint8_t* data, size_t n);
void Mask(uint8_t bits, uint8_t* data, size_t n);
void Solarize(uint8_t threshold, uint8_t* data, size_t n);
void MinMax(const uint8_t* data, size_t n, uint8_t* lo, uint8_t* hi);
uint64_t GreySum(const uint8_t* const planes[3], size_t n);
void Color(float factor, uint8_t* const planes[3], size_t n);
void Sharpness(float factor, const uint8_t* in, int32_t height, int32_t width, uint8_t* out);

// hue.cc
void Hue(int32_t shift, uint8_t* const planes[3], size_t n);

// blur.cc
void BlurRows(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out);
void BlurColumns(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out);

// affine.cc
void General(const Affine& map, const uint8_t* const in[3], int32_t height, int32_t width,
             uint8_t* const out[3]);

// output.cc
void Join(const uint8_t* const planes[3], size_t n, uint8_t* out);
void FinishFloat(const Channel& c, const uint8_t* in, size_t n, float* out);
void FinishHalf(const Channel& c, const uint8_t* in, size_t n, uint16_t* out);
void FinishBfloat(const Channel& c, const uint8_t* in, size_t n, uint16_t* out);
void RoundHalf(const float* in, size_t n, uint16_t* out);
void RoundBfloat(const float* in, size_t n, uint16_t* out);

}  // namespace dali_dr::image::avx2

#endif  // x86-64

#endif  // DALI_DR_CSRC_IMAGE_AVX2_AVX2_H_
