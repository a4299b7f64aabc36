// Records of every version of the format say what they said: see tests/golden/records/README.md.
//   test_record_golden FOLDER
#include <zstd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/record_checks.h"

namespace dali_dr::record {
namespace {

Bytes Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

Bytes Decompress(const Bytes& frame) {
  Bytes out(ZSTD_getFrameContentSize(frame.data(), frame.size()));
  ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
  return out;
}

/// All that a member says, one view after another.
std::vector<ExpectedView> ViewsOf(const Bytes& member) {
  Reader reader;
  const Record& record = reader.Open(member);
  std::vector<ExpectedView> views;
  for (uint32_t row = 0; row < record.views(); ++row) views.push_back(Read(reader, record, row));
  return views;
}

/// Each changed bit of a member of version 2, and many changes of several bytes, are an error or change
/// nothing.
void CheckDamage(const std::filesystem::path& path) {
  const Bytes good = Contents(path);
  const std::vector<ExpectedView> want = ViewsOf(good);
  std::mt19937 random(3);
  size_t silent = 0;
  const size_t flips = 8 * good.size();
  for (size_t i = 0; i < flips + 2000; ++i) {
    Bytes bad(good);
    if (i < flips)
      bad[i / 8] ^= static_cast<uint8_t>(1 << i % 8);
    else
      for (uint32_t left = 2 + random() % 8; left > 0; --left)
        bad[random() % bad.size()] = static_cast<uint8_t>(random());
    Refusal([&] {
      const std::vector<ExpectedView> got = ViewsOf(bad);
      const auto equal = [](const ExpectedView& a, const ExpectedView& b) {
        return a.words == b.words && a.ids == b.ids && a.probs == b.probs;
      };
      silent += !std::equal(got.begin(), got.end(), want.begin(), want.end(), equal);
    });
  }
  Check(silent == 0, path.string() + ": " + std::to_string(silent) + " changes are read as another record");
}

/// Reads every view of a member, and compares it with the numbers that are stored beside it.
void CheckMember(const std::filesystem::path& path) {
  const std::string name = path.string();
  const Bytes member = Contents(path);
  const Bytes expected = Decompress(Contents(name.substr(0, name.size() - 7) + ".views.zst"));
  uint32_t facts[3];  // views, words, topk
  std::memcpy(facts, expected.data(), sizeof facts);
  const size_t row_bytes = 4 * (size_t{facts[1]} + 2 * facts[2]);
  Check(expected.size() == sizeof facts + facts[0] * row_bytes, name + ": the expected numbers are whole");
  Reader reader;
  const std::string message = Refusal([&] {
    const Record& record = reader.Open(member);
    Check(record.views() == facts[0] && record.view_words() == static_cast<int>(facts[1]) &&
              record.topk() == static_cast<int>(facts[2]),
          name + ": its size");
    for (uint32_t row = 0; row < record.views(); ++row) {
      const ExpectedView got = Read(reader, record, row);
      Bytes bytes(row_bytes);
      uint8_t* to = bytes.data();
      const auto put = [&](const void* from, size_t count) {
        if (count) std::memcpy(to, from, 4 * count);
        to += 4 * count;
      };
      put(got.words.data(), got.words.size());
      put(got.ids.data(), got.ids.size());
      put(got.probs.data(), got.probs.size());
      Check(std::equal(bytes.begin(), bytes.end(), expected.data() + sizeof facts + row * row_bytes),
            name + ": view " + std::to_string(row));
    }
  });
  Check(message.empty(), name + ": " + message);
}

}  // namespace
}  // namespace dali_dr::record

int main(int argc, char** argv) {
  using namespace dali_dr::record;
  if (argc != 2) return std::fprintf(stderr, "usage: test_record_golden FOLDER\n"), 2;
  int members = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[1]))
    if (entry.path().string().ends_with(".dr.zst")) {
      CheckMember(entry.path());
      if (entry.path().parent_path().filename() != "v1" && entry.file_size() < 1200)
        CheckDamage(entry.path());
      ++members;
    }
  Check(members >= 24, "there are golden records");
  return dali_dr::testing::Verdict("golden records");
}
