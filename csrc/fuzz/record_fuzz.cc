// Fuzzes the record parser: any bytes must give views inside their bounds, or a RecordError.
//
// With clang: -fsanitize=fuzzer,address,undefined and -DDALI_DR_LIBFUZZER. Otherwise main() below feeds it
// the given files, or, given a number, that many mutated records (and a seed as second argument).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

#include "record/reader.h"
#include "tests/record_shapes.h"

using dali_dr::record::Reader;
using dali_dr::record::Record;
using dali_dr::record::RecordError;

namespace {

void Require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "an accepted view is out of bounds: %s\n", what);
  std::abort();
}

/// Reads some views of `from`, a Record or a Reader that has `record` open.
template <typename From>
void ReadAll(From& from, const Record& record) {
  std::vector<int32_t> view(record.view_words()), ids(record.topk());
  std::vector<float> probs(record.topk());
  const uint32_t step = record.views() / 16 + 1;
  for (uint32_t row = 0; row < record.views(); row += step) {
    from.ReadView(row, view, ids, probs);
    const auto inside = [](int64_t start, int64_t extent, int64_t length) {
      return start >= 0 && extent >= 0 && start + extent <= length;
    };
    Require(inside(view[0], view[2], record.image_height()) && view[2] > 0, "crop rows");
    Require(inside(view[1], view[3], record.image_width()) && view[3] > 0, "crop columns");
    Require(inside(view[5], view[7], record.view_height()) && inside(view[6], view[8], record.view_width()),
            "erase box");
    Require((view[4] & ~1) == 0 && view[9] == record.num_ops(), "flip, number of operations");
    for (int op = 0; op < record.num_ops(); ++op)
      Require(view[10 + 2 * op] >= 0 && view[10 + 2 * op] < 14, "operation");
    for (size_t k = 0; k < probs.size(); ++k)
      Require(ids[k] >= 0 && probs[k] >= 0 && probs[k] <= (k ? probs[k - 1] : 1), "prediction");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Reader reader;
  const std::span bytes(data, size);
  try {  // as a member, which has groups decompressed when they are asked for
    const Record& record = reader.Open(bytes);
    ReadAll(reader, record);
  } catch (const RecordError&) {
  }
  try {  // as the content of its frames
    Record record = Record::Parse(bytes);
    size_t at = record.head_bytes();
    for (uint32_t group = 0; group < record.groups(); ++group)
      at += record.AddGroup(group, bytes.subspan(at));
    ReadAll(record, record);
  } catch (const RecordError&) {
  }
  return 0;
}

#ifndef DALI_DR_LIBFUZZER

int main(int argc, char** argv) {
  using namespace dali_dr::testing;
  char* end = nullptr;
  const long iterations = argc > 1 ? std::strtol(argv[1], &end, 10) : 10000;  // NOLINT: strtol's type
  if (end && *end) {
    for (int i = 1; i < argc; ++i) {
      std::ifstream file(argv[i], std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
    std::printf("%d files\n", argc - 1);
    return 0;
  }
  const auto seed = static_cast<uint32_t>(argc > 2 ? std::atol(argv[2]) : 1);
  std::mt19937 random(seed);
  std::vector<Bytes> seeds;
  std::vector<std::vector<size_t>> frames;  // of those seeds that are contents
  for (const RecordShape& shape : AllShapes()) {
    if (shape.views >= 100) continue;  // small inputs reach the same code sooner
    const MadeRecord made = MakeRecord(shape, seed);
    seeds.push_back(made.bytes);
    frames.push_back(made.frames);
    seeds.push_back(CompressFrames(made));
    frames.emplace_back();
  }
  for (long i = 0; i < iterations; ++i) {  // NOLINT: as above
    const size_t number = random() % seeds.size();
    Bytes bytes = seeds[number];
    for (uint32_t changes = 1 + random() % 8; changes > 0; --changes) {
      const size_t at = random() % (random() % 2 ? std::min<size_t>(bytes.size(), 64) : bytes.size());
      switch (random() % 6) {
        case 0:
          bytes.resize(std::max<size_t>(1, at));
          break;
        case 1:
          bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), static_cast<uint8_t>(random()));
          break;
        case 2:
          bytes[at] = static_cast<uint8_t>(random() % 2 ? 0 : 255);
          break;
        case 3:
          bytes[at] = static_cast<uint8_t>(random());
          break;
        default:
          bytes[at] ^= static_cast<uint8_t>(1 << random() % 8);
      }
    }
    if (random() % 2 && bytes.size() >= 12) {  // a right length lets the input past the first check
      const auto size = static_cast<uint32_t>(bytes.size());
      std::memcpy(&bytes[8], &size, sizeof size);
    }
    // Changed content in whole frames gets past zstd.
    if (!frames[number].empty() && random() % 2) bytes = CompressFrames(bytes, frames[number]);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%ld mutated inputs\n", iterations);
  return 0;
}

#endif  // DALI_DR_LIBFUZZER
