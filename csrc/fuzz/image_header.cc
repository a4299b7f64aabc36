// Any bytes in place of an encoded image: a size that is possible and stands in them, or a reason. What
// follows the header does not change it, and without all of it there is the same size or none. And what the
// decoders' parsers take, whatever follows.
#include <vector>

#include "fuzz/fuzz.h"
#include "image/header.h"
#include "image/parse.h"
#include "view/layout.h"

using namespace dali_dr;
using image::Size;

namespace {

using Bytes = std::span<const uint8_t>;

uint32_t Big(Bytes bytes, size_t at, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[at + i];
  return value;
}

uint32_t Little(Bytes bytes, size_t at, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value |= uint32_t{bytes[at + i]} << (8 * i);
  return value;
}

bool IsSof(uint8_t marker) {
  return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

/// Whether the size stands where a container of this kind has one; of a JPEG, behind any SOF marker.
bool Stands(Bytes bytes, Size size) {
  const auto height = static_cast<uint32_t>(size.height), width = static_cast<uint32_t>(size.width);
  if (bytes[0] == 0x89) return Big(bytes, 16, 4) == width && Big(bytes, 20, 4) == height;
  if (bytes[0] == 'R' && bytes[15] == ' ')
    return Little(bytes, 26, 2) % 16384 == width && Little(bytes, 28, 2) % 16384 == height;
  if (bytes[0] == 'R' && bytes[15] == 'L') {
    const uint32_t word = Little(bytes, 21, 4);
    return word % 16384 + 1 == width && (word >> 14) % 16384 + 1 == height;
  }
  if (bytes[0] == 'R') return Little(bytes, 24, 3) + 1 == width && Little(bytes, 27, 3) + 1 == height;
  for (size_t i = 2; i + 9 <= bytes.size(); ++i) {
    if (bytes[i] == 0xff && IsSof(bytes[i + 1]) && Big(bytes, i + 5, 2) == height &&
        Big(bytes, i + 7, 2) == width)
      return true;
  }
  return false;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fuzz::Require;
  const Bytes bytes(data, size);
  Size whole{};
  const bool accepted = image::ReadSize(bytes, &whole).empty();
  if (accepted) {
    Require(whole.height >= 1 && whole.width >= 1 && whole.height <= kMaxCoordinate &&
                whole.width <= kMaxCoordinate,
            "a size in range");
    Require(Stands(bytes, whole), "the size stands in the bytes");
  }
  const size_t cut = size == 0 ? 0 : (size_t{bytes.back()} * 251 + size) % size;
  const std::vector<uint8_t> part(data, data + cut);  // in memory of its own, so that an overrun is seen
  Size seen{};
  if (!image::ReadSize(part, &seen).empty()) return 0;
  Require(accepted && seen.height == whole.height && seen.width == whole.width, "a part has the same size");
  // What decoders' parsers take they take with more behind it, as far as they look.
  if (!image::Parse(part, &seen).empty()) return 0;
  const Size parsed = seen;
  Require(image::Parse(bytes, &seen).empty(), "taken with more behind it");
  Require(seen.height == parsed.height && seen.width == parsed.width, "parsed alike");
  return 0;
}
