// libjpeg's part of tile.h: coefficients out of one file into another, and the comparison of both.
#ifndef DALI_DR_CSRC_JPEG_TRANSCODE_H_
#define DALI_DR_CSRC_JPEG_TRANSCODE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "jpeg/frame.h"
#include "jpeg/tile.h"

namespace dali_dr::jpeg {

/// A region whose pixels are wanted, and where they go: rows of 3 * width bytes, one behind the other.
struct WantedPixels {
  Region region;
  uint8_t* pixels;
};

struct Transcoding {
  std::span<const uint8_t> original;
  std::span<const std::span<const uint8_t>> metadata;  // segments that are written behind SOI as they are
  int restart_interval;
  std::span<uint8_t> out;  // where the file is written; what is larger is refused
  std::span<const WantedPixels> wanted;
  TileSteps* steps;
};

/// nullptr and in `size` the bytes of `out` that were written, which are the same image by coefficients and
/// pixels; or why there is nothing. The pixels of the wanted regions are those of the whole.
const char* Transcode(const Transcoding& transcoding, size_t* size);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_TRANSCODE_H_
