// Records as they lie in shards: compressed, one after another.
#ifndef DALI_DR_CSRC_RECORD_READER_H_
#define DALI_DR_CSRC_RECORD_READER_H_

#include <cstdint>
#include <optional>
#include <span>

#include "record/frames.h"
#include "record/record.h"

namespace dali_dr::record {

/// Reads the records of members KEY.dr.zst, one after another, and of each only the groups of rows that are
/// asked for. One per thread.
class Reader {
 public:
  /// Opens the record in a member, which must be exactly the zstd frames of one record. It is valid, and
  /// `member` must be, until the next call. `outputs`: how many the teacher has; class ids that are
  /// not below are refused when their row is read. Throws RecordError; then there is no record.
  const Record& Open(std::span<const uint8_t> member, uint32_t outputs = kMaxClasses);

  /// Record::ReadView of the record that is open. Decompresses the row's group unless that was done before.
  void ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs);

 private:
  Frames frames_;
  std::optional<Record> record_;
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_READER_H_
