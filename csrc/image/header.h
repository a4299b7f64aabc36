// The size of an encoded image, from its header alone: JPEG, PNG and WebP.
#ifndef DALI_DR_CSRC_IMAGE_HEADER_H_
#define DALI_DR_CSRC_IMAGE_HEADER_H_

#include <cstdint>
#include <span>
#include <string>

#include "image/plan.h"

namespace dali_dr::image {

/// Height and width as stored (EXIF orientation not applied), each 1 .. kMaxCoordinate. Trusts nothing.
/// Returns an empty string, or what is wrong; `size` is then unspecified.
std::string ReadSize(std::span<const uint8_t> encoded, Size* size);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_HEADER_H_
