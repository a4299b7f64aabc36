// Tests of csrc/record against records made by make_record.h: every branch of the layout, every header field,
// every truncation, and a wrong value in every column.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "record/reader.h"
#include "tests/record_checks.h"

namespace dali_dr::record {
namespace {

void TestRoundTrip() {
  uint32_t seed = 1;
  for (const RecordShape& shape : AllShapes()) {
    const std::string name = "shape " + std::to_string(seed - 1);
    const MadeRecord made = MakeRecord(shape, seed++);
    Reader reader;
    const Bytes member = CompressFrames(made);
    const Record& record = reader.Open(member);
    Check(record.views() == shape.views && record.topk() == static_cast<int>(shape.topk) &&
              record.num_ops() == static_cast<int>(shape.num_ops) &&
              record.image_height() == shape.image_height && record.image_width() == shape.image_width &&
              record.view_height() == shape.view_height && record.view_width() == shape.view_width,
          name + ": header values");
    const uint32_t group_rows = shape.group_rows ? shape.group_rows : shape.views;
    Check(record.groups() == (shape.views + group_rows - 1) / group_rows, name + ": groups");
    std::vector<uint32_t> rows(shape.views);
    for (uint32_t row = 0; row < shape.views; ++row) rows[row] = row;
    std::shuffle(rows.begin(), rows.end(), std::mt19937(seed));
    for (uint32_t row : rows) {
      const bool fresh = !record.has_group(record.group_of(row));
      ExpectedView want = made.views[row];
      want.words[9] = static_cast<int32_t>(shape.num_ops);
      const ExpectedView got = Read(reader, record, row);
      Check(record.has_group(record.group_of(row)), name + ": a group that was read is there");
      if (fresh && record.groups() > 1 && row == rows[0]) {
        uint32_t there = 0;
        for (uint32_t group = 0; group < record.groups(); ++group) there += record.has_group(group);
        Check(there == 1, name + ": one view needs one group");
      }
      const std::string view = name + " view " + std::to_string(row);
      Check(got.words == want.words, view + ": words");
      Check(got.ids == want.ids, view + ": ids");
      Check(got.probs == want.probs, view + ": probabilities");
    }
    Check(!Refusal([&] { Read(reader, record, shape.views); }).empty(),
          name + ": a row past the end is refused");
  }
}

/// All boxes of small axes, decoded by hand-enumerated numbers: d rising, then start rising.
void TestEveryBox() {
  RecordShape shape;
  shape.num_ops = shape.op_entries = shape.topk = shape.class_entries = 0, shape.flip = shape.erase = false;
  shape.views = 1, shape.image_width = 1, shape.encoding = 0;
  for (uint32_t length : {1u, 2u, 3u, 17u, 255u}) {
    shape.image_height = length;
    Bytes bytes = MakeRecord(shape, 1).bytes;
    uint32_t number = 0;
    for (uint32_t d = 0; d < length; ++d) {
      for (uint32_t start = 0; start <= d; ++start, ++number) {
        for (size_t i = kHeaderBytes; i < bytes.size(); ++i)
          bytes[i] = static_cast<uint8_t>(number >> (8 * (i - kHeaderBytes)));
        const ExpectedView got = Read(ParseWhole(bytes), 0);
        const std::vector<int32_t> want = {
            static_cast<int32_t>(start), 0, static_cast<int32_t>(length - d), 1, 0, 0, 0, 0, 0, 0};
        if (got.words != want)
          return Check(false, "box number " + std::to_string(number) + " of side " + std::to_string(length));
      }
    }
    if (bytes.size() > kHeaderBytes && number >> (std::bit_width(number - 1)) == 0) {
      for (size_t i = kHeaderBytes; i < bytes.size(); ++i)
        bytes[i] = static_cast<uint8_t>(number >> (8 * (i - kHeaderBytes)));
      CheckRefused(bytes, "vertical crop number",
                   "the number after the last box of side " + std::to_string(length));
    }
  }
}

void TestHeader() {
  const MadeRecord made = MakeRecord(RecordShape{}, 7);
  const Bytes& good = made.bytes;
  Check(RefusalOf(good).empty(), "the unchanged record is accepted");
  CheckRefused(With<uint8_t>(good, 0, 'D'), "magic", "magic");
  CheckRefused(With<uint16_t>(good, 4, 3), "version is 3", "version");
  CheckRefused(With<uint16_t>(good, 6, 48), "header_bytes is 48", "header_bytes");
  CheckRefused(With<uint32_t>(good, 8, good.size() + 1), "record_bytes", "record_bytes");
  // MIXING's bits without it; PACKED_CLASSES without class_bits, and these without it
  for (uint32_t flags : {16u, 32u, 64u, 128u, 256u, 6u << 24, 1u << 29})
    CheckRefused(With(good, 12, flags), "flags", "flags");
  CheckRefused(With<uint32_t>(good, 12, 0x80000003), "flags", "flags");
  for (uint32_t views : {0u, 65537u, 0xffffffffu}) CheckRefused(With(good, 16, views), "views is", "views");
  for (size_t at : {20u, 24u})
    for (uint32_t side : {0u, 65536u, 0xffffffffu})
      CheckRefused(With(good, at, side), at == 20 ? "image_height" : "image_width", "image side");
  CheckRefused(With<uint16_t>(good, 28, 0), "view_height", "view_height");
  CheckRefused(With<uint16_t>(good, 30, 0), "view_width", "view_width");
  CheckRefused(With<uint16_t>(good, 32, 17), "num_ops is 17", "num_ops");
  CheckRefused(With<uint16_t>(good, 32, 0), "op_entries", "num_ops 0 with a table");
  CheckRefused(With<uint16_t>(good, 34, 0), "op_entries", "operations without a table");
  CheckRefused(With<uint16_t>(good, 36, 0), "class_entries", "topk 0 with a table");
  CheckRefused(With<uint16_t>(good, 38, 0), "class_entries", "classes without a table");
  CheckRefused(With<uint16_t>(good, 38, 9), "fewer than topk", "class_entries below topk");
  CheckRefused(With<uint8_t>(good, 40, 4), "probability_encoding is 4", "encoding");
  for (size_t at : {41u, 42u, 43u}) CheckRefused(With<uint8_t>(good, at, 1), "reserved", "reserved");
  for (float step : {0.f, -1.f, std::nanf(""), INFINITY})
    CheckRefused(With(good, 44, step), "log_step", "log_step");
  for (uint32_t rows : {0u, 6u, 0xffffffffu})
    CheckRefused(With(good, 48, rows), "group_rows is", "group_rows");
  RecordShape pairs;
  pairs.views = 6, pairs.partners = 2, pairs.pairs = true;
  CheckRefused(With(MakeRecord(pairs, 1).bytes, 48, 3u), "group_rows is 3", "odd group_rows with DOUBLE");
  pairs.pairs = false;
  CheckRefused(With(MakeRecord(pairs, 1).bytes, 12, 3u | 8 | 256), "OWN_MIXES needs DOUBLE",
               "mixes of no pairs");
  RecordShape plain;
  plain.encoding = 0;
  CheckRefused(With(MakeRecord(plain, 1).bytes, 44, 0.15f), "log_step", "log_step with encoding 0");
  for (uint32_t flags : {128u, 128u | 6 << 24}) {  // what version 1 does not have
    RecordShape old;
    old.version = 1;
    CheckRefused(With(MakeRecord(old, 7).bytes, 12, flags), "unknown bits", "flags of version 1");
    CheckRefused(With<uint8_t>(MakeRecord(old, 7).bytes, 40, 3), "probability_encoding is 3", "version 1");
  }
  // Larger counts than the columns: each makes the record too short.
  for (size_t at : {16u, 20u, 34u, 36u, 38u}) {
    Bytes larger = good;
    larger[at + (at == 20)] += 40;
    CheckRefused(larger, "record", "larger count at offset " + std::to_string(at));
  }
  Bytes longer = good;
  longer.push_back(0);
  CheckRefused(With<uint32_t>(longer, 8, longer.size()), "need only", "trailing byte");
}

void TestTruncations() {
  for (const RecordShape& shape : AllShapes()) {
    const Bytes good = MakeRecord(shape, 3).bytes;
    const size_t stride = good.size() > 4000 ? 13 : 1;
    for (size_t length = 0; length < good.size(); length += stride) {
      Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length));
      if (RefusalOf(cut).empty())
        Check(false, "record cut to " + std::to_string(length) + " bytes is accepted");
      if (length < kHeaderBytes) continue;
      cut = With<uint32_t>(cut, 8, static_cast<uint32_t>(length));
      if (RefusalOf(cut).empty())
        Check(false, "record cut and relabelled to " + std::to_string(length) + " bytes is accepted");
    }
  }
}

