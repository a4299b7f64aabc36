// See tar_header.h; POSIX.1-1988 (ustar), with GNU's sizes in base 256.
#include "shards/tar_header.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace dali_dr::shards {
namespace {

/// A text field ends at its first NUL or at its full width.
std::string_view Field(const uint8_t* header, size_t at, size_t width) {
  const char* text = reinterpret_cast<const char*>(header) + at;
  return {text, strnlen(text, width)};
}

/// The size: octal digits, or big-endian binary if the first bit is set. UINT64_MAX if it is neither.
uint64_t Size(const uint8_t* header) {
  const uint8_t* field = header + 124;
  uint64_t size = 0;
  if (field[0] & 0x80) {
    for (int i = 4; i < 12; ++i) size = size << 8 | field[i];
    return size;
  }
  int i = 0;
  while (i < 12 && field[i] == ' ') ++i;
  for (; i < 12 && field[i] != 0 && field[i] != ' '; ++i) {
    if (field[i] < '0' || field[i] > '7') return UINT64_MAX;
    size = size << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  return size;
}

bool NamesKey(const uint8_t* header, std::string_view key) {
  const std::string_view prefix = Field(header, 345, 155), name = Field(header, 0, 100);
  std::string full;  // short names mostly fit the small-string buffer
  if (!prefix.empty()) full.append(prefix) += '/';
  full += name;
  if (full.starts_with(key) && full.size() > key.size() && full[key.size()] == '.') return true;
  for (const char c : key)
    if (static_cast<signed char>(c) <= 0) return true;  // not ASCII: written differently by different tars
  return name.size() >= 99 && key.starts_with(name.substr(0, std::min(name.size(), key.size())));
}

}  // namespace

bool IsHeaderOf(std::span<const uint8_t, kTarBlock> header, std::string_view key, uint64_t bytes) {
  const uint8_t* head = header.data();
  const bool regular = head[156] == '0' || head[156] == 0;
  return regular && std::memcmp(head + 257, "ustar", 5) == 0 && Size(head) == bytes && NamesKey(head, key);
}

}  // namespace dali_dr::shards
