// CRC-32C (Castagnoli), as iSCSI, ext4 and most object stores have it: "123456789" gives e3069283.
#ifndef DALI_DR_CSRC_CRC32C_H_
#define DALI_DR_CSRC_CRC32C_H_

#include <cstdint>
#include <span>

namespace dali_dr {

/// The checksum of bytes; of bytes that follow others, whose checksum is `before`. About 20 GB/s where the
/// CPU has an instruction for it (x86 with SSE4.2), else 2.
uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t before = 0);

/// The same by tables alone, for CPUs without the instruction and for tests.
uint32_t Crc32cByTables(std::span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_CRC32C_H_
