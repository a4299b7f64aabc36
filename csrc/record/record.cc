// See record.h.
#include "record/record.h"

#include <stdexcept>

#include "record/row.h"

namespace dali_dr::record {

Record Record::Parse(std::span<const uint8_t> bytes) {
  Record record;
  record.header_ = ParseHeader(bytes);
  record.tables_ = FindTables(record.header_, bytes);
  record.groups_.resize(record.header_.groups());
  return record;
}

size_t Record::AddGroup(uint32_t group, std::span<const uint8_t> bytes) {
  if (group >= groups()) Fail("row group ", group, " does not exist: the record has ", groups());
  size_t end = 0;
  groups_[group] = FindGroup(header_, tables_, group, bytes, &end);
  return end;
}

void Record::ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids,
                      std::span<float> probs) const {
  if (row >= views()) Fail("view ", row, " does not exist: the record holds views 0 to ", views() - 1);
  if (view.size() != static_cast<size_t>(view_words()) || ids.size() != header_.topk ||
      probs.size() != header_.topk)
    throw std::invalid_argument("Record::ReadView: output spans do not fit the record");
  const Group& group = groups_[group_of(row)];
  if (group.rows == 0) throw std::logic_error("Record::ReadView: the row's group was not added");
  ReadRow({header_, tables_, group, classes_}, row, view, ids, probs);
}

}  // namespace dali_dr::record
