// The arguments of fn.dr.read, but those of fresh views, as a source of samples.
#ifndef DALI_DR_CSRC_OPERATORS_READ_OPTIONS_H_
#define DALI_DR_CSRC_OPERATORS_READ_OPTIONS_H_

#include "dali/pipeline/operator/op_spec.h"
#include "samples/samples.h"

namespace dali_dr {

/// For how long what may pass is tried again.
double RetrySeconds(const dali::OpSpec& spec);

/// The data set as the operator wants it. What is wrong with it is told to the monitor: a pipeline may be
/// built anew in mid-epoch, after its files were moved.
samples::Source OpenSource(const dali::OpSpec& spec);

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_READ_OPTIONS_H_
