// Markers of JPEG files (ITU-T T.81, table B.1), and the order of coefficients in them.
#ifndef DALI_DR_CSRC_JPEG_MARKERS_H_
#define DALI_DR_CSRC_JPEG_MARKERS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace dali_dr::jpeg {

/// The byte behind 0xff.
enum Marker : uint8_t {
  kTem = 0x01,
  kSof0 = 0xc0,
  kSof1 = 0xc1,
  kSof2 = 0xc2,
  kDht = 0xc4,
  kJpg = 0xc8,
  kSof9 = 0xc9,
  kSof10 = 0xca,
  kDac = 0xcc,
  kSof15 = 0xcf,
  kRst0 = 0xd0,
  kRst7 = 0xd7,
  kSoi = 0xd8,
  kEoi = 0xd9,
  kSos = 0xda,
  kDqt = 0xdb,
  kDnl = 0xdc,
  kDri = 0xdd,
  kApp0 = 0xe0,
  kApp14 = 0xee,
  kApp15 = 0xef,
  kCom = 0xfe,
};

/// Restart markers come in turn, RST0 to RST7.
constexpr int kRestartMarkers = 8;

/// Whether it begins a frame: SOF0 to SOF15, among which lie three others.
constexpr bool IsFrame(uint8_t marker) {
  return marker >= kSof0 && marker <= kSof15 && marker != kDht && marker != kJpg && marker != kDac;
}

constexpr bool IsMetadata(uint8_t marker) { return (marker >= kApp0 && marker <= kApp15) || marker == kCom; }

/// A number of two bytes, which must be there.
constexpr int32_t Big16(std::span<const uint8_t> bytes, size_t at) { return bytes[at] << 8 | bytes[at + 1]; }

/// Where the first marker at `at` or behind it stands in a scan's data, in which 0xff with a 0 behind it is a
/// byte like others; two bytes are there. Or the size: there is none.
inline size_t FindMarker(std::span<const uint8_t> bytes, size_t at) {
  while (at + 1 < bytes.size()) {
    const void* const found = std::memchr(bytes.data() + at, 0xff, bytes.size() - 1 - at);
    if (found == nullptr) break;
    at = static_cast<size_t>(static_cast<const uint8_t*>(found) - bytes.data());
    if (bytes[at + 1] != 0) return at;
    at += 2;
  }
  return bytes.size();
}

/// Of a place in the zigzag order, the place in natural order, row by row.
constexpr std::array<uint8_t, 64> kNatural = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                              12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                              35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                              58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_MARKERS_H_
