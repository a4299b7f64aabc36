// The GPU path of replay, written for one block of threads per view and free of CUDA: a Block type supplies
// the threads and the barrier. device.cu instantiates it with the threads of a CUDA block;
// tests/block_test.cc with host threads and a real barrier, so that the same source is compared with the CPU
// path and raced under ThreadSanitizer without a GPU. docs/gpu.md has the design and the counts.
//
// The view stays planar uint8 in `pixels` (shared memory where it fits, else global memory that stays in L2)
// from the resize to the output. Operations that map levels to levels only compose a table per channel
// (lut); it is applied by whatever reads the pixels next.
//
// The class is declared here and its steps are defined in files of their own, all of which this one includes.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_BLOCK_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_BLOCK_H_

#include <cstdint>

#include "image/block/layout.h"
#include "image/block/memory.h"
#include "image/pixel.h"
#include "image/plan.h"

namespace dali_dr::image {

/// Replays views one after the other. Block supplies, for each of its threads:
///   ForEach(n, f)      f(i) for this thread's share of 0 <= i < n; the same share whenever n is the same
///   Sync()             barrier over all threads, after which all see what any wrote before
///   Leader()           true in exactly one thread
///   Replica()          a small number that few threads share
///   Count(p, n)        *p += n, atomically; Lower(p, v), Raise(p, v): minimum, maximum
///   Sum(p, n)          *p += n over all threads, each with its own n
///   Take(p)            (*p)++, atomically against other blocks; by one thread
///   kHueAndBlur        whether views may have these steps, for which a kernel needs more registers
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

  /// Takes jobs until none is left.
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
  /// Everything of a view but erase and output. The job stays in memory: its fields would take registers that
  /// the loops need.
  DR_BLOCK void Show(const Job& job) {
    pending_ = false;
    for (int32_t c = 0; c < 4; ++c) plane_[c] = c * batch_.layout.plane_bytes;
    CropResizeFlip(job);
    for (int32_t s = 0; s < job.num_steps; ++s) Apply(batch_.steps[job.first_step + s]);
  }

  // ---- Resize: resize.h

  /// Places a table in memory.
  DR_BLOCK AxisTable MakeTable(const Axis& axis, int32_t out, uint8_t* memory);

  /// Weights of `out` coordinates from `window` on.
  DR_BLOCK void FillTable(const Axis& axis, int32_t window, int32_t out, const AxisTable& table);

  /// Resizes `rows` rows of interleaved pixels; write(row, x, r, g, b) takes each result.
  template <typename Sink>
  DR_BLOCK void Horizontal(const uint8_t* in, int64_t pitch, int32_t rows, const AxisTable& table,
                           Sink write);

  /// Resizes columns of the image for output rows begin .. end; write(row - begin, byte, value) takes each
  /// result of the interleaved row.
  template <typename Sink>
  DR_BLOCK void VerticalOfImage(const Job& job, const AxisTable& table, int32_t begin, int32_t end,
                                Sink write);

  /// Resizes columns of the ring's planar rows into output rows begin .. end of the view.
  DR_BLOCK void VerticalOfRing(const uint8_t* ring, int32_t ring_rows, const AxisTable& table, int32_t begin,
                               int32_t end);

  /// Both passes, by bands of rows (in `band`) that are resized vertically and then horizontally.
  template <typename Sink>
  DR_BLOCK void VerticalFirst(const Job& job, const Passes& passes, const AxisTable& across,
                              const AxisTable& down, uint8_t* band, Sink put);

  /// Both passes, by a ring (in `band`) of horizontally resized rows.
  DR_BLOCK void HorizontalFirst(const Job& job, const Passes& passes, const AxisTable& across,
                                const AxisTable& down, uint8_t* band);

  /// From the image to the view. Ends with a barrier.
  DR_BLOCK void CropResizeFlip(const Job& job);

  // ---- The view as it is

  /// Offset of plane c; spelt out so that the offsets stay in registers.
  DR_BLOCK int32_t plane(int32_t c) const { return c == 0 ? plane_[0] : c == 1 ? plane_[1] : plane_[2]; }

  /// A level after the pending map.
  DR_BLOCK int32_t Current(int32_t c, int32_t level) const {
    return pending_ ? tables_->lut[c][level] : level;
  }