/// One wrong value in each column of a record whose column offsets are worked out by hand.
void TestColumns() {
  RecordShape shape;
  shape.views = 9, shape.image_height = 5,
  shape.image_width = 6;  // 15 and 21 boxes: 4 + 5 bits, 81 bits in 11 bytes
  shape.op_entries = 3, shape.class_entries = 12;
  MadeRecord made;
  uint32_t seed = 0;
  do made = MakeRecord(shape, ++seed);  // a record whose view 0 has an erase box
  while (made.views[0].words[7] == 0);
  const Bytes& good = made.bytes;
  const size_t classes = kHeaderBytes, op_ids = classes + 24, magnitudes = op_ids + 3,
               crops = magnitudes + 12, flips = crops + 11, erased = flips + 2, boxes = erased + 2;
  const auto count = static_cast<size_t>(
      std::count_if(made.views.begin(), made.views.end(), [](const auto& v) { return v.words[7] != 0; }));
  const size_t ops = boxes + 4 * count, indices = ops + 18, probabilities = indices + 90;
  Check(probabilities + 90 == good.size(), "columns lie where the test thinks they do");

  Bytes bad = good;
  for (size_t i = 0; i < 3; ++i) bad[op_ids + i] = 18;
  CheckRefused(bad, "op id 18", "op id");
  bad = good;
  for (size_t i = 0; i < 3; ++i) bad = With(bad, magnitudes + 4 * i, std::nanf(""));
  CheckRefused(bad, "op magnitude", "op magnitude");
  CheckRefused(With<uint8_t>(good, ops + 9 + 4, 3), "view 4: op entry 3 in slot 1", "op entry");
  CheckRefused(With<uint8_t>(good, crops, good[crops] | 15), "view 0: vertical crop number 15",
               "vertical crop");
  CheckRefused(With<uint16_t>(good, crops, 31 << 4), "view 0: horizontal crop number 31", "horizontal crop");
  CheckRefused(With<uint8_t>(good, crops + 10, good[crops + 10] | 2), "unused bits of the crops",
               "crop padding");
  CheckRefused(With<uint8_t>(good, flips + 1, good[flips + 1] | 2), "unused bits of the flips",
               "flip padding");
  CheckRefused(With<uint8_t>(good, erased + 1, good[erased + 1] | 128), "unused bits of the erased",
               "erase padding");
  CheckRefused(With<uint8_t>(good, boxes + 2, 0), "view 0: erase box", "empty erase box");
  CheckRefused(With<uint32_t>(good, boxes, 0x01e10000 | 200 << 8), "view 0: erase box", "erase box too tall");
  CheckRefused(With<uint32_t>(good, boxes, 0x02010000 | 223 << 8), "view 0: erase box",
               "erase box too far right");
  CheckRefused(With<uint8_t>(good, indices + 9 * 9 + 2, 12), "view 2: class entry 12 of rank 9",
               "class entry");
  CheckRefused(With<uint8_t>(good, indices + 9 + 2, good[indices + 2]), "view 2: class entry",
               "repeated class");
  bad = With<uint8_t>(good, probabilities + 9 + 5, 200);
  CheckRefused(With<uint8_t>(bad, probabilities + 18 + 5, 56), "view 5: probability code 256 of rank 2",
               "code above 255");

  shape.encoding = 0;
  const Bytes floats = MakeRecord(shape, 2).bytes;
  const size_t first = floats.size() - 4 * 90;
  for (float p : {-0.5f, 1.5f, std::nanf(""), INFINITY})
    CheckRefused(With(floats, first, p), "view 0: probability", "float32 probability");
  CheckRefused(With(With(floats, first, 0.25f), first + 36, 0.5f), "view 0: probability 0.5 of rank 1",
               "rising probability");
  shape.encoding = 1;
  const Bytes halves = MakeRecord(shape, 2).bytes;
  for (uint16_t p : {0x3c01, 0x7c00, 0x7e00, 0xbc00})
    CheckRefused(With(halves, halves.size() - 180, p), "view 0: probability", "float16 probability");
  shape.encoding = 2, shape.log_step = 3e38f;  // finite, but exp(96 step) is not
  Bytes steep = MakeRecord(shape, 2).bytes;
  for (size_t i = 0; i < 9; ++i) steep[steep.size() - 90 + i] = 0;
  CheckRefused(steep, "infinite", "log_step that overflows");
  shape = RecordShape{};
  shape.wide_classes = true;
  Bytes wide = MakeRecord(shape, 2).bytes;
  for (size_t i = 0; i < 50; ++i) wide = With(wide, kHeaderBytes + 4 * i, 0x80000000u);
  CheckRefused(wide, "class id 2147483648", "class id above int32");
}

