// The current CUDA device as a Machine.
#ifndef DALI_DR_CSRC_TESTS_DEVICE_CUDA_MACHINE_H_
#define DALI_DR_CSRC_TESTS_DEVICE_CUDA_MACHINE_H_

#include <memory>

#include "tests/machine.h"

namespace dali_dr::image {

// Throws std::runtime_error where there is no device, or none that the kernels are built for.
std::unique_ptr<Machine> OpenCudaMachine();

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_DEVICE_CUDA_MACHINE_H_
