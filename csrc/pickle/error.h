// How what is wrong with a pickle is said.
#ifndef DALI_DR_CSRC_PICKLE_ERROR_H_
#define DALI_DR_CSRC_PICKLE_ERROR_H_

#include <stdexcept>

#include "message.h"

namespace dali_dr::pickle {

/// A file that is no pickle, is damaged, or wants what is never done; what() says which, without the file's
/// name.
class PickleError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws PickleError with the parts, one after another, as its message.
template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void Fail(const Parts&... parts) {
  throw PickleError(Message(parts...));
}

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_ERROR_H_
