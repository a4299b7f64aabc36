// The columns of one group of rows.
#ifndef DALI_DR_CSRC_RECORD_GROUP_H_
#define DALI_DR_CSRC_RECORD_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "record/header.h"

namespace dali_dr::record {

/// Where the columns of a group begin, in file order; null where the record has none.
struct Group {
  uint32_t first = 0, rows = 0;         ///< rows of predictions; none: the group was not added
  uint32_t first_drawn = 0, drawn = 0;  ///< rows of parameters: as many, or half of it with DOUBLE
  uint32_t partners = 0;                ///< how many of these have a partner
  uint32_t cut_count = 0;               ///< and a CutMix box
  const uint8_t* crops = nullptr;
  const uint8_t* flips = nullptr;
  const uint8_t* erased = nullptr;
  const uint8_t* erase_boxes = nullptr;
  const uint8_t* ops = nullptr;
  const uint8_t* class_indices = nullptr;
  const uint8_t* probabilities = nullptr;
  // Of mixed views; entries are those of the views that have a partner, and with OWN_MIXES those of mixups
  // and cuts of all rows of predictions.
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

/// Finds the columns of group `number` < groups(), with which `bytes` start, and checks their lengths and
/// unused bits. `end` is set to the bytes that the group takes. Throws RecordError.
Group FindGroup(const Header& header, const Tables& tables, uint32_t number, std::span<const uint8_t> bytes,
                size_t* end);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_GROUP_H_