/// Header and columns of the root code; the codes are the last bytes.
void TestRootCode() {
  RecordShape shape;
  shape.views = 7, shape.encoding = 3;
  for (float step : {0.f, -0.1f, 0.0039f, 1.001f, std::nanf("")})
    CheckRefused(With(MakeRecord(shape, 5).bytes, 44, step), "log_step", "step of the root code");
  CheckRefused(With<uint8_t>(MakeRecord(shape, 5).bytes, 41, 10), "pair_rank", "pair_rank of K");
  shape.topk = shape.class_entries = 0;
  Check(RefusalOf(MakeRecord(shape, 5).bytes).empty(), "the root code of no classes");
  CheckRefused(With<uint8_t>(MakeRecord(shape, 5).bytes, 41, 1), "pair_rank", "pair_rank without classes");

  shape = RecordShape{};
  shape.views = 7, shape.encoding = 3, shape.pair_rank = 5;  // 5 falls in 3 bytes
  const Bytes good = MakeRecord(shape, 5).bytes;
  Check(RefusalOf(good).empty(), "root codes are accepted");
  const size_t codes = good.size() - size_t{7} * 9;
  Bytes bad = With<uint8_t>(good, codes + 7 + 3, 4);  // the first code of view 3
  for (size_t k = 1; k < 5; ++k) bad[codes + 7 * (k + 1) + 3] = 1;
  for (size_t pair = 0; pair < 3; ++pair) bad[codes + 7 * (6 + pair) + 3] = 0;
  Check(RefusalOf(bad).empty(), "codes that fall to 0");
  CheckRefused(With<uint8_t>(bad, codes + 7 * 2 + 3, 5),
               "view 3: probability code of rank 1 falls by 5 from 4", "fall of rank 1");
  CheckRefused(With<uint8_t>(bad, codes + 7 * 6 + 3, 1), "rank 5 falls by 1 from 0", "low half of a byte");
  CheckRefused(With<uint8_t>(bad, codes + 7 * 7 + 3, 16), "rank 8 falls by 1 from 0", "high half of a byte");
  CheckRefused(With<uint8_t>(bad, codes + 7 * 8 + 3, 16), "view 3: unused bits of the last pair",
               "half that is left over");
}

