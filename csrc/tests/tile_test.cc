// Tiles against libjpeg's own decoding of both files, against the definition of what a tile is, and against
// another way to the shortest codes; and all that is left as it is.
#include "jpeg/tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <queue>
#include <thread>

#include "jpeg/fit.h"
#include "jpeg/outline.h"
#include "jpeg/slice.h"
#include "tests/check.h"
#include "tests/make_jpeg.h"

using namespace dali_dr;
using testing::Bytes;
using testing::Check;
using testing::JpegShape;

namespace {

// By the definition, in another way than tile.cc's.
int BestInterval(int mcus, int width) {
  int best = mcus;
  double least = 1e9;
  for (int n = 1; n <= mcus; ++n) {
    if (mcus % n != 0 || (n * width < 32 && n < mcus)) continue;
    const double far = std::abs(std::log(n * width / 64.0));
    if (far < least - 1e-9 || (far < least + 1e-9 && n > best)) best = n, least = std::min(least, far);
  }
  return best;
}

void TestIntervals() {
  for (const int width : {8, 16, 24, 32})
    for (int mcus = 1; mcus <= 1100; ++mcus)
      Check(jpeg::RestartInterval(mcus, width) == BestInterval(mcus, width),
            "interval of " + std::to_string(mcus) + " MCUs of " + std::to_string(width));
  Check(jpeg::RestartInterval(32, 16) == 4, "500 pixels by 4:2:0");
  Check(jpeg::RestartInterval(31, 16) == 31, "a prime number");
  Check(jpeg::RestartInterval(8191, 8) == 8191, "the widest prime number");
}

// The tiled file is the same image, in tiles; or the reason is one that is expected of it.
void CheckTile(const JpegShape& shape) {
  const Bytes original = testing::MakeJpeg(shape);
  Bytes tiled{1, 2, 3};
  const std::string reason = jpeg::Tile(original, &tiled), name = shape.Name();
  const int interval = BestInterval(shape.mcus_per_row(), shape.mcu_width());
  const int tiles = shape.mcus_per_row() / interval * shape.mcu_rows();
  if (tiles < 2) {
    // An interval that is the whole image is the one that it would get.
    const bool already = !shape.progressive && shape.restart == interval;
    Check(reason == (already ? "it is tiled already" : "it is no larger than a tile"), name + ": " + reason);
  } else if (!shape.progressive && shape.restart == interval) {
    Check(reason == "it is tiled already", name + ": " + reason);
  } else {
    Check(reason.empty() || reason == "it would grow by more than 8 %", name + ": " + reason);
  }
  Check(reason.empty() != tiled.empty(), name + ": a file or a reason");
  if (!reason.empty()) return;
  const auto before = testing::ShowWhole(original), after = testing::ShowWhole(tiled);
  Check(!before.empty() && before.pixels == after.pixels && after.warnings == 0, name + ": other pixels");
  Check(testing::RestartsOf(tiled).size() + 1 == static_cast<size_t>(tiles), name + ": other tiles");
  jpeg::Frame frame;
  Check(jpeg::ReadFrame(tiled, &frame) && jpeg::IsTiled(frame), name + ": not taken for tiled");
  Bytes again;
  Check(jpeg::Tile(tiled, &again) == "it is tiled already" && again.empty(), name + ": tiled twice");
}

void TestShapes() {
  const std::pair<int, int> sizes[] = {{1, 1},   {1, 64},  {64, 1},   {8, 130},  {33, 65},
                                       {65, 33}, {70, 97}, {128, 64}, {17, 300}, {300, 17}};
  for (const auto& [h, v, grey] : testing::kSamplings) {
    for (const auto& [height, width] : sizes) {
      for (const bool progressive : {false, true}) {
        CheckTile(
            {.height = height, .width = width, .h = h, .v = v, .grey = grey, .progressive = progressive});
        CheckTile({.height = height,
                   .width = width,
                   .h = h,
                   .v = v,
                   .grey = grey,
                   .restart = 2,
                   .progressive = progressive,
                   .optimised = progressive,
                   .quality = 99,
                   .seed = 7});
      }
    }
  }
}

Bytes Sample(bool progressive = false) {
  return testing::MakeJpeg(
      {.height = 50, .width = 130, .progressive = progressive, .optimised = progressive});
}

// At every length, and with one bit of every byte turned: a reason, or the image that libjpeg sees in it.
void TestDamage() {
  for (const bool progressive : {false, true}) {
    const Bytes file = Sample(progressive);
    Bytes tiled;
    for (size_t length = 0; length < file.size(); ++length)
      Check(!jpeg::Tile({file.data(), length}, &tiled).empty() && tiled.empty(),
            "cut at " + std::to_string(length));
    for (size_t at = 0; at < file.size(); ++at) {
      Bytes other = file;
      other[at] ^= static_cast<uint8_t>(1 << at % 8);
      jpeg::Outline outline;
      if (jpeg::ReadOutline(other, &outline) == nullptr && outline.blocks() > 100'000) continue;
      if (!jpeg::Tile(other, &tiled).empty()) continue;
      const auto before = testing::ShowWhole(other), after = testing::ShowWhole(tiled);
      Check(before.pixels == after.pixels && before.warnings == 0, "a bit at " + std::to_string(at));
    }
  }
}

Bytes Segment(int marker, const Bytes& content) {
  const size_t length = content.size() + 2;
  Bytes bytes{0xff, static_cast<uint8_t>(marker), static_cast<uint8_t>(length >> 8),
              static_cast<uint8_t>(length)};
  bytes.insert(bytes.end(), content.begin(), content.end());
  return bytes;
}

Bytes With(Bytes file, size_t at, const Bytes& more) {
  file.insert(file.begin() + static_cast<std::ptrdiff_t>(at), more.begin(), more.end());
  return file;
}

// Where the frame header begins.
size_t FrameOf(const Bytes& file) {
  const uint8_t start[] = {0xff, 0xc0, 0, 17};
  return static_cast<size_t>(std::search(file.begin(), file.end(), start, start + 4) - file.begin());
}

void Left(const char* what, const Bytes& file, const char* reason) {
  Bytes tiled;
  const std::string found = jpeg::Tile(file, &tiled);
  Check(found == reason && tiled.empty(), std::string(what) + ": " + found);
}

void TestLeft() {
  const Bytes file = Sample();
  const size_t frame = FrameOf(file);
  const auto changed = [&](size_t at, int value) {
    Bytes other = file;
    other[frame + at] = static_cast<uint8_t>(value);
    return other;
  };
  const char *damaged = "its markers are damaged",
             *junk = "it has bytes between its segments that belong to none";
  const char* kind = "it is neither sequential nor progressive";
  Left("empty", {}, "it is no JPEG");
  Left("PNG", {0x89, 'P', 'N', 'G', '\r', '\n'}, "it is no JPEG");
  Left("12 bits", changed(4, 12), "it is not of 8 bits");
  Left("four colours", changed(9, 4), "it is neither grey nor of three colours");
  Left("two colours", changed(9, 2), "it is neither grey nor of three colours");
  Left("one colour of three", changed(9, 1), damaged);
  Left("factor 0", changed(11, 0x02), damaged);
  Left("factor 5", changed(11, 0x52), damaged);
  Left("lossless", changed(1, 0xc3), kind);
  Left("hierarchical", changed(1, 0xc5), kind);
  Left("lossless by arithmetic", changed(1, 0xcb), kind);
  Bytes flat = changed(5, 0);
  flat[frame + 6] = 0;
  Left("height 0", flat, "its header does not say its size");
  Left("DNL", With(file, 2, Segment(0xdc, {0, 50})), "its header does not say its size");
  Left("two frames",
       With(file, frame,
            Bytes(file.begin() + static_cast<std::ptrdiff_t>(frame),
                  file.begin() + static_cast<std::ptrdiff_t>(frame) + 19)),
       "it has more than one frame");
  Left("scan before the frame", With(file, 2, Segment(0xda, {1, 1, 0, 0, 63, 0})), damaged);
  Left("short DRI", With(file, 2, Segment(0xdd, {1})), damaged);
  Left("short frame", With(file, 2, Segment(0xc0, {8, 0, 1, 0})), damaged);
  Left("length 1", With(file, 2, {0xff, 0xe0, 0, 1}), damaged);
  Left("a restart marker", With(file, 2, {0xff, 0xd0}), junk);
  Left("a second SOI", With(file, 2, {0xff, 0xd8}), junk);
  Left("stuffing", With(file, 2, {0xff, 0}), junk);
  Left("letters", With(file, frame, {'a', 'b'}), junk);
  Left("a reserved marker", With(file, 2, Segment(0xf0, {})),
       "it has markers that are not of a JPEG's image");
  Left("hierarchy", With(file, 2, Segment(0xdf, {0x11})), "it has markers that are not of a JPEG's image");
  Left("behind the end", With(file, file.size(), {0}), "it has bytes behind its end");
  Left("no scan", {0xff, 0xd8, 0xff, 0xd9}, "it has no pixels");
  const Bytes adobe = Segment(0xee, {'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, 0});
  Bytes bare = With(file, 20, adobe);  // behind JFIF's marker, which is 18 bytes and has the say
  Bytes tiled;
  Check(jpeg::Tile(bare, &tiled).empty(), "YCbCr by JFIF's marker");
  bare.erase(bare.begin() + 2, bare.begin() + 20);
  Left("RGB by Adobe's marker", bare, "its colours are not YCbCr");
}

// 65,500 × 65,500 pixels in a few bytes: refused before memory is asked for.
void TestHuge() {
  Bytes file = Sample();
  const size_t frame = FrameOf(file);
  for (const size_t at : {5, 7}) file[frame + at] = 0xff, file[frame + at + 1] = 0xdc;
  Left("huge", file, "its coefficients need more than 1 GiB of memory");
  Bytes scans = Sample(true);
  const uint8_t sos[] = {0xff, 0xda};
  const auto at = std::search(scans.begin(), scans.end(), sos, sos + 2);
  const size_t length = 2 + static_cast<size_t>(at[2] << 8 | at[3]);
  const Bytes scan(at, at + static_cast<std::ptrdiff_t>(length));
  const auto place = static_cast<size_t>(at - scans.begin());
  for (int i = 0; i < 100; ++i) scans = With(scans, place, scan);
  Left("many scans", scans, "it has more than 100 scans");
}

// Segments of metadata, byte for byte and in order, fill bytes before them left out.
void TestMetadata() {
  Bytes file = Sample();
  const Bytes comment = Segment(0xfe, {'a', 0xff, 0xd8, 0, 'b'}), empty = Segment(0xe1, {}),
              long_one = Segment(0xe2, Bytes(65'533, 0xff));
  file = With(file, FrameOf(file), comment);
  file = With(file, 2, long_one);
  file = With(file, 2, empty);
  file = With(file, 2, {0xff, 0xff, 0xff});
  Bytes tiled;
  Check(jpeg::Tile(file, &tiled).empty(), "metadata");
  Bytes start{0xff, 0xd8};
  for (const Bytes& part : {empty, long_one}) start.insert(start.end(), part.begin(), part.end());
  Check(tiled.size() > start.size() && std::equal(start.begin(), start.end(), tiled.begin()), "order");
  Check(std::search(tiled.begin(), tiled.end(), comment.begin(), comment.end()) != tiled.end(), "comment");
  jpeg::Outline before, after;
  Check(!jpeg::ReadOutline(file, &before) && !jpeg::ReadOutline(tiled, &after), "outlines");
  Check(before.metadata.size() == 4 &&
            std::ranges::equal(before.metadata, after.metadata,
                               [](auto a, auto b) { return std::ranges::equal(a, b); }),
        "segments");
}

// The bits that all symbols take with codes of the least lengths, by Huffman's own algorithm.
uint64_t LeastBits(const std::vector<uint32_t>& counts) {
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> trees;
  trees.push(0);  // the code that is kept free
  for (const uint32_t count : counts)
    if (count > 0) trees.push(count);
  uint64_t bits = 0;
  while (trees.size() > 1) {
    uint64_t joined = trees.top();
    trees.pop();
    joined += trees.top();
    trees.pop();
    bits += joined;
    trees.push(joined);
  }
  return bits;
}

void CheckCodes(const std::vector<uint32_t>& counts, bool least, const std::string& what) {
  jpeg::SymbolCounts symbols;
  size_t used = 0;
  for (size_t s = 0; s < counts.size(); ++s) {
    symbols.Add(static_cast<int>(s), counts[s]);
    used += counts[s] > 0;
  }
  const jpeg::Codes codes = symbols.Optimal();
  std::vector<bool> seen(256);
  size_t at = 0;
  uint64_t room = 0, bits = 0;
  for (size_t length = 1; length <= 16; ++length) {
    for (int i = 0; i < codes.counts[length]; ++i, ++at) {
      const uint8_t symbol = codes.symbols[at];
      Check(!seen[symbol] && counts[symbol] > 0, what + ": a symbol twice or of none");
      seen[symbol] = true;
      bits += length * counts[symbol];
      room += uint64_t{1} << (16 - length);
    }
  }
  Check(at == used, what + ": all symbols");
  Check(room < uint64_t{1} << 16, what + ": a code that is all ones");
  if (least) Check(bits <= LeastBits(counts) + used, what + ": longer than need be");
}

void TestCodes() {
  uint32_t state = 1;
  const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 8; };
  for (int round = 0; round < 300; ++round) {
    std::vector<uint32_t> counts(256);
    const uint32_t used = 1 + next() % 256;
    for (uint32_t i = 0; i < used; ++i) counts[next() % 256] = 100 + next() % (1 + (next() % 3000));
    CheckCodes(counts, true, "codes " + std::to_string(round));
  }
  // Counts like Fibonacci's numbers make codes as long as there are symbols.
  for (size_t used = 1; used <= 40; ++used) {
    std::vector<uint32_t> counts(256);
    uint32_t a = 1, b = 1;
    for (size_t i = 0; i < used; ++i) counts[i * 6] = a, b += a, a = b - a;
    CheckCodes(counts, used < 14, "Fibonacci " + std::to_string(used));
  }
}

// Coefficients that baseline has no symbols for, and those that it just has.
void TestSymbols() {
  const auto fits = [](int dc, int previous, int ac) {
    int16_t block[64] = {static_cast<int16_t>(dc)};
    block[63] = static_cast<int16_t>(ac);
    jpeg::BlockSymbols symbols;
    symbols.Add(block, previous);
    return symbols.fit();
  };
  Check(fits(1023, -1024, 1023) && fits(-1024, 1023, -1023), "the largest");
  Check(!fits(1024, -1024, 0) && !fits(0, 0, 1024) && !fits(0, 0, -1024) && !fits(0, 0, -32768), "too large");
}

void TestThreads() {
  const Bytes file = Sample(), broken(file.begin(), file.end() - 40);
  Bytes expected;
  Check(jpeg::Tile(file, &expected).empty(), "tiled");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int& count : wrong) {
    threads.emplace_back([&] {
      Bytes tiled;
      for (int i = 0; i < 30; ++i) {
        count += !jpeg::Tile(file, &tiled).empty() || tiled != expected;
        count += jpeg::Tile(broken, &tiled) != "it is cut off";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) Check(count == 0, "by threads");
}

}  // namespace

int main() {
  TestIntervals();
  TestShapes();
  TestDamage();
  TestLeft();
  TestHuge();
  TestMetadata();
  TestCodes();
  TestSymbols();
  TestThreads();
  return testing::Verdict("tile");
}
