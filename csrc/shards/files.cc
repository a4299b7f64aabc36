// See files.h.
#include "shards/files.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "escape.h"

namespace dali_dr::shards {
namespace {

constexpr size_t kFewest = 16, kMost = 4096;

size_t Allowed() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kFewest;
  return std::clamp<size_t>(limit.rlim_cur / 8, kFewest, kMost);
}

[[noreturn]] void Unopened(const std::string& path, const std::string& why, int error = 0) {
  // Another file may be free in a moment, too.
  throw ShardError({.kind = Fault::Kind::kShard,
                    .message = Message(Escaped(path), " cannot be opened (", why, ")"),
                    .whole_file = error != EMFILE && error != ENFILE,
                    .passing = error != 0 && error != EACCES && error != EPERM});
}

}  // namespace

// O_NONBLOCK: a FIFO in place of a file would otherwise be waited for.
Descriptor::Descriptor(const std::string& path)
    : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) Unopened(path, std::strerror(errno), errno);
  struct stat facts{};
  const int error = fstat(descriptor_, &facts) == 0 ? 0 : errno;
  if (error == 0 && S_ISREG(facts.st_mode)) {
    size_ = static_cast<uint64_t>(facts.st_size);
    return;
  }
  close(descriptor_);
  Unopened(path, error ? std::strerror(error) : "it is no regular file", error);
}

Descriptor::~Descriptor() { close(descriptor_); }

std::string Descriptor::Read(uint64_t offset, size_t bytes, uint8_t* to) const {
  while (bytes > 0) {
    const ssize_t got = pread(descriptor_, to, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::strerror(errno);
    if (got == 0) return Message("it ends at byte ", offset);
    to += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
  return {};
}

void Descriptor::Prefetch(uint64_t offset, size_t bytes) const {
  posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

Files::Files(std::vector<File> files, size_t open_at_once)
    : files_(std::move(files)),
      open_at_once_(open_at_once ? open_at_once : Allowed()),
      slots_(files_.size()) {}

std::shared_ptr<const Descriptor> Files::Open(uint32_t number) const {
  {
    const std::lock_guard lock(mutex_);
    const Slot& slot = slots_[number];
    if (slot.descriptor) {
      order_.splice(order_.begin(), order_, slot.place);
      return slot.descriptor;
    }
  }
  auto opened = OpenAnew(number);
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[number];
  if (slot.descriptor) return slot.descriptor;  // by another thread, meanwhile
  while (order_.size() >= open_at_once_) CloseOldest();
  order_.push_front(number);
  slot = {opened, order_.begin()};
  return opened;
}

std::shared_ptr<const Descriptor> Files::OpenAnew(uint32_t number) const {
  const File& file = files_[number];
  const auto open = [&] { return std::make_shared<const Descriptor>(file.path); };
  std::shared_ptr<const Descriptor> opened;
  try {
    opened = open();
  } catch (const ShardError& error) {
    if (error.fault().whole_file) throw;
    {  // The process has no descriptors left: make do with fewer.
      const std::lock_guard lock(mutex_);
      while (!order_.empty()) CloseOldest();
    }
    opened = open();
  }
  if (const uint64_t size = opened->size(); size != file.size)
    throw ShardError({.kind = Fault::Kind::kShard,
                      .message = size ? Message(Escaped(file.path), " has ", size, " bytes instead of ",
                                                file.size, " (it is cut off, being copied or was replaced)")
                                      : Escaped(file.path) + " is empty",
                      .whole_file = true,
                      .passing = true});
  return opened;
}

void Files::Forget(uint32_t number) const {
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[number];
  if (!slot.descriptor) return;
  order_.erase(slot.place);
  slot.descriptor.reset();
}

void Files::CloseOldest() const {
  slots_[order_.back()].descriptor.reset();
  order_.pop_back();
}

size_t Files::open_now() const {
  const std::lock_guard lock(mutex_);
  return order_.size();
}

}  // namespace dali_dr::shards
