// See kind.h. Markers are those of ITU-T T.81, table B.1.
#include "jpeg/kind.h"

#include <cstddef>

namespace dali_dr::jpeg {
namespace {

constexpr uint8_t kSof0 = 0xc0, kSof1 = 0xc1, kSof2 = 0xc2, kSof9 = 0xc9, kSof10 = 0xca, kSof15 = 0xcf;
constexpr uint8_t kDht = 0xc4, kJpg = 0xc8, kDac = 0xcc;  // among those of frames
constexpr uint8_t kTem = 0x01, kRst0 = 0xd0, kSoi = 0xd8, kEoi = 0xd9, kSos = 0xda;

bool IsFrame(uint8_t marker) {
  return marker >= kSof0 && marker <= kSof15 && marker != kDht && marker != kJpg && marker != kDac;
}

}  // namespace

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
