// Tests of csrc/record against records made by make_record.h: every branch of the layout, every header field,
// every truncation, and many random and mutated inputs (meant for a build with DALI_DR_SANITIZE=ON).
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "record/reader.h"
#include "tests/record_shapes.h"

namespace dali_dr::record {
namespace {

using dali_dr::testing::AllShapes;
using dali_dr::testing::Bytes;
using dali_dr::testing::Compress;
using dali_dr::testing::CompressFrames;
using dali_dr::testing::ExpectedView;
using dali_dr::testing::kHeaderBytes;
using dali_dr::testing::MadeRecord;
using dali_dr::testing::MakeRecord;
using dali_dr::testing::RecordShape;

int failures = 0;

void Check(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

/// View `row` of `from`, a Record or a Reader that has `record` open.
template <typename From>
ExpectedView Read(From& from, const Record& record, uint32_t row) {
  ExpectedView got;
  got.words.resize(record.view_words());
  got.ids.resize(record.topk());
  got.probs.resize(record.topk());
  from.ReadView(row, got.words, got.ids, got.probs);
  return got;
}
ExpectedView Read(const Record& record, uint32_t row) { return Read(record, record, row); }

/// A record whose bytes are all at hand: its head, then one group after the other.
Record ParseWhole(std::span<const uint8_t> bytes) {
  Record record = Record::Parse(bytes);
  if (record.record_bytes() != bytes.size()) throw RecordError("record_bytes do not fit");
  size_t at = record.head_bytes();
  for (uint32_t group = 0; group < record.groups(); ++group) at += record.AddGroup(group, bytes.subspan(at));
  if (at != bytes.size()) throw RecordError("header and columns need only a part");
  return record;
}

/// The message of the RecordError that `body` throws; empty if it throws none.
std::string Refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const RecordError& error) {
    return error.what();
  }
  return "";
}

/// Reads every view of exactly these bytes, in memory of their own so that an overrun is seen.
std::string RefusalOf(const Bytes& bytes) {
  return Refusal([&] {
    const Bytes own(bytes);
    const Record record = ParseWhole(own);
    for (uint32_t row = 0; row < record.views(); ++row) Read(record, row);
  });
}

void CheckRefused(const Bytes& bytes, const std::string& word, const std::string& what) {
  const std::string message = RefusalOf(bytes);
  Check(message.find(word) != std::string::npos,
        what + ": want an error about \"" + word + "\", got \"" + message + "\"");
}

template <typename T>
Bytes With(Bytes bytes, size_t at, T value) {
  std::memcpy(&bytes.at(at), &value, sizeof value);
  return bytes;
}

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
  CheckRefused(With<uint16_t>(good, 4, 2), "version is 2", "version");
  CheckRefused(With<uint16_t>(good, 6, 48), "header_bytes is 48", "header_bytes");
  CheckRefused(With<uint32_t>(good, 8, good.size() + 1), "record_bytes", "record_bytes");
  for (uint32_t flags : {16u, 32u, 64u, 128u}) CheckRefused(With(good, 12, flags), "flags", "flags");
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
  CheckRefused(With<uint8_t>(good, 40, 3), "probability_encoding is 3", "encoding");
  for (size_t at : {41u, 42u, 43u}) CheckRefused(With<uint8_t>(good, at, 1), "reserved", "reserved");
  for (float step : {0.f, -1.f, std::nanf(""), INFINITY})
    CheckRefused(With(good, 44, step), "log_step", "log_step");
  for (uint32_t rows : {0u, 6u, 0xffffffffu})
    CheckRefused(With(good, 48, rows), "group_rows is", "group_rows");
  RecordShape pairs;
  pairs.views = 6, pairs.partners = 2, pairs.pairs = true;
  CheckRefused(With(MakeRecord(pairs, 1).bytes, 48, 3u), "group_rows is 3", "odd group_rows with DOUBLE");
  RecordShape plain;
  plain.encoding = 0;
  CheckRefused(With(MakeRecord(plain, 1).bytes, 44, 0.15f), "log_step", "log_step with encoding 0");
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
  for (size_t i = 0; i < 3; ++i) bad[op_ids + i] = 14;
  CheckRefused(bad, "op id 14", "op id");
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

/// The frames around a record, of one group (one frame) and of several (one more than groups).
void TestFrames() {
  Reader reader;
  const auto refusal = [&](const Bytes& member) {
    return Refusal([&] {
      const Bytes own(member);
      const Record& record = reader.Open(own);
      for (uint32_t row = 0; row < record.views(); ++row) Read(reader, record, row);
    });
  };
  const auto check = [&](const Bytes& member, const std::string& word, const std::string& what) {
    const std::string message = refusal(member);
    Check(message.find(word) != std::string::npos, what + ": got \"" + message + "\"");
  };
  const auto joined = [](Bytes first, const Bytes& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  };
  const Bytes skippable = {0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}, empty = Compress({});
  for (uint32_t group_rows : {5u, 2u}) {
    RecordShape shape;
    shape.group_rows = group_rows;
    const MadeRecord made = MakeRecord(shape, 5);
    const Bytes good = CompressFrames(made);
    Check(refusal(good).empty(), "good frames are accepted");
    check({}, "not a zstd frame", "no bytes");
    check(made.bytes, "not a zstd frame", "uncompressed record");
    for (size_t length = 0; length < good.size(); ++length)
      if (refusal(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))).empty())
        Check(false, "member cut to " + std::to_string(length) + " bytes is accepted");
    check(joined(good, good), "record_bytes", "two records");
    check(joined(good, {0, 0, 0}), "not a zstd frame", "trailing bytes");
    check(joined(good, skippable), "not a zstd frame", "skippable frame");
    check(joined(skippable, good), "not a zstd frame", "skippable frame first");
    check(joined(good, empty), "zstd frames, but", "empty frame");
    check(joined(empty, good), "shorter than its header", "empty frame first");

