// Whether the parsers of DALI's decoders take an encoded image: JPEG, PNG and WebP.
#ifndef DALI_DR_CSRC_IMAGE_PARSE_H_
#define DALI_DR_CSRC_IMAGE_PARSE_H_

#include <cstdint>
#include <span>
#include <string>

#include "image/plan.h"

namespace dali_dr::image {

/// Height and width as nvImageCodec's parsers read them. Trusts nothing. Returns an empty string, or what
/// they stumble over, although other software may not; `size` is then unspecified. Sizes may be 0. Of other
/// containers nothing is said: an empty string, and `size` stays.
///
/// An image that they refuse must not be in a batch: DALI parses large batches on several threads, and when
/// that of the calling one fails, it takes away the memory that the others still use (SetupImpl in
/// dali/operators/imgcodec/image_decoder.h). The process may end.
std::string Parse(std::span<const uint8_t> encoded, Size* size);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_PARSE_H_
