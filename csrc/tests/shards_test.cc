// Tests of csrc/shards on small tars and indices written here, from the ustar format and
// schemas/sample-index.md.
#include "shards/shards.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "escape.h"
#include "make_shards.h"
#include "shard_faults.h"

namespace dali_dr::shards {
namespace {

namespace fs = std::filesystem;
using namespace dali_dr::testing;

std::string Refusal(const std::function<void()>& body) { return FaultOf(body).message; }

/// Three samples: "a" and "b" in one tar, the record of "b" in a second one, "c" without a record.
struct Fixture {
  fs::path folder;
  std::vector<Item> first = {{"a.jpg", Text(700, 'A')},
                             {"a.dr.zst", "record of a"},
                             {"b.jpg", "B", true},
                             {"c.png", Text(512, 'C')}};
  std::vector<Item> second = {{"b.dr.zst", "record of b"}};
  Text first_tar = Tar(&first), second_tar = Tar(&second);
  std::vector<Row> rows;

  uint32_t version;

  explicit Fixture(uint32_t of_version) : version(of_version) {
    const fs::path base = fs::temp_directory_path() / ("dali_dr_shards_test_" + std::to_string(getpid()));
    folder = base;
    fs::create_directories(folder / "sub");
    const auto entry = [](const Item& image, const Item* record, uint32_t record_file, int32_t label) {
      return IndexEntry{0,
                        static_cast<uint32_t>(image.block),
                        static_cast<uint32_t>(image.data.size()),
                        record_file,
                        record ? static_cast<uint32_t>(record->block) : 0,
                        record ? static_cast<uint32_t>(record->data.size()) : 0,
                        label,
                        375,
                        500,
                        0};
    };
    rows = {{"a", entry(first[0], &first[1], 0, 7)},
            {"b", entry(first[2], &second[0], 1, 0)},
            {"c", entry(first[3], nullptr, 0, 999)}};
    Restore();
  }
  ~Fixture() { fs::remove_all(folder); }

  fs::path index() const { return folder / "index.bin"; }
  Text IndexText() const {
    return IndexOf(rows, {{"x.tar", first_tar.size()}, {"sub/y.tar", second_tar.size()}},
                   {.version = version});
  }
  void Restore() const {
    Write(folder / "x.tar", first_tar);
    Write(folder / "sub/y.tar", second_tar);
    Write(index(), IndexText());
  }
  /// Opens the index and reads one sample.
  std::function<void()> Reading(int64_t number, bool with_record = true) const {
    return [=, this] {
      const ShardSet shards(index().string());
      Sample sample = shards.Find(number, with_record);
      shards.Prefetch(sample);
      shards.Load(&sample);
    };
  }
};

void TestReading(const Fixture& f) {
  const ShardSet shards(f.index().string());
  Check(shards.samples() == 3, "number of samples");
  Sample b = shards.Find(1, true), c = shards.Find(2, false), a = shards.Find(0, true);
  for (const Sample* sample : {&a, &b, &c}) shards.Prefetch(*sample);
  for (Sample* sample : {&a, &b, &c}) shards.Load(sample);
  const bool sized = f.version != 1;
  Check(a.height == (sized ? 375 : 0) && a.width == (sized ? 500 : 0) && !a.image_crc,
        "the image of sample a");
  Check(shards.num_outputs() == (sized ? std::optional<uint32_t>(65536) : std::nullopt), "number of outputs");
  Check(a.image.buffer == a.record.buffer && b.image.buffer != b.record.buffer,
        "neighbours are read at once, into one buffer");
  Check(a.key == "a" && a.label == 7 && String(a.image.bytes) == Text(700, 'A') &&
            String(a.record.bytes) == "record of a",
        "sample a");
  Check(
      b.key == "b" && b.label == 0 && String(b.image.bytes) == "B" && String(b.record.bytes) == "record of b",
      "sample b");
  Check(c.key == "c" && c.label == 999 && String(c.image.bytes) == Text(512, 'C') && c.record.bytes.empty(),
        "sample c");
  Check(
      shards.Where(a, a.record) == "sample 0 (key a) in " + (f.folder / "x.tar").string() + " at offset 2048",
      "Where");
  CheckRefused([&] { shards.Find(2, true); }, "has no reinforcement record", "a record that is not there");
  for (int64_t number : {int64_t{-1}, int64_t{3}, INT64_MAX, INT64_MIN})
    CheckRefused([&] { shards.Find(number, false); }, "does not exist", "sample " + std::to_string(number));
}

void TestFacts(const Fixture& f) {
  const ShardSet shards(f.index().string());
  Check(shards.HasRecord(0) && shards.HasRecord(1) && !shards.HasRecord(2), "which samples have a record");
  Check(shards.num_classes() == 1000 && shards.index_path() == f.index().string(), "of the index");
  Check(!shards.has_image_crcs(), "an index without checksums of images");
  if (f.version == 1) return;
  auto rows = f.rows;
  rows[1].entry.image_crc = 12345;
  Write(f.index(), IndexOf(rows, {{"x.tar", f.first_tar.size()}, {"sub/y.tar", f.second_tar.size()}},
                           {.image_crcs = true, .num_outputs = 7}));
  const ShardSet with(f.index().string());
  Check(with.has_image_crcs() && with.Find(1, false).image_crc == 12345u && with.num_outputs() == 7u,
        "an index with checksums of images");
  f.Restore();
}

void TestThreads(const Fixture& f) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    const ShardSet shards(f.index().string());
    std::vector<std::thread> threads;
    std::vector<std::string> got(8);
    for (size_t t = 0; t < got.size(); ++t)
      threads.emplace_back([&, t] {
        Sample b = shards.Find(1, true);
        shards.Load(&b);
        got[t] = String(b.record.bytes);
      });
    for (auto& thread : threads) thread.join();
    for (const auto& text : got)
      Check(text == "record of b", "a thread that opens a shard at the same time as others");
  }
}

