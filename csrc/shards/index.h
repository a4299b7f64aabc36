// The sample index, of version 1 or 2 (layout: schemas/sample-index.md), from its bytes in memory. Knows no
// files.
#ifndef DALI_DR_CSRC_SHARDS_INDEX_H_
#define DALI_DR_CSRC_SHARDS_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shards/error.h"

namespace dali_dr::shards {

/// Where the data of one tar member lies, as the index says; nothing is checked against the file table yet.
struct Place {
  uint32_t file = 0;   ///< number in the file table
  uint32_t block = 0;  ///< of 512 bytes, where the data begins
  uint32_t bytes = 0;
};

/// What the index says of one sample.
struct Entry {
  Place image;
  Place record;  ///< no bytes: the sample has none
  int32_t label = 0;
  int32_t height = 0, width = 0;      ///< of the image; 0: the index does not say
  std::optional<uint32_t> image_crc;  ///< CRC-32C of the image's bytes, where the index has them
};

/// Trusts nothing: whatever the bytes are, its functions return or throw ShardError. Version 2 has a
/// checksum, which is looked at once; what a wrong writer may have written is checked when it is asked for.
class Index {
 public:
  /// Of what the file table says of one tar.
  struct File {
    uint64_t bytes = 0;
    uint64_t first = 0;  ///< version 2: the first sample whose record, or image, lies in it
    std::string name;    ///< relative to the index's folder
  };

  /// Borrows the bytes of a whole index; `path` is for messages. Throws ShardError.
  Index(std::span<const uint8_t> bytes, std::string path);

  uint64_t samples() const { return samples_; }
  uint64_t num_classes() const { return num_classes_; }  ///< labels are below it
  /// Ids of predictions are below it; none: version 1 does not say.
  std::optional<uint32_t> num_outputs() const { return num_outputs_; }
  /// Over all of its bytes; none: version 1 has none.
  std::optional<uint32_t> checksum() const { return checksum_; }
  bool has_image_crcs() const { return image_crcs_ != nullptr; }
  const std::string& path() const { return path_; }
  const std::vector<File>& files() const { return files_; }

  /// Of a sample below samples(). Throws ShardError where its label is not below num_classes, or a size is 0.
  Entry At(uint64_t sample) const;
  bool HasRecord(uint64_t sample) const;
  /// Of a sample below samples(); valid as long as the bytes. Throws ShardError where it lies outside the
  /// keys.
  std::string_view Key(uint64_t sample) const;

  /// Throws the ShardError of a damaged index.
  [[noreturn]] void Fail(const std::string& what) const;

 private:
  void ReadHeader(std::span<const uint8_t> bytes);
  void FindSections(std::span<const uint8_t> bytes);
  void ReadFiles(std::span<const uint8_t> table);
  uint32_t FileOf(uint64_t sample) const;
  std::string Name(uint64_t sample) const;  // for messages

  std::string path_;
  uint32_t version_ = 0, flags_ = 0, num_files_ = 0;
  uint64_t samples_ = 0, num_classes_ = 0, file_table_bytes_ = 0, key_bytes_ = 0;
  std::optional<uint32_t> num_outputs_, checksum_;
  const uint8_t* entries_ = nullptr;
  const uint8_t* image_crcs_ = nullptr;   // or null
  const uint8_t* image_files_ = nullptr;  // or null
  const uint8_t* key_offsets_ = nullptr;
  std::string_view keys_;
  std::vector<File> files_;
};

inline constexpr size_t kIndexHeaderBytes = 64;

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_INDEX_H_
