// The zstd frames around a record.
#ifndef DALI_DR_CSRC_RECORD_FRAMES_H_
#define DALI_DR_CSRC_RECORD_FRAMES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dali_dr::record {

inline constexpr size_t kMaxRecordBytes = size_t{64} << 20;  // schema: a larger record is refused

/// The frames of one member after another, and their content, decompressed when it is asked for. Holds a zstd
/// context and a buffer for reuse.
class Frames {
 public:
  Frames();
  ~Frames();
  Frames(Frames&&) noexcept;
  Frames& operator=(Frames&&) noexcept;

  /// Finds the frames of a member, which must hold nothing else, and no more than `most` bytes. `member` must
  /// stay until the next call. Throws RecordError.
  void Find(std::span<const uint8_t> member, size_t most = kMaxRecordBytes);

  size_t size() const { return frames_.size(); }     ///< how many there are
  size_t content_bytes() const { return content_; }  ///< of all of them, as they say themselves
  /// Whether each carries a checksum of its content, which Content() verifies.
  bool have_checksums() const { return have_checksums_; }

  /// Decompresses frame `number` < size(). Valid until the next Find(). Throws RecordError.
  std::span<const uint8_t> Content(size_t number);

 private:
  struct Context;
  struct Frame {
    std::span<const uint8_t> bytes;
    size_t content_at, content_bytes;  // in buffer_
  };

  std::unique_ptr<Context> context_;
  std::vector<Frame> frames_;
  std::unique_ptr<uint8_t[]> buffer_;
  size_t capacity_ = 0, content_ = 0;
  bool have_checksums_ = false;
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_FRAMES_H_
