// Members of shards taken apart and put together, so that mutations get past zstd and its checksums.
#ifndef DALI_DR_CSRC_FUZZ_FRAMES_H_
#define DALI_DR_CSRC_FUZZ_FRAMES_H_

#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dali_dr::fuzz {

using Bytes = std::vector<uint8_t>;

/// The content of each zstd frame; none where they are not whole frames of known, small size.
inline std::optional<std::vector<Bytes>> Unpack(std::span<const uint8_t> member) {
  static ZSTD_DCtx* const context = ZSTD_createDCtx();
  std::vector<Bytes> contents;
  while (!member.empty()) {
    const auto size = ZSTD_getFrameContentSize(member.data(), member.size());
    const size_t frame = ZSTD_findFrameCompressedSize(member.data(), member.size());
    if (size > (1 << 20) || ZSTD_isError(frame)) return std::nullopt;  // the codes of errors are large, too
    Bytes& content = contents.emplace_back(size);
    if (ZSTD_decompressDCtx(context, content.data(), size, member.data(), frame) != size) return std::nullopt;
    member = member.subspan(frame);
  }
  if (contents.empty()) return std::nullopt;
  return contents;
}

/// A zstd frame with a checksum for each content.
inline Bytes Pack(const std::vector<Bytes>& contents) {
  static ZSTD_CCtx* const context = [] {
    ZSTD_CCtx* made = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(made, ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(made, ZSTD_c_checksumFlag, 1);
    return made;
  }();
  Bytes member;
  for (const Bytes& content : contents) {
    const size_t before = member.size(), bound = ZSTD_compressBound(content.size());
    member.resize(before + bound);
    const size_t size =
        ZSTD_compress2(context, member.data() + before, bound, content.data(), content.size());
    member.resize(before + (ZSTD_isError(size) ? 0 : size));
  }
  return member;
}

}  // namespace dali_dr::fuzz

#endif  // DALI_DR_CSRC_FUZZ_FRAMES_H_
