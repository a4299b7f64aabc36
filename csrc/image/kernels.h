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

// The same weights as weight = top * 2^14 + middle * 2^7 + bottom, for 8-bit multiplications: top 0 to 255,
// the others -128 to 127. With p a pixel and sums over all taps of an output coordinate, they are such that
//   T = sum((p - 128) * top),  M = sum(p * middle),  B = sum(p * bottom),  M + (B >> 7)
// fit 16 bits for any pixels and the tops sum up to 256. As floors of quotients nest,
//   ((T + ((M + (B >> 7)) >> 7) + 128) >> 8) + 128
// is then Pillow's (sum(p * weight) + 2^21) >> 22, in 16-bit arithmetic alone. Some weights have no such
// form.
constexpr int kByteBits = 7;
constexpr int kMaxBytePairs = 4;

/// Output coordinates first .. first + count of an axis, each of which reads `slots` input pixels from
/// start[] on, some of which may weigh 0. Tables by slot or pair have `stride` coordinates each, a multiple
/// of kTapPadding; what they hold past `count` is of no use, but may be read.
struct Coordinates {
  const Axis* axis;
  int32_t first, count;
  const int32_t* start;
  int32_t slots, stride;
};
constexpr int kTapPadding = 8;

/// Output coordinates whose weights of bytes lie together in a horizontal pass.
constexpr int kTapGroup = 4;

/// One 256-bit register: the lower half is about the first two coordinates of a group, the upper about the
/// others.
struct ByteGroup {
  alignas(32) uint8_t byte[32];
};

/// The weights of a horizontal pass. Every output coordinate has the same number of pairs; unused taps weigh
/// 0.
struct Taps {
  const int32_t* start;   ///< first tap of each output coordinate
  const TapPair* weight;  ///< [coordinate][pair]; of no use where all weights fit bytes
  int32_t pairs;
  /// Null where there are no groups. [group][2]: bytes from the start of a row to the first tap of the first
  /// and of the third coordinate; -1: the group's weights do not fit bytes.
  const int32_t* offsets;
  /// Weights of bytes for RGB pixels: [group][1 + 3 * pairs]. The first has, in either half, which of the 16
  /// bytes from there on are the pairs of R, G, B of one coordinate and of the next; then follow, for every
  /// pair, top, middle and bottom of these.
  const ByteGroup* groups;
  int32_t wide_groups;  ///< how many groups' weights do not fit bytes
};

/// The weights of one output row of a vertical pass.
struct RowWeights {
  const TapPair* weight;
  int32_t pairs;
  /// Null: the weights do not fit bytes. Else for every pair, `stride` apart each, top, middle and bottom:
  /// two bytes.
  const uint32_t* bytes;
  int32_t stride;
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
  /// Fixed-point weights, [slot][coordinate].
  void (*weigh)(const Coordinates& range, int32_t* weight);
  /// Null where resizing is not faster by weights of bytes. Splits those of a bilinear filter:
  /// bytes[pair][top, middle, bottom][coordinate], two bytes each; and whether it could be done for a
  /// coordinate. Returns whether it could for all.
  bool (*split_weights)(const Coordinates& range, const int32_t* weight, uint32_t* bytes, uint8_t* fits);
  /// Makes the tables of Taps from these; returns how many groups' weights do not fit.
  int32_t (*group_weights)(const Coordinates& range, const uint32_t* bytes, const uint8_t* fits,
                           int32_t* offsets, ByteGroup* groups);
  /// Resizes four interleaved RGB rows horizontally; rows hold 3 * (start + 2 * pairs) bytes (+ pad), out 3 *
  /// width.
  void (*resize_rows)(const uint8_t* const rows[4], const Taps& taps, int32_t width, uint8_t* const out[4]);
  /// Weighted sum of 2 * pairs rows of `bytes` bytes.
  void (*resize_column)(const uint8_t* const* rows, const RowWeights& weights, int32_t bytes, uint8_t* out);
  /// Splits an interleaved RGB row into planes, reversed if `flip`. Reads up to kPad bytes before the row.
  void (*split_row)(const uint8_t* row, int32_t width, bool flip, uint8_t* const planes[3]);
  void (*lut)(const uint8_t table[256], uint8_t* data, size_t n);
  void (*mask)(uint8_t bits, uint8_t* data, size_t n);
  void (*solarize)(uint8_t threshold, uint8_t* data, size_t n);
  void (*min_max)(const uint8_t* data, size_t n, uint8_t* lo, uint8_t* hi);
  uint64_t (*grey_sum)(const uint8_t* const planes[3], size_t n);
  void (*color)(float factor, uint8_t* const planes[3], size_t n);
  /// TurnHue.
  void (*hue)(int32_t shift, uint8_t* const planes[3], size_t n);
  /// One pass of a blur along rows or columns.
  void (*blur_rows)(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out);
  void (*blur_columns)(const BoxBlur& box, const uint8_t* in, int32_t height, int32_t width, uint8_t* out);
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
