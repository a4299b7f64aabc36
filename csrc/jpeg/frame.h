// The header of a JPEG of the common kind: where its pixels' data begin, how they are cut into MCUs, and what
// of the header its decoder needs.
#ifndef DALI_DR_CSRC_JPEG_FRAME_H_
#define DALI_DR_CSRC_JPEG_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dali_dr::jpeg {

/// A part of an image, in pixels.
struct Region {
  int32_t top, left, height, width;
};

/// Bytes begin .. end of a file.
struct Range {
  size_t begin, end;
};

/// A JPEG with one frame of 8-bit samples, coded sequentially by Huffman's method (SOF0, SOF1) in one scan of
/// all its one or three components (ITU-T T.81, annex B).
struct Frame {
  int32_t height, width;           ///< in pixels, at least 1
  int32_t mcu_height, mcu_width;   ///< in pixels
  int32_t mcu_rows, mcus_per_row;  ///< that the scan has
  int32_t max_v, max_h;            ///< largest sampling factors, where there are three components; else 1
  int32_t restart_interval;        ///< in MCUs; 0: no restarts
  size_t size_at;                  ///< where height and width stand, two bytes each
  size_t scan;                     ///< where the scan's data begin
  /// The segments from SOI to SOS, in order, without those that no decoder needs: comments and application
  /// segments but JFIF's and Adobe's, which say what the components are.
  std::vector<Range> needed;
};

/// Reads the header, trusting nothing. Whether it is of that kind; else `frame` holds anything.
bool ReadFrame(std::span<const uint8_t> encoded, Frame* frame);

/// The needed part of the header of `encoded`, as of an image of another size, into `header`.
void CopyHeader(std::span<const uint8_t> encoded, const Frame& frame, int32_t height, int32_t width,
                std::vector<uint8_t>* header);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_FRAME_H_
