// Reads reinforcement records, version 1. The byte layout is schemas/reinforcement-record.md; nothing else is
// needed.
//
// The bytes may come from anywhere: every length, count and index is checked before use, and what is wrong
// comes out as one RecordError. Header and lengths are checked once, by Parse; values of a row when that row
// is read.
#ifndef DALI_DR_CSRC_RECORD_RECORD_H_
#define DALI_DR_CSRC_RECORD_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>

namespace dali_dr::record {

/// A malformed record; what() names the field and its value.
class RecordError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr size_t kMaxRecordBytes = size_t{64} << 20;   // schema: a larger frame is refused
inline constexpr int kViewWords = 10;                         // packed words of a view without operations
inline constexpr int kMixWords = 7;                           // words between a mixed view and its partner's
inline constexpr int32_t kNoPartner = -1, kSelfPartner = -2;  // in place of a partner's sample number

/// The mix words and the partner's view of a view without partner (`words` has kMixWords + kViewWords +
/// 2 num_ops of them): one pixel, left as it is.
void FillNoPartner(std::span<int32_t> words, int num_ops);

/// Turns zstd frames into record bytes. Holds a context and a buffer for reuse: one per thread.
class Decompressor {
 public:
  Decompressor();
  ~Decompressor();
  Decompressor(Decompressor&&) noexcept;
  Decompressor& operator=(Decompressor&&) noexcept;

  /// The content of `frame`, which must be exactly one zstd frame that carries its content size of at most
  /// kMaxRecordBytes. Valid until the next call. Throws RecordError.
  std::span<const uint8_t> Decompress(std::span<const uint8_t> frame);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
  std::unique_ptr<uint8_t[]> buffer_;
  size_t capacity_ = 0;
};

/// One record with a checked header. Borrows the bytes that it was parsed from.
class Record {
 public:
  /// Checks the header, every length and the unused bits. Throws RecordError.
  static Record Parse(std::span<const uint8_t> bytes);

  uint32_t views() const { return views_; }                       ///< N
  uint32_t image_height() const { return image_height_; }         ///< pixels of the source image
  uint32_t image_width() const { return image_width_; }           ///< pixels of the source image
  uint32_t view_height() const { return view_height_; }           ///< output pixels that erase boxes refer to
  uint32_t view_width() const { return view_width_; }             ///< output pixels that erase boxes refer to
  int num_ops() const { return static_cast<int>(num_ops_); }      ///< n
  int topk() const { return static_cast<int>(topk_); }            ///< K
  bool mixing() const { return partnered_ != nullptr; }           ///< whether views are mixed with others
  int plain_words() const { return kViewWords + 2 * num_ops(); }  ///< words of a view without its mix
  /// int32 words of a packed view: plain_words(), or with mixing 2 plain_words() + kMixWords.
  int view_words() const { return mixing() ? 2 * plain_words() + kMixWords : plain_words(); }

  /// Checks and unpacks one row, 0 <= row < views().
  ///   view:  view_words() words: 0-3 crop top, left, height, width (source pixels); 4 flip; 5-8 erase top,
  ///   left,
  ///          height, width (pixels of the stored view; all zero: none); 9 num_ops; then per operation its id
  ///          and the float32 bits of its magnitude. With mixing there follow: the partner's sample number,
  ///          kNoPartner or kSelfPartner; 1 where image and partner change places, else 0; float32 bits of
  ///          the MixUp weight (1: none); CutMix top, left, height, width (all zero: none); the partner's
  ///          view.
  ///   ids:   topk() class ids, most likely first.
  ///   probs: topk() probabilities, not rising.
  /// Throws RecordError (then the outputs hold anything), also for a row that does not exist.
  void ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs) const;

 private:
  Record() = default;
  void ReadCrop(uint32_t row, int32_t* box) const;
  void ReadErase(uint32_t row, int32_t* box) const;
  void ReadOps(const uint8_t* column, uint32_t rows, uint32_t row, int32_t* words) const;
  uint32_t PartnerEntry(uint32_t row, uint32_t entry) const;
  void ReadMix(uint32_t row, std::span<int32_t> words) const;
  void CheckBox(const char* name, uint32_t row, const uint32_t edge[4], int32_t* box) const;
  void ReadClasses(uint32_t row, int32_t* ids) const;
  void ReadProbabilities(uint32_t row, float* probs) const;

  // Columns, in file order; null where the record has none.
  const uint8_t* class_counts_ = nullptr;  // with partner_classes_; then classes_ are byte planes of gaps
  const uint8_t* classes_ = nullptr;
  const uint8_t* op_ids_ = nullptr;
  const uint8_t* op_magnitudes_ = nullptr;
  const uint8_t* ops_ = nullptr;
  const uint8_t* crops_ = nullptr;
  const uint8_t* flips_ = nullptr;
  const uint8_t* erased_ = nullptr;
  const uint8_t* erase_boxes_ = nullptr;
  const uint8_t* class_indices_ = nullptr;
  const uint8_t* probabilities_ = nullptr;
  // Of mixed views; entries are those of the views that have a partner.
  const uint8_t* partnered_ = nullptr;
  const uint8_t* mixups_ = nullptr;
  const uint8_t* cuts_ = nullptr;
  const uint8_t* partner_flips_ = nullptr;
  const uint8_t* partner_erased_ = nullptr;
  const uint8_t* partner_table_ = nullptr;
  const uint8_t* partner_indices_ = nullptr;
  const uint8_t* weights_ = nullptr;
  const uint8_t* partner_crops_low_ = nullptr;
  const uint8_t* partner_crops_high_ = nullptr;
  const uint8_t* cut_boxes_ = nullptr;
  const uint8_t* partner_erase_boxes_ = nullptr;
  const uint8_t* partner_ops_ = nullptr;

  uint32_t views_ = 0;      // N, rows of predictions
  uint32_t drawn_ = 0;      // rows of parameters: N, or half of it with DOUBLE
  uint32_t partners_ = 0;   // how many of these have a partner
  uint32_t cut_count_ = 0;  // and a CutMix box
  uint32_t partner_entries_ = 0, partner_index_bytes_ = 0;
  bool wide_weights_ = false, partner_classes_ = false;
  uint32_t image_height_ = 0, image_width_ = 0;
  uint32_t view_height_ = 0, view_width_ = 0;
  uint32_t num_ops_ = 0, op_entries_ = 0;
  uint32_t topk_ = 0, class_entries_ = 0;
  uint32_t crop_bits_height_ = 0, crop_bits_width_ = 0;
  uint32_t class_bytes_ = 0, op_index_bytes_ = 0, class_index_bytes_ = 0, erase_bytes_ = 0;  // element sizes
  uint8_t encoding_ = 0;
  float log_step_ = 0;
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_RECORD_H_
