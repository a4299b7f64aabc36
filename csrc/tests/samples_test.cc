// Tests of csrc/samples on shards and records made here: what is filled in, and every way in which it cannot
// be.
#include "samples/samples.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "make_label_map.h"
#include "make_samples.h"
#include "samples/patience.h"

namespace dali_dr::samples {
namespace {

void TestStoredViews() {
  const MadeRecord made = Plain();
  const Folder folder({{"a", Png('a'), made, 7}, {"b", Png('b'), {}, 8}});
  const Source source = folder.Open({});
  for (int32_t v = 0; v < 12; ++v) {
    const Filled filled = Fill(source, 0, {v});
    const auto& want = made.views[static_cast<size_t>(v)];
    Check(Words(filled, 0) == want.words && SameTargets(filled, 0, want), "a stored view");
    Check(IsUnion(filled.region, {want.words.data()}), "the region of a stored view");
    Check(String(filled.sample.image.bytes) == Png('a') && filled.sample.label == 7, "the sample itself");
    Check(filled.partner.image.bytes.empty() && filled.PartnerRegion().shape[0] == 1 &&
              filled.PartnerImage().size() < 200,
          "one pixel in place of a partner");
  }
  const Filled filled = Fill(source, 0, {11, 3, 3});
  std::vector<const int32_t*> crops;
  for (size_t i = 0; i < 3; ++i) {
    const auto& want = made.views[i == 0 ? 11 : 3];
    Check(Words(filled, i) == want.words && SameTargets(filled, i, want), "one of several views");
    crops.push_back(want.words.data());
  }
  Check(IsUnion(filled.region, crops), "the region of several views");
  Check(folder.Open({.topk = 10}).options().topk == 10 && Fill(folder.Open({.topk = 10}), 0, {0}).topk == 10,
        "the K of the record, asked for");

  Filled plain = Fill(folder.Open({.views = false}), 1, {});
  Check(String(plain.sample.image.bytes) == Png('b') && plain.sample.label == 8 && plain.params.empty(),
        "without views");
}

void TestFreshViews() {
  const MadeRecord made = Plain();
  const draw::Spec spec = DrawSpec(3);
  const Folder folder(
      {{"dir/a", Png('a'), made, 7}, {"b", Png('b'), {}, 2}, {"c", Png('c'), Plain(0, 0), 5}});
  const auto hard = [](const Filled& filled, size_t view, std::vector<int32_t> ids) {
    std::vector<float> probs(ids.size());
    if (!probs.empty()) probs[0] = 1;
    return SameTargets(filled, view, {{}, std::move(ids), probs});
  };
  Filled filled = Fill(folder.Open({.draw = spec}), 1, {-1, -100, INT32_MIN});
  const int64_t numbers[] = {0, 99, INT32_MAX};
  for (size_t i = 0; i < 3; ++i)
    Check(Words(filled, i) == Drawn(spec, "b", numbers[i]) && hard(filled, i, {2}), "a fresh view");
  Check(filled.sample.record.bytes.empty(), "no record");
  filled = Fill(folder.Open({.draw = spec, .topk = 4}), 1, {-1});
  Check(hard(filled, 0, {2, 0, 1, 3}), "the lowest other classes");
  filled = Fill(folder.Open({.draw = spec, .topk = 4}), 0, {-1});
  Check(hard(filled, 0, {7, 0, 1, 2}) && filled.sample.record.bytes.empty(),
        "K is known, so the record is not read");
  filled = Fill(folder.Open({.draw = spec}), 0, {-1});
  Check(hard(filled, 0, {7, 0, 1, 2, 3, 4, 5, 6, 8, 9}), "K of the record");
  filled = Fill(folder.Open({.draw = spec}), 2, {-1, 0});
  Check(filled.topk == 0 && filled.ids.empty() && Words(filled, 0) == Drawn(spec, "c", 0),
        "a fresh view beside a record without classes");

  filled = Fill(folder.Open({.draw = spec}), 0, {4, -3});  // 14 words and 16
  std::vector<int32_t> want = made.views[4].words;
  want.resize(16);
  Check(filled.words == 16 && Words(filled, 0) == want && Words(filled, 1) == Drawn(spec, "dir/a", 2),
        "a stored and a fresh view");
  Check(IsUnion(filled.region, {want.data(), Drawn(spec, "dir/a", 2).data()}), "their region");
  draw::Spec whole;
  whole.whole = true;
  filled = Fill(folder.Open({.draw = whole}), 1, {-1});
  Check(Words(filled, 0) == std::vector<int32_t>{0, 0, 375, 500, 0, 0, 0, 0, 0, 0}, "the whole image");
}

/// Fresh views whose targets come from label maps, which lie where records do.
void TestLabelMaps() {
  constexpr uint32_t kClasses = 65536;  // of the index
  const MadeMap made = RandomMap(5, {.num_classes = kClasses}, 20);
  const MadeMap other = RandomMap(6, {.num_classes = kClasses - 1}, 20);
  const Folder folder({{"a", Png('a'), {}, 7, false, 375, 500, CompressMap(made.bytes)},
                       {"b", Png('b'), {}, 2},
                       {"c", Png('c'), {}, 2, false, 375, 500, CompressMap(other.bytes)},
                       {"d", Png('d'), Plain(), 2}});
  const draw::Spec spec = DrawSpec(3);
  const Options options{.draw = spec, .topk = 25, .label_maps = labels::Order::kTransposed};
  const Filled filled = Fill(folder.Open(options), 0, {-1, -8});
  labels::Reader reader;
  labels::Pooler pooler;
  const auto member = CompressMap(made.bytes);
  for (size_t i = 0; i < 2; ++i) {
    const auto words = Drawn(spec, "a", i == 0 ? 0 : 7);
    ExpectedView want{{}, std::vector<int32_t>(25), std::vector<float>(25)};
    pooler.Target(reader.Open(member, kClasses), {words[0], words[1], words[2], words[3], 375, 500},
                  labels::Order::kTransposed, want.ids, want.probs);
    Check(Words(filled, i) == words && SameTargets(filled, i, want), "a view with its part of the map");
  }
  Check(filled.topk == 25, "K as it was asked for");
  const Filled plain =
      Fill(folder.Open({.views = false, .topk = 25, .label_maps = labels::Order::kCode}), 1, {});
  Check(plain.sample.label == 2, "without views no map is needed");
  CheckRefused(folder, options, 2, {-1}, Fault::Kind::kRecord, "65535 classes");
  CheckRefused(folder, options, 3, {-1}, Fault::Kind::kRecord, "one zstd frame");
  Options few = options;
  few.topk = 19;
  CheckRefused(folder, few, 0, {-1}, Fault::Kind::kRecord, "`topk` is 19");
  const Fault stored = Refusal([&] { Fill(folder.Open(options), 0, {-1, 3}); }, "stored view");
  Check(stored.kind == Fault::Kind::kArgument && stored.sample == 0, "a stored view of a label map");
  Refusal([&] { Fill(folder.Open(options), 1, {-1}); }, "record");
  few.topk = 0;
  Refusal([&] { folder.Open(few); }, "`label_maps` needs `topk`");
  Options mixing = options;
  mixing.mixing = true;
  Refusal([&] { folder.Open(mixing); }, "without `mixing`");
}

void TestFaults() {
  using enum Fault::Kind;
  const MadeRecord mixed = Mixed({1, 900}), plain = Plain(0);
  MadeRecord damaged = Plain();
  damaged.bytes[4] = 9;  // its version
  const Folder folder({{"a", Png('a'), mixed},
                       {"b", Png('b'), {}, 1, true},
                       {"c", Png('c'), plain},
                       {"d", "no image", plain},
                       {"e", Png('e'), damaged},
                       {"f", Png('f'), {}}});
  const Options drawing{.draw = DrawSpec(4)};
  CheckRefused(folder, {}, 5, {0}, kRecord, "has no reinforcement record");
  CheckRefused(folder, {.topk = 3}, 2, {0}, kRecord, "have 10 classes, but `topk` is 3");
  CheckRefused(folder, {}, 2, {0, 12}, kRecord, "view 12 does not exist, the record holds views 0 to 11");
  CheckRefused(folder, {}, 2, {-1}, kArgument, "none of the arguments `draw_...` is given");
  CheckRefused(folder, {}, 4, {0}, kRecord, "version");
  CheckRefused(folder, drawing, 3, {-1}, kImage, "the image");
  CheckRefused(folder, {}, 0, {0}, kRecord, "read them with mixing=True");
  CheckRefused(folder, {.mixing = true, .draw = DrawSpec(4)}, 0, {0, -1}, kRecord, "have more operations");
  Check(Refusal([&] { Fill(folder.Open({}), 6, {0}); }, "sample 6 does not exist").kind == kArgument,
        "the kind of a number that does not exist");
  Check(Refusal([&] { folder.Open({.topk = 65537}); }, "`topk` is 65537: pass 1 to 65536").kind == kArgument,
        "the kind of a K that does not fit");
  Refusal([&] { folder.Open({.views = false, .mixing = true}); }, "`mixing` needs `views`");

  int32_t with[2] = {}, without = 0;  // a view with partner 1, one with 900, one without
  for (int32_t v = 0; v < 40; ++v) {
    const int32_t partner = mixed.views[static_cast<size_t>(v)].words[14];
    (partner < 0 ? without : with[partner == 900]) = v;
  }
  const Options mixing{.mixing = true};
  CheckRefused(folder, mixing, 0, {with[1]}, kRecord,
               "the partner of one of its views cannot be had: sample 900 does not exist");
  CheckRefused(folder, mixing, 0, {without, with[0]}, kRecord, "have different partners; ask for one view");
  {
    const Source source = folder.Open(mixing);
    Text tar(fs::file_size(folder.path / "y.tar"), '\0');
    Write(folder.path / "y.tar", tar);
    const Fault fault = Refusal([&] { Fill(source, 0, {with[0]}); }, "no tar member of that key");
    Check(fault.kind == kShard && fault.sample == 1 && fault.key == "b" &&
              fault.shard == (folder.path / "y.tar").string() && fault.offset == 512,
          "the fault of a partner whose bytes are not its own");
    Check(fault.message.starts_with("sample 0 (key a) in") &&
              fault.message.find("sample 1 (key b) in " + fault.shard) != std::string::npos,
          "a partner's fault names both: " + fault.message);
  }
  fs::remove(folder.path / "y.tar");
  const Fault fault = Refusal([&] { Fill(folder.Open(mixing), 0, {with[0]}); },
                              "the partner of one of its views cannot be had: shard");
  Check(fault.kind == kShard && fault.sample == 1 && fault.key == "b" && fault.whole_file && fault.passing &&
            fault.shard == (folder.path / "y.tar").string(),
        "the fault of a partner whose shard is missing");
  Fill(folder.Open(mixing), 0, {without});
}

void TestImageChecks() {
  using enum Fault::Kind;
  const MadeRecord plain = Plain();
  const std::vector<Content> contents = {{"a", Png('a'), plain},
                                         {"b", Png('b'), plain, 0, false, 375, 501},
                                         {"c", Png('c'), plain, 0, false, 374, 500},
                                         {"d", "no image", plain},
                                         {"e", Png('e'), plain},
                                         {"f", Png('f'), {}}};
  const Folder folder(contents, {.image_crcs = true});
  Check(Fill(folder.Open({.max_pixels = 375 * 500, .check_images = true}), 0, {0}).sample.label == 0,
        "a sample that is as its index says");
  for (const bool views : {true, false}) {
    const Options options{.views = views};
    const std::vector<int32_t> first(views, 0);
    CheckRefused(folder, options, 1, first, kImage,
                 "is 500 pixels wide and 375 high, its index says 501 pixels wide and 375 high");
    CheckRefused(folder, options, 2, first, kImage, "375 high, its index says 500 pixels wide and 374 high");
    CheckRefused(folder, options, 3, first, kImage, "is neither JPEG nor PNG nor WebP");
    CheckRefused(folder, {.views = views, .max_pixels = 375 * 500 - 1}, 0, first, kImage,
                 "187500 pixels, but `max_pixels` is 187499: raise max_pixels");
  }
  {  // other pixels in the same place
    Text tar = Contents(folder.path / "x.tar");
    tar[tar.find(Text(600, 'e')) + 300] ^= 1;
    Write(folder.path / "x.tar", tar);
  }
  Fill(folder.Open({}), 4, {0});
  CheckRefused(folder, {.check_images = true}, 4, {0}, kImage, "does not have the checksum");
  Fill(folder.Open({.check_images = true}), 5, {});

  const Folder without(contents);
  Check(Refusal([&] { without.Open({.check_images = true}); }, "made without image checksums").kind ==
            kArgument,
        "checksums that there are not");
  const Folder old(contents, {.version = 1});  // which does not say how large images are
  for (const int64_t number : {0, 1, 2, 3}) Fill(old.Open({}), number, {0});
  CheckRefused(old, {.max_pixels = 1000}, 0, {0}, kImage, "`max_pixels` is 1000");
  CheckRefused(old, {.max_pixels = 1000}, 3, {0}, kImage, "is neither JPEG nor PNG nor WebP");
}

void TestOtherImages() {
  RecordShape shape;
  shape.views = 12, shape.image_height = 500, shape.image_width = 375;
  const MadeRecord turned = MakeRecord(shape, 1);
  for (const uint32_t version : {1u, 2u}) {
    const Folder folder({{"a", Png('a'), turned}}, {.version = version});
    CheckRefused(
        folder, {}, 0, {0}, Fault::Kind::kRecord,
        "made for an image 375 pixels wide and 500 high, but its image is 500 pixels wide and 375 high");
  }
}

void TestIds() {
  const MadeRecord plain = Plain();
  int32_t highest = 0;
  for (const auto& view : plain.views)
    for (const int32_t id : view.ids) highest = std::max(highest, id);
  const auto outputs = static_cast<uint32_t>(highest);
  for (const uint32_t more : {1u, 0u}) {
    const Folder folder({{"a", Png('a'), plain}}, {.num_outputs = outputs + more});
    const Source source = folder.Open({});
    for (int32_t v = 0; v < 12; ++v) {
      const auto& ids = plain.views[static_cast<size_t>(v)].ids;
      if (more || std::find(ids.begin(), ids.end(), highest) == ids.end())
        Fill(source, 0, {v});
      else
        CheckRefused(folder, {}, 0, {v}, Fault::Kind::kRecord,
                     "has the class id " + std::to_string(highest) + ", but ids are below");
    }
  }
}

void TestPatience() {
  const Fault passing{.shard = "x", .passing = true}, other{.shard = "y", .passing = true},
      lasting{.shard = "x"};
  Patience none(0);
  Check(!none.Has(passing) && !Patience::Series(none).Wait(), "no patience");
  Patience patience(0.1);
  Check(patience.Has(passing) && !patience.Has(lasting), "what may pass is waited for");
  const auto begin = Patience::Clock::now();
  Patience::Series series(patience);
  int tries = 0;
  while (series.Wait()) ++tries;
  const std::chrono::duration<double> seconds = Patience::Clock::now() - begin;
  Check(tries >= 1 && tries <= 4 && seconds.count() >= 0.1 && seconds.count() < 2, "a series");
  patience.Lose(passing);
  Check(!patience.Has(passing) && patience.Has(other), "a file is waited for once");
  Patience short_one(0.001);
  short_one.Lose(passing);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  Check(short_one.Has(passing), "and again when that is forgotten");
}

}  // namespace
}  // namespace dali_dr::samples

int main() {
  using namespace dali_dr::samples;
  TestStoredViews();
  TestFreshViews();
  TestLabelMaps();
  TestFaults();
  TestImageChecks();
  TestOtherImages();
  TestIds();
  TestPatience();
  return dali_dr::testing::Verdict("samples");
}
