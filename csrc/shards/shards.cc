// See shards.h.
#include "shards/shards.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "escape.h"
#include "shards/tar_header.h"

namespace dali_dr::shards {
namespace {

// One system call covers image and record if no more than this lies between them: a label in between takes 1
// kB.
constexpr uint64_t kMaxGap = 16384;

[[noreturn]] void FailIndex(const std::string& path, const std::string& why, bool passing) {
  throw ShardError({.kind = Fault::Kind::kShard,
                    .message = Message("the sample index ", Escaped(path), " cannot be read (", why,
                                       "); if it is damaged, delete it, it is rebuilt from the shards"),
                    .passing = passing});
}

/// The whole file, in memory of its own; its size goes to *bytes.
std::unique_ptr<uint8_t[]> ReadIndex(const std::string& path, size_t* bytes) {
  const Descriptor file(path);
  *bytes = file.size();
  std::unique_ptr<uint8_t[]> memory(new (std::nothrow) uint8_t[*bytes]);
  if (!memory) FailIndex(path, Message("its ", *bytes, " bytes do not fit into memory"), false);
  if (const std::string problem = file.Read(0, *bytes, memory.get()); !problem.empty())
    FailIndex(path, problem, true);
  return memory;
}

std::vector<Files::File> Paths(const Index& index) {
  const std::filesystem::path folder = std::filesystem::path(index.path()).parent_path();
  std::vector<Files::File> files;
  files.reserve(index.files().size());
  for (const Index::File& file : index.files()) files.push_back({(folder / file.name).string(), file.bytes});
  return files;
}

/// All sets that `Open` gave out, by the path of their index.
struct InUse {
  std::mutex mutex;
  std::multimap<std::string, std::weak_ptr<const ShardSet>> sets;
};

InUse& AllInUse() {
  static auto& all = *new InUse;  // never destroyed: threads of a pipeline may outlive main
  return all;
}

uint64_t Begin(const Member& member) { return member.offset - kTarBlock; }  // with its tar header
uint64_t End(const Member& member) { return member.offset + member.size; }

}  // namespace

ShardSet::ShardSet(const std::string& index_path)
    : index_([&] {
        size_t bytes = 0;
        index_bytes_ = ReadIndex(index_path, &bytes);
        return Index({index_bytes_.get(), bytes}, index_path);
      }()),
      files_(Paths(index_)) {}

std::shared_ptr<const ShardSet> ShardSet::Open(const std::string& index_path,
                                               std::optional<uint32_t> checksum) {
  auto& [mutex, sets] = AllInUse();
  const std::lock_guard lock(mutex);
  std::erase_if(sets, [](const auto& one) { return one.second.expired(); });
  if (checksum)
    for (auto [at, end] = sets.equal_range(index_path); at != end; ++at)
      if (auto set = at->second.lock(); set && set->index_.checksum() == checksum) return set;
  auto set = std::make_shared<const ShardSet>(index_path);
  if (checksum && set->index_.checksum() != checksum)
    FailIndex(index_path, "it is not the one with which the data set was opened: open the data set again",
              true);
  sets.emplace(index_path, set);
  return set;
}

void ShardSet::ForgetFile(const std::string& index_path, uint32_t number) {
  auto& [mutex, sets] = AllInUse();
  const std::lock_guard lock(mutex);
  for (auto [at, end] = sets.equal_range(index_path); at != end; ++at)
    if (const auto set = at->second.lock(); set && number < set->files_.size()) set->files_.Forget(number);
}

Fault ShardSet::At(const Sample& sample, const Member& member, Fault::Kind kind, std::string message) const {
  return {.kind = kind,
          .message = std::move(message),
          .sample = sample.number,
          .key = std::string(sample.key),
          .shard = files_[member.file].path,
          .offset = static_cast<int64_t>(member.offset)};
}

std::string ShardSet::Where(const Sample& sample, const Member& member) const {
  return Message("sample ", sample.number, " (key ", Escaped(sample.key), ") in ",
                 Escaped(files_[member.file].path), " at offset ", member.offset);
}

Member ShardSet::Find(const Sample& sample, const char* kind, const Place& place) const {
  if (place.file >= files_.size())
    index_.Fail(Message("the ", kind, " of sample ", sample.number, " (key ", Escaped(sample.key),
                        ") lies in file ", place.file, " of ", files_.size()));
  const Member member{.file = place.file, .offset = uint64_t{place.block} * kTarBlock, .size = place.bytes};
  const uint64_t size = files_[place.file].size;
  // The data is preceded by at least its own header.
  if (place.block == 0 || place.bytes == 0 || member.offset > size || place.bytes > size - member.offset)
    index_.Fail(Message("the ", kind, " (", place.bytes, " bytes) of ", Where(sample, member),
                        " is empty or outside that file of ", size, " bytes"));
  return member;
}

void ShardSet::CheckNumber(int64_t number) const {
  if (number >= 0 && static_cast<uint64_t>(number) < index_.samples()) return;
  throw ShardError({.kind = Fault::Kind::kArgument,
                    .message = Message("sample ", number, " does not exist: ", Escaped(index_path()), " has ",
                                       samples(), " samples, numbered from 0"),
                    .sample = number});
}

bool ShardSet::HasRecord(int64_t number) const {
  CheckNumber(number);
  return index_.HasRecord(static_cast<uint64_t>(number));
}

Sample ShardSet::Find(int64_t number, bool with_record) const {
  CheckNumber(number);
  Sample sample;
  sample.number = number;
  try {
    sample.key = index_.Key(static_cast<uint64_t>(number));
    const Entry entry = index_.At(static_cast<uint64_t>(number));
    sample.label = entry.label;
    sample.height = entry.height;
    sample.width = entry.width;
    sample.image_crc = entry.image_crc;
    sample.image = Find(sample, "image", entry.image);
    if (!with_record) return sample;
    if (entry.record.bytes != 0) sample.record = Find(sample, "record", entry.record);
  } catch (const ShardError& error) {  // in the index: say of which sample, and that the file is the index
    Fault fault = error.fault();
    fault.sample = number;
    fault.key = sample.key;
    throw ShardError(std::move(fault));
  }
  if (sample.record.size == 0)
    throw ShardError(
        At(sample, sample.image, Fault::Kind::kRecord,
           Where(sample, sample.image) +
               " has no reinforcement record; reinforce the data set first, or read it without views"));
  return sample;
}

std::shared_ptr<const Descriptor> ShardSet::Open(const Sample& sample, const Member& member) const {
  try {
    return files_.Open(member.file);
  } catch (const ShardError& error) {
    Fault fault =
        At(sample, member, Fault::Kind::kShard,
           Message("shard ", error.what(), ", wanted for ", Where(sample, member),
                   "; restore it from a copy, it is listed in ", Escaped(index_path()),
                   "; or if it was meant to change, delete the index, it is rebuilt from the shards"));
    fault.whole_file = error.fault().whole_file;
    fault.passing = error.fault().passing;
    throw ShardError(std::move(fault));
  }
}

// Calls body(members, begin, end) for each stretch of a file that is read at once.
template <typename Body>
void ShardSet::ForEachRange(Sample& sample, const Body& body) {
  Member &image = sample.image, &record = sample.record;
  Member* const both[] = {&image, &record};
  const std::span<Member* const> members(both);
  const bool adjacent = record.size != 0 && record.file == image.file && Begin(record) >= End(image) &&
                        Begin(record) - End(image) <= kMaxGap;
  if (adjacent) return body(members, Begin(image), End(record));
  body(members.first(1), Begin(image), End(image));
  if (record.size != 0) body(members.last(1), Begin(record), End(record));
}

void ShardSet::Prefetch(const Sample& sample) const {
  // Nothing is changed.
  ForEachRange(const_cast<Sample&>(sample),
               [&](std::span<Member* const> members, uint64_t begin, uint64_t end) {
                 Open(sample, *members[0])->Prefetch(begin, end - begin);
               });
}

void ShardSet::Load(Sample* sample) const {
  ForEachRange(*sample, [&](std::span<Member* const> members, uint64_t begin, uint64_t end) {
    const auto file = Open(*sample, *members[0]);
    const Buffer buffer = buffers_.Take(end - begin);
    if (const std::string problem = file->Read(begin, end - begin, buffer.get()); !problem.empty()) {
      files_.Forget(members[0]->file);
      Fault fault =
          At(*sample, *members[0], Fault::Kind::kShard,
             Message(Where(*sample, *members[0]), " cannot be read (", problem,
                     "): the file was cut off while in use, or its disk fails; restore it from a copy"));
      fault.passing = true;
      throw ShardError(std::move(fault));
    }
    for (Member* member : members) {
      member->bytes = {buffer.get() + (member->offset - begin), member->size};
      member->buffer = buffer;
    }
  });
  CheckHeader(*sample, sample->image);
  if (sample->record.size != 0) CheckHeader(*sample, sample->record);
}

void ShardSet::CheckHeader(const Sample& sample, const Member& member) const {
  const std::span<const uint8_t, kTarBlock> header(member.bytes.data() - kTarBlock, kTarBlock);
  if (IsHeaderOf(header, sample.key, member.size)) return;
  Fault fault =
      At(sample, member, Fault::Kind::kShard,
         Message(Where(sample, member), ": no tar member of that key with ", member.size,
                 " bytes begins there. The shard is damaged: restore it from a copy; or if it was meant to "
                 "change after ",
                 Escaped(index_path()), " was made, delete that, it is rebuilt from the shards"));
  // As while a copy is made into space that was set aside for it.
  fault.passing = std::all_of(header.begin(), header.end(), [](uint8_t byte) { return byte == 0; });
  if (fault.passing) files_.Forget(member.file);
  throw ShardError(std::move(fault));
}

}  // namespace dali_dr::shards