  /// The pixels of a quad after the pending map.
  DR_BLOCK uint32_t CurrentWord(int32_t c, int32_t quad) const {
    const uint32_t word = LoadWord(pixels_ + plane_[c] + 4 * quad);
    if (!pending_) return word;
    const uint8_t* lut = tables_->lut[c];
    return lut[ByteOf(word, 0)] | uint32_t{lut[ByteOf(word, 1)]} << 8 | uint32_t{lut[ByteOf(word, 2)]} << 16 |
           uint32_t{lut[ByteOf(word, 3)]} << 24;
  }

  /// Pixels of a quad that belong to the view; the last may hang over.
  DR_BLOCK int32_t QuadPixels(int32_t quad) const { return count_ - 4 * quad < 4 ? count_ - 4 * quad : 4; }

  /// To the next pixel in the order of rows.
  DR_BLOCK void Advance(int32_t* y, int32_t* x) const {
    if (++*x < width_) return;
    *x = 0;
    ++*y;
  }

  /// Writes one pixel of the view.
  DR_BLOCK void Put(int32_t y, int32_t x, int32_t flip, uint8_t r, uint8_t g, uint8_t b) {
    uint8_t* to = pixels_ + y * width_ + (flip ? width_ - 1 - x : x);
    to[plane_[0]] = r;
    to[plane_[1]] = g;
    to[plane_[2]] = b;
  }

  DR_BLOCK void SwapWithSpare(int32_t c) {
    const int32_t t = plane_[c];
    plane_[c] = plane_[3];
    plane_[3] = t;
  }

  // ---- Operations: operations.h. Every one ends with a barrier.

  DR_BLOCK void Apply(const Step& step);

  /// Composes map(c, level) onto the pending table. A thread reads and writes only its own entries.
  template <typename Map>
  DR_BLOCK void Compose(Map map);

  DR_BLOCK void ApplyColor(float factor);

  DR_BLOCK void ApplyHue(int32_t shift);

  // ---- Sums and histograms: histogram.h

  /// Of the grey image.
  DR_BLOCK uint64_t GreySum();

  /// Counts the levels of each channel, as they are after the pending map, into merged_, and their extremes.
  DR_BLOCK void Histogram();

  DR_BLOCK void ApplyEqualize();

  // ---- Neighbours: neighbours.h

  /// Makes each channel anew in the spare plane: word(c, from, quad, y, x) gives the quad that begins at (y,
  /// x) from any pixels of the old one.
  template <typename Word>
  DR_BLOCK void MakeInSpare(Word word);

  DR_BLOCK void ApplyAffine(const Affine& given);

  DR_BLOCK void ApplySharpness(float factor);

  DR_BLOCK void ApplyBlur(const Blur& given);

  /// Applies the pending map, for operations that read a pixel many times.
  DR_BLOCK void Settle();

  // ---- Output: output.h

  /// Bits of a level as an output value.
  DR_BLOCK uint32_t OutputBits(int32_t c, int32_t level) const;

  /// Writes the outputs of a job: its view, or that mixed with the parked one.
  DR_BLOCK void Finish(const Job& given);

  /// Keeps the view, erased and with its last table applied, while another is made. Each thread later reads
  /// what it has written here itself.
  DR_BLOCK void Park(const Box& given);

  /// Which of the quad's pixels the box covers, as bits.
  DR_BLOCK uint32_t Covered(const Box& box, int32_t quad) const;

  template <typename T>
  DR_BLOCK void WriteAlone(const Box& erase, T* out);

  /// a: the view, b: the partner's, or the other way round; see MixPlan.
  template <typename T>
  DR_BLOCK void WriteMixed(const Box& erase, const MixPlan& mix, T* out);

  /// values(c, quad, covered(quad), v) gives the bits of four values of a channel.
  template <typename T, typename CoveredBy, typename Values>
  DR_BLOCK void Write(T* out, CoveredBy covered, Values values);

  Block& block_;
  const BlockBatch& batch_;
  BlockTables* const tables_;
  uint8_t* const pixels_;
  uint8_t* const taps_;
  uint8_t* const parked_;
  const int32_t height_, width_, count_, quads_;
  uint32_t* const merged_;  ///< histogram of the levels; at the end, bits of the output values
  int32_t plane_[4];        ///< offsets in pixels_: red, green, blue, spare
  bool pending_ = false;    ///< whether lut is still to be applied
};

}  // namespace dali_dr::image

#include "image/block/histogram.h"
#include "image/block/neighbours.h"
#include "image/block/operations.h"
#include "image/block/output.h"
#include "image/block/resize.h"

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_BLOCK_H_
