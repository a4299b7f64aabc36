// See cuda_machine.h. Memory comes from the driver's stream-ordered pool, which hands out at once what either
// stream has given back: what one launch leaves behind, the next finds.
#include "tests/device/cuda_machine.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace dali_dr::image {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error) + " (" +
                             cudaGetErrorName(error) + ")");
}

void Check(const std::string& problem) {
  if (!problem.empty()) throw std::runtime_error(problem);
}

class CudaMachine : public Machine {
 public:
  CudaMachine() {
    Check(OpenDevice(&limits_));
    Check(cudaGetDevice(&device_), "cudaGetDevice");
    Check(cudaGetDeviceProperties(&properties_, device_), "cudaGetDeviceProperties");
    for (auto& stream : stream_)
      Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    for (auto& mark : marks_) Check(cudaEventCreate(&mark), "cudaEventCreate");
    cudaMemPool_t pool;
    Check(cudaDeviceGetDefaultMemPool(&pool, device_), "cudaDeviceGetDefaultMemPool");
    uint64_t keep = UINT64_MAX;  // nothing goes back to the system between two launches
    Check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
  }

  DeviceLimits limits() const override { return limits_; }

  Row Facts() const override {
    int driver = 0, runtime = 0, clock = 0;
    Check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    Check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    Check(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, device_), "cudaDevAttrClockRate");
    return Row()
        .Add("machine", properties_.name)
        .Add("capability", properties_.major + properties_.minor / 10.0, 1)
        .Add("multiprocessors", properties_.multiProcessorCount)
        .Add("mhz_at_most", clock / 1000)
        .Add("l2_mib", double(properties_.l2CacheSize) / (1 << 20), 1)
        .Add("memory_gib", double(properties_.totalGlobalMem) / (1 << 30), 1)
        .Add("shared_bytes", limits_.shared_bytes)
        .Add("driver", driver)
        .Add("runtime", runtime);
  }

  std::vector<Row> Kernels() const override {
    std::vector<Row> rows;
    for (const KernelFacts& kernel : DescribeKernels(limits_)) {
      rows.push_back(Row()
                         .Add("kernel", kernel.name)
                         .Add("threads", kernel.threads)
                         .Add("registers", kernel.registers)
                         .Add("local_bytes", kernel.local_bytes)  // stack and spills of a thread
                         .Add("blocks_per_multiprocessor", kernel.blocks_per_multiprocessor)
                         .Add("occupancy",
                              double(kernel.blocks_per_multiprocessor) * kernel.threads /
                                  properties_.maxThreadsPerMultiProcessor,
                              3));
    }
    return rows;
  }

  size_t guard_bytes() const override { return 256; }
  size_t cache_bytes() const override { return size_t(properties_.l2CacheSize); }

  uint8_t* Allocate(size_t bytes, int stream) override {
    void* memory = nullptr;
    if (bytes > 0) Check(cudaMallocAsync(&memory, bytes, stream_[stream]), "cudaMallocAsync");
    return static_cast<uint8_t*>(memory);
  }
  void Free(uint8_t* memory, int stream) override {
    if (memory) Check(cudaFreeAsync(memory, stream_[stream]), "cudaFreeAsync");
  }
  uint8_t* AllocatePinned(size_t bytes) override {
    void* memory = nullptr;
    Check(cudaMallocHost(&memory, bytes), "cudaMallocHost");
    return static_cast<uint8_t*>(memory);
  }
  void Upload(uint8_t* to, const uint8_t* from, size_t bytes, int stream) override {
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_[stream]), "copy to the device");
  }
  void Download(uint8_t* to, const uint8_t* from, size_t bytes, int stream) override {
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_[stream]), "copy from the device");
    Check(cudaStreamSynchronize(stream_[stream]), "waiting for a copy from the device");
  }
  void Copy(uint8_t* to, const uint8_t* from, size_t bytes, int stream) override {
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_[stream]), "copy on the device");
  }
  void Fill(uint8_t* to, uint8_t value, size_t bytes, int stream) override {
    if (bytes > 0) Check(cudaMemsetAsync(to, value, bytes, stream_[stream]), "cudaMemsetAsync");
  }

  int64_t ScratchBytes(const Batch& batch) const override {
    return dali_dr::image::ScratchBytes(batch, limits_);
  }
  void Launch(const Batch& batch, uint8_t* data, uint8_t* scratch, int stream) override {
    Check(dali_dr::image::Launch(batch, limits_, data, scratch, stream_[stream]));
  }

  void Mark(int number) override { Check(cudaEventRecord(marks_[number], stream_[0]), "cudaEventRecord"); }
  double Seconds(int begin, int end) override {
    float milliseconds = 0;
    Check(cudaEventSynchronize(marks_[end]), "cudaEventSynchronize");
    Check(cudaEventElapsedTime(&milliseconds, marks_[begin], marks_[end]), "cudaEventElapsedTime");
    return milliseconds / 1000.0;
  }
  void Wait() override {
    for (auto& stream : stream_) Check(cudaStreamSynchronize(stream), "waiting for the device");
  }

 private:
  DeviceLimits limits_{};
  int device_ = 0;
  cudaDeviceProp properties_{};
  cudaStream_t stream_[2] = {};
  cudaEvent_t marks_[kMarks] = {};
};

}  // namespace

std::unique_ptr<Machine> OpenCudaMachine() { return std::make_unique<CudaMachine>(); }

}  // namespace dali_dr::image