void TestDamagedShards(const Fixture& f) {
  const fs::path tar = f.folder / "x.tar";
  fs::remove(tar);
  CheckRefused(f.Reading(0), "x.tar cannot be opened (No such file", "missing shard");
  CheckRefused(f.Reading(0), "sample 0 (key a)", "missing shard");
  {
    const ShardSet shards(f.index().string());
    Sample sample = shards.Find(0, true);
    const Fault fault =
        CheckRefused([&] { shards.Prefetch(sample); }, "cannot be opened", "missing, first use");
    Check(fault.whole_file && fault.passing && fault.sample == 0 && fault.key == "a" &&
              fault.shard == tar.string() && fault.offset == 512,
          "the fault of a missing shard");
    Write(tar, f.first_tar);
    Check(Refusal([&] { shards.Load(&sample); }).empty(), "a shard that is put back is found");
    Check(truncate(tar.c_str(), 600) == 0, "truncate");
    CheckRefused([&] { shards.Load(&sample); }, "cannot be read (it ends at byte 600)", "cut off while open");
    CheckRefused([&] { shards.Load(&sample); }, "has 600 bytes instead of", "and then looked at anew");
    Write(tar, f.first_tar);
    shards.Load(&sample);
    Write(tar, Text(f.first_tar.size(), '\0'));
    CheckRefused(f.Reading(0), "no tar member", "zeros in place of a shard");
    Check(FaultOf(f.Reading(0)).passing, "where a copy may be being made");
    shards.Load(&sample);  // of the file that is still open
    Check(String(sample.image.bytes) == f.first[0].data, "bytes of a shard that was replaced by another");
  }
  for (size_t size : {f.first_tar.size() - 1, f.first_tar.size() + 512, size_t{1}}) {
    Text other = f.first_tar;
    other.resize(size);
    Write(tar, other);
    const Fault fault = CheckRefused(
        f.Reading(0),
        "has " + std::to_string(size) + " bytes instead of " + std::to_string(f.first_tar.size()),
        "shard of another size");
    Check(fault.whole_file && fault.passing, "the fault of a shard of another size");
  }
  Write(tar, "");
  CheckRefused(f.Reading(0), "is empty", "empty shard");
  fs::remove(tar);
  fs::create_directory(tar);
  CheckRefused(f.Reading(0), "x.tar", "a folder in place of a shard");
  fs::remove(tar);

  const auto with = [&](size_t at, char value) {
    Text other = f.first_tar;
    other.at(at) = value;
    Write(tar, other);
  };
  const struct {
    size_t at;
    char value;
    const char* what;
  } changes[] = {{0, 'z', "name"},         {1, 'b', "suffix"}, {124, '1', "size"},
                 {134, 'x', "size digit"}, {156, '5', "type"}, {257, 'X', "magic"}};
  for (const auto& change : changes) {
    with(change.at, change.value);
    const Fault fault =
        CheckRefused(f.Reading(0), "no tar member of that key", std::string("tar header, ") + change.what);
    Check(!fault.whole_file && !fault.passing, "the fault of a changed header");
  }
  Write(tar, f.first_tar);
  Check(Refusal(f.Reading(0)).empty(), "the restored shard is read");

  f.Restore();
}

