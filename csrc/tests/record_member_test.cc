// Tests of csrc/record on members of shards: their frames, calls that should not be made, and many random and
// mutated inputs (meant for a build with DALI_DR_SANITIZE=ON).
//   test_record_member [MUTATIONS]
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "record/reader.h"
#include "tests/record_checks.h"

namespace dali_dr::record {
namespace {

/// Reads every view of a member, in memory of its own so that an overrun is seen.
std::string RefusalOfMember(const Bytes& member) {
  return Refusal([&] {
    Reader reader;
    const Bytes own(member);
    const Record& record = reader.Open(own);
    for (uint32_t row = 0; row < record.views(); ++row) Read(reader, record, row);
  });
}

void CheckMember(const Bytes& member, const std::string& word, const std::string& what) {
  const std::string message = RefusalOfMember(member);
  Check(message.find(word) != std::string::npos, what + ": got \"" + message + "\"");
}

/// The frames around a record, of one group (one frame) and of several (one more than groups).
void TestFrames() {
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
    Check(RefusalOfMember(good).empty(), "good frames are accepted");
    CheckMember({}, "not a zstd frame", "no bytes");
    CheckMember(made.bytes, "not a zstd frame", "uncompressed record");
    for (size_t length = 0; length < good.size(); ++length)
      if (RefusalOfMember(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))).empty())
        Check(false, "member cut to " + std::to_string(length) + " bytes is accepted");
    CheckMember(joined(good, good), "record_bytes", "two records");
    CheckMember(joined(good, {0, 0, 0}), "not a zstd frame", "trailing bytes");
    CheckMember(joined(good, skippable), "not a zstd frame", "skippable frame");
    CheckMember(joined(skippable, good), "not a zstd frame", "skippable frame first");
    CheckMember(joined(good, empty), "zstd frames, but", "empty frame");
    CheckMember(joined(empty, good), "shorter than its header", "empty frame first");

    ZSTD_CCtx* context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    Bytes unsized(1 << 16);
    unsized.resize(
        ZSTD_compress2(context, unsized.data(), unsized.size(), made.bytes.data(), made.bytes.size()));
    ZSTD_freeCCtx(context);
    CheckMember(unsized, "content size", "frame without content size");
    CheckMember(joined(good, unsized), "content size", "last frame without content size");
    if (group_rows == 2) continue;
    const Bytes largest = Compress(Bytes(kMaxRecordBytes), 1);
    CheckMember(largest, "magic", "frame of 64 MiB");
    CheckMember(Compress(Bytes(kMaxRecordBytes + 1), 1), "more than", "frame above 64 MiB");
    CheckMember(joined(good, largest), "more than", "frames above 64 MiB");
  }
}

/// The right bytes, cut into frames elsewhere.
void TestFrameCuts() {
  RecordShape shape;
  shape.group_rows = 2;
  const MadeRecord made = MakeRecord(shape, 5);
  CheckMember(Compress(made.bytes), "1 zstd frames, but 3", "one frame for three groups");
  CheckMember(CompressFrames(made.bytes, {made.frames[0] - 1, made.frames[1] + 1, made.frames[2]}),
              "op magnitudes", "a head that is too short");
  CheckMember(CompressFrames(made.bytes, {made.frames[0] + 1, made.frames[1] - 1, made.frames[2]}),
              "need only", "a head that is too long");
  CheckMember(CompressFrames(made.bytes, {made.frames[0], made.frames[1] - 1, made.frames[2] + 1}),
              "probabilities", "a group that is too short");
  CheckMember(CompressFrames(made.bytes, {made.frames[0], made.frames[1] + 1, made.frames[2] - 1}),
              "need only", "a group that is too long");
  // What is wrong with a group concerns its own rows only.
  Bytes bad = made.bytes;
  bad.back() = bad[bad.size() - 2] = 255;  // codes of the last view, and of the one before in its group
  const Bytes member = CompressFrames(bad, made.frames);
  Reader reader;
  const Record& record = reader.Open(member);
  for (uint32_t row = 0; row < 4; ++row)
    Check(Refusal([&] { Read(reader, record, row); }).empty(), "a row of a good group is read");
  Check(!Refusal([&] { Read(reader, record, 4); }).empty(), "a row of the bad group is refused");
}

/// Class ids are below the number of the teacher's outputs: only the rows with others are refused.
void TestOutputs() {
  for (const RecordShape& shape : AllShapes()) {
    if (shape.topk == 0 || shape.views < 2) continue;
    const MadeRecord made = MakeRecord(shape, 6);
    const Bytes member = CompressFrames(made);
    int32_t largest = 0;
    for (const ExpectedView& view : made.views)
      largest = std::max(largest, *std::max_element(view.ids.begin(), view.ids.end()));
    const auto outputs = static_cast<uint32_t>(largest);
    Reader reader;
    for (const uint32_t limit : {outputs, outputs + 1, 0u, 1u << 31, 0xffffffffu}) {
      const Record& record = reader.Open(member, limit);
      for (uint32_t row = 0; row < shape.views; ++row) {
        const auto& ids = made.views[row].ids;
        const bool beyond = std::any_of(ids.begin(), ids.end(),
                                        [&](int32_t id) { return static_cast<uint32_t>(id) >= limit; });
        const std::string message = Refusal([&] { Read(reader, record, row); });
        const std::string want = ", but ids are below " + std::to_string(limit);
        Check(beyond ? message.find(want) != std::string::npos : message.empty(),
              "ids with " + std::to_string(limit) + " outputs: " + message);
      }
    }
    const Record& again = reader.Open(member);  // the limit was of that call
    Check(Refusal([&] { Read(reader, again, 0); }).empty(), "ids without a limit");
  }
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
  using namespace dali_dr::record;
  TestFrames();
  TestFrameCuts();
  TestOutputs();
  TestMisuse();
  TestMutations(argc > 1 ? std::atoi(argv[1]) : 200000);
  return dali_dr::testing::Verdict("record members");
}
