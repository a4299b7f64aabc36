// Memory-mapped shards; see shards.h for the interface and schemas/sample-index.md for the index's layout.
#include "shards/shards.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // linux/mman.h since Linux 5.14; older C libraries do not name it
#endif

namespace dali_dr::shards {
namespace {

static_assert(std::endian::native == std::endian::little, "the index is little-endian and read by memcpy");

constexpr uint64_t kHeaderBytes = 64, kEntryBytes = 28, kFileEntryBytes = 10;
constexpr uint64_t kBlock = 512;  // of tar
// One system call covers image and record if no more than this lies between them: a label in between takes 1
// kB.
constexpr std::ptrdiff_t kMaxGap = 16384;
constexpr char kRebuild[] = "delete it, it is rebuilt from the shards";

template <typename... Parts>
[[gnu::cold, gnu::noinline]] std::string Text(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  return message.str();
}

template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void Fail(const Parts&... parts) {
  throw ShardError({.kind = Fault::Kind::kShard, .message = Text(parts...)});
}

template <typename T>
T LoadAs(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

int Advise(std::span<const uint8_t> bytes, int advice) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) & ~(page - 1);
  const auto end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size());
  return madvise(reinterpret_cast<void*>(begin), end - begin, advice);  // NOLINT: an address of the mapping
}

/// A tar header's text field ends at its first NUL or at its full width.
std::string_view Field(const uint8_t* header, size_t at, size_t width) {
  const char* text = reinterpret_cast<const char*>(header) + at;
  return {text, strnlen(text, width)};
}