    ZSTD_CCtx* context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    Bytes unsized(1 << 16);
    unsized.resize(
        ZSTD_compress2(context, unsized.data(), unsized.size(), made.bytes.data(), made.bytes.size()));
    ZSTD_freeCCtx(context);
    check(unsized, "content size", "frame without content size");
    check(joined(good, unsized), "content size", "last frame without content size");
    if (group_rows == 2) continue;
    const Bytes largest = Compress(Bytes(kMaxRecordBytes), 1);
    check(largest, "magic", "frame of 64 MiB");
    check(Compress(Bytes(kMaxRecordBytes + 1), 1), "more than", "frame above 64 MiB");
    check(joined(good, largest), "more than", "frames above 64 MiB");
  }
  // The right bytes, cut into frames elsewhere.
  RecordShape shape;
  shape.group_rows = 2;
  const MadeRecord made = MakeRecord(shape, 5);
  check(Compress(made.bytes), "1 zstd frames, but 3", "one frame for three groups");
  check(CompressFrames(made.bytes, {made.frames[0] - 1, made.frames[1] + 1, made.frames[2]}), "op magnitudes",
        "a head that is too short");
  check(CompressFrames(made.bytes, {made.frames[0] + 1, made.frames[1] - 1, made.frames[2]}), "need only",
        "a head that is too long");
  check(CompressFrames(made.bytes, {made.frames[0], made.frames[1] - 1, made.frames[2] + 1}), "probabilities",
        "a group that is too short");
  check(CompressFrames(made.bytes, {made.frames[0], made.frames[1] + 1, made.frames[2] - 1}), "need only",
        "a group that is too long");
  // What is wrong with a group concerns its own rows only.
  Bytes bad = made.bytes;
  bad.back() = bad[bad.size() - 2] = 255;  // codes of the last view, and of the one before in its group
  const Bytes member = CompressFrames(bad, made.frames);
  const Record& record = reader.Open(member);
  for (uint32_t row = 0; row < 4; ++row)
    Check(Refusal([&] { Read(reader, record, row); }).empty(), "a row of a good group is read");
  Check(!Refusal([&] { Read(reader, record, 4); }).empty(), "a row of the bad group is refused");
}

