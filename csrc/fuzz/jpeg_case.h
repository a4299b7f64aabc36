// The inputs of the JPEG targets: a region, how many rows come at a time, and the bytes of a file.
#ifndef DALI_DR_CSRC_FUZZ_JPEG_CASE_H_
#define DALI_DR_CSRC_FUZZ_JPEG_CASE_H_

#include <vector>

#include "fuzz/fuzz.h"
#include "jpeg/frame.h"
#include "tests/make_jpeg.h"

namespace dali_dr::fuzz {

/// Pixels of an image that is looked at; larger ones take long, and are no other.
constexpr size_t kMostPixels = 1 << 14;

struct JpegCase {
  jpeg::Region asked{};  ///< as it is, mostly not inside the image
  int32_t rows = 1;      ///< at a time
  std::vector<uint8_t> bytes;

  explicit JpegCase(std::span<const uint8_t> data) {
    Input input(data);
    for (int32_t* number : {&asked.top, &asked.left, &asked.height, &asked.width})
      *number = input.Take<int16_t>();
    rows = input.Range(1, 16);
    bytes.assign(input.rest().begin(), input.rest().end());
  }
  /// The region, made one that is inside an image.
  jpeg::Region Inside(int32_t height, int32_t width) const {
    const auto wrap = [](int32_t value, int32_t count) {
      return static_cast<int32_t>(uint16_t(value)) % count;
    };
    const int32_t top = wrap(asked.top, height), left = wrap(asked.left, width);
    return {top, left, 1 + wrap(asked.height - 1, height - top), 1 + wrap(asked.width - 1, width - left)};
  }
};

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_JPEG_CASE_H_
