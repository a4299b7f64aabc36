// The GPU path of replay, written for one block of threads per view and free of CUDA: a Block type supplies
// the threads and the barrier. device.cu instantiates it with the threads of a CUDA block;
// tests/block_test.cc with host threads and a real barrier, so that the same source is compared with the CPU
// path and raced under ThreadSanitizer without a GPU. docs/gpu.md has the design and the counts.
//
// The view stays planar uint8 in `pixels` (shared memory where it fits, else global memory that stays in L2)
// from the resize to the output. Operations that map levels to levels only compose a table per channel
// (lut); it is applied by whatever reads the pixels next.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_H_

#include <cstdint>
#include <cstring>

#include "image/pixel.h"
#include "image/plan.h"

#ifdef __CUDACC__
#define DR_BLOCK __device__ __forceinline__
#define DR_UNROLL _Pragma("unroll")
#define DR_UNROLL_TAPS _Pragma("unroll 2")  // most windows have two or three
#else
#define DR_BLOCK inline
#define DR_UNROLL
#define DR_UNROLL_TAPS
#endif

namespace dali_dr::image {

constexpr int32_t kLevels = 256;     // of a uint8 channel
constexpr int32_t kSegments = 16;    // of the histogram, for sums over all lower levels
constexpr int32_t kResizeRows = 4;   // rows that one thread resizes horizontally, for loads in flight
constexpr int32_t kMaxReplicas = 8;  // histograms that groups of threads count into, against contention
constexpr int32_t kHistogramBytes = 3 * kLevels * int32_t{sizeof(uint32_t)};

// One view of one image.
struct Job {
  const uint8_t* crop;    // first pixel of the crop, interleaved RGB
  void* out;              // 3 * height * width values; of a mixed view num_mixes times that
  int64_t pitch;          // bytes from one row of the image to the next
  int32_t height, width;  // of the crop
  Size resized;           // what the crop is resized to; the view is the part of it from the window on
  int32_t window_top, window_left;
  Box erase;  // in output pixels, inside the output
  int32_t flip, first_step, num_steps;
  int32_t partner;               // number of the job that shows the partner's view, or -1: written as it is
  int32_t first_mix, num_mixes;  // how the two are mixed; each way is an output
};

// Where a block keeps things; all sizes are multiples of 16 bytes.
struct BlockLayout {
  int32_t plane_bytes;  // one channel of the view
  int32_t band_bytes;   // a fourth plane, and the rows between the two passes of a resize
  int32_t taps_bytes;   // weights of a resize
  int32_t replicas;     // of the histogram

  int32_t
      parked_bytes;  // of a slot of global memory: the partner's finished view, 3 planes; 0: none is mixed

  DR_HD int64_t pixel_bytes() const { return 3 * int64_t{plane_bytes} + band_bytes; }
  DR_HD int32_t stats_bytes() const { return (1 + replicas) * kHistogramBytes; }
};

// Small tables of a block, always in shared memory.
struct BlockTables {
  float base[3][kLevels];    // normalised values of the levels
  uint8_t lut[3][kLevels];   // pending map of levels
  uint8_t next[3][kLevels];  // Equalize's map before it is composed with lut
  uint32_t segment[3][kSegments];
  int32_t lo[3], hi[3];  // least and greatest level that occurs
  uint64_t grey;         // sum of the grey image
  uint32_t job;
  uint32_t unused[3];
};
static_assert(sizeof(BlockTables) % 16 == 0);

// Division of 0 <= n < 2^31 by the same number, again and again, as a multiplication: factor is 2^(31 +
// shift) / by, at most 1 too great, and by <= 2^shift, so that n times that error stays below the 2^(31 +
// shift) which would change the quotient.
struct Divisor {
  uint32_t by = 1, shift = 0, factor = (1u << 31) + 1;

  Divisor() = default;
  explicit Divisor(int32_t d) : by(uint32_t(d)) {
    while (1u << shift < by) ++shift;
    factor = uint32_t((uint64_t{1} << (31 + shift)) / by) + 1;
  }

  // n / by; *rest is n % by.
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

// The size of views with what finds the row and the column of a pixel, made on the host: in the kernel's
// argument it takes no register.
struct OutSize : Size {
  Divisor columns, words;  // by width, and by the words of four pixels of a row

