// The tables of a record's head: classes, operations and partners, and what in the rows points into them.
// Counterpart of dali_dr/record/tables.py.
#ifndef DALI_DR_CSRC_RECORD_WRITE_TABLES_H_
#define DALI_DR_CSRC_RECORD_WRITE_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "record/views.h"

namespace dali_dr::record {

/// Operations with their magnitudes, ascending; elements in the order of the columns.
struct OpTable {
  std::vector<uint64_t> entries;       ///< operation << 32 | bits of the magnitude
  std::vector<uint16_t> own, partner;  ///< places in it, num_ops of each row; `partner` of rows that have one
};

/// Sample numbers, ascending.
struct PartnerTable {
  std::vector<int32_t> numbers;
  std::vector<uint16_t> places;  ///< of each row with a partner that is another image; else numbers.size()
};

struct ClassTable {
  bool wide = false;             ///< a class does not fit 16 bits
  bool by_partner = false;       ///< a table for each partner, and one for views without
  std::vector<uint32_t> counts;  ///< then: classes of each table
  std::vector<uint32_t>
      entries;           ///< classes, the most frequent first; by_partner: ascending ones as differences
  uint32_t largest = 0;  ///< places are below
  std::vector<uint16_t> places;  ///< of each element of the ids
};

/// They throw RecordError where a table would be too large, and MakeClassTable where a class is twice in a
/// row. `double_mix`: rows 2i and 2i + 1 share their parameters. Each may be given a table that was made
/// before.
void MakeOpTable(const Reinforcements& reinforcements, bool double_mix, OpTable* table);
void MakePartnerTable(const Reinforcements& reinforcements, PartnerTable* table);
void MakeClassTable(const Reinforcements& reinforcements, std::span<const int32_t> ids,
                    const PartnerTable& partners, ClassTable* table);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_WRITE_TABLES_H_
