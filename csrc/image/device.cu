// See device.h: the threads of a CUDA block for block/block.h, and the launches.
#include <cuda_runtime.h>

#include <algorithm>

#include "image/block/block.h"
#include "image/device.h"

namespace dali_dr::image {
namespace {

// Threads of a block. At 1,024, the most there can be, the compiler has 64 registers for each, and the kernel
// in shared memory needs no more: fewer threads save no instruction and hide less latency (docs/gpu.md,
// "Registers and spills").
#ifndef DALI_DR_THREADS
#define DALI_DR_THREADS 1024
#endif
constexpr int kThreads = DALI_DR_THREADS;
// With fewer than four warps, Sum() of the grey levels of the largest view could overflow in a warp.
static_assert(kThreads >= 128 && kThreads <= 1024 && kThreads % 32 == 0,
              "DALI_DR_THREADS is a multiple of 32 from 128 to 1024");
constexpr int64_t kMostScratchBytes = int64_t{1} << 30;  // fewer blocks rather than more memory than this

template <bool hue_and_blur>
class DeviceBlock {
 public:
  static constexpr bool kHueAndBlur = hue_and_blur;

  template <typename F>
  __device__ __forceinline__ void ForEach(int32_t n, F f) {
    // Unrolled, the loops outgrow the registers; what is worth unrolling is unrolled in block/.
#pragma unroll 1
    for (int32_t i = int32_t(threadIdx.x); i < n; i += kThreads) f(i);
  }
  __device__ __forceinline__ void Sync() { __syncthreads(); }
  __device__ __forceinline__ bool Leader() const { return threadIdx.x == 0; }
  __device__ __forceinline__ int32_t Replica() const { return int32_t(threadIdx.x / 32); }
  __device__ __forceinline__ void Count(uint32_t* p, uint32_t n) { atomicAdd(p, n); }
  __device__ __forceinline__ void Lower(int32_t* p, int32_t v) { atomicMin(p, v); }
  __device__ __forceinline__ void Raise(int32_t* p, int32_t v) { atomicMax(p, v); }
  __device__ __forceinline__ void Sum(uint64_t* p, uint32_t n) {
    const uint32_t warp = __reduce_add_sync(0xffffffffu, n);
    if (threadIdx.x % 32 == 0) atomicAdd(reinterpret_cast<unsigned long long*>(p), warp);
  }
  __device__ __forceinline__ uint32_t Take(uint32_t* p) { return atomicAdd(p, 1u); }
};

extern __shared__ __align__(16) uint8_t shared_memory[];

// The address of shared_memory, kept in a register: otherwise sm_90 code makes it anew, in three
// instructions, wherever a loop reaches into it.
__device__ __forceinline__ uint8_t* SharedMemory() {
  uint32_t address = uint32_t(__cvta_generic_to_shared(shared_memory));
#if __CUDA_ARCH__ >= 900
  asm volatile("" : "+r"(address));
#endif
  return static_cast<uint8_t*>(__cvta_shared_to_generic(address));
}

// The code of hue and blur costs the kernel in shared memory registers that it does not have (docs/gpu.md),
// so batches without them, as nearly all are, run one that has none.
template <bool hue_and_blur>
__device__ __forceinline__ void Replay(const BlockBatch& batch, const BlockMemory& memory) {
  DeviceBlock<hue_and_blur> block;
  BlockReplay<DeviceBlock<hue_and_blur>>(block, batch, memory).Run();
}

__global__ void __launch_bounds__(kThreads, 1)
    ReplayInShared(const __grid_constant__ BlockBatch batch, uint8_t* slots, int64_t slot_bytes) {
  Replay<false>(batch, DivideShared(batch.layout, SharedMemory(), slots + blockIdx.x * slot_bytes));
}

__global__ void __launch_bounds__(kThreads, 1)
    ReplayAllInShared(const __grid_constant__ BlockBatch batch, uint8_t* slots, int64_t slot_bytes) {
  Replay<true>(batch, DivideShared(batch.layout, SharedMemory(), slots + blockIdx.x * slot_bytes));
}

__global__ void __launch_bounds__(kThreads, 1)
    ReplayInGlobal(const __grid_constant__ BlockBatch batch, uint8_t* slots, int64_t slot_bytes) {
  Replay<true>(batch, DivideGlobal(batch.layout, SharedMemory(), slots + blockIdx.x * slot_bytes));
}

std::string Text(const char* what, cudaError_t error) {
  return std::string(what) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
}

int64_t SlotBytes(const Batch& batch, int part) { return (batch.slot_bytes(part) + 255) / 256 * 256; }

int Blocks(const Batch& batch, int part, const DeviceLimits& limits) {
  int64_t most = limits.multiprocessors;
  if (const int64_t slot = SlotBytes(batch, part); slot > 0)
    most = std::clamp<int64_t>(kMostScratchBytes / slot, 1, most);
  return int(std::min<int64_t>(batch.num_jobs(part), most));
}

}  // namespace

std::string OpenDevice(DeviceLimits* limits) {
  int driver = 0, device = 0;
  const cudaError_t asked = cudaDriverGetVersion(&driver);
  if (asked != cudaSuccess || driver == 0)
    return "no CUDA driver is loaded on this machine; the GPU operator needs one";
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  // Within a major version any driver runs code of any toolkit; across, the driver must be the newer.
  if (driver / 1000 < CUDART_VERSION / 1000) {
    return "this plugin was built with CUDA " + version(CUDART_VERSION) + ", but the driver supports CUDA " +
           version(driver) + " at most: update the NVIDIA driver" +
           (CUDART_VERSION / 1000 == 13 ? " to 580 or newer" : "") + ", or rebuild with an nvcc of CUDA " +
           std::to_string(driver / 1000) + " (CUDACXX=/path/to/nvcc pip install --no-build-isolation -e .)";
  }
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&limits->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) {
    cudaFuncAttributes facts{}, all{};
    error = cudaFuncGetAttributes(&facts, ReplayInShared);
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
      return "this plugin holds no code for this GPU: it was built for chips of compute capability 8.0 and "
             "newer, or "
             "for those that DALI_DR_CUDA_ARCHITECTURES named";
    }
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&all, ReplayAllInShared);
    limits->shared_bytes -= int(std::max(facts.sharedSizeBytes, all.sharedSizeBytes));
    for (const auto kernel : {ReplayInShared, ReplayAllInShared})
      if (error == cudaSuccess)
        error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits->shared_bytes);
  }
  return error == cudaSuccess ? std::string() : Text("the GPU cannot be prepared", error);
}

