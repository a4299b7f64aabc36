// Any bytes in place of a record's content, as it is behind zstd: views inside their bounds, or a
// RecordError.
#include "fuzz/record_views.h"

using namespace dali_dr;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(data, size);
  try {
    record::Record record = record::Record::Parse(bytes);
    size_t at = record.head_bytes();
    for (uint32_t group = 0; group < record.groups(); ++group)
      at += record.AddGroup(group, bytes.subspan(at));
    fuzz::RequireViews(record, record);
  } catch (const record::RecordError&) {
  }
  return 0;
}