void TestPackedClasses() {
  RecordShape shape;
  shape.class_bits = 7, shape.class_entries = 25;  // 175 bits in 22 bytes
  const Bytes good = MakeRecord(shape, 5).bytes;
  Check(RefusalOf(good).empty(), "packed classes are accepted");
  CheckRefused(With<uint8_t>(good, kHeaderBytes + 21, 0x80), "unused bits of the packed classes", "padding");
  Bytes none = With<uint32_t>(good, 12, 3u | 128);
  CheckRefused(none, "flags", "packed classes of no bits");
  shape.topk = shape.class_entries = 0;
  CheckRefused(MakeRecord(shape, 5).bytes, "flags", "packed classes without predictions");
  shape = RecordShape{};
  shape.partners = 3, shape.partner_classes = true, shape.class_entries = 48, shape.class_bits = 10;
  CheckRefused(MakeRecord(shape, 4).bytes, "flags", "packed classes by partner");
}

/// One wrong value in each column of mixed views, whose offsets are counted from the end.
void TestMixColumns() {
  RecordShape shape;
  shape.views = 24, shape.partners = 3, shape.wide_weights = true;
  const MadeRecord made = MakeRecord(shape, 4);
  const Bytes& good = made.bytes;
  const size_t mix = 14, other = mix + 7;  // words
  size_t q = 0, weights = 0, cuts = 0, erased = 0;
  for (const auto& view : made.views) {
    q += view.words[mix] != -1;
    weights += view.words[mix + 2] != std::bit_cast<int32_t>(1.0f);
    cuts += view.words[mix + 5] != 0;
    erased += view.words[other + 7] != 0;
  }
  Check(q > 8 && q < 24 && weights > 0 && cuts > 0 && erased > 0, "views of every kind are there");
  const size_t ops = good.size() - 2 * q, erase_boxes = ops - 4 * erased, cut_boxes = erase_boxes - 4 * cuts,
               high = cut_boxes - 4 * q, partners = high - q, low = partners - 4 * q,
               lams = low - 4 * weights;
  const size_t table = kHeaderBytes + 2 * 50 + 5 * 37;  // behind classes and operations
  CheckRefused(With<uint8_t>(good, ops, 37), "op entry 37 in slot 0", "partner op");
  CheckRefused(With<uint8_t>(good, erase_boxes + 2, 0), "partner erase box", "empty partner erase box");
  CheckRefused(With<uint8_t>(good, cut_boxes + 2 * cuts, 0), "cutmix box", "empty cutmix box");
  CheckRefused(With<uint8_t>(good, cut_boxes + 3 * cuts, 225), "cutmix box", "cutmix box too wide");
  Bytes bad = With<uint8_t>(good, low + 2 * q, 0);
  CheckRefused(With<uint8_t>(bad, high + 2 * q, 0), "partner crop", "empty partner crop");
  for (size_t at : {size_t{0}, q, 2 * q, 3 * q}) {
    bad = With<uint8_t>(good, low + at, 255);
    bad = With<uint8_t>(bad, high + at, 255);
    bad = With<uint8_t>(bad, low + (at + 2 * q) % (4 * q), 1);  // start and extent make 65536
    if (at >= 2 * q)
      CheckRefused(With<uint8_t>(bad, high + at - 2 * q, 1), "partner crop", "crop too long");
    else
      CheckRefused(bad, "partner crop", "crop too far");
  }
  CheckRefused(With<uint8_t>(good, partners, 3), "partner table entry 3 is not below 3", "partner entry");
  for (float lam : {1.0f, -0.25f, std::nanf("")})
    CheckRefused(With(good, lams, lam), "mixup weight", "mixup weight");
  bad = good;
  for (size_t i = 0; i < 3; ++i) bad = With(bad, table + 4 * i, 0x80000000u);
  CheckRefused(bad, "partner 2147483648 does not fit", "partner above int32");

  shape.pairs = true;
  bad = MakeRecord(shape, 4).bytes;
  const size_t partnered = bad.size();
  for (size_t at = kHeaderBytes; at + 1 < partnered; ++at)  // 12 pairs: the only column that is ff 0f
    if (bad[at] == 0xff && bad[at + 1] == 0x0f) bad[at] = 0xfe;
  CheckRefused(bad, "a double-mix has 11 partners for 12 pairs", "a pair without partner");
  shape = RecordShape{};
  shape.partners = 3, shape.partner_classes = true, shape.class_entries = 48;
  bad = MakeRecord(shape, 4).bytes;
  CheckRefused(With<uint16_t>(bad, kHeaderBytes, 11), "class counts add up to 47", "class counts");
  for (size_t i = 0; i < 96; ++i) bad[kHeaderBytes + 8 + i] = 0;
  CheckRefused(bad, "class gap of table entry", "class gap of 0");
  CheckRefused(With<uint16_t>(With<uint16_t>(bad, 36, 0), 38, 0), "PARTNER_CLASSES needs predictions",
               "class tables without predictions");
}

}  // namespace
}  // namespace dali_dr::record

int main() {
  using namespace dali_dr::record;
  TestRoundTrip();
  TestEveryBox();
  TestHeader();
  TestTruncations();
  TestColumns();
  TestRootCode();
  TestPackedClasses();
  TestMixColumns();
  return dali_dr::testing::Verdict("record");
}
