// See reader.h.
#include "record/reader.h"

#include <stdexcept>
#include <utility>

namespace dali_dr::record {

const Record& Reader::Open(std::span<const uint8_t> member, uint32_t outputs) {
  record_.reset();
  frames_.Find(member);
  const std::span<const uint8_t> head = frames_.Content(0);
  Record record = Record::Parse(head);
  // The version is known only now. One changed bit that clears the head's own flag leaves the version as it
  // was.
  if (record.version() >= 2 && !frames_.have_checksums())
    Fail("a zstd frame has no checksum, but each one of a record of version ", record.version(),
         " has: it is damaged");
  record.LimitClasses(outputs);
  if (record.record_bytes() != frames_.content_bytes())
    Fail("record_bytes is ", record.record_bytes(), ", but the record is ", frames_.content_bytes(),
         " bytes long");
  const uint32_t groups = record.groups();
  if (const size_t want = groups == 1 ? 1 : size_t{groups} + 1; frames_.size() != want)
    Fail("the member has ", frames_.size(), " zstd frames, but ", groups, " row groups need ", want);
  size_t end = record.head_bytes();
  if (groups == 1) end += record.AddGroup(0, head.subspan(end));
  if (end != head.size())
    Fail("record is ", head.size(), " bytes long, but header and columns need only ", end);
  return record_.emplace(std::move(record));
}

void Reader::ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs) {
  if (!record_) throw std::logic_error("Reader::ReadView: no record is open");
  if (row < record_->views() && !record_->has_group(record_->group_of(row))) {
    const uint32_t group = record_->group_of(row);
    const std::span<const uint8_t> content = frames_.Content(group + 1);
    const size_t used = record_->AddGroup(group, content);
    if (used != content.size()) {
      record_->DropGroup(group);  // or the next row would be read from it
      Fail("row group ", group, " is ", content.size(), " bytes long, but its columns need only ", used);
    }
  }
  record_->ReadView(row, view, ids, probs);
}

}  // namespace dali_dr::record
