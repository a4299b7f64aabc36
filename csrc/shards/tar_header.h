// The header of a tar member, 512 bytes before its data.
#ifndef DALI_DR_CSRC_SHARDS_TAR_HEADER_H_
#define DALI_DR_CSRC_SHARDS_TAR_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace dali_dr::shards {

inline constexpr size_t kTarBlock = 512;

/// Whether this is the header of a regular file KEY.suffix of that many bytes. A name that does not fit a
/// plain header (100 bytes, ASCII in some writers) stands in an extension header before it and is cut here;
/// then as much as is there must agree. In tars that others made, a name may begin with "./", and hold
/// characters that stand in the key as %XX (dali_dr/shards/others.py maps them).
bool IsHeaderOf(std::span<const uint8_t, kTarBlock> header, std::string_view key, uint64_t bytes);

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_TAR_HEADER_H_
