// What a block of threads works on: jobs, the memory they need, and the tables in it. Plain data that the
// host lays out (batch.h) and the block reads.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_LAYOUT_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_LAYOUT_H_

#include <cstdint>

#include "image/pixel.h"
#include "image/plan.h"

namespace dali_dr::image {

constexpr int32_t kLevels = 256;     ///< of a uint8 channel
constexpr int32_t kSegments = 16;    ///< of the histogram, for sums over all lower levels
constexpr int32_t kResizeRows = 4;   ///< rows that one thread resizes horizontally, for loads in flight
constexpr int32_t kMaxReplicas = 8;  ///< histograms that groups of threads count into, against contention
constexpr int32_t kHistogramBytes = 3 * kLevels * int32_t{sizeof(uint32_t)};

/// One view of one image.
struct Job {
  const uint8_t* crop;    ///< first pixel of the crop, interleaved RGB
  void* out;              ///< 3 * height * width values; of a mixed view num_mixes times that
  int64_t pitch;          ///< bytes from one row of the image to the next
  int32_t height, width;  ///< of the crop
  Size resized;           ///< what the crop is resized to; the view is the part of it from the window on
  int32_t window_top, window_left;
  Box erase;  ///< in output pixels, inside the output
  int32_t flip, first_step, num_steps;
  int32_t partner;               ///< number of the job that shows the partner's view, or -1: written as it is
  int32_t first_mix, num_mixes;  ///< how the two are mixed; each way is an output
};

/// Where a block keeps things; all sizes are multiples of 16 bytes.
struct BlockLayout {
  int32_t plane_bytes;  ///< one channel of the view
  int32_t band_bytes;   ///< a fourth plane, and the rows between the two passes of a resize
  int32_t taps_bytes;   ///< weights of a resize
  int32_t replicas;     ///< of the histogram
  /// Of a slot of global memory: the partner's finished view, 3 planes; 0: none is mixed.
  int32_t parked_bytes;

  DR_HD int64_t pixel_bytes() const { return 3 * int64_t{plane_bytes} + band_bytes; }
  DR_HD int32_t stats_bytes() const { return (1 + replicas) * kHistogramBytes; }
};

/// Small tables of a block, always in shared memory.
struct BlockTables {
  float base[3][kLevels];    ///< normalised values of the levels
  uint8_t lut[3][kLevels];   ///< pending map of levels
  uint8_t next[3][kLevels];  ///< Equalize's map before it is composed with lut
  uint32_t segment[3][kSegments];
  int32_t lo[3], hi[3];  ///< least and greatest level that occurs
  uint64_t grey;         ///< sum of the grey image
  uint32_t job;
  uint32_t unused[3];
};
static_assert(sizeof(BlockTables) % 16 == 0);

/// Division of 0 <= n < 2^31 by the same number, again and again, as a multiplication: factor is 2^(31 +
/// shift) / by, at most 1 too great, and by <= 2^shift, so that n times that error stays below the 2^(31 +
/// shift) which would change the quotient.
struct Divisor {
  uint32_t by = 1, shift = 0, factor = (1u << 31) + 1;

  Divisor() = default;
  explicit Divisor(int32_t d) : by(uint32_t(d)) {
    while (1u << shift < by) ++shift;
    factor = uint32_t((uint64_t{1} << (31 + shift)) / by) + 1;
  }

  /// n / by; *rest is n % by.
  DR_HD int32_t Divide(int32_t n, int32_t* rest) const {
#ifdef __CUDA_ARCH__
    const uint32_t quotient = __umulhi(2 * uint32_t(n), factor) >> shift;
#else
    const uint32_t quotient = uint32_t(uint64_t{2 * uint32_t(n)} * factor >> 32) >> shift;
#endif
    *rest = int32_t(uint32_t(n) - quotient * by);
    return int32_t(quotient);
  }
};

/// The size of views with what finds the row and the column of a pixel, made on the host: in the kernel's
/// argument it takes no register.
struct OutSize : Size {
  Divisor columns, words;  ///< by width, and by the words of four pixels of a row

  OutSize() = default;
  OutSize(Size size) : Size(size), columns(size.width), words((size.width + 3) / 4) {}
};

/// What is common to all views of a launch; the kernel's argument.
struct BlockBatch {
  const Job* jobs;      ///< those to take, then partners' views
  const Job* partners;  ///< jobs of these numbers
  const MixPlan* mixes;
  const Step* steps;
  uint32_t* next;  ///< number of the next job that nobody has taken; 0 at the start
  uint32_t num_jobs;
  OutSize out;
  Filter filter;
  OutputType type;
  int32_t channels_last;
  BlockLayout layout;
  float base[3][kLevels];  ///< values of the levels; not used for kUint8
};

struct BlockMemory {
  BlockTables* tables;
  uint8_t* pixels;  ///< layout.pixel_bytes()
  uint8_t* taps;    ///< layout.taps_bytes; may be the same place as stats
  uint8_t* stats;   ///< layout.stats_bytes()
  uint8_t* parked;  ///< layout.parked_bytes, in global memory
};

/// Everything in shared memory; taps and stats, which are never needed together, share a place.
DR_HD BlockMemory DivideShared(const BlockLayout& layout, uint8_t* shared, uint8_t* slot) {
  uint8_t* const pixels = shared + sizeof(BlockTables);
  uint8_t* const work = pixels + layout.pixel_bytes();
  return {reinterpret_cast<BlockTables*>(shared), pixels, work, work, slot};
}

/// Tables and statistics in shared memory, the rest in the block's slot of global memory.
DR_HD BlockMemory DivideGlobal(const BlockLayout& layout, uint8_t* shared, uint8_t* slot) {
  uint8_t* const taps = slot + layout.pixel_bytes();
  return {reinterpret_cast<BlockTables*>(shared), slot, taps, shared + sizeof(BlockTables),
          taps + layout.taps_bytes};
}

struct TapRange {
  int32_t begin, count;
};

/// Weights of the view's part of one axis: its coordinate x, which is x + window on the axis, reads input
/// begin .. begin + count with weight[x * taps ...].
struct AxisTable {
  TapRange* range;
  int32_t* weight;
  int32_t taps;

  DR_HD int32_t End(int32_t x) const { return range[x].begin + range[x].count; }
};

DR_HD int64_t AxisTableBytes(const Axis& axis, int32_t out) {
  return out * (int64_t{sizeof(TapRange)} + 4 * int64_t{MaxTaps(axis)});
}

/// Which passes a resize has, and which comes first.
struct Passes {
  bool horizontal, vertical, vertical_first;
};

DR_HD Passes MakePasses(int32_t height, int32_t width, Size resized) {
  const bool horizontal = width != resized.width, vertical = height != resized.height;
  return {horizontal, vertical,
          vertical && (!horizontal || VerticalFirst(height, width, resized.height, resized.width))};
}

/// Bytes of one row between the passes: planar and padded to words after the horizontal pass, interleaved
/// after the vertical.
DR_HD int64_t BandRowBytes(const Passes& passes, int32_t width, Size out) {
  return passes.vertical_first ? 3 * int64_t{width} : 3 * ((int64_t{out.width} + 3) / 4 * 4);
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_LAYOUT_H_
