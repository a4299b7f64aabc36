// Any bytes in place of an index: an error, or what it says of every sample keeps what its readers build on.
// The mutator gives most indexes of version 2 their right checksum.
#include "shards/index.h"

#include <random>

#include "fuzz/fuzz.h"
#include "fuzz/index_checksum.h"

using namespace dali_dr;
using fuzz::Require;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const shards::Index index({data, size}, "index.bin");
    Require(index.samples() <= size / 24, "as many samples as fit");
    uint64_t first = 0;
    for (const shards::Index::File& file : index.files()) {
      Require(!file.name.empty() && file.name.size() < 65536, "file names");
      Require(file.first >= first && file.first <= std::max(index.samples(), file.first * (data[8] == 1)),
              "first samples rise");
      first = file.first;
    }
    const uint64_t step = index.samples() / 64 + 1;
    for (uint64_t i = 0; i < index.samples(); i += step) {
      try {
        const shards::Entry entry = index.At(i);
        Require(entry.label >= 0 && uint64_t(entry.label) < index.num_classes(), "labels below the classes");
        Require(index.HasRecord(i) == (entry.record.bytes > 0), "a record is there or not");
        Require(entry.image_crc.has_value() == index.has_image_crcs(), "checksums of all images or of none");
        const std::string_view key = index.Key(i);
        const auto* at = reinterpret_cast<const uint8_t*>(key.data());
        Require(key.empty() || (at >= data && at + key.size() <= data + size), "keys inside the index");
      } catch (const shards::ShardError&) {
      }
    }
  } catch (const shards::ShardError&) {
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, most);
  if (std::minstd_rand(seed)() % 8) fuzz::MendChecksum({data, size});
  return size;
}
