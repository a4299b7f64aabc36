// Pixels in the place of an encoded image, for whoever takes files from one part of a pipeline to another: a
// header of kRawHeader bytes, which no JPEG, PNG or WebP begins with, and interleaved RGB rows without
// padding.
#ifndef DALI_DR_CSRC_IMAGE_RAW_H_
#define DALI_DR_CSRC_IMAGE_RAW_H_

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "image/rows.h"

namespace dali_dr::image {

inline constexpr uint8_t kRawMagic[8] = {0, 'd', 'r', ' ', 'R', 'G', 'B', '\n'};
inline constexpr size_t kRawHeader = sizeof kRawMagic + 2 * sizeof(int32_t);

/// Of all of it, for an image of this size.
inline size_t RawBytes(Size size) {
  return kRawHeader + 3 * static_cast<size_t>(size.height) * static_cast<size_t>(size.width);
}

/// Writes the header; the pixels begin at to + kRawHeader.
inline void PutRawHeader(Size size, uint8_t* to) {
  std::memcpy(to, kRawMagic, sizeof kRawMagic);
  std::memcpy(to + sizeof kRawMagic, &size.height, sizeof size.height);
  std::memcpy(to + sizeof kRawMagic + sizeof size.height, &size.width, sizeof size.width);
}

/// The pixels where they lie; none if these bytes are anything else, or do not have the length that their
/// header says.
inline std::optional<Image> RawPixels(std::span<const uint8_t> bytes) {
  if (bytes.size() < kRawHeader || std::memcmp(bytes.data(), kRawMagic, sizeof kRawMagic) != 0)
    return std::nullopt;
  Size size{};
  std::memcpy(&size.height, bytes.data() + sizeof kRawMagic, sizeof size.height);
  std::memcpy(&size.width, bytes.data() + sizeof kRawMagic + sizeof size.height, sizeof size.width);
  const auto fits = [](int32_t side) { return side >= 1 && side <= kMaxCoordinate; };
  if (!fits(size.height) || !fits(size.width) || bytes.size() != RawBytes(size)) return std::nullopt;
  return Image{bytes.data() + kRawHeader, size};
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_RAW_H_
