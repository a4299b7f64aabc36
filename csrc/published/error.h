// How what is wrong with a published file is said.
#ifndef DALI_DR_CSRC_PUBLISHED_ERROR_H_
#define DALI_DR_CSRC_PUBLISHED_ERROR_H_

#include <stdexcept>

#include "message.h"

namespace dali_dr::published {

/// A pickle that is read, but is not what the set's authors write; what() says where, without the file's
/// name.
class FormatError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws FormatError with the parts, one after another, as its message.
template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void Fail(const Parts&... parts) {
  throw FormatError(Message(parts...));
}

}  // namespace dali_dr::published

#endif  // DALI_DR_CSRC_PUBLISHED_ERROR_H_
