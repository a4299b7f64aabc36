// One image of a batch, as its views need it: of a JPEG's bytes no more is decoded than the views show, and
// row by row into the resize where there is but one view; pixels that are there are taken as they are. Knows
// nothing of DALI.
#ifndef DALI_DR_CSRC_OPERATORS_ENCODED_IMAGE_H_
#define DALI_DR_CSRC_OPERATORS_ENCODED_IMAGE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "image/replay.h"
#include "jpeg/decode.h"
#include "operators/decoding.h"

namespace dali_dr {

/// Where an image's pixels come from: a JPEG, or if that is empty, pixels.
struct PixelSource {
  std::span<const uint8_t> jpeg{};
  image::Image pixels{};
};

/// Used by one thread for one image after the other.
class EncodedImage : private image::RowSource {
 public:
  /// Begins an image, of which these plans will be shown. What it comes from must live until the last is.
  void Begin(const PixelSource& source, std::span<const image::Plan* const> plans, image::Filter filter);

  /// Crops, resizes and flips the image as one of its plans says. Returns an empty string, or why the image
  /// cannot be decoded.
  std::string Show(const image::Plan& plan, image::Scratch* scratch);

  /// Of all images since it was asked for last.
  Decoding TakeDecoding();

 private:
  bool Next(int32_t count, const uint8_t** rows) override;
  std::string BeginDecoding();
  std::string DecodeRegion();

  PixelSource source_;
  image::Filter filter_ = image::Filter::kBilinear;
  jpeg::Region region_{};  // that the plans need
  bool streams_ = false;   // straight into the resize
  bool decoded_ = false;   // to buffer_, or there is a problem
  std::string problem_;    // with decoding it
  jpeg::Decoder decoder_;
  int32_t left_ = 0;              // rows of the region that are not decoded yet
  int32_t given_ = 0, have_ = 0;  // of the rows decoded last
  std::vector<uint8_t> buffer_;
  Decoding decoding_;
};

/// The box of the image that plans need. There is at least one.
jpeg::Region NeededBy(std::span<const image::Plan* const> plans, image::Filter filter);

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_ENCODED_IMAGE_H_
