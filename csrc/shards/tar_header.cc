// See tar_header.h; POSIX.1-1988 (ustar), with GNU's sizes in base 256.
#include "shards/tar_header.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace dali_dr::shards {
namespace {

constexpr size_t kLongName = 94;  // bytes of a name, in a header, of a key that may be too long

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

/// The name in a header. Only POSIX's has a prefix: GNU's and those before ustar have other things there.
std::string Name(const uint8_t* header) {
  std::string full;  // short names mostly fit the small-string buffer
  if (std::memcmp(header + 257, "ustar", 6) == 0) {
    full = Field(header, 345, 155);
    if (!full.empty()) full += '/';
  }
  return full += Field(header, 0, 100);
}

/// Without the "./" and "/" that it begins with.
std::string_view Stripped(std::string_view name) {
  while (name.starts_with('/') || name.starts_with("./")) name.remove_prefix(name[0] == '/' ? 1 : 2);
  return name;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/// `key` with every %XX as the byte that it stands for.
std::string Unescaped(std::string_view key) {
  std::string text;
  for (size_t i = 0; i < key.size(); ++i) {
    const bool escaped =
        key[i] == '%' && i + 2 < key.size() && HexDigit(key[i + 1]) >= 0 && HexDigit(key[i + 2]) >= 0;
    text += escaped ? static_cast<char>(HexDigit(key[i + 1]) * 16 + HexDigit(key[i + 2])) : key[i];
    i += escaped ? 2 : 0;
  }
  return text;
}

/// Whether a header with `name`, whose name field is full if `cut`, may be of KEY.suffix.
bool MayName(std::string_view name, bool cut, std::string_view key) {
  if (name.starts_with(key) && name.size() > key.size() && name[key.size()] == '.') return true;
  for (const char c : key)
    if (static_cast<signed char>(c) <= 0) return true;  // not ASCII: written differently by different tars
  return cut && key.starts_with(name.substr(0, std::min(name.size(), key.size())));
}

/// Whether `name` begins as `key` does, which was too long for shards, and so was cut and ends in -DIGEST.
bool NamesLongKey(std::string_view name, std::string_view key) {
  constexpr size_t kDigest = 17;
  if (key.size() <= kDigest || key[key.size() - kDigest] != '-') return false;
  for (const char c : key.substr(key.size() - kDigest + 1))
    if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return false;
  const std::string_view begin = key.substr(0, key.size() - kDigest);
  const size_t common = std::min(begin.size(), name.size());
  return name.size() >= kLongName && name.substr(0, common) == begin.substr(0, common);
}

bool NamesKey(const uint8_t* header, std::string_view key) {
  const std::string full = Name(header);
  const std::string_view name = Stripped(full);
  const bool cut = Field(header, 0, 100).size() >= 99;
  if (MayName(full, cut, key) || MayName(name, cut, key) || NamesLongKey(name, key)) return true;
  if (key.find('%') == std::string_view::npos) return false;
  const std::string unescaped = Unescaped(key);
  return MayName(name, cut, unescaped) || NamesLongKey(name, unescaped);
}

}  // namespace

bool IsHeaderOf(std::span<const uint8_t, kTarBlock> header, std::string_view key, uint64_t bytes) {
  const uint8_t* head = header.data();
  const bool regular = head[156] == '0' || head[156] == 0 || head[156] == '7';
  const bool known =
      std::memcmp(head + 257, "ustar", 5) == 0 || Field(head, 257, 8).empty();  // or of before ustar
  return regular && known && Size(head) == bytes && NamesKey(head, key);
}

}  // namespace dali_dr::shards
