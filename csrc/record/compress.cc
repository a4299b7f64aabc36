// See compress.h.
#include "record/compress.h"

#include <zstd.h>

#include <new>
#include <utility>

#include "record/error.h"

namespace dali_dr::record {
namespace {

constexpr size_t kMinBlock = 256;  // bytes; below, a block's own Huffman table costs more than it saves

/// A thread's context, for all frames that it writes.
struct Compressor {
  ZSTD_CCtx* zstd = ZSTD_createCCtx();
  Compressor() {
    if (!zstd) throw std::bad_alloc();  // coverage: no memory
    const std::pair<ZSTD_cParameter, int> parameters[] = {
        {ZSTD_c_minMatch, 7},     {ZSTD_c_hashLog, 6},    {ZSTD_c_chainLog, 6},
        {ZSTD_c_searchLog, 1},    {ZSTD_c_windowLog, 17}, {ZSTD_c_contentSizeFlag, 1},
        {ZSTD_c_checksumFlag, 1}, {ZSTD_c_dictIDFlag, 0}};
    for (const auto& [name, value] : parameters) Set(name, value);
  }
  ~Compressor() { ZSTD_freeCCtx(zstd); }
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;

  void Set(ZSTD_cParameter name, int value) { Checked(ZSTD_CCtx_setParameter(zstd, name, value)); }

  size_t Checked(size_t result) {
    if (ZSTD_isError(result)) {  // coverage: no memory
      ZSTD_CCtx_reset(zstd, ZSTD_reset_session_only);
      Fail("zstd cannot compress the record: ", ZSTD_getErrorName(result));
    }
    return result;
  }
};

}  // namespace

void AppendFrame(std::span<const uint8_t> content, std::span<const size_t> cuts, Effort effort,
                 std::vector<uint8_t>* member) {
  thread_local Compressor compressor;
  // "fast" with a target length above 0 has no Huffman coding.
  compressor.Set(ZSTD_c_strategy, effort == Effort::kUsual ? ZSTD_lazy : ZSTD_fast);
  compressor.Set(ZSTD_c_targetLength, effort == Effort::kNone ? 1 : 0);
  compressor.Checked(ZSTD_CCtx_setPledgedSrcSize(compressor.zstd, content.size()));
  const size_t start = member->size();
  // A block that does not compress is kept as it is behind 3 bytes; a frame has up to 22 more, and its last
  // block.
  member->resize(start + ZSTD_compressBound(content.size()) + 3 * (cuts.size() + 2) + 22);
  ZSTD_outBuffer out{member->data() + start, member->size() - start, 0};
  size_t from = 0;
  const auto put = [&](size_t end, ZSTD_EndDirective how) {
    ZSTD_inBuffer in{content.data() + from, end - from, 0};
    if (compressor.Checked(ZSTD_compressStream2(compressor.zstd, &out, &in, how)) != 0)
      compressor.Checked(static_cast<size_t>(-1));  // coverage: there is room for all
    from = end;
  };
  for (const size_t cut : cuts)
    if (cut - from >= kMinBlock) put(cut, ZSTD_e_flush);
  put(content.size(), ZSTD_e_end);
  member->resize(start + out.pos);
}

}  // namespace dali_dr::record
