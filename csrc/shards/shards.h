// Samples in memory-mapped tar shards, by number, through index.bin (layout: schemas/sample-index.md).
//
// Opening maps the index and reads its header and file table, so it takes the same moment at any size; tars
// are mapped when first used. Everything that the index says is checked against the files before use, because
// an index outlives the shards it was made from. What is wrong comes out as one ShardError.
#ifndef DALI_DR_CSRC_SHARDS_SHARDS_H_
#define DALI_DR_CSRC_SHARDS_SHARDS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fault.h"

namespace dali_dr::shards {

/// A missing, damaged or inconsistent file; what() says what, where, and what to do.
class ShardError : public FaultError {
  using FaultError::FaultError;
};

/// A whole file, mapped read-only. Does not keep a descriptor.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);  ///< Throws ShardError.
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::span<const uint8_t> bytes_;
};

/// The data of one tar member.
struct Member {
  uint32_t file = 0;               ///< in the index's file table
  uint64_t offset = 0;             ///< of the data in that file, bytes
  std::span<const uint8_t> bytes;  ///< in the mapping, valid as long as the ShardSet
};

struct Sample {
  int64_t number = 0;
  std::string_view key;
  int32_t label = 0;
  Member image;
  Member record;  ///< no bytes unless it was asked for
};

/// All samples of one index. All const functions may be called from several threads at once.
class ShardSet {
 public:
  /// Maps the index at `index_path`; names of shards are relative to its folder. Throws ShardError.
  explicit ShardSet(const std::string& index_path);

  int64_t samples() const { return static_cast<int64_t>(samples_); }
  uint64_t num_classes() const { return num_classes_; }  ///< labels are below it
  const std::string& index_path() const { return index_path_; }

  /// Whether sample `number` has a record. Throws ShardError if there is no such sample.
  bool HasRecord(int64_t number) const;

  /// Finds sample `number`, with its record or without, and maps its shards; does not touch its data yet.
  /// Throws ShardError: no such sample, no record, a shard that is missing or of another size, a slice
  /// outside its shard.
  Sample Find(int64_t number, bool with_record) const;

  /// Asks the kernel to begin reading a sample's bytes, and returns at once.
  void Prefetch(const Sample& sample) const;

  /// Brings a sample's bytes into memory and checks that they are the members the index means: the tar
  /// headers before them are of regular files of this key and size. Throws ShardError, also where reading the
  /// bytes would end the process by SIGBUS: a shard cut off since it was mapped, an input/output error
  /// (Linux 5.14 or later).
  void Load(const Sample& sample) const;

  /// A fault of a sample's member, whose message is `message` as it is.
  Fault At(const Sample& sample, const Member& member, Fault::Kind kind, std::string message) const;

  /// "sample 7 (key n01440764_10) in /data/train-000000.tar at offset 1536", for messages about its content.
  std::string Where(const Sample& sample, const Member& member) const;

 private:
  struct File {
    std::string path;
    uint64_t size = 0;  // as the index says
    // Not std::call_once: after an exception it deadlocks under ThreadSanitizer and with some C libraries.
    std::mutex mutex;
    std::atomic<bool> mapped{false};
    MappedFile mapping;
  };

  template <typename... Parts>
  [[noreturn]] void FailAt(const Sample& sample, const Member& member, const Parts&... parts) const;
  [[noreturn]] void FailIndex(const std::string& what) const;
  const uint8_t* Entry(int64_t number) const;
  std::string_view Key(uint64_t number) const;
  void Map(File* shard, const Sample& sample, const Member& member) const;
  Member Find(const Sample& sample, const char* kind, uint32_t file, uint32_t block, uint32_t size) const;
  void CheckHeader(const Sample& sample, const Member& member) const;
  template <typename Body>
  static void ForEachRange(const Sample& sample,
                           const Body& body);  // the bytes to read, as few ranges as is sensible

  std::string index_path_;
  MappedFile index_;
  uint64_t samples_ = 0, num_classes_ = 0;
  const uint8_t* entries_ = nullptr;
  const uint8_t* key_offsets_ = nullptr;
  std::string_view keys_;
  std::unique_ptr<File[]> files_;
  uint32_t num_files_ = 0;
};

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_SHARDS_H_
