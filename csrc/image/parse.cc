// See parse.h. What is read, and in which order, is that of nvImageCodec 0.9 (its parsers for JPEG, PNG,
// WebP).
#include "image/parse.h"

#include <cstring>

#include "view/layout.h"

namespace dali_dr::image {
namespace {

using Bytes = std::span<const uint8_t>;

// A place in the bytes, and whether reading has gone past their end.
class Cursor {
 public:
  explicit Cursor(Bytes bytes, size_t at) : bytes_(bytes), at_(at) {}

  size_t at() const { return at_; }
  bool past() const { return past_; }
  void Go(size_t at) { at_ = at; }
  void Skip(size_t count) { at_ += count; }

  uint32_t Big(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 8 | Byte();
    return value;
  }
  uint32_t Little(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value |= uint32_t{Byte()} << (8 * i);
    return value;
  }
  bool Is(const char* text, size_t length) {
    bool same = true;
    for (size_t i = 0; i < length; ++i) same &= Byte() == static_cast<uint8_t>(text[i]);
    return same;
  }
  // Whether so many bytes are left.
  bool Has(size_t count) const { return at_ <= bytes_.size() && bytes_.size() - at_ >= count; }

 private:
  uint8_t Byte() {
    if (at_ < bytes_.size()) return bytes_[at_++];
    past_ = true;
    return 0;
  }

  Bytes bytes_;
  size_t at_;
  bool past_ = false;
};

constexpr char kCutOff[] = "it is cut off";

bool IsFrame(uint32_t marker) {
  return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

std::string Jpeg(Bytes bytes, Size* size) {
  Cursor in(bytes, 2);
  bool framed = false;
  while (true) {
    const size_t begin = in.at();
    const uint32_t first = in.Big(1);
    uint32_t marker = in.Big(1);
    while (marker == 0xff && !in.past()) marker = in.Big(1);
    if (in.past()) return "it is cut off before its pixels";
    if (first != 0xff || marker == 0)
      return "there are bytes between its segments that belong to none, at " + std::to_string(begin);
    if (marker == 0xda) break;
    const size_t here = in.at();
    const uint32_t length = in.Big(2);
    if (length < 2) return "a segment of it has length " + std::to_string(length);
    if (IsFrame(marker)) {
      in.Skip(1);
      size->height = static_cast<int32_t>(in.Big(2));
      size->width = static_cast<int32_t>(in.Big(2));
      const uint32_t colours = in.Big(1);
      if (in.past() || !in.Has(size_t{3} * colours)) return kCutOff;
      if (colours != 1 && colours != 3 && colours != 4)
        return "it has " + std::to_string(colours) + " colours";
      framed = true;
    } else if (marker == 0xe1 && in.Is("Exif\0\0", 6)) {
      if (length < 8 || !in.Has(length - 8)) return "its EXIF segment is cut off";
    } else if (marker == 0xee && in.Is("Adobe", 5) && length == 14) {
      in.Skip(6);
      in.Big(1);
    }
    if (in.past()) return kCutOff;
    in.Go(here + length);
  }
  return framed ? std::string() : "its pixels begin before its size is given (no SOF segment)";
}

std::string Png(Bytes bytes, Size* size) {
  Cursor in(bytes, 8);
  if (in.Big(4) != 13 || !in.Is("IHDR", 4)) return "its first chunk is no IHDR of 13 bytes";
  size->width = static_cast<int32_t>(in.Big(4));
  size->height = static_cast<int32_t>(in.Big(4));
  const uint32_t depth = in.Big(1), colour = in.Big(1);
  const bool known = depth == 1 || depth == 2 || depth == 4 || depth == 8 || depth == 16;
  const bool fits = colour == 0   ? true
                    : colour == 3 ? depth != 16
                                  : (colour == 2 || colour == 4 || colour == 6) && depth >= 8;
  if (in.past()) return kCutOff;
  if (!known || !fits)
    return "colour type " + std::to_string(colour) + " with " + std::to_string(depth) +
           " bits does not exist";
  in.Skip(3 + 4);
  while (true) {
    const uint32_t length = in.Big(4);
    if (in.Is("IEND", 4)) return {};
    if (in.past()) return "it is cut off before its end (no IEND chunk)";
    in.Skip(size_t{length} + 4);
  }
}

std::string Webp(Bytes bytes, Size* size) {
  constexpr size_t kFirst = 12;
  Cursor in(bytes, kFirst + 8);
  const auto is = [&](const char* kind) { return std::memcmp(bytes.data() + kFirst, kind, 4) == 0; };
  if (bytes.size() < kFirst + 8) return kCutOff;
  if (is("VP8 ")) {
    in.Skip(3);
    const bool synced = in.Is("\x9d\x01\x2a", 3);
    size->width = static_cast<int32_t>(in.Little(2) & 0x3fff);
    size->height = static_cast<int32_t>(in.Little(2) & 0x3fff);
    return in.past() ? kCutOff : synced ? "" : "its VP8 frame has no start code";
  }
  if (is("VP8L")) {
    const bool signed_ = in.Little(1) == 0x2f;
    const uint32_t word = in.Little(4);
    *size = {static_cast<int32_t>((word >> 14 & 0x3fff) + 1), static_cast<int32_t>((word & 0x3fff) + 1)};
    return in.past() ? kCutOff : signed_ ? "" : "its VP8L data has no signature";
  }
  if (!is("VP8X")) return "its first chunk is none of VP8, VP8L and VP8X";
  const uint32_t flags = in.Little(1);
  in.Skip(3);
  size->width = static_cast<int32_t>(in.Little(3) + 1);
  size->height = static_cast<int32_t>(in.Little(3) + 1);
  if (in.past()) return kCutOff;
  if (!(flags & 8)) return {};
  // The parser looks for EXIF, and forgets the byte that pads a chunk of odd length.
  in.Go(kFirst + 4);
  const uint32_t first = in.Little(4);
  in.Go(kFirst + 8 + size_t{first});
  while (true) {
    const bool found = in.Is("EXIF", 4);
    const uint32_t length = in.Little(4);
    if (in.past())
      return "its header promises EXIF, which is missing, cut off or behind a chunk of odd length; `pack` "
             "stores "
             "it so that the decoder takes it";
    if (!found) {
      in.Skip(length);
    } else {
      return in.Has(length) ? std::string() : "its EXIF chunk is cut off";
    }
  }
}

}  // namespace

std::string Parse(Bytes encoded, Size* size) {
  const auto starts = [&](const char* text, size_t length, size_t at = 0) {
    return encoded.size() >= at + length && std::memcmp(encoded.data() + at, text, length) == 0;
  };
  if (starts("\xff\xd8\xff", 3)) return Jpeg(encoded, size);
  if (starts("\x89PNG\r\n\x1a\n", 8)) return Png(encoded, size);
  if (starts("RIFF", 4) && starts("WEBP", 4, 8)) return Webp(encoded, size);
  return {};
}

}  // namespace dali_dr::image
