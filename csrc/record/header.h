// The fixed part of a record, and the tables behind it: its head.
#ifndef DALI_DR_CSRC_RECORD_HEADER_H_
#define DALI_DR_CSRC_RECORD_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace dali_dr::record {

inline constexpr uint32_t kHeaderBytes = 52;
inline constexpr uint32_t kFirstVersion = 1, kVersion = 2;  ///< that are read; what is written is the last

inline constexpr uint32_t kMaxViews = 65536, kMaxSide = 65535;
inline constexpr uint32_t kMaxClasses = uint32_t{1} << 31;  // class ids are below

enum Encoding : uint8_t { kFloat32 = 0, kFloat16 = 1, kLogCode = 2, kRootCode = 3 };  ///< of probabilities

/// The header's fields by their names in the schema, and what follows from them.
struct Header {
  uint32_t version = kVersion;
  uint32_t record_bytes = 0;
  uint32_t views = 0;  ///< N, rows of predictions
  uint32_t image_height = 0, image_width = 0;
  uint32_t view_height = 0, view_width = 0;
  uint32_t num_ops = 0, op_entries = 0;
  uint32_t topk = 0, class_entries = 0;
  uint32_t partner_entries = 0;
  uint32_t group_rows = 1;
  uint8_t encoding = 0;
  uint32_t pair_rank = 0;   ///< from which on two falls of the root code share a byte; 0: none
  uint32_t class_bits = 0;  ///< of a packed class id; 0: they are not packed
  float log_step = 0;       ///< of the root code: its step
  bool flip = false, erase = false, mixing = false, wide_weights = false, pairs = false, own_mixes = false,
       partner_classes = false;

  uint32_t crop_bits_height = 0, crop_bits_width = 0;
  uint32_t class_bytes = 0, op_index_bytes = 0, erase_bytes = 0;  ///< sizes of elements

  uint32_t groups() const { return (views + group_rows - 1) / group_rows; }
};

/// Checks every field of the header with which `bytes` start. Throws RecordError.
Header ParseHeader(std::span<const uint8_t> bytes);

/// The columns between the header and the first group, in file order; null where the record has none.
struct Tables {
  const uint8_t* class_counts = nullptr;  ///< with partner_classes; then `classes` are byte planes of gaps
  const uint8_t* classes = nullptr;
  const uint8_t* op_ids = nullptr;
  const uint8_t* op_magnitudes = nullptr;
  const uint8_t* partners = nullptr;
  uint32_t class_index_bytes = 0, partner_index_bytes = 0;  ///< of what points into them
  size_t end = 0;                                           ///< of header and tables, in the record
};

/// Finds the tables of the record with which `bytes` start. Throws RecordError.
Tables FindTables(const Header& header, std::span<const uint8_t> bytes);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_HEADER_H_
