// Reads reinforcement records, versions 1 and 2. The byte layout is schemas/reinforcement-record.md; nothing
// else is needed.
//
// The bytes may come from anywhere: every length, count and index is checked before use, and what is wrong
// comes out as one RecordError. Header and lengths are checked once, by Parse and AddGroup; values of a row
// when that row is read.
#ifndef DALI_DR_CSRC_RECORD_RECORD_H_
#define DALI_DR_CSRC_RECORD_RECORD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "record/error.h"
#include "record/group.h"
#include "record/header.h"
#include "view/layout.h"

namespace dali_dr::record {

/// One record with a checked header. Borrows the bytes that it was parsed from. Rows are stored in groups,
/// each of which is added before its rows are read.
class Record {
 public:
  /// Checks the header, and the tables after it. `bytes` start with them and may be longer; the tables end at
  /// head_bytes(). Throws RecordError.
  static Record Parse(std::span<const uint8_t> bytes);

  /// Checks every length and the unused bits of group `group`, with which `bytes` start. Returns the group's
  /// bytes. Throws RecordError.
  size_t AddGroup(uint32_t group, std::span<const uint8_t> bytes);

  /// From now on, class ids that are not below `outputs`, the number of the teacher's, are refused.
  void LimitClasses(uint32_t outputs) { classes_ = std::min(outputs, kMaxClasses); }

  /// As if group `group` < groups() had not been added.
  void DropGroup(uint32_t group) { groups_[group] = {}; }

  size_t head_bytes() const { return tables_.end; }               ///< of header and tables
  uint32_t record_bytes() const { return header_.record_bytes; }  ///< of the whole record, as the header says
  uint32_t version() const { return header_.version; }            ///< of the format
  uint32_t groups() const { return static_cast<uint32_t>(groups_.size()); }
  bool has_group(uint32_t group) const { return groups_[group].rows > 0; }    ///< was added; group < groups()
  uint32_t group_of(uint32_t row) const { return row / header_.group_rows; }  ///< row < views()
  uint32_t views() const { return header_.views; }                            ///< N
  uint32_t image_height() const { return header_.image_height; }              ///< pixels of the source image
  uint32_t image_width() const { return header_.image_width; }                ///< pixels of the source image
  uint32_t view_height() const { return header_.view_height; }  ///< output pixels that erase boxes refer to
  uint32_t view_width() const { return header_.view_width; }    ///< output pixels that erase boxes refer to
  int num_ops() const { return static_cast<int>(header_.num_ops); }  ///< n
  int topk() const { return static_cast<int>(header_.topk); }        ///< K
  bool mixing() const { return header_.mixing; }                     ///< whether views are mixed with others
  int plain_words() const { return static_cast<int>(ViewWords(num_ops())); }  ///< of a view without its mix
  /// int32 words of a packed view, with what it is mixed with.
  int view_words() const {
    return mixing() ? static_cast<int>(MixedWords(ViewWords(num_ops()))) : plain_words();
  }

  /// Checks and unpacks one row, 0 <= row < views(), of a group that was added.
  ///   view:  view_words() words, as view/layout.h has them: crops in pixels of the source image, boxes in
  ///          pixels of the stored view. Of a DOUBLE pair, the second row is the one that changes places.
  ///   ids:   topk() class ids, most likely first.
  ///   probs: topk() probabilities, not rising.
  /// Throws RecordError (then the outputs hold anything), also for a row that does not exist.
  void ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs) const;

 private:
  Record() = default;

  Header header_;
  uint32_t classes_ = kMaxClasses;  // ids are below
  Tables tables_;
  std::vector<Group> groups_;
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_RECORD_H_
