// See kind.h.
#include "jpeg/kind.h"

#include <cstddef>

#include "jpeg/markers.h"

namespace dali_dr::jpeg {

bool IsDecodable(std::span<const uint8_t> encoded) {
  if (encoded.size() < 4 || encoded[0] != 0xff || encoded[1] != kSoi || encoded[2] != 0xff) return false;
  for (size_t at = 2; encoded.size() - at >= 10;) {
    const uint8_t marker = encoded[at + 1];
    if (encoded[at] != 0xff || marker == 0xff) {  // junk between segments, or fill bytes before a marker
      ++at;
      continue;
    }
    at += 2;
    if (marker == 0 || marker == kTem || (marker >= kRst0 && marker <= kSoi)) continue;  // no segment follows
    if (marker == kSos || marker == kEoi) return false;
    if (IsFrame(marker)) {
      // Behind the length: bits of a sample, height, width, components.
      const bool known =
          marker == kSof0 || marker == kSof1 || marker == kSof2 || marker == kSof9 || marker == kSof10;
      const uint8_t bits = encoded[at + 2], components = encoded[at + 7];
      return known && bits == 8 && (components == 1 || components == 3);
    }
    const size_t length = static_cast<size_t>(encoded[at] << 8 | encoded[at + 1]);
    if (length < 2 || length > encoded.size() - at) return false;
    at += length;
  }
  return false;
}

}  // namespace dali_dr::jpeg
