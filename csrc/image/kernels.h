// The inner loops of the CPU path, in a portable and an AVX2 form that give the same bits.
// Internal to csrc/image; replay.cc strings them together.
#ifndef DALI_DR_CSRC_IMAGE_KERNELS_H_
#define DALI_DR_CSRC_IMAGE_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "image/pixel.h"

namespace dali_dr::image {

/// Kernels may read and write up to this many bytes past the end of every buffer, unless they say otherwise.
constexpr int kPad = 64;

/// The weights of two neighbouring taps, each split into weight = high * 2^11 + low, which fit 16-bit
/// multiplications.
struct TapPair {
  int16_t low[2], high[2];
};
constexpr int kLowBits = 11;

/// The weights of one axis. Every output coordinate has the same number of pairs; unused taps weigh 0.
/// The tables are padded to a multiple of 4 coordinates.
struct Taps {
  const int32_t* start;   ///< first tap of each output coordinate
  const TapPair* weight;  ///< [coordinate][pair]
  int32_t pairs;
};

/// How normalised values are computed without a table look-up, where that gives every one of the 256 table
/// entries.
enum class Rule : int32_t {
  kTable,   ///< look up
  kScale,   ///< fma(v, scale, bias)
  kDivide,  ///< the two divisions as products with reciprocals and one fused correction each
};

/// One channel's map from uint8 to the output.
struct Channel {
  float value[256];    ///< the reference; see Normalise()
  uint16_t half[256];  ///< ShortBits(value), of float16 unless the output is bfloat16
  Rule rule, half_rule;
  float scale, bias;            ///< of kScale for float32
  float half_scale, half_bias;  ///< of kScale for 16 bits
  float mean, std, inverse_std;
};

struct Kernels {
  const char* name;
  /// Resizes four interleaved RGB rows horizontally; rows hold 3 * (start + 2 * pairs) bytes (+ pad), out 3 *
  /// width.
  void (*resize_rows)(const uint8_t* const rows[4], const Taps& taps, int32_t width, uint8_t* const out[4]);
  /// Weighted sum of 2 * pairs rows of `bytes` bytes.
  void (*resize_column)(const uint8_t* const* rows, const TapPair* weight, int32_t pairs, int32_t bytes,
                        uint8_t* out);
  /// Splits an interleaved RGB row into planes, reversed if `flip`. Reads up to kPad bytes before the row.
  void (*split_row)(const uint8_t* row, int32_t width, bool flip, uint8_t* const planes[3]);
  void (*lut)(const uint8_t table[256], uint8_t* data, size_t n);
  void (*mask)(uint8_t bits, uint8_t* data, size_t n);
  void (*solarize)(uint8_t threshold, uint8_t* data, size_t n);
  void (*min_max)(const uint8_t* data, size_t n, uint8_t* lo, uint8_t* hi);
  uint64_t (*grey_sum)(const uint8_t* const planes[3], size_t n);
  void (*color)(float factor, uint8_t* const planes[3], size_t n);
  void (*sharpness)(float factor, const uint8_t* in, int32_t height, int32_t width, uint8_t* out);
  /// General nearest-neighbour map; black outside. May read up to kPad bytes before a plane.
  void (*affine)(const Affine& map, const uint8_t* const in[3], int32_t height, int32_t width,
                 uint8_t* const out[3]);
  /// These write exactly n values (join: n pixels).
  void (*join)(const uint8_t* const planes[3], size_t n, uint8_t* out);
  void (*finish_float)(const Channel& channel, const uint8_t* in, size_t n, float* out);
  void (*finish_half)(const Channel& channel, const uint8_t* in, size_t n, uint16_t* out);
  void (*finish_bfloat)(const Channel& channel, const uint8_t* in, size_t n, uint16_t* out);
  /// HalfBits, BfloatBits of n values.
  void (*round_half)(const float* in, size_t n, uint16_t* out);
  void (*round_bfloat)(const float* in, size_t n, uint16_t* out);
};

extern const Kernels kPortableKernels;
/// Null where the CPU or the build lacks AVX2, FMA and F16C.
const Kernels* Avx2Kernels();
/// The fastest that this CPU runs.
const Kernels& BestKernels();

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_KERNELS_H_