/// The size in a tar header: octal digits, or big-endian binary if the first bit is set. UINT64_MAX if it is
/// neither.
uint64_t TarSize(const uint8_t* header) {
  const uint8_t* field = header + 124;
  uint64_t size = 0;
  if (field[0] & 0x80) {
    for (int i = 4; i < 12; ++i) size = size << 8 | field[i];
    return size;
  }
  int i = 0;
  while (i < 12 && field[i] == ' ') ++i;
  for (; i < 12 && field[i] != 0 && field[i] != ' '; ++i) {
    if (field[i] < '0' || field[i] > '7') return UINT64_MAX;
    size = size << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  return size;
}

/// Whether the header names a file KEY.suffix. A name that does not fit a plain header (100 bytes, ASCII in
/// some writers) stands in an extension header before it and is cut here; then as much as is there must
/// agree.
bool NamesKey(const uint8_t* header, std::string_view key) {
  const std::string_view prefix = Field(header, 345, 155), name = Field(header, 0, 100);
  std::string full;  // short names mostly fit the small-string buffer
  if (!prefix.empty()) full.append(prefix) += '/';
  full += name;
  if (full.starts_with(key) && full.size() > key.size() && full[key.size()] == '.') return true;
  for (const char c : key)
    if (static_cast<signed char>(c) <= 0) return true;  // not ASCII: written differently by different tars
  return name.size() >= 99 && key.starts_with(name.substr(0, std::min(name.size(), key.size())));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) Fail(path, " cannot be opened (", std::strerror(errno), ")");
  struct stat facts{};
  void* address = MAP_FAILED;
  if (fstat(descriptor, &facts) == 0 && facts.st_size > 0)
    address = mmap(nullptr, static_cast<size_t>(facts.st_size), PROT_READ, MAP_SHARED, descriptor, 0);
  const int error = errno;
  close(descriptor);
  if (facts.st_size == 0) Fail(path, " is empty");
  if (address == MAP_FAILED) Fail(path, " cannot be mapped (", std::strerror(error), ")");
  bytes_ = {static_cast<const uint8_t*>(address), static_cast<size_t>(facts.st_size)};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

ShardSet::ShardSet(const std::string& index_path) : index_path_(index_path), index_(index_path) {
  const auto bytes = index_.bytes();
  const uint8_t* head = bytes.data();
  if (bytes.size() < kHeaderBytes || std::memcmp(head, "DDRINDEX", 8) != 0)
    Fail(index_path_, " is not a sample index: it does not start with DDRINDEX");
  const auto version = LoadAs<uint32_t>(head + 8);
  if (version != 1)
    Fail(index_path_, " is of version ", version, "; this reader knows version 1 only: ", kRebuild);
  if (const auto n = LoadAs<uint32_t>(head + 12); n != kHeaderBytes)
    FailIndex("header_bytes is " + std::to_string(n) + ", want 64");
  samples_ = LoadAs<uint64_t>(head + 16);
  num_classes_ = LoadAs<uint64_t>(head + 24);
  num_files_ = LoadAs<uint32_t>(head + 32);
  if (LoadAs<uint32_t>(head + 36) != 0) FailIndex("unknown flags are set");
  const auto file_table_bytes = LoadAs<uint64_t>(head + 40);
  const auto keys_bytes = LoadAs<uint64_t>(head + 48);
  // Each length is held against the file before it is added or multiplied, so that nothing overflows.
  const uint64_t size = bytes.size();
  if (samples_ > size / kEntryBytes || num_files_ > size / kFileEntryBytes || file_table_bytes > size ||
      keys_bytes > size)
    FailIndex("it is too short for " + std::to_string(samples_) + " samples and " +
              std::to_string(num_files_) + " files");
  const uint64_t offsets_at = (kHeaderBytes + samples_ * kEntryBytes + 7) / 8 * 8;
  const uint64_t keys_at = offsets_at + 8 * (samples_ + 1);
  if (keys_at + keys_bytes + file_table_bytes != size)
    FailIndex("its lengths want " + std::to_string(keys_at + keys_bytes + file_table_bytes) +
              " bytes, it has " + std::to_string(size));
  entries_ = head + kHeaderBytes;
  key_offsets_ = head + offsets_at;
  keys_ = {reinterpret_cast<const char*>(head + keys_at), keys_bytes};

  const std::filesystem::path folder = std::filesystem::path(index_path_).parent_path();
  files_ = std::make_unique<File[]>(num_files_);
  uint64_t at = keys_at + keys_bytes;
  for (uint32_t i = 0; i < num_files_; ++i) {
    if (size - at < kFileEntryBytes) FailIndex("its file table is cut off");
    files_[i].size = LoadAs<uint64_t>(head + at);
    const auto length = LoadAs<uint16_t>(head + at + 8);
    at += kFileEntryBytes;
    if (size - at < length) FailIndex("its file table is cut off");
    const std::string name(reinterpret_cast<const char*>(head + at), length);
    if (name.empty() || name.find('\0') != std::string::npos)
      FailIndex("a file name is empty or holds a zero byte");
    files_[i].path = (folder / name).string();
    at += length;
  }
  if (at != size) FailIndex("bytes follow its file table");
}

Fault ShardSet::At(const Sample& sample, const Member& member, Fault::Kind kind, std::string message) const {
  return {.kind = kind,
          .message = std::move(message),
          .sample = sample.number,
          .key = std::string(sample.key),
          .shard = files_[member.file].path,
          .offset = static_cast<int64_t>(member.offset)};
}

template <typename... Parts>
void ShardSet::FailAt(const Sample& sample, const Member& member, const Parts&... parts) const {
  throw ShardError(At(sample, member, Fault::Kind::kShard, Text(parts...)));
}

void ShardSet::FailIndex(const std::string& what) const {
  Fail(index_path_, " is damaged: ", what, "; ", kRebuild);
}

std::string_view ShardSet::Key(uint64_t number) const {
  const auto begin = LoadAs<uint64_t>(key_offsets_ + 8 * number);
  const auto end = LoadAs<uint64_t>(key_offsets_ + 8 * (number + 1));
  if (begin > end || end > keys_.size())
    FailIndex("the key of sample " + std::to_string(number) + " lies outside its keys");
  return keys_.substr(begin, end - begin);
}

std::string ShardSet::Where(const Sample& sample, const Member& member) const {
  std::ostringstream where;
  where << "sample " << sample.number << " (key " << sample.key << ") in " << files_[member.file].path
        << " at offset " << member.offset;
  return where.str();
}

void ShardSet::Map(File* shard, const Sample& sample, const Member& member) const {
  const std::lock_guard lock(shard->mutex);
  if (shard->mapped.load(std::memory_order_relaxed)) return;  // by another thread, meanwhile
  MappedFile mapping;
  try {
    mapping = MappedFile(shard->path);
  } catch (const ShardError& error) {
    FailAt(sample, member, "shard ", error.what(), ", wanted for ", Where(sample, member),
           "; restore it, it is listed in ", index_path_);
  }
  if (mapping.bytes().size() != shard->size)
    FailAt(sample, member, "shard ", shard->path, " has ", mapping.bytes().size(), " bytes, but ",
           index_path_, " says ", shard->size, " (wanted for ", Where(sample, member),
           "): it is cut off or was replaced. Restore it from a copy, or if it was meant to change, "
           "delete the index, it is rebuilt from the shards");
  shard->mapping = std::move(mapping);
  shard->mapped.store(true, std::memory_order_release);
}

Member ShardSet::Find(const Sample& sample, const char* kind, uint32_t file, uint32_t block,
                      uint32_t size) const {
  if (file >= num_files_)
    FailIndex("the " + std::string(kind) + " of sample " + std::to_string(sample.number) + " (key " +
              std::string(sample.key) + ") lies in file " + std::to_string(file) + " of " +
              std::to_string(num_files_));
  File& shard = files_[file];
  const Member member{file, block * kBlock, {}};
  // The data is preceded by at least its own header.
  if (block == 0 || size == 0 || member.offset > shard.size || size > shard.size - member.offset)
    FailIndex("the " + std::string(kind) + " (" + std::to_string(size) + " bytes) of " +
              Where(sample, member) + " is empty or outside that file of " + std::to_string(shard.size) +
              " bytes");
  if (!shard.mapped.load(std::memory_order_acquire)) Map(&shard, sample, member);
  return {file, member.offset, shard.mapping.bytes().subspan(member.offset, size)};
}

const uint8_t* ShardSet::Entry(int64_t number) const {
  if (number < 0 || static_cast<uint64_t>(number) >= samples_)
    throw ShardError({.kind = Fault::Kind::kArgument,
                      .message = Text("sample ", number, " does not exist: ", index_path_, " has ", samples_,
                                      " samples, numbered from 0"),
                      .sample = number});
  return entries_ + kEntryBytes * static_cast<uint64_t>(number);
}

bool ShardSet::HasRecord(int64_t number) const { return LoadAs<uint32_t>(Entry(number) + 20) != 0; }

Sample ShardSet::Find(int64_t number, bool with_record) const {
  uint32_t entry[7];  // image file, block, bytes; record file, block, bytes; label
  static_assert(sizeof entry == kEntryBytes);
  std::memcpy(entry, Entry(number), sizeof entry);
  Sample sample;
  sample.number = number;
  sample.key = Key(static_cast<uint64_t>(number));
  sample.label = static_cast<int32_t>(entry[6]);
  sample.image = Find(sample, "image", entry[0], entry[1], entry[2]);
  if (!with_record) return sample;
  if (entry[5] == 0)
    throw ShardError(
        At(sample, sample.image, Fault::Kind::kRecord,
           Where(sample, sample.image) +
               " has no reinforcement record; reinforce the data set first, or read it without views"));
  sample.record = Find(sample, "record", entry[3], entry[4], entry[5]);
  return sample;
}

template <typename Body>
void ShardSet::ForEachRange(const Sample& sample, const Body& body) {
  const auto begin = [](const Member& member) {
    return member.bytes.data() - kBlock;
  };  // with its tar header
  const auto end = [](const Member& member) { return member.bytes.data() + member.bytes.size(); };
  const auto range = [&](const Member& from, const Member& to) {
    body(from, std::span<const uint8_t>(begin(from), end(to)));
  };
  const Member &image = sample.image, &record = sample.record;
  if (record.bytes.empty()) return range(image, image);
  const bool adjacent =
      record.file == image.file && begin(record) >= end(image) && begin(record) - end(image) <= kMaxGap;
  if (adjacent) return range(image, record);
  range(image, image);
  range(record, record);
}

void ShardSet::Prefetch(const Sample& sample) const {
  // Errors do not matter here: Load meets them again.
  ForEachRange(sample, [](const Member&, std::span<const uint8_t> range) { Advise(range, MADV_WILLNEED); });
}

void ShardSet::Load(const Sample& sample) const {
  ForEachRange(sample, [&](const Member& member, std::span<const uint8_t> range) {
    // EINVAL: a kernel before 5.14, where pages are faulted in by use instead.
    if (Advise(range, MADV_POPULATE_READ) != 0 && errno != EINVAL)
      FailAt(sample, member, Where(sample, member), " cannot be read (", std::strerror(errno),
             "): the file was cut off while in use, or its disk fails; restore it from a copy");
  });
  CheckHeader(sample, sample.image);
  if (!sample.record.bytes.empty()) CheckHeader(sample, sample.record);
}

void ShardSet::CheckHeader(const Sample& sample, const Member& member) const {
  const uint8_t* header = member.bytes.data() - kBlock;
  const bool regular = header[156] == '0' || header[156] == 0;
  const bool ustar = std::memcmp(header + 257, "ustar", 5) == 0;
  if (!ustar || !regular || TarSize(header) != member.bytes.size() || !NamesKey(header, sample.key))
    FailAt(sample, member, Where(sample, member), ": no tar member of that key with ", member.bytes.size(),
           " bytes begins there. The shard was rewritten after ", index_path_,
           " was made: delete the index, ", "it is rebuilt from the shards");
}

}  // namespace dali_dr::shards
