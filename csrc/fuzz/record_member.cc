// Any bytes in place of a member KEY.dr.zst: views inside their bounds, or a RecordError. Most mutations are
// of what the zstd frames hold, put into whole frames again.
#include <random>

#include "fuzz/frames.h"
#include "fuzz/record_views.h"
#include "record/reader.h"

using namespace dali_dr;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static record::Reader reader;
  try {
    const record::Record& record = reader.Open({data, size});
    fuzz::RequireViews(reader, record);
  } catch (const record::RecordError&) {
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  std::minstd_rand random(seed);
  auto contents = random() % 8 ? fuzz::Unpack({data, size}) : std::nullopt;
  if (!contents) return LLVMFuzzerMutate(data, size, most);
  fuzz::Bytes& content = (*contents)[random() % contents->size()];
  const size_t before = content.size();
  content.resize(std::max<size_t>(2 * before, 64));
  content.resize(LLVMFuzzerMutate(content.data(), before, content.size()));
  fuzz::Bytes& head = contents->front();
  if (random() % 4 && head.size() >= 12) {  // a right length lets it past the first check
    size_t whole = 0;
    for (const fuzz::Bytes& each : *contents) whole += each.size();
    const auto length = static_cast<uint32_t>(whole);
    std::memcpy(&head[8], &length, sizeof length);
  }
  const fuzz::Bytes member = fuzz::Pack(*contents);
  if (member.empty() || member.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::copy(member.begin(), member.end(), data);
  return member.size();
}
