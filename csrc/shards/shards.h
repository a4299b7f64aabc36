// Samples in tar shards, by number, through index.bin (layout: schemas/sample-index.md).
//
// Bytes are copied out of the files by system calls, so that whatever happens to a file while it is read is
// an error of a sample. Everything that the index says is checked against the files before use, because an
// index outlives the shards it was made from. What is wrong comes out as one ShardError.
#ifndef DALI_DR_CSRC_SHARDS_SHARDS_H_
#define DALI_DR_CSRC_SHARDS_SHARDS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "shards/buffers.h"
#include "shards/error.h"
#include "shards/files.h"
#include "shards/index.h"

namespace dali_dr::shards {

/// The data of one tar member.
struct Member {
  uint32_t file = 0;                 ///< in the index's file table
  uint64_t offset = 0;               ///< of the data in that file, bytes
  size_t size = 0;                   ///< of the data; 0: there is no member
  std::span<const uint8_t> bytes{};  ///< the data, once loaded
  Buffer buffer{};                   ///< that holds it
};

struct Sample {
  int64_t number = 0;
  std::string_view key;  ///< valid as long as the ShardSet
  int32_t label = 0;
  int32_t height = 0, width = 0;      ///< of the image by the index; 0: it does not say
  std::optional<uint32_t> image_crc;  ///< CRC-32C of the image's bytes by the index
  Member image;
  Member record;  ///< size 0 unless it was asked for
};

/// All samples of one index. All const functions may be called from several threads at once.
class ShardSet {
 public:
  /// Reads the index at `index_path`; names of shards are relative to its folder. Throws ShardError.
  explicit ShardSet(const std::string& index_path);

  /// The same; or, where that index was read with `checksum` and is in use, what was read then: pipelines
  /// that are built anew, or live side by side, need not read it again. Throws ShardError also where the
  /// index has another checksum. None: whatever lies there is read.
  static std::shared_ptr<const ShardSet> Open(const std::string& index_path,
                                              std::optional<uint32_t> checksum);

  /// Closes file `number` of all sets that `Open` gave out for this index, so that, once it is removed, the
  /// disk has its space back; the next use opens it again.
  static void ForgetFile(const std::string& index_path, uint32_t number);

  int64_t samples() const { return static_cast<int64_t>(index_.samples()); }
  uint64_t num_classes() const { return index_.num_classes(); }  ///< labels are below it
  /// Ids of predictions are below it, if the index says so.
  std::optional<uint32_t> num_outputs() const { return index_.num_outputs(); }
  bool has_image_crcs() const { return index_.has_image_crcs(); }
  const std::string& index_path() const { return index_.path(); }

  /// Whether sample `number` has a record. Throws ShardError if there is no such sample.
  bool HasRecord(int64_t number) const;

  /// Finds sample `number`, with its record or without, from the index alone. Throws ShardError: no such
  /// sample, no record, a slice outside its shard.
  Sample Find(int64_t number, bool with_record) const;

  /// Opens the sample's shards and asks the kernel to begin reading its bytes; does not wait for them. Throws
  /// ShardError: a shard that is missing or of another size.
  void Prefetch(const Sample& sample) const;

  /// Reads a sample's bytes and checks that they are the members that the index means: the tar headers before
  /// them are of regular files of this key and size. Throws ShardError, also as Prefetch does.
  void Load(Sample* sample) const;

  /// A fault of a sample's member, whose message is `message` as it is.
  Fault At(const Sample& sample, const Member& member, Fault::Kind kind, std::string message) const;

  /// "sample 7 (key n01440764_10) in /data/train-000000.tar at offset 1536", for messages about its content.
  std::string Where(const Sample& sample, const Member& member) const;

 private:
  void CheckNumber(int64_t number) const;
  Member Find(const Sample& sample, const char* kind, const Place& place) const;
  std::shared_ptr<const Descriptor> Open(const Sample& sample, const Member& member) const;
  void CheckHeader(const Sample& sample, const Member& member) const;
  template <typename Body>
  static void ForEachRange(Sample& sample, const Body& body);

  std::unique_ptr<uint8_t[]> index_bytes_;
  Index index_;
  Files files_;
  mutable Buffers buffers_;
};

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_SHARDS_H_