void TestDamagedIndex(const Fixture& f) {
  const Text good = f.IndexText();
  const bool old = f.version == 1;
  const auto seal = [&](const Text& text) { return old || text.size() < 64 ? text : Sealed(text); };
  const auto check = [&](const Text& text, const std::string& word, const std::string& what) {
    Write(f.index(), seal(text));
    CheckRefused(f.Reading(1), word, what);
  };
  const auto with = [&](size_t at, auto value) {
    Text text = good;
    Put(&text, at, value);
    return text;
  };
  check(with(0, 'X'), "does not start with", "magic");
  check(with(8, uint32_t{3}), "is of version 3", "version");
  check(with(12, uint32_t{65}), "header_bytes", "header_bytes");
  for (uint64_t n : {uint64_t{4}, uint64_t{0xffffffff}, UINT64_MAX, UINT64_MAX / 28 + 1, UINT64_MAX / 8}) {
    check(with(16, n), "index.bin", "samples");
    check(with(40, n), "index.bin", "file_table_bytes");
    check(with(48, n), "index.bin", "keys_bytes");
  }
  check(with(32, uint32_t{1}), "bytes follow", "files");
  check(with(32, uint32_t{3}), "cut off", "files");
  check(with(32, UINT32_MAX), "too short", "files");
  check(with(36, old ? 1u : 4u), "flags", "flags");
  const size_t entry = 64 + (old ? 28 : 24), image = entry + (old ? 4 : 0), record = entry + (old ? 16 : 8),
               label = entry + (old ? 24 : 16), offsets = old ? 64 + 3 * 28 + 4 : 64 + 3 * 24 + 3 * 4 + 4;
  const size_t file_of_image = old ? entry : 64 + 3 * 24 + 4;
  check(with(file_of_image, uint32_t{2}), "file 2 of 2", "image_file");
  check(with(image, uint32_t{0}), "outside", "image_block 0");
  check(with(image, UINT32_MAX), "outside", "image_block");
  check(with(image + 4, uint32_t{0}), "empty", "image_bytes 0");
  check(with(image + 4, UINT32_MAX), "outside", "image_bytes");
  if (old) check(with(entry + 12, UINT32_MAX), "file 4294967295", "record_file");
  check(with(record, uint32_t{0}), "outside", "record_block 0");
  check(with(record + 4, UINT32_MAX), "outside", "record_bytes");
  check(with(image, uint32_t{2}), "no tar member", "a block in the middle of a member");
  check(with(label, int32_t{1000}), "the label of sample 1 (key b) is 1000, but the data set has 1000",
        "label");
  check(with(label, int32_t{-1}), "is -1, but", "a label below 0");
  check(with(offsets + 8, UINT64_MAX), "key of sample 1", "key offset");
  check(with(offsets + 16, uint64_t{4}), "key of sample 1", "key end");
  check(with(offsets + 16, uint64_t{0}), "key of sample 1", "keys that go backwards");
  Check(FaultOf(f.Reading(1)).sample == 1, "which sample the index is wrong about");
  for (size_t length = 0; length < good.size(); ++length)
    check(good.substr(0, length), "index.bin", "index cut to " + std::to_string(length));
  check(good + '\0', "its lengths want", "longer index");
  check(with(good.size() - 1, '\0'), "file name", "a zero in a file name");
  if (!old) {
    check(with(label + 4, uint16_t{0}), "the image of sample 1 (key b) has no size", "height");
    check(with(label + 6, uint16_t{0}), "has no size", "width");
    const size_t table = good.size() - (18 + 9) - (18 + 5);
    check(with(table + 8, uint64_t{1}), "rise from 0", "the first sample of the first file");
    check(with(table + 18 + 5 + 8, uint64_t{4}), "rise from 0", "a first sample that does not exist");
    check(with(table + 18 + 5 + 8, UINT64_MAX), "rise from 0", "a first sample that does not exist");
    Text field = good;
    Put(&field, 60, 1u);
    check(field, "unknown fields", "the last field");
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
      Text text = good;
      text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << bit % 8));
      Check(!Refusal([&] { const Index index(Bytewise(text), "i"); }).empty(), "a flipped bit is seen");
    }
  }
  fs::remove(f.index());
  Check(CheckRefused(f.Reading(1), "cannot be opened", "no index").passing, "an index may come back");

  std::mt19937 random(3);  // and nothing but ShardError for anything else
  for (int i = 0; i < 30000; ++i) {
    Text text = good;
    for (uint32_t changes = 1 + random() % 3; changes > 0; --changes)
      text[random() % text.size()] = static_cast<char>(random());
    if (i % 4) text = seal(text);
    const auto use = [&] {
      const Index index(Bytewise(text), "i");
      for (uint64_t sample = 0; sample < index.samples(); ++sample) {
        index.HasRecord(sample);
        index.Key(sample);
        index.At(sample);
      }
    };
    Refusal(use);
    if (i >= 1000) continue;
    Write(f.index(), text);
    Refusal(f.Reading(static_cast<int64_t>(random() % 3), random() % 2));
  }
  f.Restore();
}

