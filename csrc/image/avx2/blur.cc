// coverage: only with avx2
// Passes of a blur. Sums are over at most 2 * kMostRadius + 1 pixels, so that they fit 16 bits.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

namespace dali_dr::image::avx2 {
namespace {

constexpr int32_t kBlock = 16;  // pixels of a vector of words
// Above, running sums of the portable form are no slower along rows, and along columns they might overflow.
constexpr int32_t kMostRadius = 8;
static_assert((2 * kMostRadius + 1) * 255 < 1 << 16);

// Boxed() of 8 values.
DR_AVX2_INLINE __m256i Boxed8(__m256i inner, __m256i ends, __m256i weight, __m256i edge) {
  const __m256i sum = _mm256_add_epi32(_mm256_mullo_epi32(inner, weight), _mm256_mullo_epi32(ends, edge));
  return _mm256_srli_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 23)), 24);
}

// Boxed() of 16 words, to bytes.
DR_AVX2_INLINE void Store16Boxed(uint8_t* to, __m256i inner, __m256i ends, __m256i weight, __m256i edge) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i low =
      Boxed8(_mm256_unpacklo_epi16(inner, zero), _mm256_unpacklo_epi16(ends, zero), weight, edge);
  const __m256i high =
      Boxed8(_mm256_unpackhi_epi16(inner, zero), _mm256_unpackhi_epi16(ends, zero), weight, edge);
  const __m256i words = _mm256_packs_epi32(low, high);
  StoreHalf(to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08)));
}

}  // namespace

DR_AVX2 void BlurRows(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out) {
  const int32_t radius = box.radius, begin = radius + 1, end = width - radius - 1;  // windows inside the row
  if (radius > kMostRadius || end - begin < kBlock)
    return kPortableKernels.blur_rows(box, in, height, width, out);
  const __m256i weight = _mm256_set1_epi32(int32_t(box.weight)), edge = _mm256_set1_epi32(int32_t(box.edge));
  for (int32_t y = 0; y < height; ++y) {
    const uint8_t* const line = in + size_t(y) * width;
    uint8_t* const to = out + size_t(y) * width;
    for (int32_t x = 0; x < begin; ++x) to[x] = BoxedAt(line, 1, width, x, box);
    for (int32_t next = begin; next < end; next += kBlock) {
      const int32_t x = next + kBlock <= end ? next : end - kBlock;  // the last block overlaps
      __m256i sum = Words(line + x);
      for (int32_t i = 1; i <= radius; ++i)
        sum = _mm256_add_epi16(sum, _mm256_add_epi16(Words(line + x - i), Words(line + x + i)));
      const __m256i ends = _mm256_add_epi16(Words(line + x - begin), Words(line + x + begin));
      Store16Boxed(to + x, sum, ends, weight, edge);
    }
    for (int32_t x = end; x < width; ++x) to[x] = BoxedAt(line, 1, width, x, box);
  }
}

DR_AVX2 void BlurColumns(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out) {
  const int32_t radius = box.radius, last = height - 1;
  if (radius > kMostRadius || width < kBlock)
    return kPortableKernels.blur_columns(box, in, height, width, out);
  const __m256i weight = _mm256_set1_epi32(int32_t(box.weight)), edge = _mm256_set1_epi32(int32_t(box.edge));
  for (int32_t y = 0; y < height; ++y) {
    const uint8_t* rows[2 * kMostRadius + 3];  // of the window, with its ends
    for (int32_t i = 0; i < 2 * radius + 3; ++i) {
      const int32_t at = y - radius - 1 + i;
      rows[i] = in + size_t(at < 0 ? 0 : at > last ? last : at) * width;
    }
    for (int32_t next = 0; next < width; next += kBlock) {
      const int32_t x = next + kBlock <= width ? next : width - kBlock;
      __m256i sum = _mm256_setzero_si256();
      for (int32_t i = 1; i < 2 * radius + 2; ++i) sum = _mm256_add_epi16(sum, Words(rows[i] + x));
      const __m256i ends = _mm256_add_epi16(Words(rows[0] + x), Words(rows[2 * radius + 2] + x));
      Store16Boxed(out + size_t(y) * width + x, sum, ends, weight, edge);
    }
  }
}

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
