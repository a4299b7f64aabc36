// A folder of shards with records, made for the tests of csrc/samples, and what they fill samples with.
#ifndef DALI_DR_CSRC_TESTS_MAKE_SAMPLES_H_
#define DALI_DR_CSRC_TESTS_MAKE_SAMPLES_H_

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "make_record.h"
#include "make_shards.h"
#include "samples/samples.h"

namespace dali_dr::samples {

namespace fs = std::filesystem;
using namespace dali_dr::testing;

/// The chunks of a PNG of 500 x 375 pixels, which is all that is read of an image; `mark` tells images
/// apart.
inline Text Png(char mark) {
  return Text("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\xf4\0\0\x01\x77\x08\x02\0\0\0CRC:\0\0\x02\x58none", 41) +
         Text(600, mark) + Text("CRC:\0\0\0\0IEND", 12);
}

struct Content {
  Text key, image;
  std::optional<MadeRecord> record{};
  int32_t label = 0;
  bool own_shard = false;              // in y.tar instead of x.tar
  uint16_t height = 375, width = 500;  // in the index
  Bytes map{};                         // a member in place of the record's

  Bytes Member() const { return record ? CompressFrames(*record) : map; }
};

/// A folder of shards x.tar and y.tar with an index.
class Folder {
 public:
  explicit Folder(const std::vector<Content>& contents, const IndexForm& form = {})
      : path(fs::temp_directory_path() / ("dali_dr_samples_test_" + std::to_string(getpid()))) {
    fs::create_directories(path);
    std::vector<Item> items[2];
    for (const Content& content : contents) {
      auto& shard = items[content.own_shard];
      shard.push_back({content.key + ".png", content.image});
      const Bytes member = content.Member();
      if (member.empty()) continue;
      shard.push_back({content.key + ".dr.zst", Text(member.begin(), member.end())});
    }
    std::vector<std::pair<Text, uint64_t>> files;
    for (int shard : {0, 1}) {
      const Text tar = Tar(&items[shard]), name = shard ? "y.tar" : "x.tar";
      Write(path / name, tar);
      files.emplace_back(name, tar.size());
    }
    size_t next[2] = {};
    std::vector<Row> rows;
    for (const Content& content : contents) {
      const uint32_t file = content.own_shard;
      const auto place = [&] {
        const Item& item = items[file][next[file]++];
        return std::pair(static_cast<uint32_t>(item.block), static_cast<uint32_t>(item.data.size()));
      };
      const auto [block, bytes] = place();
      const auto [record_block, record_bytes] = !content.Member().empty() ? place() : std::pair(0u, 0u);
      rows.push_back({content.key,
                      {file, block, bytes, file, record_block, record_bytes, content.label, content.height,
                       content.width, Crc32c(Bytewise(content.image))}});
    }
    Write(path / "index.bin", IndexOf(rows, files, form));
  }
  ~Folder() { fs::remove_all(path); }

  Source Open(const Options& options) const {
    return {opened_.emplace_back(std::make_shared<const shards::ShardSet>((path / "index.bin").string())),
            options};
  }

  const fs::path path;

 private:
  // Keys of what is filled lie in their indices.
  mutable std::vector<std::shared_ptr<const shards::ShardSet>> opened_;
};

/// All three passes over one sample.
inline Filled Fill(const Source& source, int64_t number, const std::vector<int32_t>& views) {
  Filled filled;
  Readers readers;
  source.Find(number, views, &filled);
  source.Fill(views, &readers, &filled);
  source.LoadPartner(&readers, &filled);
  return filled;
}

inline Fault Refusal(const std::function<void()>& body, const std::string& word) {
  try {
    body();
  } catch (const FaultError& error) {
    Check(std::string(error.what()).find(word) != std::string::npos,
          "want an error about \"" + word + "\", got \"" + error.what() + "\"");
    Check(error.what() == error.fault().message, "what() of an error is its fault's message");
    return error.fault();
  }
  Check(false, "no error about \"" + word + "\"");
  return {};
}

/// A fault in a member of sample `number` in x.tar.
inline void CheckRefused(const Folder& folder, const Options& options, int64_t number,
                         const std::vector<int32_t>& views, Fault::Kind kind, const std::string& word) {
  const Source source = folder.Open(options);
  const Fault fault = Refusal([&] { Fill(source, number, views); }, word);
  Check(fault.kind == kind && fault.sample == number && !fault.key.empty() &&
            fault.shard == (folder.path / "x.tar").string() && fault.offset > 0 &&
            fault.message.find("(key " + fault.key + ") in " + fault.shard + " at offset " +
                               std::to_string(fault.offset)) != std::string::npos,
        "the fields of the fault: " + fault.message);
}

inline std::vector<int32_t> Words(const Filled& filled, size_t view) {
  const auto begin = filled.params.begin() + static_cast<ptrdiff_t>(view * filled.words);
  return {begin, begin + static_cast<ptrdiff_t>(filled.words)};
}

inline bool SameTargets(const Filled& filled, size_t view, const ExpectedView& want) {
  return std::equal(want.ids.begin(), want.ids.end(), filled.ids.begin() + ptrdiff_t(view * filled.topk)) &&
         std::equal(want.probs.begin(), want.probs.end(),
                    filled.probs.begin() + ptrdiff_t(view * filled.topk)) &&
         filled.topk == want.ids.size();
}

/// Whether the region is the smallest that holds these boxes (top, left, height, width).
inline bool IsUnion(const Region& region, const std::vector<const int32_t*>& boxes) {
  for (int axis : {0, 1}) {
    int32_t low = INT32_MAX, high = 0;
    for (const int32_t* box : boxes) {
      low = std::min(low, box[axis]);
      high = std::max(high, box[axis] + box[2 + axis]);
    }
    if (region.start[axis] != low || region.shape[axis] != high - low) return false;
  }
  return true;
}

inline draw::Spec DrawSpec(int num_ops) {
  draw::Spec spec;
  spec.seed = 7;
  spec.size = 64;
  spec.crop = draw::RandomBox({0.1, 1.0}, {0.75, 4.0 / 3});
  spec.flip = 0.5;
  spec.num_ops = num_ops;
  spec.magnitudes.fill(0.25f);
  return spec;
}

inline std::vector<int32_t> Drawn(const draw::Spec& spec, const Text& key, int64_t number) {
  std::vector<int32_t> words(draw::Drawer::words(spec));
  draw::Drawer(spec, key, {375, 500}).Draw(number, words);
  return words;
}

inline MadeRecord Plain(uint32_t num_ops = 2, uint32_t topk = 10) {
  RecordShape shape;
  shape.views = 12, shape.num_ops = num_ops, shape.group_rows = 5, shape.topk = topk;
  if (num_ops == 0) shape.op_entries = 0;
  if (topk == 0) shape.class_entries = 0, shape.encoding = 0;
  return MakeRecord(shape, 1);
}

/// Views mixed with these samples; none: with the image itself.
inline MadeRecord Mixed(const std::vector<uint32_t>& partners, bool pairs = false, uint32_t seed = 2) {
  RecordShape shape;
  shape.views = 40, shape.pairs = pairs, shape.partners = static_cast<int>(partners.size());
  shape.partner_numbers = partners;
  return MakeRecord(shape, seed);
}

}  // namespace dali_dr::samples

#endif  // DALI_DR_CSRC_TESTS_MAKE_SAMPLES_H_