std::array<KernelFacts, 3> DescribeKernels(const DeviceLimits& limits) {
  const auto describe = [](const char* name, auto kernel, int shared_bytes) {
    KernelFacts facts{name, kThreads, 0, 0, 0};
    cudaFuncAttributes attributes{};
    if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) {
      facts.registers = attributes.numRegs;
      facts.local_bytes = int(attributes.localSizeBytes);
    }
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&facts.blocks_per_multiprocessor, kernel, kThreads,
                                                  shared_bytes);
    return facts;
  };
  constexpr int kStatisticsBytes = 48 << 10;  // the most that tables and histograms of part 1 take
  return {describe("ReplayInShared", ReplayInShared, limits.shared_bytes),
          describe("ReplayAllInShared", ReplayAllInShared, limits.shared_bytes),
          describe("ReplayInGlobal", ReplayInGlobal, kStatisticsBytes)};
}

int64_t ScratchBytes(const Batch& batch, const DeviceLimits& limits) {
  int64_t most = 0;  // the kernels of a batch run one after the other
  for (int part = 0; part < 2; ++part)
    most = std::max(most, Blocks(batch, part, limits) * SlotBytes(batch, part));
  return most;
}

std::string Launch(const Batch& batch, const DeviceLimits& limits, uint8_t* data, uint8_t* scratch,
                   CUstream_st* stream) {
  for (int part = 0; part < 2; ++part) {
    if (batch.num_jobs(part) == 0) continue;
    const auto kernel = part == 1              ? ReplayInGlobal
                        : batch.hue_and_blur() ? ReplayAllInShared
                                               : ReplayInShared;
    kernel<<<Blocks(batch, part, limits), kThreads, batch.shared_bytes(part), stream>>>(
        batch.Argument(part, data), scratch, SlotBytes(batch, part));
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? std::string() : Text("replay cannot be started on the GPU", error);
}

}  // namespace dali_dr::image
