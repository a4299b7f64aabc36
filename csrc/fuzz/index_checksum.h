// The checksum of an index of version 2, bit by bit from its definition (schemas/sample-index.md).
#ifndef DALI_DR_CSRC_FUZZ_INDEX_CHECKSUM_H_
#define DALI_DR_CSRC_FUZZ_INDEX_CHECKSUM_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

namespace dali_dr::fuzz {

/// Puts the checksum of the bytes into them, if they are an index of version 2 and long enough.
inline void MendChecksum(std::span<uint8_t> index) {
  constexpr size_t kHeader = 64, kAt = 56;
  if (index.size() < kHeader || index[8] != 2) return;
  static const auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t rest = byte;
      for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0x82f63b78 : 0);
      table[byte] = rest;
    }
    return table;
  }();
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < index.size(); ++i) {
    const uint8_t byte = i >= kAt && i < kAt + 4 ? 0 : index[i];
    crc = kTable[(crc ^ byte) & 255] ^ crc >> 8;
  }
  crc = ~crc;
  std::memcpy(&index[kAt], &crc, sizeof crc);
}

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_INDEX_CHECKSUM_H_
