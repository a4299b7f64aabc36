// Slices: a region of a JPEG with restart markers as a smaller JPEG, cut out of its bytes without decoding
// any.
//
// Between two restart markers lies a tile: so many MCUs, the first of which depends on none before it. Where
// tiles divide the rows of MCUs, those that a region touches, one behind the other, are the scan of a JPEG of
// its own, whose pixels are those of the whole image wherever upsampling does not look past its edges.
#ifndef DALI_DR_CSRC_JPEG_SLICE_H_
#define DALI_DR_CSRC_JPEG_SLICE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "jpeg/frame.h"

namespace dali_dr::jpeg {

/// Whether the image is cut into tiles, more than one, that divide its rows of MCUs.
bool IsTiled(const Frame& frame);

/// The part of an image to decode so that a region of it has the pixels of the whole: the region and what
/// upsampling (libjpeg's "fancy" one) looks at beside it. At least kNarrowest wide where the image is.
Region WithContext(const Frame& frame, const Region& region);

/// Libjpeg upsamples what is only a few pixels wide in another way.
constexpr int32_t kNarrowest = 16;

/// Reused from image to image for its buffer.
class Slicer {
 public:
  /// Cuts out the tiles that `region` of the image and its context touch. `frame` is the header of `encoded`,
  /// and `region` lies inside the image. Trusts nothing of the scan. Whether the image is tiled, the tiles
  /// are fewer than all, and the markers up to the last of them are those that there must be; else it has to
  /// be decoded whole.
  bool Cut(std::span<const uint8_t> encoded, const Frame& frame, const Region& region);

  /// The slice, a JPEG, and the place of it in the image. Valid until the next call.
  std::span<const uint8_t> bytes() const { return bytes_; }
  const Region& region() const { return region_; }
  /// Why the last Cut was none: whether because of markers that do not fit.
  bool misfit() const { return misfit_; }

 private:
  bool FindTiles(std::span<const uint8_t> encoded, const Frame& frame, size_t last);

  std::vector<Range> tiles_;
  std::vector<uint8_t> bytes_;
  Region region_{};
  bool misfit_ = false;
};

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_SLICE_H_
