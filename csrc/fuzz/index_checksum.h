// The checksum of an index of version 2 (schemas/sample-index.md), for mutations that are to get past it.
#ifndef DALI_DR_CSRC_FUZZ_INDEX_CHECKSUM_H_
#define DALI_DR_CSRC_FUZZ_INDEX_CHECKSUM_H_

#include <cstdint>
#include <cstring>
#include <span>

#include "crc32c.h"

namespace dali_dr::fuzz {

/// Puts the checksum of the bytes into them, if they are an index of version 2 and long enough.
inline void MendChecksum(std::span<uint8_t> index) {
  constexpr size_t kHeader = 64, kAt = 56;
  if (index.size() < kHeader || index[8] != 2) return;
  std::memset(&index[kAt], 0, sizeof(uint32_t));
  const uint32_t crc = Crc32c(index);
  std::memcpy(&index[kAt], &crc, sizeof crc);
}

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_INDEX_CHECKSUM_H_
