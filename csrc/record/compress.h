// The zstd frames of a record that is written: counterpart of `compress` in dali_dr/record/frames.py, which
// says why they are as they are. Their contents are alike, and so are their sizes, not all their bytes.
#ifndef DALI_DR_CSRC_RECORD_COMPRESS_H_
#define DALI_DR_CSRC_RECORD_COMPRESS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dali_dr::record {

/// How matches are looked for: not at all, with the content left as it is; soon given up, in half the time
/// and at a thousandth more bytes for unmixed views of the root code, but more for others; or as frames.py
/// does.
enum class Effort { kNone, kLittle, kUsual };

/// Appends `content` to `member` as one frame with size and checksum. A zstd block may end at each of `cuts`
/// (offsets, ascending, none beyond the end; the end is one) and does unless it would be small. Throws
/// std::bad_alloc.
void AppendFrame(std::span<const uint8_t> content, std::span<const size_t> cuts, Effort effort,
                 std::vector<uint8_t>* member);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_COMPRESS_H_