void TestNames() {
  const fs::path folder =
      fs::temp_directory_path() / ("dali_dr_names_test_" + std::to_string(getpid()) + "\n\x1b[1m");
  fs::create_directories(folder);
  std::vector<Item> items = {{"k\x07\xc2\x9b.jpg", "image"}};
  const Text tar = Tar(&items);
  Write(folder / "index.bin", IndexOf({{"k\x07\xc2\x9b", {0, 1, 5, 0, 0, 0, 3}}}, {{"x.tar", tar.size()}}));
  const std::string message = Refusal([&] {
    const ShardSet shards((folder / "index.bin").string());
    Check(shards.Find(0, false).key == "k\x07\xc2\x9b", "a key is as it is");
    shards.Prefetch(shards.Find(0, false));
  });
  Check(message.find("(key k\\x07\\xc2\\x9b)") != std::string::npos, "a key is shown escaped: " + message);
  for (const char c : message) Check(static_cast<uint8_t>(c) >= 32, "no control characters");
  Check(Escaped("Grüße \xff") == "Grüße \xff" && Escaped("\x7f\xc2") == "\\x7f\xc2", "everything else stays");
  fs::remove_all(folder);
}

// While one thread cuts, copies over, replaces, deletes and restores shards, others read: they get the right
// bytes or an error.
void TestInUse(const Fixture& f) {
  std::atomic<bool> over{false};
  std::atomic<int> wrong{0}, good{0}, refused{0};
  const ShardSet shards(f.index().string());
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int64_t i = t; !over; ++i) {
        try {
          Sample sample = shards.Find(i % 2, true);
          shards.Prefetch(sample);
          shards.Load(&sample);
          const Text image = i % 2 ? f.first[2].data : f.first[0].data;
          const Text record = i % 2 ? f.second[0].data : f.first[1].data;
          wrong += String(sample.image.bytes) != image || String(sample.record.bytes) != record;
          ++good;
        } catch (const ShardError&) {
          ++refused;
        }
      }
    });
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    const bool second = random() % 2;
    const fs::path path = f.folder / (second ? "sub/y.tar" : "x.tar"), aside = f.folder / "aside";
    const Text& tar = second ? f.second_tar : f.first_tar;
    switch (random() % 5) {
      case 0:
        if (truncate(path.c_str(), static_cast<off_t>(random() % tar.size())) != 0)
          ++refused;  // it was deleted
        break;
      case 1:
        std::ofstream(path, std::ios::binary | std::ios::trunc) << tar;
        break;
      case 2:
        Write(aside, tar);
        fs::rename(aside, path);
        break;
      case 3:
        fs::remove(path);
        break;
      default:
        Write(aside, Text(tar.size(), 'z'));
        fs::rename(aside, path);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    if (i % 3 == 0) Write(path, tar);
  }
  over = true;
  for (auto& thread : threads) thread.join();
  Check(wrong == 0 && good > 0 && refused > 0, "200 changes in use: " + std::to_string(wrong) + " wrong, " +
                                                   std::to_string(good) + " good, " +
                                                   std::to_string(refused) + " refused");
  f.Restore();
}

