// Crop, resize and flip on the CPU.
#ifndef DALI_DR_CSRC_IMAGE_RESIZE_H_
#define DALI_DR_CSRC_IMAGE_RESIZE_H_

#include <cstdint>
#include <vector>

#include "image/kernels.h"
#include "image/pixel.h"
#include "image/plan.h"

namespace dali_dr::image {

/// Interleaved RGB pixels without padding between rows.
struct Image {
  const uint8_t* data;
  Size size;
};

/// One worker's buffers for resizing. They grow to the largest view seen.
class Resizer {
 public:
  explicit Resizer(const Kernels& kernels) : kernels_(&kernels) {}

  /// Writes the view, resized and flipped, into planes of plan.out pixels, behind each of which kPad bytes
  /// may be written.
  void Run(const Plan& plan, const Image& image, Filter filter, uint8_t* const planes[3]);

 private:
  struct TapTable {
    std::vector<int32_t> start;
    std::vector<TapPair> weight;
    int32_t pairs = 0;
    Taps view() const { return {start.data(), weight.data(), pairs}; }
    const TapPair* row(int32_t y) const { return weight.data() + size_t(y) * pairs; }
  };
  /// One call of Run().
  struct Work;

  /// Of output coordinates first .. first + count.
  void SetTaps(const Axis& axis, int32_t first, int32_t count, TapTable* table);
  /// Both passes, horizontal first: a ring holds the horizontally resized rows that the vertical window of
  /// one output row needs.
  void ThroughRing(const Work& work);
  /// Vertical first, one pass only, or none: rows need no ring.
  void ByGroups(const Work& work);

  const Kernels* kernels_;
  TapTable columns_, rows_;
  std::vector<double> raw_;
  std::vector<int32_t> fixed_;
  std::vector<uint8_t> ring_, padded_, line_;
  std::vector<const uint8_t*> sources_;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_RESIZE_H_