/// Every call that a correct program does not make, and a group that is refused each time it is asked for.
void TestMisuse() {
  RecordShape shape;
  shape.group_rows = 2;
  const MadeRecord made = MakeRecord(shape, 5);
  const Bytes member = CompressFrames(made);
  std::vector<int32_t> view(14), ids(10);
  std::vector<float> probs(10);
  const auto throws = [](auto expected, const std::function<void()>& body, const std::string& what) {
    try {
      body();
      Check(false, what + " is not noticed");
    } catch (const decltype(expected)&) {
    }
  };
  Reader reader;
  throws(std::logic_error(""), [&] { reader.ReadView(0, view, ids, probs); }, "no open record");
  reader.Open(member);
  Reader moved = std::move(reader);
  moved.ReadView(4, view, ids, probs);
  Check(view == made.views[4].words && ids == made.views[4].ids, "a reader that was moved reads on");
  for (const auto& [words, classes, values] : {std::array{13u, 10u, 10u}, {14u, 9u, 10u}, {14u, 10u, 11u}})
    throws(
        std::invalid_argument(""),
        [&] {
          std::vector<int32_t> v(words), c(classes);
          std::vector<float> p(values);
          moved.ReadView(0, v, c, p);
        },
        "an output of another size");
  Record record = Record::Parse(made.bytes);
  throws(std::logic_error(""), [&] { record.ReadView(0, view, ids, probs); }, "a group that is not there");
  Check(!Refusal([&] { record.AddGroup(3, made.bytes); }).empty(), "group 3 of 3 is refused");

  const Bytes other = CompressFrames(made.bytes, {made.frames[0], made.frames[1] + 1, made.frames[2] - 1});
  moved.Open(other);
  for (int i = 0; i < 2; ++i)
    Check(Refusal([&] { moved.ReadView(0, view, ids, probs); }).find("need only") != std::string::npos,
          "a group that does not fill its frame is refused every time");
  Bytes frames;
  const Bytes empty = Compress({});
  for (int i = 0; i < 65538; ++i) frames.insert(frames.end(), empty.begin(), empty.end());
  Check(Refusal([&] { moved.Open(frames); }).find("more than 65537 zstd frames") != std::string::npos,
        "more frames than a record can have");
}

/// Nothing but RecordError may come out of any bytes. Part of the inputs are random, most are records with a
/// few bits or bytes changed, so that they get far into the parser.
void TestMutations(int iterations) {
  std::mt19937 random(11);
  std::vector<MadeRecord> made;
  std::vector<Bytes> members;
  for (const RecordShape& shape : AllShapes())
    if (shape.views < 100) {
      made.push_back(MakeRecord(shape, 9));
      members.push_back(CompressFrames(made.back()));
    }
  Reader reader;
  int accepted = 0;
  for (int i = 0; i < iterations; ++i) {
    const bool frame = i % 4 == 0;
    const size_t number = random() % made.size();
    Bytes bytes = frame ? members[number] : made[number].bytes;
    if (i % 16 == 1) {
      bytes.resize(random() % 200);
      for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
    }
    for (uint32_t changes = 1 + random() % 4; changes > 0 && !bytes.empty(); --changes) {
      const size_t limit = random() % 2 ? std::min<size_t>(bytes.size(), kHeaderBytes) : bytes.size();
      const size_t at = random() % limit;
      if (random() % 2)
        bytes[at] ^= static_cast<uint8_t>(1 << random() % 8);
      else
        bytes[at] = static_cast<uint8_t>(random());
    }
    if (!frame && i % 3 && bytes.size() >= 12) bytes = With(bytes, 8, static_cast<uint32_t>(bytes.size()));
    const std::string message = Refusal([&] {
      // Some records are read from frames with the changed content.
      const Bytes member = frame ? bytes : i % 8 == 1 ? CompressFrames(bytes, made[number].frames) : Bytes{};
      const std::optional<Record> whole =
          member.empty() ? std::optional(ParseWhole(bytes)) : std::optional<Record>();
      const Record& record = whole ? *whole : reader.Open(member);
      for (uint32_t row : {0u, record.views() / 2, record.views() - 1}) {
        const ExpectedView view = whole ? Read(*whole, row) : Read(reader, record, row);
        const auto& w = view.words;
        const bool inside = w[0] >= 0 && w[1] >= 0 && w[2] > 0 && w[3] > 0 &&
                            w[0] + w[2] <= static_cast<int64_t>(record.image_height()) &&
                            w[1] + w[3] <= static_cast<int64_t>(record.image_width());
        if (!inside) Check(false, "an accepted crop leaves its image");
        for (float p : view.probs)
          if (!(p >= 0 && p <= 1)) Check(false, "an accepted probability is outside 0 to 1");
      }
    });
    accepted += message.empty();
  }
  std::printf("%d mutated inputs, %d of them still valid\n", iterations, accepted);
  Check(accepted > iterations / 50 && accepted < iterations, "mutations reach both sides of the parser");
}

}  // namespace
}  // namespace dali_dr::record

int main(int argc, char** argv) {
  dali_dr::record::TestRoundTrip();
  dali_dr::record::TestEveryBox();
  dali_dr::record::TestHeader();
  dali_dr::record::TestTruncations();
  dali_dr::record::TestColumns();
  dali_dr::record::TestFrames();
  dali_dr::record::TestMisuse();
  dali_dr::record::TestMutations(argc > 1 ? std::atoi(argv[1]) : 200000);
  std::printf(dali_dr::record::failures ? "%d checks failed\n" : "record: all checks passed\n",
              dali_dr::record::failures);
  return dali_dr::record::failures != 0;
}
