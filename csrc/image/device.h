// Runs a Batch on the current CUDA device. Knows nothing of DALI; callable from plain C++.
#ifndef DALI_DR_CSRC_IMAGE_DEVICE_H_
#define DALI_DR_CSRC_IMAGE_DEVICE_H_

#include <array>
#include <cstdint>
#include <string>

#include "image/batch.h"

struct CUstream_st;

namespace dali_dr::image {

struct DeviceLimits {
  int multiprocessors;
  int shared_bytes;  ///< that one block may have
};

/// Prepares the kernels for the current device. Returns an empty string, or what is wrong and what to do.
std::string OpenDevice(DeviceLimits* limits);

/// What the compiler made of a kernel, and how much of it fits a multiprocessor with all the shared memory
/// that Launch() may ask for.
struct KernelFacts {
  const char* name;
  int threads, registers;
  int local_bytes;  ///< of a thread: its stack, spilled registers included
  int blocks_per_multiprocessor;
};

/// For part [0] of a Batch, without and with hue and blur, and for part [1].
std::array<KernelFacts, 3> DescribeKernels(const DeviceLimits& limits);

/// Bytes of device memory that Launch() needs beside the batch itself.
int64_t ScratchBytes(const Batch& batch, const DeviceLimits& limits);

/// Starts the kernels (one per part that is not empty) on `stream` and returns at once. `data`: batch.bytes()
/// of device memory, which the copy of Batch::Write()'s bytes, earlier in the stream, fills. `scratch`:
/// ScratchBytes(). Returns an empty string or the driver's error.
std::string Launch(const Batch& batch, const DeviceLimits& limits, uint8_t* data, uint8_t* scratch,
                   CUstream_st* stream);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_DEVICE_H_
