// Tests of csrc/shards on small tars and indices written here, from the ustar format and
// schemas/sample-index.md.
#include "shards/shards.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "make_shards.h"

namespace dali_dr::shards {
namespace {

namespace fs = std::filesystem;
using namespace dali_dr::testing;

/// The message of the ShardError that `body` throws; empty if it throws none.
std::string Refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const ShardError& error) {
    return error.what();
  }
  return "";
}

void CheckRefused(const std::function<void()>& body, const std::string& word, const std::string& what) {
  const std::string message = Refusal(body);
  Check(message.find(word) != std::string::npos,
        what + ": want an error about \"" + word + "\", got \"" + message + "\"");
}

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

  Fixture() {
    const fs::path base = fs::temp_directory_path() / ("dali_dr_shards_test_" + std::to_string(getpid()));
    folder = base;
    fs::create_directories(folder / "sub");
    const auto entry = [](const Item& image, const Item* record, uint32_t record_file, int32_t label) {
      return Entry{0,
                   static_cast<uint32_t>(image.block),
                   static_cast<uint32_t>(image.data.size()),
                   record_file,
                   record ? static_cast<uint32_t>(record->block) : 0,
                   record ? static_cast<uint32_t>(record->data.size()) : 0,
                   label};
    };
    rows = {{"a", entry(first[0], &first[1], 0, 7)},
            {"b", entry(first[2], &second[0], 1, -1)},
            {"c", entry(first[3], nullptr, 0, 999)}};
    Restore();
  }
  ~Fixture() { fs::remove_all(folder); }

  fs::path index() const { return folder / "index.bin"; }
  Text IndexText() const {
    return Index(rows, {{"x.tar", first_tar.size()}, {"sub/y.tar", second_tar.size()}});
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
      const Sample sample = shards.Find(number, with_record);
      shards.Prefetch(sample);
      shards.Load(sample);
    };
  }
};

void TestReading(const Fixture& f) {
  const ShardSet shards(f.index().string());
  Check(shards.samples() == 3, "number of samples");
  const Sample b = shards.Find(1, true), c = shards.Find(2, false), a = shards.Find(0, true);
  for (const Sample& sample : {a, b, c}) shards.Prefetch(sample);
  for (const Sample& sample : {a, b, c}) shards.Load(sample);
  Check(a.key == "a" && a.label == 7 && String(a.image.bytes) == Text(700, 'A') &&
            String(a.record.bytes) == "record of a",
        "sample a");
  Check(b.key == "b" && b.label == -1 && String(b.image.bytes) == "B" &&
            String(b.record.bytes) == "record of b",
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

void TestMappedFile(const Fixture& f) {
  MappedFile first((f.folder / "x.tar").string()), second((f.folder / "sub/y.tar").string());
  MappedFile moved(std::move(first));
  Check(first.bytes().empty() && String(moved.bytes()) == f.first_tar,
        "a mapping moves");  // NOLINT: on purpose
  second = std::move(moved);
  Check(String(second.bytes()) == f.first_tar, "a mapping is replaced");
  const ShardSet shards(f.index().string());
  Check(shards.HasRecord(0) && shards.HasRecord(1) && !shards.HasRecord(2), "which samples have a record");
  Check(shards.num_classes() == 1000 && shards.index_path() == f.index().string(), "of the index");
}

void TestThreads(const Fixture& f) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    const ShardSet shards(f.index().string());
    std::vector<std::thread> threads;
    std::vector<std::string> got(8);
    for (size_t t = 0; t < got.size(); ++t)
      threads.emplace_back([&, t] {
        const Sample b = shards.Find(1, true);
        shards.Load(b);
        got[t] = String(b.record.bytes);
      });
    for (auto& thread : threads) thread.join();
    for (const auto& text : got)
      Check(text == "record of b", "a thread that maps a shard at the same time as others");
  }
}

void TestDamagedShards(const Fixture& f) {
  const fs::path tar = f.folder / "x.tar";
  fs::remove(tar);
  CheckRefused(f.Reading(0), "x.tar cannot be opened (No such file", "missing shard");
  CheckRefused(f.Reading(0), "sample 0 (key a)", "missing shard");
  {
    const ShardSet shards(f.index().string());
    CheckRefused([&] { shards.Find(0, true); }, "cannot be opened", "missing shard, first use");
    Write(tar, f.first_tar);
    Check(Refusal([&] { shards.Load(shards.Find(0, true)); }).empty(), "a shard that is put back is found");
  }
  for (size_t size : {f.first_tar.size() - 1, f.first_tar.size() + 512, size_t{1}}) {
    Text other = f.first_tar;
    other.resize(size);
    Write(tar, other);
    CheckRefused(f.Reading(0), "but " + f.index().string() + " says", "shard of another size");
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
    CheckRefused(f.Reading(0), "no tar member of that key", std::string("tar header, ") + change.what);
  }
  Write(tar, f.first_tar);
  Check(Refusal(f.Reading(0)).empty(), "the restored shard is read");

  const ShardSet shards(f.index().string());
  const Sample sample = shards.Find(2, false);
  Check(truncate(tar.c_str(), 512) == 0, "truncate");
  const long page = sysconf(_SC_PAGESIZE);  // NOLINT: its type
  if (static_cast<long>(sample.image.offset) >= page || static_cast<long>(f.first_tar.size()) > page)
    CheckRefused([&] { shards.Load(shards.Find(2, false)); }, "cannot be read", "shard cut off while mapped");
  f.Restore();
}

