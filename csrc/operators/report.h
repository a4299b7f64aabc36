// How an operator fails: its monitor gets the fault as data, DALI the same message as text.
#ifndef DALI_DR_CSRC_OPERATORS_REPORT_H_
#define DALI_DR_CSRC_OPERATORS_REPORT_H_

#include <stdexcept>
#include <string>
#include <utility>

#include "dali/core/format.h"
#include "dali/pipeline/operator/error_reporting.h"
#include "operators/monitor.h"

namespace dali_dr {

class BatchError : public std::runtime_error {
 public:
  explicit BatchError(BatchFault fault) : std::runtime_error(fault.fault.message), fault_(std::move(fault)) {}

  const BatchFault& fault() const { return fault_; }

 private:
  BatchFault fault_;
};

/// Throws unless the inputs are as they must be; the message is what `parts` print, one after another.
template <typename... Parts>
void Require(bool good, const Parts&... parts) {
  if (!good)
    throw BatchError({.fault = {.kind = Fault::Kind::kArgument, .message = dali::make_string(parts...)}});
}

/// Throws that an image of the batch, or the one that it is mixed with, cannot be decoded.
[[noreturn]] inline void FailImage(int place, bool partner, const std::string& problem) {
  const char* const what = partner ? "the partner's image" : "the image";
  throw BatchError({.fault = {.kind = Fault::Kind::kImage,
                              .message = dali::make_string(what, " cannot be decoded: ", problem)},
                    .place = place,
                    .partner = partner});
}

/// Runs the body; a BatchError is told to the monitor, if there is one, and goes on as one of DALI's errors.
template <typename Body>
void Reporting(Monitor* monitor, const Body& body) {
  try {
    body();
  } catch (const BatchError& error) {
    if (monitor) monitor->Fail(error.fault());
    throw dali::DaliRuntimeError(error.what());
  }
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_REPORT_H_