/// An index of ImageNet's size, with keys of 24 bytes.
void TestLargeIndex(const Fixture& f) {
  if (f.version == 1) return;
  std::vector<Row> rows(1281167, f.rows[0]);
  for (Row& row : rows) row.key = Text(24, 'k');
  rows.back().key = "a";
  Write(f.index(), IndexOf(rows, {{"x.tar", f.first_tar.size()}, {"sub/y.tar", f.second_tar.size()}},
                           {.image_crcs = true}));
  rows = {};
  const auto resident = [] {
    long pages = 0, unused = 0;  // NOLINT: their type
    std::ifstream("/proc/self/statm") >> unused >> pages;
    return pages * sysconf(_SC_PAGESIZE);
  };
  const auto before = resident();
  const std::clock_t start = std::clock();  // of the processor: other programs may run
  const ShardSet shards(f.index().string());
  const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
  const auto grown = resident() - before;
  Sample last = shards.Find(1281166, true);
  shards.Load(&last);
  std::printf("shards: an index of 1281167 samples: %.3f s, %.1f MB\n", seconds, double(grown) / 1e6);
  Check(seconds < 1 && grown < 90 * 1000 * 1000,
        "large index: " + std::to_string(seconds) + " s, " + std::to_string(grown) + " bytes");
  f.Restore();
}

/// How many descriptors of this process are of a file of that name, removed or not.
int OpenNow(const fs::path& path) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const Text target = fs::read_symlink(entry.path(), gone).string();
    count += target == path.string() || target == path.string() + " (deleted)";
  }
  return count;
}

void TestForgetting(const Fixture& f) {
  std::optional<uint32_t> checksum;
  if (f.version > 1) std::memcpy(&checksum.emplace(), f.IndexText().data() + 56, 4);
  const auto set = ShardSet::Open(f.index().string(), checksum);
  const auto other = ShardSet::Open(f.index().string(), std::nullopt);
  Check(set != other, "without a checksum, an index is read anew");
  for (const auto& one : {set, other}) {
    Sample sample = one->Find(0, true);
    one->Load(&sample);
  }
  const fs::path path = f.folder / "x.tar";
  Check(OpenNow(path) == 2, "both sets keep the shard open");
  fs::remove(path);
  Check(OpenNow(path) == 2, "a removed shard keeps its space");
  ShardSet::ForgetFile(f.index().string(), 1);
  Check(OpenNow(path) == 2, "another shard is forgotten");
  ShardSet::ForgetFile((f.folder / "other").string(), 0);
  Check(OpenNow(path) == 2, "a shard of another set is forgotten");
  ShardSet::ForgetFile(f.index().string(), 99);
  ShardSet::ForgetFile(f.index().string(), 0);
  Check(OpenNow(path) == 0, "a forgotten shard has no descriptor");
  f.Restore();
  Sample sample = set->Find(0, true);
  set->Load(&sample);
  Check(OpenNow(path) == 1, "it is opened again when it is used");
}

}  // namespace
}  // namespace dali_dr::shards

int main() {
  using namespace dali_dr::shards;
  TestNames();
  for (const uint32_t version : {1u, 2u}) {
    const Fixture fixture(version);
    TestReading(fixture);
    TestFacts(fixture);
    TestThreads(fixture);
    TestForgetting(fixture);
    TestDamagedShards(fixture);
    TestDamagedIndex(fixture);
    TestLargeIndex(fixture);
    if (version == 1) continue;
    TestInUse(fixture);
  }
  return dali_dr::testing::Verdict("shards");
}
