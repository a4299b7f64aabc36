// Any 512 bytes in place of a tar header, any key and size: accepted only where the header says a regular
// file of that size whose name begins as KEY. does, but for what tars of others may have in front and the key
// as %XX.
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

/// Without leading "/" and "./".
std::string Stripped(std::string name) {
  for (;;) {
    if (name.rfind("./", 0) == 0)
      name.erase(0, 2);
    else if (name.rfind("/", 0) == 0)
      name.erase(0, 1);
    else
      return name;
  }
}

/// %XX as bytes.
std::string Unescaped(const std::string& key) {
  static const std::string digits = "0123456789ABCDEF";
  std::string text;
  for (size_t at = 0; at < key.size(); ++at) {
    const size_t high = at + 2 < key.size() ? digits.find(key[at + 1]) : std::string::npos;
    const size_t low = at + 2 < key.size() ? digits.find(key[at + 2]) : std::string::npos;
    if (key[at] != '%' || high == std::string::npos || low == std::string::npos) {
      text += key[at];
    } else {
      text += static_cast<char>(16 * high + low);
      at += 2;
    }
  }
  return text;
}

bool Names(const std::string& full, bool cut, const std::string& key) {
  const bool named = full.compare(0, key.size() + 1, key + ".") == 0;
  const bool foreign =
      std::any_of(key.begin(), key.end(), [](char c) { return static_cast<signed char>(c) <= 0; });
  const std::string hex = "0123456789abcdef";
  const size_t size = key.size();
  const bool digest =
      size > 17 && key[size - 17] == '-' && key.find_first_not_of(hex, size - 16) == std::string::npos;
  const size_t common = digest ? std::min(size - 17, full.size()) : 0;
  const bool longer = digest && full.size() >= 94 && full.compare(0, common, key, 0, common) == 0;
  return named || foreign || longer || (cut && key.compare(0, full.size(), full, 0, key.size()) == 0);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input({data, size});
  const auto header = input.Take<std::array<uint8_t, 512>>();
  const auto bytes = input.Take<uint64_t>();
  const std::string key(input.rest().begin(), input.rest().end());
  if (!shards::IsHeaderOf(std::span<const uint8_t, 512>(header), key, bytes)) return 0;
  Require(header[156] == '0' || header[156] == '7' || header[156] == 0, "a regular file");
  Require(TextAt(header, 257, 5) == "ustar" || header[257] == 0, "a ustar header, or one from before");
  Require(static_cast<uint64_t>(SizeOf(header)) == bytes, "the size of the header");
  const bool posix = TextAt(header, 257, 6) == "ustar" && header[262] == 0;
  const std::string prefix = posix ? TextAt(header, 345, 155) : "", name = TextAt(header, 0, 100);
  const std::string all = prefix.empty() ? name : prefix + "/" + name, full = Stripped(all);
  const bool cut = name.size() >= 99;
  Require(Names(all, cut, key) || Names(full, cut, key) || Names(full, cut, Unescaped(key)),
          "the key, as far as a header can hold it");
  return 0;
}
