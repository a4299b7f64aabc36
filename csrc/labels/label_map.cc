// See label_map.h.
#include "labels/label_map.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "record/bytes.h"
#include "record/error.h"

namespace dali_dr::labels {
namespace {

using record::Fail;
using record::Load;

enum Encoding : uint8_t { kFloat32, kFloat16 };

struct Header {
  uint32_t map_bytes, side, depth, num_classes, class_entries;
  Encoding encoding;

  uint32_t values() const { return side * side * depth; }
  uint32_t class_bytes() const { return num_classes > 65536 ? 4 : 2; }
  uint32_t entry_bytes() const { return class_entries > 256 ? 2 : 1; }
  uint32_t score_bytes() const { return encoding == kFloat16 ? 2 : 4; }
  size_t bytes() const {
    return kMapHeaderBytes + size_t{class_bytes()} * class_entries +
           size_t{entry_bytes() + score_bytes()} * values();
  }
};

Header ParseHeader(std::span<const uint8_t> bytes, uint32_t num_classes) {
  if (bytes.size() < kMapHeaderBytes)
    Fail("a label map has ", bytes.size(), " bytes, fewer than its header of ", kMapHeaderBytes);
  const uint8_t* at = bytes.data();
  if (std::memcmp(at, "drlm", 4) != 0) Fail("not a label map: it does not begin with \"drlm\"");
  const uint32_t version = Load<uint16_t>(at + 4), header_bytes = Load<uint16_t>(at + 6);
  if (version != kMapVersion)
    Fail("the label map has version ", version, ", this dali_dr reads ", kMapVersion, ": update dali_dr");
  if (header_bytes != kMapHeaderBytes) Fail("header_bytes is ", header_bytes, ", want ", kMapHeaderBytes);
  const uint32_t height = Load<uint16_t>(at + 12), width = Load<uint16_t>(at + 14);
  Header header{.map_bytes = Load<uint32_t>(at + 8),
                .side = height,
                .depth = Load<uint16_t>(at + 16),
                .num_classes = Load<uint32_t>(at + 20),
                .class_entries = Load<uint16_t>(at + 18),
                .encoding = static_cast<Encoding>(at[24])};
  if (height != width || height == 0 || height > 255)
    Fail("the label map has ", height, " x ", width, " cells, want a square of up to 255");
  if (header.depth == 0 || uint64_t{height} * width * header.depth > kMaxMapValues)
    Fail("the label map has ", header.depth, " classes in each of ", height, " x ", width,
         " cells, want 1 or more, and up to ", kMaxMapValues, " in all");
  if (header.num_classes != num_classes)
    Fail("the label map is of ", header.num_classes, " classes, the data set of ", num_classes);
  if (header.class_entries == 0 || header.class_entries > header.values() ||
      header.class_entries > num_classes)
    Fail("class_entries is ", header.class_entries, ", want 1 to the number of values and of classes");
  if (at[24] > kFloat16) Fail("the encoding of scores is ", unsigned{at[24]}, ", want 0 or 1");
  if (at[25] || at[26] || at[27]) Fail("bytes 25 to 27 of the header are not zero");
  if (header.map_bytes != bytes.size() || header.bytes() != bytes.size())
    Fail("the label map has ", bytes.size(), " bytes, its header says ", header.map_bytes, " and describes ",
         header.bytes());
  return header;
}

void ReadClasses(const Header& header, const uint8_t* column, LabelMap* map) {
  map->classes.resize(header.class_entries);
  int64_t before = -1;
  for (uint32_t i = 0; i < header.class_entries; ++i) {
    const uint32_t id = record::LoadUint(column, header.class_bytes(), i);
    if (id >= header.num_classes || id <= before)
      Fail("class ", id, " of the label map's table, after ", before, ": want rising ids below ",
           header.num_classes);
    map->classes[i] = static_cast<int32_t>(id);
    before = id;
  }
}

void ReadEntries(const Header& header, const uint8_t* column, LabelMap* map) {
  map->entries.resize(header.values());
  std::vector<bool> used(header.class_entries);
  for (uint32_t i = 0; i < header.values(); ++i) {
    const uint32_t entry = record::LoadUint(column, header.entry_bytes(), i);
    if (entry >= header.class_entries)
      Fail("value ", i, " of the label map is of entry ", entry, " of a class table of ",
           header.class_entries);
    used[entry] = true;
    map->entries[i] = static_cast<uint16_t>(entry);
  }
  for (uint32_t i = 0; i < header.class_entries; ++i)
    if (!used[i]) Fail("entry ", i, " of the label map's class table is of no value");
}

// Byte planes: of all values their lowest bytes, then their next ones.
void ReadScores(const Header& header, const uint8_t* column, LabelMap* map) {
  const size_t count = header.values();
  map->scores.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t low = column[i] | uint32_t{column[count + i]} << 8;
    const float score = header.encoding == kFloat16
                            ? record::HalfToFloat(static_cast<uint16_t>(low))
                            : std::bit_cast<float>(low | uint32_t{column[2 * count + i]} << 16 |
                                                   uint32_t{column[3 * count + i]} << 24);
    if (!std::isfinite(score)) Fail("value ", i, " of the label map has a score that is not finite");
    map->scores[i] = score;
  }
}

}  // namespace

const LabelMap& Reader::Open(std::span<const uint8_t> member, uint32_t num_classes) {
  frames_.Find(member, kMaxMapBytes);
  if (frames_.size() != 1)
    Fail("the member is of ", frames_.size(), " zstd frames, a label map is one zstd frame");
  if (!frames_.have_checksums()) Fail("the zstd frame has no checksum, a label map is one with a checksum");
  const auto bytes = frames_.Content(0);
  const Header header = ParseHeader(bytes, num_classes);
  map_.side = header.side;
  map_.depth = header.depth;
  map_.num_classes = header.num_classes;
  const uint8_t* column = bytes.data() + kMapHeaderBytes;
  ReadClasses(header, column, &map_);
  column += size_t{header.class_bytes()} * header.class_entries;
  ReadEntries(header, column, &map_);
  column += size_t{header.entry_bytes()} * header.values();
  ReadScores(header, column, &map_);
  return map_;
}

}  // namespace dali_dr::labels
