// How messages are put together. Not by streams: their code lies in the C++ library, into which
// MemorySanitizer does not see; and they are slow to compile.
#ifndef DALI_DR_CSRC_MESSAGE_H_
#define DALI_DR_CSRC_MESSAGE_H_

#include <cstdio>
#include <string>
#include <type_traits>

namespace dali_dr {

/// Appends text as it is, a number in decimal: floating point with up to six digits.
template <typename Part>
void Append(std::string* message, const Part& part) {
  if constexpr (std::is_floating_point_v<Part>) {
    char digits[32];
    const int length = std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
    message->append(digits, static_cast<size_t>(length));
  } else if constexpr (std::is_enum_v<Part>) {
    Append(message, static_cast<std::underlying_type_t<Part>>(part));
  } else if constexpr (std::is_integral_v<Part> && !std::is_same_v<Part, char>) {
    message->append(std::to_string(part));
  } else {
    *message += part;
  }
}

/// The parts, one after another.
template <typename... Parts>
[[gnu::cold, gnu::noinline]] std::string Message(const Parts&... parts) {
  std::string message;
  (Append(&message, parts), ...);
  return message;
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_MESSAGE_H_
