// The members of a zip archive in memory, as torch.save writes it: all of them stored.
#ifndef DALI_DR_CSRC_PICKLE_ZIP_H_
#define DALI_DR_CSRC_PICKLE_ZIP_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace dali_dr::pickle {

inline constexpr size_t kMostMembers = 256;

struct Member {
  std::string_view name;
  std::span<const uint8_t> bytes;
  uint32_t checksum = 0;
};

/// In the order of the archive's directory. Throws PickleError: what is compressed or encrypted, lies outside
/// of the archive or over something else, or is there twice.
std::vector<Member> ZipMembers(std::span<const uint8_t> archive);

/// The member's bytes, once its checksum was compared. Throws PickleError.
std::span<const uint8_t> Checked(const Member& member);

/// CRC-32 as zip has it.
uint32_t Crc32(std::span<const uint8_t> bytes);

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_ZIP_H_
