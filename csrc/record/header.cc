// See header.h, and schemas/reinforcement-record.md for the layout.
#include "record/header.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "record/bytes.h"
#include "record/crops.h"
#include "view/layout.h"

namespace dali_dr::record {
namespace {

// Bits of the field `flags`.
constexpr uint32_t kFlip = 1, kErase = 2, kWideClasses = 4, kMixing = 8, kWideWeights = 16, kDouble = 32,
                   kPartnerClasses = 64, kPackedClasses = 128, kOwnMixes = 256, kFirstFlags = 127;
constexpr uint32_t kClassBitsAt = 24, kClassBits = 31;  // bits 24 to 28
constexpr uint32_t kAllFlags = 511 | kClassBits << kClassBitsAt;

constexpr float kMinRootStep = 1.0f / 256;  // code 255 must span 0 to 1

void CheckRange(const char* name, uint32_t value, uint32_t low, uint32_t high) {
  if (value < low || value > high) Fail(name, " is ", value, ", want ", low, " to ", high);
}

/// Entry counts are 0 exactly when nothing refers to them.
void CheckTable(const char* entries_name, uint32_t entries, const char* users_name, uint32_t users) {
  if ((entries == 0) != (users == 0))
    Fail(entries_name, " is ", entries, " but ", users_name, " is ", users, ": both or neither must be 0");
}

/// What kind of file it is: everything before the first field of the record itself. Returns the flags.
uint32_t CheckMagic(std::span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes)
    Fail("record is ", bytes.size(), " bytes long, shorter than its header of ", kHeaderBytes);
  const uint8_t* head = bytes.data();
  if (std::memcmp(head, "drrc", 4) != 0) Fail("magic is not \"drrc\": this is not a reinforcement record");
  const auto version = Load<uint16_t>(head + 4);
  if (version < kFirstVersion || version > kVersion)
    Fail("record version is ", version, "; this reader knows versions ", kFirstVersion, " to ", kVersion);
  if (const auto header_bytes = Load<uint16_t>(head + 6); header_bytes != kHeaderBytes)
    Fail("header_bytes is ", header_bytes, ", want ", kHeaderBytes);
  const auto flags = Load<uint32_t>(head + 12);
  if (flags & ~(version > 1 ? kAllFlags : kFirstFlags)) Fail("flags are ", flags, ": unknown bits are set");
  if (flags & (kWideWeights | kDouble | kPartnerClasses) && !(flags & kMixing))
    Fail("flags are ", flags, ": bits 4 to 6 need MIXING");
  if (flags & kOwnMixes && !(flags & kDouble)) Fail("flags are ", flags, ": OWN_MIXES needs DOUBLE");
  return flags;
}

void CheckFields(const Header& h, uint32_t flags) {
  CheckRange("views", h.views, 1, kMaxViews);
  CheckRange("image_height", h.image_height, 1, kMaxSide);
  CheckRange("image_width", h.image_width, 1, kMaxSide);
  CheckRange("view_height", h.view_height, 1, kMaxSide);
  CheckRange("view_width", h.view_width, 1, kMaxSide);
  CheckRange("num_ops", h.num_ops, 0, kMaxOps);
  CheckTable("op_entries", h.op_entries, "num_ops", h.num_ops);
  CheckTable("class_entries", h.class_entries, "topk", h.topk);
  if (h.class_entries < h.topk) Fail("class_entries is ", h.class_entries, ", fewer than topk = ", h.topk);
  CheckRange("probability_encoding", h.encoding, kFloat32, h.version > 1 ? kRootCode : kLogCode);
  CheckRange("reserved byte 41 (pair_rank)", h.pair_rank, 0,
             h.encoding == kRootCode && h.topk > 0 ? h.topk - 1 : 0);
  const bool packed = flags & kPackedClasses;
  if (packed != (h.class_bits > 0) || (packed && (h.topk == 0 || h.partner_classes)))
    Fail("flags are ", flags, ": bits 24 to 28 and PACKED_CLASSES belong together, and to one class table");
  if (!h.mixing && h.partner_entries != 0) Fail("reserved bytes 42 and 43 of the header are not zero");
  if (h.partner_classes && h.topk == 0) Fail("flags are ", flags, ": PARTNER_CLASSES needs predictions");
  CheckRange("group_rows", h.group_rows, 1, h.views);
  if (h.pairs && h.views % 2) Fail("views is ", h.views, ", want an even number with DOUBLE");
  if (h.pairs && h.group_rows % 2) Fail("group_rows is ", h.group_rows, ", want an even number with DOUBLE");
  if (h.encoding == kRootCode && !(h.log_step >= kMinRootStep && h.log_step <= 1))
    Fail("log_step is ", h.log_step, ", want ", kMinRootStep, " to 1 with probability_encoding 3");
  if (h.encoding == kRootCode) return;
  if (h.encoding == kLogCode ? !(h.log_step > 0 && std::isfinite(h.log_step)) : h.log_step != 0)
    Fail("log_step is ", h.log_step, " with probability_encoding ", unsigned{h.encoding},
         ": want finite and above 0 with encoding 2, else 0");
}

}  // namespace