void TestDamagedIndex(const Fixture& f) {
  const Text good = f.IndexText();
  const auto check = [&](const Text& text, const std::string& word, const std::string& what) {
    Write(f.index(), text);
    CheckRefused(f.Reading(1), word, what);
  };
  const auto with = [&](size_t at, auto value) {
    Text text = good;
    Put(&text, at, value);
    return text;
  };
  check(with(0, 'X'), "does not start with", "magic");
  check(with(8, uint32_t{2}), "version 2", "version");
  check(with(12, uint32_t{65}), "header_bytes", "header_bytes");
  for (uint64_t n : {uint64_t{4}, uint64_t{0xffffffff}, UINT64_MAX, UINT64_MAX / 28 + 1, UINT64_MAX / 8}) {
    check(with(16, n), "index.bin", "samples");
    check(with(40, n), "index.bin", "file_table_bytes");
    check(with(48, n), "index.bin", "keys_bytes");
  }
  check(with(32, uint32_t{1}), "bytes follow", "files");
  check(with(32, uint32_t{3}), "cut off", "files");
  check(with(32, UINT32_MAX), "too short", "files");
  check(with(36, uint32_t{1}), "flags", "flags");
  const size_t entry = 64 + 28, offsets = 64 + 3 * 28 + 4;
  check(with(entry, uint32_t{2}), "file 2 of 2", "image_file");
  check(with(entry + 4, uint32_t{0}), "outside", "image_block 0");
  check(with(entry + 4, UINT32_MAX), "outside", "image_block");
  check(with(entry + 8, uint32_t{0}), "empty", "image_bytes 0");
  check(with(entry + 8, UINT32_MAX), "outside", "image_bytes");
  check(with(entry + 12, UINT32_MAX), "file 4294967295", "record_file");
  check(with(entry + 16, uint32_t{0}), "outside", "record_block 0");
  check(with(entry + 20, UINT32_MAX), "outside", "record_bytes");
  check(with(entry + 4, uint32_t{2}), "no tar member", "a block in the middle of a member");
  check(with(offsets + 8, UINT64_MAX), "key of sample 1", "key offset");
  check(with(offsets + 16, uint64_t{4}), "key of sample 1", "key end");
  check(with(offsets + 16, uint64_t{0}), "key of sample 1", "keys that go backwards");
  for (size_t length = 0; length < good.size(); ++length)
    check(good.substr(0, length), "index.bin", "index cut to " + std::to_string(length));
  check(good + '\0', "its lengths want", "longer index");

  std::mt19937 random(3);  // and nothing but ShardError for anything else
  for (int i = 0; i < 5000; ++i) {
    Text text = good;
    for (uint32_t changes = 1 + random() % 3; changes > 0; --changes)
      text[random() % text.size()] = static_cast<char>(random());
    Write(f.index(), text);
    Refusal(f.Reading(static_cast<int64_t>(random() % 3), random() % 2));
  }
  f.Restore();
}

/// An index of ImageNet's size opens at once and costs no memory until it is used.
void TestLargeIndex(const Fixture& f) {
  std::vector<Row> rows(1281167, f.rows[0]);
  Write(f.index(), Index(rows, {{"x.tar", f.first_tar.size()}, {"sub/y.tar", f.second_tar.size()}}));
  const auto resident = [] {
    long pages = 0, unused = 0;  // NOLINT: their type
    std::ifstream("/proc/self/statm") >> unused >> pages;
    return pages * sysconf(_SC_PAGESIZE);
  };
  const auto before = resident();
  const auto start = std::chrono::steady_clock::now();
  const ShardSet shards(f.index().string());
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto grown = resident() - before;
  shards.Load(shards.Find(1281166, true));
  Check(seconds < 1 && grown < (4 << 20),
        "large index: " + std::to_string(seconds) + " s, " + std::to_string(grown) + " bytes");
  f.Restore();
}

}  // namespace
}  // namespace dali_dr::shards

int main() {
  using namespace dali_dr::shards;
  const Fixture fixture;
  TestReading(fixture);
  TestMappedFile(fixture);
  TestThreads(fixture);
  TestDamagedShards(fixture);
  TestDamagedIndex(fixture);
  TestLargeIndex(fixture);
  return dali_dr::testing::Verdict("shards");
}