  OutSize() = default;
  OutSize(Size size) : Size(size), columns(size.width), words((size.width + 3) / 4) {}
};

// What is common to all views of a launch; the kernel's argument.
struct BlockBatch {
  const Job* jobs;      // those to take, then partners' views
  const Job* partners;  // jobs of these numbers
  const MixPlan* mixes;
  const Step* steps;
  uint32_t* next;  // number of the next job that nobody has taken; 0 at the start
  uint32_t num_jobs;
  OutSize out;
  Filter filter;
  OutputType type;
  int32_t channels_last;
  BlockLayout layout;
  float base[3][kLevels];  // values of the levels; not used for kUint8
};

struct BlockMemory {
  BlockTables* tables;
  uint8_t* pixels;  // layout.pixel_bytes()
  uint8_t* taps;    // layout.taps_bytes; may be the same place as stats
  uint8_t* stats;   // layout.stats_bytes()
  uint8_t* parked;  // layout.parked_bytes, in global memory
};

// Everything in shared memory; taps and stats, which are never needed together, share a place.
DR_HD BlockMemory DivideShared(const BlockLayout& layout, uint8_t* shared, uint8_t* slot) {
  uint8_t* const pixels = shared + sizeof(BlockTables);
  uint8_t* const work = pixels + layout.pixel_bytes();
  return {reinterpret_cast<BlockTables*>(shared), pixels, work, work, slot};
}

// Tables and statistics in shared memory, the rest in the block's slot of global memory.
DR_HD BlockMemory DivideGlobal(const BlockLayout& layout, uint8_t* shared, uint8_t* slot) {
  uint8_t* const taps = slot + layout.pixel_bytes();
  return {reinterpret_cast<BlockTables*>(shared), slot, taps, shared + sizeof(BlockTables),
          taps + layout.taps_bytes};
}

struct TapRange {
  int32_t begin, count;
};

// Weights of the view's part of one axis: its coordinate x, which is x + window on the axis, reads input
// begin .. begin + count with weight[x * taps ...].
struct AxisTable {
  TapRange* range;
  int32_t* weight;
  int32_t taps;

  DR_HD int32_t End(int32_t x) const { return range[x].begin + range[x].count; }
};

DR_HD int64_t AxisTableBytes(const Axis& axis, int32_t out) {
  return out * (int64_t{sizeof(TapRange)} + 4 * int64_t{MaxTaps(axis)});
}

// Which passes a resize has, and which comes first.
struct Passes {
  bool horizontal, vertical, vertical_first;
};

DR_HD Passes MakePasses(int32_t height, int32_t width, Size resized) {
  const bool horizontal = width != resized.width, vertical = height != resized.height;
  return {horizontal, vertical,
          vertical && (!horizontal || VerticalFirst(height, width, resized.height, resized.width))};
}

// Bytes of one row between the passes: planar and padded to words after the horizontal pass, interleaved
// after the vertical.
DR_HD int64_t BandRowBytes(const Passes& passes, int32_t width, Size out) {
  return passes.vertical_first ? 3 * int64_t{width} : 3 * ((int64_t{out.width} + 3) / 4 * 4);
}

DR_BLOCK uint32_t LoadWord(const uint8_t* p) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const uint32_t*>(p);
#else
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
#endif
}

DR_BLOCK void StoreWord(uint8_t* p, uint32_t v) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<uint32_t*>(p) = v;
#else
  std::memcpy(p, &v, sizeof v);
#endif
}

// Tells the compiler that a pointer read from memory leads to global memory.
template <typename T>
DR_BLOCK T* InGlobal(T* p) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(p));
#endif
  return p;
}

DR_BLOCK int32_t ByteOf(uint32_t word, int32_t k) { return int32_t((word >> (8 * k)) & 0xff); }

// Four consecutive values as one store; `to` is aligned to four values.
template <typename T>
DR_BLOCK void StoreFour(T* to, const uint32_t v[4]) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 1) {
    *reinterpret_cast<uint32_t*>(to) = v[0] | v[1] << 8 | v[2] << 16 | v[3] << 24;
  } else if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
  } else {
    *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
  }
#else
  for (int k = 0; k < 4; ++k) to[k] = T(v[k]);
#endif
}

// Replays views one after the other. Block supplies, for each of its threads:
//   ForEach(n, f)      f(i) for this thread's share of 0 <= i < n; the same share whenever n is the same
//   Sync()             barrier over all threads, after which all see what any wrote before
//   Leader()           true in exactly one thread
//   Replica()          a small number that few threads share
//   Count(p, n)        *p += n, atomically; Lower(p, v), Raise(p, v): minimum, maximum
//   Sum(p, n)          *p += n over all threads, each with its own n
//   Take(p)            (*p)++, atomically against other blocks; by one thread
template <typename Block>
class BlockReplay {
 public:
  DR_BLOCK BlockReplay(Block& block, const BlockBatch& batch, const BlockMemory& memory)
      : block_(block),
        batch_(batch),
        tables_(memory.tables),
        pixels_(memory.pixels),
        taps_(memory.taps),
        parked_(memory.parked),
        height_(batch.out.height),
        width_(batch.out.width),
        count_(batch.out.height * batch.out.width),
        quads_((count_ + 3) / 4),
        merged_(reinterpret_cast<uint32_t*>(memory.stats)) {}

