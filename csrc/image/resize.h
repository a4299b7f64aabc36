// Crop, resize and flip on the CPU.
#ifndef DALI_DR_CSRC_IMAGE_RESIZE_H_
#define DALI_DR_CSRC_IMAGE_RESIZE_H_

#include <cstdint>
#include <vector>

#include "image/kernels.h"
#include "image/pixel.h"
#include "image/plan.h"
#include "image/rows.h"
#include "image/taps.h"

namespace dali_dr::image {

/// The part of the image that a view is made of: the crop, or where a part of the resized crop is shown, what
/// that reads. Rows and columns that only taps of weight 0 touch are in it, too.
Box Needed(const Plan& plan, Filter filter);

/// Whether Resizer::Stream can make the view: both axes are resized, horizontally first.
bool CanStream(const Plan& plan);

/// One worker's buffers for resizing. They grow to the largest view seen.
class Resizer {
 public:
  explicit Resizer(const Kernels& kernels) : kernels_(&kernels) {}

  /// Writes the view, resized and flipped, into planes of plan.out pixels, behind each of which kPad bytes
  /// may be written. `image` holds what is Needed.
  void Run(const Plan& plan, const Image& image, Filter filter, uint8_t* const planes[3]);

  /// The same from rows of what is Needed, of a plan that CanStream. Returns false where the source ends
  /// early; the planes then hold anything.
  bool Stream(const Plan& plan, RowSource* rows, Filter filter, uint8_t* const planes[3]);

 private:
  /// One call of Run() or Stream().
  struct Work;
  /// The rows of an image that is there.
  class ImageRows;

  /// Makes the tables of taps.
  Work Prepare(const Plan& plan, Filter filter, uint8_t* const planes[3]);

  void ResizeRows(const Work& work, const uint8_t* const in[], uint8_t* const to[]) const;
  /// Both passes, horizontal first: a ring holds the horizontally resized rows that the vertical window of
  /// one output row needs.
  bool ThroughRing(const Work& work, RowSource* rows);
  /// Vertical first, one pass only, or none: rows need no ring.
  void ByGroups(const Work& work, const Image& image);

  const Kernels* kernels_;
  TapTable columns_, rows_;
  std::vector<uint8_t> ring_, padded_, line_, tail_;
  std::vector<const uint8_t*> sources_;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_RESIZE_H_
