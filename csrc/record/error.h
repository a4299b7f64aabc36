// How what is wrong with a record is said.
#ifndef DALI_DR_CSRC_RECORD_ERROR_H_
#define DALI_DR_CSRC_RECORD_ERROR_H_

#include <stdexcept>

#include "message.h"

namespace dali_dr::record {

/// A malformed record; what() names the field and its value.
class RecordError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws RecordError with the parts, one after another, as its message.
template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void Fail(const Parts&... parts) {
  throw RecordError(Message(parts...));
}

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_ERROR_H_