  // Takes jobs until none is left.
  DR_BLOCK void Run() {
    block_.ForEach(3 * kLevels, [&](int32_t i) {
      tables_->base[i / kLevels][i % kLevels] = batch_.base[i / kLevels][i % kLevels];
    });
    for (;;) {
      if (block_.Leader()) tables_->job = block_.Take(batch_.next);
      block_.Sync();
      const uint32_t number = tables_->job;
      if (number >= batch_.num_jobs) return;
      int32_t partner = batch_.jobs[number].partner;
      for (;; partner = -1) {  // the partner's view, if there is one, and then its own
        Show(partner < 0 ? batch_.jobs[number] : batch_.partners[partner]);
        if (partner < 0) break;
        Park(batch_.partners[partner].erase);
      }
      Finish(batch_.jobs[number]);
      // Park and Finish end without a barrier: one comes before anything is written that they read.
    }
  }

 private:
  // Everything of a view but erase and output. The job stays in memory: its fields would take registers that
  // the loops need.
  DR_BLOCK void Show(const Job& job) {
    pending_ = false;
    for (int32_t c = 0; c < 4; ++c) plane_[c] = c * batch_.layout.plane_bytes;
    CropResizeFlip(job);
    for (int32_t s = 0; s < job.num_steps; ++s) Apply(batch_.steps[job.first_step + s]);
  }

  // ---- Resize

  DR_BLOCK AxisTable MakeTable(const Axis& axis, int32_t out, uint8_t* memory) {
    auto* range = reinterpret_cast<TapRange*>(memory);
    return {range, reinterpret_cast<int32_t*>(range + out), MaxTaps(axis)};
  }

  // `out` coordinates from `window` on.
  DR_BLOCK void FillTable(const Axis& axis, int32_t window, int32_t out, const AxisTable& table) {
    block_.ForEach(out, [&](int32_t x) {
      TapRange range;
      Window(axis, window + x, &range.begin, &range.count);
      table.range[x] = range;
      const double center = Center(axis, window + x);
      double sum = 0.0;
      for (int32_t i = 0; i < range.count; ++i) sum = Add(sum, RawWeight(axis, center, range.begin + i));
      for (int32_t i = 0; i < range.count; ++i) {
        table.weight[x * table.taps + i] =
            FixedWeight(ShareOfSum(RawWeight(axis, center, range.begin + i), sum));
      }
    });
  }

  // Writes one pixel of the view.
  DR_BLOCK void Put(int32_t y, int32_t x, int32_t flip, uint8_t r, uint8_t g, uint8_t b) {
    uint8_t* to = pixels_ + y * width_ + (flip ? width_ - 1 - x : x);
    to[plane_[0]] = r;
    to[plane_[1]] = g;
    to[plane_[2]] = b;
  }

  // Resizes `rows` rows of interleaved pixels; write(row, x, r, g, b) takes each result.
  template <typename Write>
  DR_BLOCK void Horizontal(const uint8_t* in, int64_t pitch, int32_t rows, const AxisTable& table,
                           Write write) {
    const int32_t groups = (rows + kResizeRows - 1) / kResizeRows;
    block_.ForEach(groups * width_, [&](int32_t i) {
      int32_t x;
      const int32_t row = batch_.out.columns.Divide(i, &x) * kResizeRows;
      const TapRange range = table.range[x];
      const int32_t* weight = table.weight + x * table.taps;
      const int32_t below = rows - 1 - row;
      const uint8_t* from[kResizeRows] = {in + row * pitch + 3 * int64_t{range.begin}};
      int32_t sum[kResizeRows][3] = {};
      DR_UNROLL
      for (int32_t k = 1; k < kResizeRows; ++k) from[k] = from[k - 1] + (k <= below ? pitch : 0);
      DR_UNROLL_TAPS
      for (int32_t t = 0; t < range.count; ++t) {
        const int32_t w = weight[t];
        DR_UNROLL
        for (int32_t k = 0; k < kResizeRows; ++k) {
          sum[k][0] += w * from[k][0];
          sum[k][1] += w * from[k][1];
          sum[k][2] += w * from[k][2];
          from[k] += 3;
        }
      }
      DR_UNROLL
      for (int32_t k = 0; k < kResizeRows; ++k) {
        if (k <= below)
          write(row + k, x, RoundWeighted(sum[k][0]), RoundWeighted(sum[k][1]), RoundWeighted(sum[k][2]));
      }
    });
  }

