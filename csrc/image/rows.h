// Pixels of an image, or of a part of it: all at once, or row by row as a decoder makes them.
#ifndef DALI_DR_CSRC_IMAGE_ROWS_H_
#define DALI_DR_CSRC_IMAGE_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "image/plan.h"

namespace dali_dr::image {

/// Interleaved RGB pixels without padding between rows.
struct Image {
  const uint8_t* data;
  Size size;
  /// Place of the first pixel, in the coordinates of a plan's crop.
  int32_t top = 0, left = 0;
};

/// Rows of a box of an image from the top down, made when they are asked for.
class RowSource {
 public:
  virtual ~RowSource() = default;

  /// Sets rows[0 .. count) to the next `count` rows, at most kMostRows. They are interleaved RGB, begin at
  /// the box's left edge, and may be read until the next call, also kSlack bytes past their end. Returns
  /// whether they can be had; if not, the source knows why.
  virtual bool Next(int32_t count, const uint8_t** rows) = 0;

  static constexpr int32_t kMostRows = 4;
  static constexpr size_t kSlack = 128;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_ROWS_H_