Header ParseHeader(std::span<const uint8_t> bytes) {
  const uint32_t flags = CheckMagic(bytes);
  const uint8_t* head = bytes.data();
  Header h;
  h.version = Load<uint16_t>(head + 4);
  h.record_bytes = Load<uint32_t>(head + 8);
  h.views = Load<uint32_t>(head + 16);
  h.image_height = Load<uint32_t>(head + 20);
  h.image_width = Load<uint32_t>(head + 24);
  h.view_height = Load<uint16_t>(head + 28);
  h.view_width = Load<uint16_t>(head + 30);
  h.num_ops = Load<uint16_t>(head + 32);
  h.op_entries = Load<uint16_t>(head + 34);
  h.topk = Load<uint16_t>(head + 36);
  h.class_entries = Load<uint16_t>(head + 38);
  h.encoding = head[40];
  h.pair_rank = head[41];
  h.class_bits = flags >> kClassBitsAt & kClassBits;
  h.partner_entries = Load<uint16_t>(head + 42);
  h.log_step = Load<float>(head + 44);
  h.group_rows = Load<uint32_t>(head + 48);
  h.flip = flags & kFlip;
  h.erase = flags & kErase;
  h.mixing = flags & kMixing;
  h.wide_weights = flags & kWideWeights;
  h.pairs = flags & kDouble;
  h.own_mixes = flags & kOwnMixes;
  h.partner_classes = flags & kPartnerClasses;
  CheckFields(h, flags);

  h.class_bytes = flags & kWideClasses ? 4 : 2;
  h.op_index_bytes = h.op_entries > 256 ? 2 : 1;
  h.erase_bytes = h.view_height > 255 || h.view_width > 255 ? 2 : 1;
  h.crop_bits_height = BoxBits(h.image_height);
  h.crop_bits_width = BoxBits(h.image_width);
  return h;
}

Tables FindTables(const Header& h, std::span<const uint8_t> bytes) {
  Tables t;
  Columns columns("its head", bytes, kHeaderBytes);
  uint32_t largest = h.class_entries;  // of the class tables
  if (h.partner_classes) {
    t.class_counts = columns.Take("class counts", 2 * (uint64_t{h.partner_entries} + 1));
    uint32_t total = 0;
    largest = 0;
    for (uint32_t group = 0; group <= h.partner_entries; ++group) {
      const uint32_t count = LoadUint(t.class_counts, 2, group);
      total += count;
      largest = std::max(largest, count);
    }
    if (total != h.class_entries)
      Fail("class_entries is ", h.class_entries, ", but the class counts add up to ", total);
  }
  t.class_index_bytes = largest > 256 ? 2 : 1;
  if (h.class_bits > 0)
    t.classes = columns.TakeBits("packed classes", uint64_t{h.class_bits} * h.class_entries);
  else
    t.classes = columns.Take("classes", uint64_t{h.class_bytes} * h.class_entries);
  t.op_ids = columns.Take("op ids", h.op_entries);
  t.op_magnitudes = columns.Take("op magnitudes", 4 * uint64_t{h.op_entries});
  t.partners = columns.Take("partner table", 4 * uint64_t{h.partner_entries});
  t.partner_index_bytes = h.partner_entries == 0 ? 0 : h.partner_entries > 256 ? 2 : 1;
  t.end = columns.at();
  return t;
}

}  // namespace dali_dr::record