  // Resizes columns of the image for output rows begin .. end; write(row - begin, byte, value) takes each
  // result of the interleaved row.
  template <typename Write>
  DR_BLOCK void VerticalOfImage(const Job& job, const AxisTable& table, int32_t begin, int32_t end,
                                Write write) {
    const uint8_t* const crop = InGlobal(job.crop);
    const int64_t pitch = job.pitch;
    const int32_t bytes = 3 * job.width, quads = (bytes + 3) / 4;
    block_.ForEach((end - begin) * quads, [&](int32_t i) {
      const int32_t row = i / quads, at = i % quads * 4;
      const TapRange range = table.range[begin + row];
      const int32_t* weight = table.weight + (begin + row) * table.taps;
      const uint8_t* from = crop + range.begin * pitch;
      int32_t sum[4] = {}, byte[4];
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) byte[k] = at + k < bytes ? at + k : bytes - 1;
      for (int32_t t = 0; t < range.count; ++t, from += pitch) {
        const int32_t w = weight[t];
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) sum[k] += w * from[byte[k]];
      }
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        if (at + k < bytes) write(row, at + k, RoundWeighted(sum[k]));
      }
    });
  }

  // Resizes columns of the ring's planar rows into output rows begin .. end of the view.
  DR_BLOCK void VerticalOfRing(const uint8_t* ring, int32_t ring_rows, const AxisTable& table, int32_t begin,
                               int32_t end) {
    const int32_t words = (width_ + 3) / 4, plane_row = 4 * words, row_bytes = 3 * plane_row,
                  ring_bytes = ring_rows * row_bytes;
    const int32_t first = table.range[begin].begin, slot = first % ring_rows - first;
    block_.ForEach((end - begin) * words, [&](int32_t i) {
      int32_t x;
      const int32_t y = begin + batch_.out.words.Divide(i, &x);
      x *= 4;
      const TapRange range = table.range[y];
      const int32_t* weight = table.weight + y * table.taps;
      int32_t at = slot + range.begin, sum[3][4] = {};
      at = (at < ring_rows ? at : at - ring_rows) * row_bytes;
      for (int32_t t = 0; t < range.count; ++t) {
        const int32_t w = weight[t];
        DR_UNROLL
        for (int32_t c = 0; c < 3; ++c) {
          const uint32_t word = LoadWord(ring + at + c * plane_row + x);
          DR_UNROLL
          for (int32_t k = 0; k < 4; ++k) sum[c][k] += w * ByteOf(word, k);
        }
        at += row_bytes;
        if (at == ring_bytes) at = 0;
      }
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) {
        uint8_t* to = pixels_ + plane_[c] + y * width_ + x;
        if (width_ % 4 == 0) {
          StoreWord(to, RoundWeighted(sum[c][0]) | uint32_t{RoundWeighted(sum[c][1])} << 8 |
                            uint32_t{RoundWeighted(sum[c][2])} << 16 |
                            uint32_t{RoundWeighted(sum[c][3])} << 24);
        } else {
          for (int32_t k = 0; k < 4 && x + k < width_; ++k) to[k] = RoundWeighted(sum[c][k]);
        }
      }
    });
  }

  DR_BLOCK void CropResizeFlip(const Job& job) {
    const Passes passes = MakePasses(job.height, job.width, job.resized);
    const Axis columns = MakeAxis(job.width, job.resized.width, batch_.filter);
    const Axis rows = MakeAxis(job.height, job.resized.height, batch_.filter);
    const AxisTable across = MakeTable(columns, width_, taps_);
    const AxisTable down =
        MakeTable(rows, height_, passes.horizontal ? taps_ + AxisTableBytes(columns, width_) : taps_);
    if (passes.horizontal) FillTable(columns, job.window_left, width_, across);
    if (passes.vertical) FillTable(rows, job.window_top, height_, down);
    block_.Sync();
    uint8_t* const band = pixels_ + plane_[3];
    const uint8_t* const crop = InGlobal(job.crop);
    const int64_t pitch = job.pitch;
    const int32_t flip = job.flip;
    const auto put = [&](int32_t y, int32_t x, uint8_t r, uint8_t g, uint8_t b) { Put(y, x, flip, r, g, b); };

    if (!passes.vertical) {
      if (passes.horizontal) {
        Horizontal(crop, pitch, height_, across, put);
      } else {
        block_.ForEach(count_, [&](int32_t i) {
          int32_t x;
          const int32_t y = batch_.out.columns.Divide(i, &x);
          const uint8_t* from = crop + y * pitch + 3 * x;
          put(y, x, from[0], from[1], from[2]);
        });
      }
    } else if (!passes.horizontal) {
      VerticalOfImage(job, down, 0, height_, [&](int32_t y, int32_t byte, uint8_t v) {
        const int32_t x = byte / 3;
        pixels_[plane(byte % 3) + y * width_ + (flip ? width_ - 1 - x : x)] = v;
      });
    } else if (passes.vertical_first) {
      const int64_t row_bytes = BandRowBytes(passes, job.width, batch_.out);
      const int32_t step = int32_t(batch_.layout.band_bytes / row_bytes);
      for (int32_t y = 0; y < height_; y += step) {
        const int32_t end = y + step < height_ ? y + step : height_;
        VerticalOfImage(job, down, y, end,
                        [&](int32_t row, int32_t byte, uint8_t v) { band[row * row_bytes + byte] = v; });
        block_.Sync();
        Horizontal(
            band, row_bytes, end - y, across,
            [&](int32_t row, int32_t x, uint8_t r, uint8_t g, uint8_t b) { put(y + row, x, r, g, b); });
        block_.Sync();
      }
    } else {
      // The band is a ring of horizontally resized rows, planar and flipped already.
      const int32_t row_bytes = int32_t(BandRowBytes(passes, job.width, batch_.out)),
                    plane_row = row_bytes / 3;
      const int32_t ring_rows = batch_.layout.band_bytes / row_bytes;
      int32_t done = 0;
      for (int32_t y = 0; y < height_;) {
        const int32_t first = down.range[y].begin;
        int32_t end = y + 1, most = height_;  // the rows whose windows the ring holds together
        while (end < most) {
          const int32_t middle = (end + most + 1) / 2;
          if (down.End(middle - 1) - first <= ring_rows) {
            end = middle;
          } else {
            most = middle - 1;
          }
        }
        const int32_t from = done > first ? done : first, slot = from % ring_rows;
        done = down.End(end - 1);
        Horizontal(crop + from * pitch, pitch, done - from, across,
                   [&](int32_t row, int32_t x, uint8_t r, uint8_t g, uint8_t b) {
                     const int32_t at = slot + row < ring_rows ? slot + row : slot + row - ring_rows;
                     uint8_t* to = band + at * row_bytes + (flip ? width_ - 1 - x : x);
                     to[0] = r;
                     to[plane_row] = g;
                     to[2 * plane_row] = b;
                   });
        block_.Sync();
        VerticalOfRing(band, ring_rows, down, y, end);
        block_.Sync();
        y = end;
      }
      return;
    }
    block_.Sync();
  }

  // ---- Operations. Every one ends with a barrier.

  // Offset of plane c; spelt out so that the offsets stay in registers.
  DR_BLOCK int32_t plane(int32_t c) const { return c == 0 ? plane_[0] : c == 1 ? plane_[1] : plane_[2]; }

  DR_BLOCK int32_t Current(int32_t c, int32_t level) const {
    return pending_ ? tables_->lut[c][level] : level;
  }

  DR_BLOCK uint32_t CurrentWord(int32_t c, int32_t quad) const {
    const uint32_t word = LoadWord(pixels_ + plane_[c] + 4 * quad);
    if (!pending_) return word;
    const uint8_t* lut = tables_->lut[c];
    return lut[ByteOf(word, 0)] | uint32_t{lut[ByteOf(word, 1)]} << 8 | uint32_t{lut[ByteOf(word, 2)]} << 16 |
           uint32_t{lut[ByteOf(word, 3)]} << 24;
  }

  // Pixels of a quad that belong to the view; the last may hang over.
  DR_BLOCK int32_t QuadPixels(int32_t quad) const { return count_ - 4 * quad < 4 ? count_ - 4 * quad : 4; }

  // To the next pixel in the order of rows.
  DR_BLOCK void Advance(int32_t* y, int32_t* x) const {
    if (++*x < width_) return;
    *x = 0;
    ++*y;
  }

  // Composes map(c, level) onto the pending table. A thread reads and writes only its own entries.
  template <typename Map>
  DR_BLOCK void Compose(Map map) {
    block_.ForEach(3 * kLevels, [&](int32_t i) {
      const int32_t c = i / kLevels, v = i % kLevels;
      tables_->lut[c][v] = map(c, Current(c, v));
    });
    pending_ = true;
    block_.Sync();
  }

  DR_BLOCK void SwapWithSpare(int32_t c) {
    const int32_t t = plane_[c];
    plane_[c] = plane_[3];
    plane_[3] = t;
  }

  DR_BLOCK void Apply(const Step& step) {
    const int32_t value = step.value;
    const float factor = step.factor;
    switch (step.kind) {
      case StepKind::kAffine:
        ApplyAffine(step.affine);
        break;
      case StepKind::kBrightness:
        Compose([&](int32_t, int32_t v) { return Blend(0, v, factor); });
        break;
      case StepKind::kContrast: {
        const int32_t mean = ContrastMean(GreySum(), uint64_t(count_));
        Compose([&](int32_t, int32_t v) { return Blend(mean, v, factor); });
        break;
      }
      case StepKind::kColor:
        ApplyColor(factor);
        break;
      case StepKind::kSharpness:
        ApplySharpness(factor);
        break;
      case StepKind::kPosterize:
        Compose([&](int32_t, int32_t v) { return uint8_t(v & value); });
        break;
      case StepKind::kSolarize:
        Compose([&](int32_t, int32_t v) { return uint8_t(v >= value ? 255 - v : v); });
        break;
      case StepKind::kAutoContrast:
        Histogram();
        Compose([&](int32_t c, int32_t v) { return AutoContrast(v, tables_->lo[c], tables_->hi[c]); });
        break;
      case StepKind::kEqualize:
        ApplyEqualize();
        break;
    }
  }

  // Makes each channel anew in the spare plane: word(c, from, quad, y, x) gives the quad that begins at (y,
  // x) from any pixels of the old one.
  template <typename Word>
  DR_BLOCK void MakeInSpare(Word word) {
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) {
      const uint8_t* from = pixels_ + plane_[c];
      uint8_t* to = pixels_ + plane_[3];
      block_.ForEach(quads_, [&](int32_t quad) {
        int32_t x;
        const int32_t y = batch_.out.columns.Divide(4 * quad, &x);
        StoreWord(to + 4 * quad, word(c, from, quad, y, x));
      });
      block_.Sync();
      SwapWithSpare(c);
    }
  }

  DR_BLOCK void ApplyAffine(const Affine& given) {
    const Affine map = given;
    MakeInSpare([&](int32_t c, const uint8_t* from, int32_t, int32_t y, int32_t x) {
      uint32_t word = 0;
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        const int32_t sx = FixedX(map, x, y) >> 16, sy = FixedY(map, x, y) >> 16;
        if (uint32_t(sx) < uint32_t(width_) && uint32_t(sy) < uint32_t(height_))
          word |= uint32_t(Current(c, from[sy * width_ + sx])) << (8 * k);
        Advance(&y, &x);
      }
      return word;
    });
    pending_ = false;
  }

  DR_BLOCK uint64_t GreySum() {
    if (block_.Leader()) tables_->grey = 0;
    block_.Sync();
    uint32_t sum = 0;  // at most 2^26 pixels of 255 over all threads of a block, each with its share
    block_.ForEach(quads_, [&](int32_t quad) {
      const uint32_t r = CurrentWord(0, quad), g = CurrentWord(1, quad), b = CurrentWord(2, quad);
      const int32_t pixels = QuadPixels(quad);
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        if (k < pixels) sum += uint32_t(Grey(ByteOf(r, k), ByteOf(g, k), ByteOf(b, k)));
      }
    });
    block_.Sum(&tables_->grey, sum);
    block_.Sync();
    return tables_->grey;
  }

  DR_BLOCK void ApplyColor(float factor) {
    block_.ForEach(quads_, [&](int32_t quad) {
      const uint32_t in[3] = {CurrentWord(0, quad), CurrentWord(1, quad), CurrentWord(2, quad)};
      uint32_t out[3] = {};
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        const int32_t grey = Grey(ByteOf(in[0], k), ByteOf(in[1], k), ByteOf(in[2], k));
        DR_UNROLL
        for (int32_t c = 0; c < 3; ++c) out[c] |= uint32_t{Blend(grey, ByteOf(in[c], k), factor)} << (8 * k);
      }
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) StoreWord(pixels_ + plane_[c] + 4 * quad, out[c]);
    });
    pending_ = false;
    block_.Sync();
  }

  DR_BLOCK void ApplySharpness(float factor) {
    if (pending_) {
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) {
        block_.ForEach(
            quads_, [&](int32_t quad) { StoreWord(pixels_ + plane_[c] + 4 * quad, CurrentWord(c, quad)); });
      }
      pending_ = false;
      block_.Sync();
    }
    MakeInSpare([&](int32_t, const uint8_t* from, int32_t quad, int32_t y, int32_t x) {
      uint32_t word = 0;
      if (x >= 1 && x + 4 < width_ && y >= 1 && y + 1 < height_) {
        const uint8_t* p = from + 4 * quad;
        int32_t column[6];
        DR_UNROLL
        for (int32_t k = 0; k < 6; ++k) column[k] = p[k - 1 - width_] + p[k - 1] + p[k - 1 + width_];
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) {
          const int32_t sum = column[k] + column[k + 1] + column[k + 2] + 4 * p[k];
          word |= uint32_t{Blend(Smooth(sum), p[k], factor)} << (8 * k);
        }
        return word;
      }
      for (int32_t k = 0; k < QuadPixels(quad); ++k) {
        const uint8_t* p = from + 4 * quad + k;
        uint32_t v = p[0];
        if (x >= 1 && x + 1 < width_ && y >= 1 && y + 1 < height_) {
          int32_t sum = 4 * p[0];
          for (int32_t row = -1; row <= 1; ++row) {
            const uint8_t* q = p + row * width_;
            sum += q[-1] + q[0] + q[1];
          }
          v = Blend(Smooth(sum), p[0], factor);
        }
        word |= v << (8 * k);
        Advance(&y, &x);
      }
      return word;
    });
  }

  // Counts the levels of each channel, as they are after the pending map, into merged_, and their extremes.
  DR_BLOCK void Histogram() {
    const int32_t replicas = batch_.layout.replicas;
    uint32_t* const counts = merged_ + 3 * kLevels;
    block_.ForEach((1 + replicas) * 3 * kLevels, [&](int32_t i) { merged_[i] = 0; });
    block_.ForEach(3, [&](int32_t c) {
      tables_->lo[c] = kLevels - 1;
      tables_->hi[c] = 0;
    });
    block_.Sync();
    uint32_t* const own = counts + block_.Replica() % replicas * (3 * kLevels);
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) {
      block_.ForEach(quads_, [&](int32_t quad) {
        const uint32_t word = LoadWord(pixels_ + plane_[c] + 4 * quad);
        const int32_t pixels = QuadPixels(quad);
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) {
          if (k < pixels) block_.Count(own + c * kLevels + ByteOf(word, k), 1);
        }
      });
    }
    block_.Sync();
    block_.ForEach(3 * kLevels, [&](int32_t i) {
      const int32_t c = i / kLevels;
      uint32_t n = 0;
      for (int32_t r = 0; r < replicas; ++r) n += counts[r * (3 * kLevels) + i];
      if (n == 0) return;
      const int32_t v = Current(c, i % kLevels);
      block_.Count(merged_ + c * kLevels + v, n);
      block_.Lower(&tables_->lo[c], v);
      block_.Raise(&tables_->hi[c], v);
    });
    block_.Sync();
  }

  DR_BLOCK void ApplyEqualize() {
    Histogram();
    constexpr int32_t length = kLevels / kSegments;
    block_.ForEach(3 * kSegments, [&](int32_t i) {
      uint32_t n = 0;
      for (int32_t k = 0; k < length; ++k) n += merged_[i * length + k];
      tables_->segment[i / kSegments][i % kSegments] = n;
    });
    block_.Sync();
    block_.ForEach(3 * kLevels, [&](int32_t i) {
      const int32_t c = i / kLevels, v = i % kLevels;
      const uint32_t* counts = merged_ + c * kLevels;
      const uint32_t step = EqualizeStep(uint32_t(count_), counts[tables_->hi[c]]);
      uint32_t below = 0;
      for (int32_t s = 0; s < v / length; ++s) below += tables_->segment[c][s];
      for (int32_t u = v / length * length; u < v; ++u) below += counts[u];
      tables_->next[c][v] = step == 0 ? uint8_t(v) : Equalize(below, step);
    });
    block_.Sync();
    Compose([&](int32_t c, int32_t v) { return tables_->next[c][v]; });
  }

  // ---- Erase, normalise, layout

  DR_BLOCK static uint32_t FloatBits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
  }

  DR_BLOCK static float FloatOf(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }

  DR_BLOCK uint32_t OutputBits(int32_t c, int32_t level) const {
    if (batch_.type == OutputType::kUint8) return uint32_t(level);
    const float value = tables_->base[c][level];
    return batch_.type == OutputType::kFloat32 ? FloatBits(value) : ShortBits(batch_.type, value);
  }

  DR_BLOCK void Finish(const Job& given) {
    const Job job = given;
    const bool mixed = job.partner >= 0;
    block_.ForEach(3 * kLevels, [&](int32_t i) {
      const int32_t c = i / kLevels, level = Current(c, i % kLevels);
      merged_[i] = mixed ? FloatBits(tables_->base[c][level]) : OutputBits(c, level);
    });
    block_.Sync();
    if (mixed) {
      for (int32_t k = 0; k < job.num_mixes; ++k) {
        const MixPlan mix = batch_.mixes[job.first_mix + k];
        const int64_t from = 3 * int64_t{k} * count_;
        if (batch_.type == OutputType::kFloat32) {
          WriteMixed(job.erase, mix, static_cast<uint32_t*>(InGlobal(job.out)) + from);
        } else {
          WriteMixed(job.erase, mix, static_cast<uint16_t*>(InGlobal(job.out)) + from);
        }
      }
    } else if (batch_.type == OutputType::kUint8) {
      WriteAlone(job.erase, static_cast<uint8_t*>(InGlobal(job.out)));
    } else if (batch_.type == OutputType::kFloat32) {
      WriteAlone(job.erase, static_cast<uint32_t*>(InGlobal(job.out)));
    } else {
      WriteAlone(job.erase, static_cast<uint16_t*>(InGlobal(job.out)));
    }
  }

  // Keeps the view, erased and with its last table applied, while another is made. Each thread later reads
  // what it has written here itself.
  DR_BLOCK void Park(const Box& given) {
    const Box erase = given;
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) {
      block_.ForEach(quads_, [&](int32_t quad) {
        const uint32_t erased = Covered(erase, quad);
        uint32_t word = CurrentWord(c, quad);
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) {
          if (erased >> k & 1) word &= ~(0xffu << (8 * k));
        }
        StoreWord(InGlobal(parked_) + c * batch_.layout.plane_bytes + 4 * quad, word);
      });
    }
  }

  // Which of the quad's pixels the box covers, as bits.
  DR_BLOCK uint32_t Covered(const Box& box, int32_t quad) const {
    if (box.height <= 0 || box.width <= 0) return 0;
    int32_t x, y = batch_.out.columns.Divide(4 * quad, &x);
    uint32_t bits = 0;
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) {
      if (uint32_t(y - box.top) < uint32_t(box.height) && uint32_t(x - box.left) < uint32_t(box.width))
        bits |= 1u << k;
      Advance(&y, &x);
    }
    return bits;
  }

  template <typename T>
  DR_BLOCK void WriteAlone(const Box& erase, T* out) {
    const uint32_t black[3] = {OutputBits(0, 0), OutputBits(1, 0), OutputBits(2, 0)};
    const auto covered = [&](int32_t quad) { return Covered(erase, quad); };
    Write(out, covered, [&](int32_t c, int32_t quad, uint32_t erased, uint32_t v[4]) {
      const uint32_t word = LoadWord(pixels_ + plane_[c] + 4 * quad);
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k)
        v[k] = erased >> k & 1 ? black[c] : merged_[c * kLevels + ByteOf(word, k)];
    });
  }

  // a: the view, b: the partner's, or the other way round; see MixPlan.
  template <typename T>
  DR_BLOCK void WriteMixed(const Box& erase, const MixPlan& mix, T* out) {
    const float lam = mix.lam, rest = Add(1.0f, -lam);
    const bool swapped = mix.swapped;
    const uint8_t* const parked = InGlobal(parked_);
    const auto covered = [&](int32_t quad) { return Covered(erase, quad) | Covered(mix.cut, quad) << 4; };
    Write(out, covered, [&](int32_t c, int32_t quad, uint32_t bits, uint32_t v[4]) {
      const uint32_t own = LoadWord(pixels_ + plane_[c] + 4 * quad),
                     other = LoadWord(parked + c * batch_.layout.plane_bytes + 4 * quad);
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        const float view =
            bits >> k & 1 ? tables_->base[c][0] : FloatOf(merged_[c * kLevels + ByteOf(own, k)]);
        const float partner = tables_->base[c][ByteOf(other, k)];
        const float a = swapped ? partner : view, b = swapped ? view : partner;
        const float x = bits >> (4 + k) & 1 ? b : lam == 1.0f ? a : MixUp(lam, a, rest, b);
        v[k] = sizeof(T) == 2 ? ShortBits(batch_.type, x) : FloatBits(x);
      }
    });
  }

  // values(c, quad, covered(quad), v) gives the bits of four values of a channel.
  template <typename T, typename Covered, typename Values>
  DR_BLOCK void Write(T* out, Covered covered, Values values) {
    const bool aligned = count_ % 4 == 0 && reinterpret_cast<uintptr_t>(out) % (4 * sizeof(T)) == 0;
    if (batch_.channels_last) {
      block_.ForEach(quads_, [&](int32_t quad) {
        const uint32_t bits = covered(quad);
        uint32_t v[12];
        DR_UNROLL
        for (int32_t c = 0; c < 3; ++c) {
          uint32_t plane[4];
          values(c, quad, bits, plane);
          DR_UNROLL
          for (int32_t k = 0; k < 4; ++k) v[3 * k + c] = plane[k];
        }
        T* to = out + 12 * int64_t{quad};
        if (aligned) {
          DR_UNROLL
          for (int32_t k = 0; k < 12; k += 4) StoreFour(to + k, v + k);
        } else {
          const int32_t count = 3 * QuadPixels(quad);
          DR_UNROLL
          for (int32_t k = 0; k < 12; ++k) {
            if (k < count) to[k] = T(v[k]);
          }
        }
      });
      return;
    }
    block_.ForEach(quads_, [&](int32_t quad) {
      const uint32_t bits = covered(quad);
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) {
        uint32_t v[4];
        values(c, quad, bits, v);
        T* to = out + c * count_ + 4 * quad;
        if (aligned) {
          StoreFour(to, v);
        } else {
          const int32_t pixels = QuadPixels(quad);
          DR_UNROLL
          for (int32_t k = 0; k < 4; ++k) {
            if (k < pixels) to[k] = T(v[k]);
          }
        }
      }
    });
  }

  Block& block_;
  const BlockBatch& batch_;
  BlockTables* const tables_;
  uint8_t* const pixels_;
  uint8_t* const taps_;
  uint8_t* const parked_;
  const int32_t height_, width_, count_, quads_;
  uint32_t* const merged_;  // histogram of the levels; at the end, bits of the output values
  int32_t plane_[4];        // offsets in pixels_: red, green, blue, spare
  bool pending_ = false;    // whether lut is still to be applied
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_H_
