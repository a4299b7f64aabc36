// See header.h. Sources: ITU-T T.81 annex B (JPEG), the PNG specification 11.2.1 (IHDR), RFC 9649 (WebP) and
// RFC 6386 9.1 (VP8).
#include "image/header.h"

#include <cstring>

#include "view/layout.h"

namespace dali_dr::image {
namespace {

using Bytes = std::span<const uint8_t>;

bool StartsWith(Bytes bytes, size_t at, const char* text, size_t length) {
  return bytes.size() >= at + length && std::memcmp(bytes.data() + at, text, length) == 0;
}

// A big- or little-endian number of `count` bytes; the caller has checked that they are there.
uint32_t Big(Bytes bytes, size_t at, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[at + i];
  return value;
}

uint32_t Little(Bytes bytes, size_t at, int count) {
  uint32_t value = 0;
  for (int i = count - 1; i >= 0; --i) value = value << 8 | bytes[at + i];
  return value;
}

std::string Jpeg(Bytes bytes, uint32_t* height, uint32_t* width) {
  size_t at = 2;  // after SOI
  while (at + 1 < bytes.size()) {
    const uint8_t marker = bytes[at + 1];
    if (bytes[at] != 0xff || marker == 0xff) {  // junk between segments, or fill bytes before a marker
      ++at;
      continue;
    }
    at += 2;
    if (marker == 0x00 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8))
      continue;  // no segment follows
    if (marker == 0xd9 || marker == 0xda) return "its pixels begin before its size is given (no SOF segment)";
    if (bytes.size() - at < 2) break;
    const size_t length = Big(bytes, at, 2);  // with these two bytes
    if (length < 2) return "a segment of it has length " + std::to_string(length);
    // SOF0 .. SOF15, among which lie DHT (c4), JPG (c8) and DAC (cc).
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
      if (length < 8 || bytes.size() - at < 8) break;
      *height = Big(bytes, at + 3, 2);
      *width = Big(bytes, at + 5, 2);
      return {};
    }
    if (length >= bytes.size() - at) break;
    at += length;
  }
  return "it is cut off before its size";
}

std::string Png(Bytes bytes, uint32_t* height, uint32_t* width) {
  if (bytes.size() < 24) return "it is cut off before its size";
  if (!StartsWith(bytes, 12, "IHDR", 4)) return "its first chunk is not IHDR";
  *width = Big(bytes, 16, 4);
  *height = Big(bytes, 20, 4);
  return {};
}

std::string Webp(Bytes bytes, uint32_t* height, uint32_t* width) {
  constexpr size_t kData = 20;  // of the first chunk
  if (StartsWith(bytes, 12, "VP8 ", 4)) {
    if (bytes.size() < kData + 10) return "it is cut off before its size";
    if (bytes[kData] & 1) return "it does not begin with a key frame";
    if (!StartsWith(bytes, kData + 3, "\x9d\x01\x2a", 3)) return "its VP8 frame has no start code";
    *width = Little(bytes, kData + 6, 2) & 0x3fff;
    *height = Little(bytes, kData + 8, 2) & 0x3fff;
  } else if (StartsWith(bytes, 12, "VP8L", 4)) {
    if (bytes.size() < kData + 5) return "it is cut off before its size";
    if (bytes[kData] != 0x2f) return "its VP8L data has no signature";
    const uint32_t word = Little(bytes, kData + 1, 4);
    *width = (word & 0x3fff) + 1;
    *height = (word >> 14 & 0x3fff) + 1;
  } else if (StartsWith(bytes, 12, "VP8X", 4)) {
    if (bytes.size() < kData + 10) return "it is cut off before its size";
    *width = Little(bytes, kData + 4, 3) + 1;
    *height = Little(bytes, kData + 7, 3) + 1;
  } else {
    return "its first chunk is none of VP8, VP8L and VP8X";
  }
  return {};
}

}  // namespace

std::string ReadSize(Bytes encoded, Size* size) {
  uint32_t height = 0, width = 0;
  std::string problem;
  if (StartsWith(encoded, 0, "\xff\xd8\xff", 3))
    problem = Jpeg(encoded, &height, &width);
  else if (StartsWith(encoded, 0, "\x89PNG\r\n\x1a\n", 8))
    problem = Png(encoded, &height, &width);
  else if (StartsWith(encoded, 0, "RIFF", 4) && StartsWith(encoded, 8, "WEBP", 4))
    problem = Webp(encoded, &height, &width);
  else
    return "the image (" + std::to_string(encoded.size()) + " bytes) is neither JPEG nor PNG nor WebP";
  if (problem.empty() && (height < 1 || width < 1 || height > kMaxCoordinate || width > kMaxCoordinate))
    problem = "its size is " + std::to_string(height) + "x" + std::to_string(width) + " pixels";
  if (!problem.empty()) return "the image's header cannot be used: " + problem;
  *size = {static_cast<int32_t>(height), static_cast<int32_t>(width)};
  return {};
}

}  // namespace dali_dr::image
