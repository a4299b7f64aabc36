// Reads reinforcement records, version 1. The byte layout is schemas/reinforcement-record.md; nothing else is
// needed.
//
// The bytes may come from anywhere: every length, count and index is checked before use, and what is wrong
// comes out as one RecordError. Header and lengths are checked once, by Parse and AddGroup; values of a row
// when that row is read.
#ifndef DALI_DR_CSRC_RECORD_RECORD_H_
#define DALI_DR_CSRC_RECORD_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "view/layout.h"

namespace dali_dr::record {

/// A malformed record; what() names the field and its value.
class RecordError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr size_t kMaxRecordBytes = size_t{64} << 20;  // schema: a larger frame is refused

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

  size_t head_bytes() const { return head_bytes_; }        ///< of header and tables
  uint32_t record_bytes() const { return record_bytes_; }  ///< of the whole record, as the header says
  uint32_t groups() const { return static_cast<uint32_t>(groups_.size()); }
  bool has_group(uint32_t group) const { return groups_[group].rows > 0; }  ///< was added; group < groups()
  uint32_t group_of(uint32_t row) const { return row / group_rows_; }       ///< row < views()
  uint32_t views() const { return views_; }                                 ///< N
  uint32_t image_height() const { return image_height_; }                   ///< pixels of the source image
  uint32_t image_width() const { return image_width_; }                     ///< pixels of the source image
  uint32_t view_height() const { return view_height_; }       ///< output pixels that erase boxes refer to
  uint32_t view_width() const { return view_width_; }         ///< output pixels that erase boxes refer to
  int num_ops() const { return static_cast<int>(num_ops_); }  ///< n
  int topk() const { return static_cast<int>(topk_); }        ///< K
  bool mixing() const { return mixing_; }                     ///< whether views are mixed with others
  int plain_words() const { return kViewHeaderWords + 2 * num_ops(); }  ///< words of a view without its mix
  /// int32 words of a packed view: plain_words(), or with mixing 2 plain_words() + kMixWords.
  int view_words() const { return mixing() ? 2 * plain_words() + kMixWords : plain_words(); }

  /// Checks and unpacks one row, 0 <= row < views(), of a group that was added.
  ///   view:  view_words() words (view/layout.h): those of a view, with mixing of a mixed view.
  ///   ids:   topk() class ids, most likely first.
  ///   probs: topk() probabilities, not rising.
  /// Throws RecordError (then the outputs hold anything), also for a row that does not exist.
  void ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs) const;

 private:
  // One group of rows: its columns, in file order; null where the record has none.
  struct Group {
    uint32_t first = 0, rows = 0;         // rows of predictions; none: the group was not added
    uint32_t first_drawn = 0, drawn = 0;  // rows of parameters: as many, or half of it with DOUBLE
    uint32_t partners = 0;                // how many of these have a partner
    uint32_t cut_count = 0;               // and a CutMix box
    const uint8_t* crops = nullptr;
    const uint8_t* flips = nullptr;
    const uint8_t* erased = nullptr;
    const uint8_t* erase_boxes = nullptr;
    const uint8_t* ops = nullptr;
    const uint8_t* class_indices = nullptr;
    const uint8_t* probabilities = nullptr;
    // Of mixed views; entries are those of the views that have a partner.
    const uint8_t* partnered = nullptr;
    const uint8_t* mixups = nullptr;
    const uint8_t* cuts = nullptr;
    const uint8_t* partner_flips = nullptr;
    const uint8_t* partner_erased = nullptr;
    const uint8_t* weights = nullptr;
    const uint8_t* partner_crops_low = nullptr;
    const uint8_t* partner_indices = nullptr;
    const uint8_t* partner_crops_high = nullptr;
    const uint8_t* cut_boxes = nullptr;
    const uint8_t* partner_erase_boxes = nullptr;
    const uint8_t* partner_ops = nullptr;
  };

  Record() = default;
  // `at` is a row of the group: of its parameters, but in ReadClasses and ReadProbabilities of predictions.
  void ReadCrop(const Group& group, uint32_t at, int32_t* box) const;
  void ReadErase(const Group& group, uint32_t at, int32_t* box) const;
  void ReadOps(uint32_t row, const uint8_t* column, uint32_t rows, uint32_t at, int32_t* words) const;
  uint32_t PartnerEntry(const Group& group, uint32_t at, uint32_t entry) const;
  void ReadMix(const Group& group, uint32_t at, std::span<int32_t> words) const;
  void CheckBox(const char* name, uint32_t row, const uint32_t edge[4], int32_t* box) const;
  void ReadClasses(const Group& group, uint32_t at, int32_t* ids) const;
  void ReadProbabilities(const Group& group, uint32_t at, float* probs) const;

  // The tables, in file order; null where the record has none.
  const uint8_t* class_counts_ = nullptr;  // with partner_classes_; then classes_ are byte planes of gaps
  const uint8_t* classes_ = nullptr;
  const uint8_t* op_ids_ = nullptr;
  const uint8_t* op_magnitudes_ = nullptr;
  const uint8_t* partner_table_ = nullptr;

  std::vector<Group> groups_;
  size_t head_bytes_ = 0;
  uint32_t record_bytes_ = 0, group_rows_ = 1;
  uint32_t views_ = 0;  // N, rows of predictions
  uint32_t partner_entries_ = 0, partner_index_bytes_ = 0;
  bool flip_ = false, erase_ = false, mixing_ = false, wide_weights_ = false, pairs_ = false,
       partner_classes_ = false;
  uint32_t image_height_ = 0, image_width_ = 0;
  uint32_t view_height_ = 0, view_width_ = 0;
  uint32_t num_ops_ = 0, op_entries_ = 0;
  uint32_t topk_ = 0, class_entries_ = 0;
  uint32_t crop_bits_height_ = 0, crop_bits_width_ = 0;
  uint32_t class_bytes_ = 0, op_index_bytes_ = 0, class_index_bytes_ = 0, erase_bytes_ = 0;  // element sizes
  uint8_t encoding_ = 0;
  float log_step_ = 0;
};

/// Reads the records of members KEY.dr.zst, one after another, and of each only the groups of rows that are
/// asked for. Holds a zstd context and buffers for reuse: one per thread.
class Reader {
 public:
  Reader();
  ~Reader();
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;

  /// Opens the record in a member, which must be exactly the zstd frames of one record. It is valid, and
  /// `member` must be, until the next call. Throws RecordError; then there is no record.
  const Record& Open(std::span<const uint8_t> member);

  /// Record::ReadView of the record that is open. Decompresses the row's group unless that was done before.
  void ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs);

 private:
  struct Context;
  struct Frame {
    std::span<const uint8_t> bytes;
    size_t content_at, content_bytes;  // in buffer_
  };

  // Fills frames_, and makes buffer_ as large as their content.
  void FindFrames(std::span<const uint8_t> member);
  std::span<const uint8_t> Content(const Frame& frame);

  std::unique_ptr<Context> context_;
  std::vector<Frame> frames_;
  std::unique_ptr<uint8_t[]> buffer_;
  size_t capacity_ = 0;
  std::optional<Record> record_;
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_RECORD_H_
