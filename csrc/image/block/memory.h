// How the threads of a block read and write memory, in words of four pixels.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_MEMORY_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_MEMORY_H_

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DR_BLOCK __device__ __forceinline__
#define DR_UNROLL _Pragma("unroll")
#define DR_ROLLED _Pragma("unroll 1")
#define DR_UNROLL_TAPS _Pragma("unroll 2")  // most windows have two or three
#else
#define DR_BLOCK inline
#define DR_UNROLL
#define DR_ROLLED
#define DR_UNROLL_TAPS
#endif

namespace dali_dr::image {

DR_BLOCK uint32_t LoadWord(const uint8_t* p) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const uint32_t*>(p);
#else
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
#endif
}

DR_BLOCK void StoreWord(uint8_t* p, uint32_t v) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<uint32_t*>(p) = v;
#else
  std::memcpy(p, &v, sizeof v);
#endif
}

/// Tells the compiler that a pointer read from memory leads to global memory.
template <typename T>
DR_BLOCK T* InGlobal(T* p) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(p));
#endif
  return p;
}

DR_BLOCK int32_t ByteOf(uint32_t word, int32_t k) { return int32_t((word >> (8 * k)) & 0xff); }

/// Four consecutive values as one store; `to` is aligned to four values.
template <typename T>
DR_BLOCK void StoreFour(T* to, const uint32_t v[4]) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 1) {
    *reinterpret_cast<uint32_t*>(to) = v[0] | v[1] << 8 | v[2] << 16 | v[3] << 24;
  } else if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
  } else {
    *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
  }
#else
  for (int k = 0; k < 4; ++k) to[k] = T(v[k]);
#endif
}

DR_BLOCK uint32_t FloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

DR_BLOCK float FloatOf(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_MEMORY_H_
