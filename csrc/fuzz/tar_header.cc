// Any 512 bytes in place of a tar header, any key and size: accepted only where the header says a regular
// ustar file whose name begins as KEY. does, of that size.
//
// The input is the header, the size (8 bytes), and the key.
#include "shards/tar_header.h"

#include <algorithm>
#include <array>

#include "fuzz/fuzz.h"

using namespace dali_dr;
using fuzz::Require;

namespace {

/// Octal digits between blanks and zero bytes, or a binary number; -1: neither.
int64_t SizeOf(const std::array<uint8_t, 512>& header) {
  if (header[124] >= 128) {
    uint64_t value = 0;
    for (int i = 128; i < 136; ++i) value = value * 256 + header[i];
    return static_cast<int64_t>(value);
  }
  int64_t value = 0;
  bool digits = false;
  for (int i = 124; i < 136; ++i) {
    if (header[i] == ' ' && !digits) continue;
    if (header[i] == ' ' || header[i] == 0) break;
    if (header[i] < '0' || header[i] > '7') return -1;
    digits = true;
    value = value * 8 + (header[i] - '0');
  }
  return value;
}

std::string TextAt(const std::array<uint8_t, 512>& header, size_t at, size_t width) {
  const auto* begin = header.begin() + at;
  const auto* end = std::find(begin, begin + width, 0);
  return {begin, end};
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input({data, size});
  const auto header = input.Take<std::array<uint8_t, 512>>();
  const auto bytes = input.Take<uint64_t>();
  const std::string key(input.rest().begin(), input.rest().end());
  if (!shards::IsHeaderOf(std::span<const uint8_t, 512>(header), key, bytes)) return 0;
  Require(header[156] == '0' || header[156] == 0, "a regular file");
  Require(TextAt(header, 257, 5) == "ustar", "a ustar header");
  Require(static_cast<uint64_t>(SizeOf(header)) == bytes, "the size of the header");
  const std::string prefix = TextAt(header, 345, 155), name = TextAt(header, 0, 100);
  const std::string full = prefix.empty() ? name : prefix + "/" + name;
  const bool named = full.compare(0, key.size() + 1, key + ".") == 0;
  const bool foreign = std::any_of(key.begin(), key.end(), [](char c) { return c <= 0; });
  Require(named || foreign || (name.size() >= 99 && key.compare(0, name.size(), name, 0, key.size()) == 0),
          "the key, as far as a header can hold it");
  return 0;
}
