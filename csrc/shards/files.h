// The files of a data set, read at random through a bounded number of open descriptors: sets have thousands
// of shards, processes often 1,024 descriptors. Nothing is mapped, because a mapping ends the process when
// its file is cut off.
#ifndef DALI_DR_CSRC_SHARDS_FILES_H_
#define DALI_DR_CSRC_SHARDS_FILES_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "shards/error.h"

namespace dali_dr::shards {

/// An open file; closed with the last holder.
class Descriptor {
 public:
  /// Opens a regular file. Throws ShardError: "PATH cannot be opened (No such file or directory)".
  explicit Descriptor(const std::string& path);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  uint64_t size() const { return size_; }  ///< when it was opened

  /// Reads exactly so many bytes. Returns an empty string, or why there are fewer.
  std::string Read(uint64_t offset, size_t bytes, uint8_t* to) const;

  /// Asks the kernel to begin reading these bytes, and returns at once.
  void Prefetch(uint64_t offset, size_t bytes) const;

 private:
  int descriptor_;
  uint64_t size_ = 0;
};

/// A table of files, by number. All functions may be called from several threads at once.
class Files {
 public:
  struct File {
    std::string path;
    uint64_t size = 0;  ///< that it must have
  };

  /// `open_at_once`: descriptors that are kept open; 0: an eighth of what the process may open, up to 4,096.
  explicit Files(std::vector<File> files, size_t open_at_once = 0);

  size_t size() const { return files_.size(); }
  const File& operator[](uint32_t number) const { return files_[number]; }

  /// The file, opened unless it is open already. Throws ShardError, with whole_file: it cannot be opened
  /// (passing), or has another size (passing: it may be being copied).
  std::shared_ptr<const Descriptor> Open(uint32_t number) const;

  /// Closes the file, so that the next use opens what is then at its path.
  void Forget(uint32_t number) const;

  size_t open_now() const;

 private:
  struct Slot {
    std::shared_ptr<const Descriptor> descriptor;  // or null
    std::list<uint32_t>::iterator place{};         // in order_, if there is a descriptor
  };

  std::shared_ptr<const Descriptor> OpenAnew(uint32_t number) const;
  void CloseOldest() const;  // with the mutex held

  std::vector<File> files_;
  size_t open_at_once_;
  mutable std::mutex mutex_;  // of what follows; never held while a file is opened
  mutable std::vector<Slot> slots_;
  mutable std::list<uint32_t> order_;  // open files, the one used last in front
};

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_FILES_H_
