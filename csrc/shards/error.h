// How what is wrong with a data set's files is said.
#ifndef DALI_DR_CSRC_SHARDS_ERROR_H_
#define DALI_DR_CSRC_SHARDS_ERROR_H_

#include "fault.h"
#include "message.h"

namespace dali_dr::shards {

/// A missing, damaged or inconsistent file; what() says what, where, and what to do.
class ShardError : public FaultError {
  using FaultError::FaultError;
};

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_ERROR_H_
