// Any bytes in place of an index and the tar that it describes: an error, or samples whose members lie in the
// tar behind headers of their key, and labels below the number of classes.
//
// The input is 16 bits with the length of the index, the index, and the tar, which is filled up or cut to
// kTarBytes, so that the size in the index's file table stays right.
#include "shards/shards.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include "fuzz/fuzz.h"
#include "fuzz/index_checksum.h"

using namespace dali_dr;
using fuzz::Require;

namespace {

constexpr size_t kTarBytes = 8192;

/// A folder of this process in memory, with `index.bin` and `x.tar`.
class Folder {
 public:
  Folder() {
    const char* root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    path_ = std::string(root) + "/dali_dr_fuzz_" + std::to_string(getpid());
    mkdir(path_.c_str(), 0700);
  }
  ~Folder() {
    for (const char* name : {"/index.bin", "/x.tar"}) unlink((path_ + name).c_str());
    rmdir(path_.c_str());
  }

  std::string Write(const char* name, std::span<const uint8_t> bytes, size_t size) const {
    const std::string path = path_ + "/" + name;
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    Require(file >= 0 && write(file, bytes.data(), bytes.size()) == ssize_t(bytes.size()) &&
                ftruncate(file, off_t(size)) == 0,
            path + " is written");
    close(file);
    return path;
  }

 private:
  std::string path_;
};

void RequireMember(const shards::Member& member, std::span<const uint8_t> tar) {
  Require(member.size > 0 && member.bytes.size() == member.size && member.offset >= 512,
          "a member has bytes");
  Require(member.offset + member.size <= kTarBytes, "a member is inside its tar");
  for (size_t i = 0; i < member.size; ++i) {
    const size_t at = member.offset + i;
    Require(member.bytes[i] == (at < tar.size() ? tar[at] : 0), "a member's bytes are those of the tar");
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  fuzz::Input input({data, size});
  const auto index = input.Take(input.Take<uint16_t>());
  const auto tar = input.Take(kTarBytes);
  const std::string path = folder.Write("index.bin", index, index.size());
  folder.Write("x.tar", tar, kTarBytes);
  try {
    const shards::ShardSet set(path);
    for (int64_t i = 0; i < std::min<int64_t>(set.samples(), 4); ++i) {
      try {
        shards::Sample sample = set.Find(i, set.HasRecord(i));
        set.Prefetch(sample);
        set.Load(&sample);
        RequireMember(sample.image, tar);
        if (set.HasRecord(i)) RequireMember(sample.record, tar);
        Require(sample.label >= 0 && uint64_t(sample.label) < set.num_classes(), "labels below the classes");
      } catch (const shards::ShardError&) {
      }
    }
  } catch (const shards::ShardError&) {
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, most);
  if (size < 2 || std::minstd_rand(seed)() % 8 == 0) return size;
  uint16_t length;
  std::memcpy(&length, data, sizeof length);
  fuzz::MendChecksum({data + 2, std::min<size_t>(length, size - 2)});
  return size;
}
