// Unpacks one row of a group. Internal to csrc/record.
#ifndef DALI_DR_CSRC_RECORD_ROW_H_
#define DALI_DR_CSRC_RECORD_ROW_H_

#include <cstdint>
#include <span>

#include "record/group.h"
#include "record/header.h"

namespace dali_dr::record {

/// The columns that a row is read from.
struct Source {
  const Header& header;
  const Tables& tables;
  const Group& group;
  uint32_t classes;  ///< class ids that are not below are refused
};

/// As Record::ReadView; `row` lies in the group, and the outputs have the sizes that it says.
void ReadRow(const Source& from, uint32_t row, std::span<int32_t> view, std::span<int32_t> ids,
             std::span<float> probs);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_ROW_H_
