// coverage: only with avx2
// The general nearest-neighbour map.
#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2

#include <cstdlib>
#include <initializer_list>

namespace dali_dr::image::avx2 {
namespace {

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

}  // namespace

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

}  // namespace dali_dr::image::avx2

#endif  // DR_HAS_AVX2
