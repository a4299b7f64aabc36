// How names from outside are printed: keys and paths may hold anything, and terminals obey control
// characters.
#ifndef DALI_DR_CSRC_ESCAPE_H_
#define DALI_DR_CSRC_ESCAPE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dali_dr {

/// The text with \xNN for each byte of a control character: below 32, 127, and 128 … 159 (c2 80 … c2 9f in
/// UTF-8). Everything else stays; what is no UTF-8 is for whoever decodes it to show.
inline std::string Escaped(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  const auto escape = [&](uint8_t byte) {
    constexpr char kDigits[] = "0123456789abcdef";
    shown += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const auto next = static_cast<uint8_t>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte < 32 || byte == 127) {
      escape(byte);
    } else if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {
      escape(byte);
      escape(next);
      ++i;
    } else {
      shown += text[i];
    }
  }
  return shown;
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_ESCAPE_H_
