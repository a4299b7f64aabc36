// See index.h.
#include "shards/index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "crc32c.h"
#include "escape.h"

namespace dali_dr::shards {
namespace {

static_assert(std::endian::native == std::endian::little, "the index is little-endian and read by memcpy");

constexpr char kRebuild[] = "delete it, it is rebuilt from the shards";
constexpr uint32_t kImageCrcs = 1, kImageFiles = 2;  // flags
constexpr size_t kChecksumAt = 56;

template <typename T>
T LoadAs(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

constexpr uint64_t EntryBytes(uint32_t version) { return version == 1 ? 28 : 24; }
constexpr uint64_t FileBytes(uint32_t version) { return version == 1 ? 10 : 18; }  // without the name

uint32_t Checksum(std::span<const uint8_t> bytes) {
  const uint8_t zeros[4] = {};
  return Crc32c(bytes.subspan(kChecksumAt + 4), Crc32c(zeros, Crc32c(bytes.first(kChecksumAt))));
}

[[noreturn]] void Refuse(std::string message) {
  throw ShardError({.kind = Fault::Kind::kShard, .message = std::move(message)});
}

}  // namespace

Index::Index(std::span<const uint8_t> bytes, std::string path) : path_(std::move(path)) {
  ReadHeader(bytes);
  FindSections(bytes);
  ReadFiles(bytes.last(file_table_bytes_));
}

void Index::Fail(const std::string& what) const {
  Refuse(Message(Escaped(path_), " is damaged: ", what, "; ", kRebuild));
}

void Index::ReadHeader(std::span<const uint8_t> bytes) {
  const uint8_t* head = bytes.data();
  if (bytes.size() < kIndexHeaderBytes || std::memcmp(head, "DDRINDEX", 8) != 0)
    Refuse(Message(Escaped(path_), " is not a sample index: it does not start with DDRINDEX; ", kRebuild));
  version_ = LoadAs<uint32_t>(head + 8);
  if (version_ != 1 && version_ != 2)
    Refuse(Message(Escaped(path_), " is of version ", version_,
                   "; this reader knows versions 1 and 2: ", kRebuild, ", or update dali_dr"));
  if (const auto n = LoadAs<uint32_t>(head + 12); n != kIndexHeaderBytes)
    Fail(Message("header_bytes is ", n, ", want 64"));
  samples_ = LoadAs<uint64_t>(head + 16);
  if (version_ == 1) {
    num_classes_ = LoadAs<uint64_t>(head + 24);
  } else {
    num_classes_ = LoadAs<uint32_t>(head + 24);
    num_outputs_ = LoadAs<uint32_t>(head + 28);
  }
  num_files_ = LoadAs<uint32_t>(head + 32);
  flags_ = LoadAs<uint32_t>(head + 36);
  if (flags_ & ~(version_ == 1 ? 0 : kImageCrcs | kImageFiles)) Fail("unknown flags are set");
  file_table_bytes_ = LoadAs<uint64_t>(head + 40);
  key_bytes_ = LoadAs<uint64_t>(head + 48);
}

void Index::FindSections(std::span<const uint8_t> bytes) {
  // Each length is held against the file before it is added or multiplied, so that nothing overflows.
  const uint64_t size = bytes.size();
  if (samples_ > size / EntryBytes(version_) || num_files_ > size / FileBytes(version_) ||
      file_table_bytes_ > size || key_bytes_ > size)
    Fail(Message("it is too short for ", samples_, " samples and ", num_files_, " files"));
  uint64_t at = kIndexHeaderBytes;
  const auto section = [&](uint64_t length) { return std::exchange(at, at + length); };
  const uint64_t entries_at = section(EntryBytes(version_) * samples_);
  const uint64_t crcs_at = section(flags_ & kImageCrcs ? 4 * samples_ : 0);
  const uint64_t image_files_at = section(flags_ & kImageFiles ? 4 * samples_ : 0);
  at = (at + 7) / 8 * 8;
  const uint64_t offsets_at = section(8 * (samples_ + 1));
  const uint64_t keys_at = section(key_bytes_);
  if (at + file_table_bytes_ != size)
    Fail(Message("its lengths want ", at + file_table_bytes_, " bytes, it has ", size));
  if (version_ != 1) {
    const auto want = LoadAs<uint32_t>(bytes.data() + kChecksumAt);
    if (Checksum(bytes) != want) Fail("its checksum is not that of its bytes");
    checksum_ = want;
    if (LoadAs<uint32_t>(bytes.data() + kChecksumAt + 4) != 0) Fail("unknown fields are set");
  }
  const uint8_t* head = bytes.data();
  entries_ = head + entries_at;
  if (flags_ & kImageCrcs) image_crcs_ = head + crcs_at;
  if (flags_ & kImageFiles) image_files_ = head + image_files_at;
  key_offsets_ = head + offsets_at;
  keys_ = {reinterpret_cast<const char*>(head + keys_at), key_bytes_};
}

void Index::ReadFiles(std::span<const uint8_t> table) {
  const uint64_t fixed = FileBytes(version_);
  files_.resize(num_files_);
  for (File& file : files_) {
    if (table.size() < fixed) Fail("its file table is cut off");
    file.bytes = LoadAs<uint64_t>(table.data());
    if (version_ != 1) file.first = LoadAs<uint64_t>(table.data() + 8);
    const auto length = LoadAs<uint16_t>(table.data() + fixed - 2);
    table = table.subspan(fixed);
    if (table.size() < length) Fail("its file table is cut off");
    file.name.assign(reinterpret_cast<const char*>(table.data()), length);
    if (file.name.empty() || file.name.find('\0') != std::string::npos)
      Fail("a file name is empty or holds a zero byte");
    table = table.subspan(length);
  }
  if (!table.empty()) Fail("bytes follow its file table");
  if (version_ == 1 || samples_ == 0) return;
  const auto before = [](const File& a, const File& b) { return a.first < b.first; };
  if (files_.empty() || files_[0].first != 0 || !std::is_sorted(files_.begin(), files_.end(), before) ||
      files_.back().first > samples_)
    Fail("the first samples of its files do not rise from 0");
}

std::string Index::Name(uint64_t sample) const {
  return Message("sample ", sample, " (key ", Escaped(Key(sample)), ")");
}

// The last file whose first sample is not behind this one: those before it with the same first hold none.
uint32_t Index::FileOf(uint64_t sample) const {
  const auto after = std::upper_bound(files_.begin(), files_.end(), sample,
                                      [](uint64_t number, const File& file) { return number < file.first; });
  return static_cast<uint32_t>(after - files_.begin() - 1);
}

Entry Index::At(uint64_t sample) const {
  const uint8_t* from = entries_ + EntryBytes(version_) * sample;
  Entry entry;
  if (version_ == 1) {
    uint32_t words[7];  // image file, block, bytes; record file, block, bytes; label
    std::memcpy(words, from, sizeof words);
    entry.image = {words[0], words[1], words[2]};
    entry.record = {words[3], words[4], words[5]};
    entry.label = static_cast<int32_t>(words[6]);
  } else {
    uint32_t words[5];  // image block, bytes; record block, bytes; label; then height, width
    std::memcpy(words, from, sizeof words);
    const uint32_t file = FileOf(sample);
    entry.image = {image_files_ ? LoadAs<uint32_t>(image_files_ + 4 * sample) : file, words[0], words[1]};
    entry.record = {file, words[2], words[3]};
    entry.label = static_cast<int32_t>(words[4]);
    entry.height = LoadAs<uint16_t>(from + 20);
    entry.width = LoadAs<uint16_t>(from + 22);
    if (entry.height == 0 || entry.width == 0) Fail(Message("the image of ", Name(sample), " has no size"));
    if (image_crcs_) entry.image_crc = LoadAs<uint32_t>(image_crcs_ + 4 * sample);
  }
  if (entry.label < 0 || static_cast<uint64_t>(entry.label) >= num_classes_)
    Fail(Message("the label of ", Name(sample), " is ", entry.label, ", but the data set has ", num_classes_,
                 " classes"));
  return entry;
}

bool Index::HasRecord(uint64_t sample) const {
  return LoadAs<uint32_t>(entries_ + EntryBytes(version_) * sample + (version_ == 1 ? 20 : 12)) != 0;
}

std::string_view Index::Key(uint64_t sample) const {
  const auto begin = LoadAs<uint64_t>(key_offsets_ + 8 * sample);
  const auto end = LoadAs<uint64_t>(key_offsets_ + 8 * (sample + 1));
  if (begin > end || end > keys_.size())
    Fail(Message("the key of sample ", sample, " lies outside its keys"));
  return keys_.substr(begin, end - begin);
}

}  // namespace dali_dr::shards
