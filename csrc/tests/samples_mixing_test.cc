// Tests of csrc/samples on mixed views: partners, the labels of both and their weights, and partners that are
// kept decoded.
#include <bit>
#include <fstream>
#include <thread>

#include "image/raw.h"
#include "make_jpeg.h"
#include "make_samples.h"

namespace dali_dr::samples {
namespace {

void TestMixing() {
  const MadeRecord mixed = Mixed({1, 2, 3}), self = Mixed({}), plain = Plain();
  const Folder folder({{"a", Png('a'), mixed, 0},
                       {"b", Png('b'), self, 1},
                       {"c", Png('c'), plain, 2},
                       {"d", Png('d'), {}, 3, true}});
  const Source source = folder.Open({.mixing = true, .draw = DrawSpec(2)});
  int seen[5] = {};
  for (int32_t v = 0; v < 40; ++v) {
    const auto& want = mixed.views[static_cast<size_t>(v)];
    Filled filled = Fill(source, 0, {v});
    const int32_t partner = want.words[14];
    ++seen[partner + 1];
    Check(Words(filled, 0) == want.words && SameTargets(filled, 0, want), "a mixed view");
    Check(IsUnion(filled.region, {want.words.data()}), "its region");
    if (partner < 0) {
      Check(filled.partner.image.bytes.empty() && filled.PartnerImage()[0] == 0xff, "no partner");
      continue;
    }
    Check(filled.partner.number == partner && String(filled.PartnerImage()) == Png("abcd"[partner]),
          "the partner's image");
    Check(IsUnion(filled.PartnerRegion(), {want.words.data() + 21}), "the partner's region");
  }
  Check(seen[0] && seen[2] && seen[3] && seen[4], "every partner was seen, and none");
  for (int32_t v = 0; v < 40; ++v) {
    const auto& want = self.views[static_cast<size_t>(v)];
    Filled filled = Fill(source, 1, {v});
    Check(Words(filled, 0) == want.words && filled.partner.image.bytes.empty(), "a view mixed with itself");
    std::vector<const int32_t*> crops{want.words.data()};
    if (want.words[14] == -2) crops.push_back(want.words.data() + 21);
    Check(IsUnion(filled.region, crops), "the region of both crops");
  }
  const std::vector<int32_t> nobody{
      -1, 0, std::bit_cast<int32_t>(1.0f), 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0};
  const Filled filled = Fill(source, 2, {3, -1});
  for (size_t i : {0, 1}) {
    std::vector<int32_t> want = i == 0 ? plain.views[3].words : Drawn(DrawSpec(2), "c", 0);
    want.insert(want.end(), nobody.begin(), nobody.end());
    Check(Words(filled, i) == want, "a view that is not mixed among mixed ones");
  }
}

void TestPairs() {
  const MadeRecord made = Mixed({1, 2}, true);
  const Folder folder({{"a", Png('a'), made}, {"b", Png('b'), {}}, {"c", Png('c'), {}}});
  const Source source = folder.Open({.mixing = true});
  std::optional<int32_t> other[3];  // a pair with that partner
  for (int32_t v = 0; v < 40; v += 2) {
    const auto& want = made.views[static_cast<size_t>(v)];
    const Filled filled = Fill(source, 0, {v, v + 1});
    Check(filled.partner.number == want.words[14] && IsUnion(filled.region, {want.words.data()}) &&
              IsUnion(filled.partner_region, {want.words.data() + 21}),
          "a double-mix pair has one partner");
    Check(Words(filled, 0)[15] == 0 && Words(filled, 1)[15] == 1, "in either role");
    other[want.words[14]] = v;
  }
  CheckRefused(folder, {.mixing = true}, 0, {*other[1], *other[2]}, Fault::Kind::kRecord,
               "different partners (2, 1)");
}

/// The weight of the image itself, counted: pixel by pixel, of a view of this size.
double CountedWeight(const int32_t* mix, int32_t height, int32_t width) {
  const double lam = std::bit_cast<float>(mix[2]);
  double sum = 0;
  for (int32_t y = 0; y < height; ++y) {
    for (int32_t x = 0; x < width; ++x) {
      const bool cut = y >= mix[3] && y < mix[3] + mix[5] && x >= mix[4] && x < mix[4] + mix[6];
      const double first = cut ? 0 : lam;  // of the one that is not exchanged
      sum += mix[1] ? 1 - first : first;
    }
  }
  return sum / (double{1} * height * width);
}

void CheckLabels(const Filled& filled, size_t view, const int32_t* mix, int64_t own, int64_t other) {
  const double weight = CountedWeight(mix, 224, 224);
  Check(std::abs(filled.mix_weights[view] - weight) < 1e-6, "the weight of a label");
  const bool nothing = mix[0] == -1 || weight == 1;
  Check(filled.mix_labels[view] == (nothing ? own : other), "the label that is mixed in");
  if (nothing) Check(filled.mix_weights[view] == 1, "the weight where nothing is mixed in");
}

void TestLabels() {
  for (const bool pairs : {false, true}) {
    for (const bool own_mixes : {false, true}) {
      if (own_mixes && !pairs) continue;
      RecordShape shape;
      shape.views = 40, shape.pairs = pairs, shape.own_mixes = own_mixes, shape.partners = 2;
      shape.partner_numbers = {1, 2};
      const MadeRecord made = MakeRecord(shape, 5);
      const Folder folder(
          {{"a", Png('a'), made, 700}, {"b", Png('b'), Mixed({}), 701}, {"c", Png('c'), Plain(), 702}});
      const Source source = folder.Open({.mixing = true, .draw = DrawSpec(2)});
      for (int32_t v = 0; v < 40; v += 1 + pairs) {
        std::vector<int32_t> rows{v};
        if (pairs) rows.push_back(v + 1);
        const Filled filled = Fill(source, 0, rows);
        Check(filled.mix_labels.size() == rows.size() && filled.mix_weights.size() == rows.size(),
              "one per view");
        for (size_t i = 0; i < rows.size(); ++i) {
          const auto& words = made.views[static_cast<size_t>(rows[i])].words;
          Check(Words(filled, i) == words, "the words of a view");
          CheckLabels(filled, i, words.data() + 14, 700, 700 + words[14]);
        }
      }
      const MadeRecord self = Mixed({});
      for (int32_t v = 0; v < 40; ++v)
        CheckLabels(Fill(source, 1, {v}), 0, self.views[static_cast<size_t>(v)].words.data() + 14, 701, 701);
      const Filled fresh = Fill(source, 2, {3, -1});
      for (const size_t i : {0, 1})
        Check(fresh.mix_labels[i] == 702 && fresh.mix_weights[i] == 1,
              "views that are not mixed beside mixed ones");
      Check(Fill(folder.Open({}), 2, {0}).mix_labels.empty(), "without mixing there is nothing of it");
    }
  }
}

Text Jpeg(uint32_t seed, bool progressive = false) {
  JpegShape shape;
  shape.height = 375, shape.width = 500, shape.seed = seed, shape.progressive = progressive;
  const Bytes bytes = MakeJpeg(shape);
  return {bytes.begin(), bytes.end()};
}

constexpr size_t kKept = 16 + 3 * 375 * 500;  // bytes of one image of these

/// Whether these bytes are all pixels of the file, as libjpeg shows them.
bool ArePixelsOf(std::span<const uint8_t> bytes, const Text& file) {
  const auto raw = image::RawPixels(bytes);
  const Shown shown = ShowWhole(Bytewise(file));
  return raw && raw->size.height == shown.height && raw->size.width == shown.width &&
         std::equal(shown.pixels.begin(), shown.pixels.end(), raw->data);
}

void TestKeptPartners() {
  const MadeRecord mixed = Mixed({1, 2, 3, 4});
  Text damaged = Jpeg(4);
  damaged.resize(40);  // no header is left
  const Text files[] = {Jpeg(0), Jpeg(1), Jpeg(2, true), Png('d'), damaged};
  const Folder folder({{"a", files[0], mixed},
                       {"b", files[1], {}, 0, true},
                       {"c", files[2], {}},
                       {"d", files[3], {}},
                       {"e", files[4], {}}});
  const auto cache = std::make_shared<PartnerCache>(2 * kKept);
  const Source source = folder.Open({.mixing = true, .partners = cache});
  const Source without = folder.Open({.mixing = true});
  std::optional<KeptImage> held;
  for (int round = 0; round < 2; ++round) {
    for (int32_t v = 0; v < 40; ++v) {
      const int32_t partner = mixed.views[static_cast<size_t>(v)].words[14];
      if (partner == 4) {
        for (const Source* one : {&source, &without})
          Refusal([&] { Fill(*one, 0, {v}); }, "cut off before its size");
        continue;
      }
      if (partner == 1 && round == 1) {
        Refusal([&] { Fill(without, 0, {v}); }, "no tar member of that key");
        Check(ArePixelsOf(Fill(source, 0, {v}).PartnerImage(), files[1]),
              "a partner whose shard is not read again");
        continue;
      }
      const Filled filled = Fill(source, 0, {v}), plain = Fill(without, 0, {v});
      Check(filled.params == plain.params &&
                filled.PartnerRegion().start[0] == plain.PartnerRegion().start[0] &&
                filled.PartnerRegion().shape[1] == plain.PartnerRegion().shape[1],
            "views are the same with a cache");
      if (partner == 1 || partner == 2) {
        Check(ArePixelsOf(filled.PartnerImage(), files[partner]), "all pixels of a partner that is kept");
        held = filled.kept_partner;
      } else {
        Check(String(filled.PartnerImage()) == String(plain.PartnerImage()), "the file of another, or none");
      }
    }
    // What is kept is not read again: other bytes in the place of one's shard are seen by whoever reads it.
    if (round == 0)
      std::ofstream(folder.path / "y.tar", std::ios::binary | std::ios::in)
          << Text(fs::file_size(folder.path / "y.tar"), '\0');
  }
  const auto counts = cache->counts();
  Check(counts.images == 2 && counts.bytes == static_cast<int64_t>(2 * kKept), "what is kept");
  Check(counts.hits > 10 && counts.misses > 2, "hits and misses");
  Check(held && held->buffer.use_count() == 2, "whoever shows an image holds it");
}

void TestRoom() {
  const Text first = Jpeg(1), second = Jpeg(2);
  jpeg::Decoder decoder;
  for (const size_t most : {size_t{0}, kKept - 1, kKept, 2 * kKept - 1}) {
    PartnerCache cache(most);
    const bool fits = most >= kKept;
    Check(cache.Keep(7, Bytewise(first), &decoder).has_value() == fits, "an image for which there is room");
    Check(!cache.Keep(8, Bytewise(second), &decoder), "one for which there is none");
    Check(cache.Find(7).has_value() == fits && !cache.Find(8), "what came first stays");
    Check(cache.counts().bytes == static_cast<int64_t>(fits ? kKept : 0), "the bytes of what is kept");
  }
  PartnerCache cache(kKept);
  Text cut_off = first;
  cut_off.resize(first.size() / 2);
  for (const Text& bad : {Png('x'), Text("no image"), Text()})
    Check(!cache.Keep(1, Bytewise(bad), &decoder) && cache.counts().bytes == 0,
          "what is no JPEG takes no room");
  cache.Keep(1, Bytewise(cut_off), &decoder);
  const auto after = cache.counts();
  Check(after.bytes == static_cast<int64_t>(after.images * kKept),
        "no room is lost to a file that is cut off");

  // Many threads at once: one image each, and all of the same.
  PartnerCache shared(3 * kKept);
  std::vector<std::thread> threads;
  std::vector<int> good(4);
  for (size_t t = 0; t < good.size(); ++t)
    threads.emplace_back([&, t] {
      jpeg::Decoder own;
      for (const int64_t number : {0, 1, 0}) {
        const auto kept = shared.Keep(number, Bytewise(number ? second : first), &own);
        good[t] += !kept || ArePixelsOf(kept->bytes, number ? second : first);
      }
    });
  for (std::thread& thread : threads) thread.join();
  Check(good == std::vector<int>(4, 3), "images that several threads keep");
  const auto counts = shared.counts();
  Check(
      counts.bytes == static_cast<int64_t>(counts.images * kKept) && counts.images <= 2 && counts.images >= 1,
      "each is kept once, and counted once");
}

void TestNumbers() {
  Check(!PartnerCache::Open(-1, 100, "x") && !PartnerCache::Get(3), "no cache");
  const auto cache = PartnerCache::Open(3, 100, "x");
  Check(cache && PartnerCache::Open(3, 7, "x") == cache && PartnerCache::Get(3) == cache, "one of a number");
  Check(!PartnerCache::Open(3, 100, "y"), "which serves one data set");
  PartnerCache::Drop(3);
  Check(!PartnerCache::Get(3) && PartnerCache::Open(3, 100, "y") != cache, "until it is let go");
  PartnerCache::Drop(3);
  PartnerCache::Drop(4);
}

void TestRaw() {
  Bytes bytes(16 + 3 * 2 * 5, 9);
  image::PutRawHeader({2, 5}, bytes.data());
  const auto raw = image::RawPixels(bytes);
  Check(raw && raw->size.height == 2 && raw->size.width == 5 && raw->data == bytes.data() + 16, "raw pixels");
  for (const size_t length : {size_t{0}, size_t{7}, size_t{16}, bytes.size() - 1})
    Check(!image::RawPixels(std::span(bytes).first(length)), "raw pixels of another length");
  for (size_t at = 0; at < 16; ++at) {
    Bytes other = bytes;
    other[at] ^= 0x80;
    Check(!image::RawPixels(other), "a header that is none");
  }
}

}  // namespace
}  // namespace dali_dr::samples

int main() {
  using namespace dali_dr::samples;
  TestMixing();
  TestPairs();
  TestLabels();
  TestKeptPartners();
  TestRoom();
  TestNumbers();
  TestRaw();
  return dali_dr::testing::Verdict("samples_mixing");
}
