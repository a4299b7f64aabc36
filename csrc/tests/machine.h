// Where blocks of threads run: what the tests of the block algorithm need of a GPU, so that the same cases
// run on one (device/cuda_machine.cc) and on host threads in its stead (host_machine.h).
#ifndef DALI_DR_CSRC_TESTS_MACHINE_H_
#define DALI_DR_CSRC_TESTS_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image/batch.h"
#include "image/device.h"
#include "tests/report.h"

namespace dali_dr::image {

// Everything is done in the order of one of two streams and returns at once, but where it says so. What goes
// wrong is thrown as std::runtime_error.
class Machine {
 public:
  virtual ~Machine() = default;

  virtual DeviceLimits limits() const = 0;
  virtual Row Facts() const = 0;                 // what it is
  virtual std::vector<Row> Kernels() const = 0;  // what the compiler made of the kernels; empty: unknown

  // Bytes to leave on either side of what blocks write, to see what they write outside. 0: the machine sees
  // that itself.
  virtual size_t guard_bytes() const = 0;
  virtual size_t cache_bytes() const = 0;  // of the last cache before memory

  virtual uint8_t* Allocate(size_t bytes, int stream = 0) = 0;
  virtual void Free(uint8_t* memory, int stream = 0) = 0;
  // Memory of the host from which Upload() is fast; for as long as the machine lives.
  virtual uint8_t* AllocatePinned(size_t bytes) = 0;

  virtual void Upload(uint8_t* to, const uint8_t* from, size_t bytes, int stream = 0) = 0;
  virtual void Download(uint8_t* to, const uint8_t* from, size_t bytes, int stream = 0) = 0;  // waits
  virtual void Copy(uint8_t* to, const uint8_t* from, size_t bytes, int stream = 0) = 0;
  virtual void Fill(uint8_t* to, uint8_t value, size_t bytes, int stream = 0) = 0;

  virtual int64_t ScratchBytes(const Batch& batch) const = 0;
  virtual void Launch(const Batch& batch, uint8_t* data, uint8_t* scratch, int stream = 0) = 0;

  virtual void Mark(int number) = 0;               // a point of time in stream 0, 0 <= number < kMarks
  virtual double Seconds(int begin, int end) = 0;  // between two of them; waits
  virtual void Wait() = 0;                         // for both streams
};

constexpr int kMarks = 512;

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_MACHINE_H_
