// Regions of JPEGs, decoded: every byte is libjpeg's of the whole file, however it is coded, tiled and
// damaged.
#include "jpeg/decode.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "make_jpeg.h"
#include "regions.h"

namespace dali_dr::jpeg {
namespace {

using namespace dali_dr::testing;
using Way = Decoder::Way;

/// Whether a region has the pixels of the whole; or, of a file that is cut off, there is an error that says
/// so.
void CheckRegion(std::span<const uint8_t> bytes, const Shown& whole, const Region& region, Decoder* decoder,
                 const std::string& name) {
  std::vector<uint8_t> rows(3 * static_cast<size_t>(region.height) * static_cast<size_t>(region.width));
  const std::string problem = Decode(bytes, region, decoder, rows.data());
  if (whole.cut_off && problem == "Premature end of JPEG file") return;
  Check(problem.empty() && whole.Has(region, rows.data()),
        name + ", " + testing::Name(region) + " " + problem);
}

/// Every kind of MCU, with no restarts, with tiles of every kind, and with intervals that make none.
void TestRegions() {
  Decoder decoder;
  for (const auto& [h, v, grey] : kSamplings) {
    for (const auto& [height, width] : {std::pair{1, 1}, {3, 2}, {1, 130}, {131, 1}, {47, 65}, {33, 177}}) {
      for (const bool progressive : {false, true}) {
        JpegShape shape{
            .height = height, .width = width, .h = h, .v = v, .grey = grey, .progressive = progressive};
        const int row = shape.mcus_per_row();
        for (const int restart : {0, 1, 2, 3, row / 2, row - 1, row, row + 1, 2 * row, 65535}) {
          if (restart < 0 || (progressive && restart > 1)) continue;
          shape.restart = restart;
          shape.optimised = restart != 2 || progressive;
          const Bytes bytes = MakeJpeg(shape);
          const Shown whole = ShowWhole(bytes);
          Check(whole.height == height && whole.width == width, shape.Name() + ": libjpeg shows it");
          const bool tiled = !progressive && restart > 0 && (row % restart == 0 || restart % row == 0) &&
                             restart < row * shape.mcu_rows();
          ForRegions(height, width, 16, progressive ? 13 : 11, [&](const Region& region) {
            CheckRegion(bytes, whole, region, &decoder, shape.Name());
            Check(decoder.way() == (tiled ? Way::kTiles : Way::kWhole), shape.Name() + ": the way");
          });
        }
      }
    }
  }
}

/// All regions there are of images of a few MCUs.
void TestAllRegionsOfSmallImages() {
  Decoder decoder;
  for (const auto& [h, v, grey] : kSamplings) {
    for (const int restart : {0, 1}) {
      const JpegShape shape{.height = 19, .width = 21, .h = h, .v = v, .grey = grey, .restart = restart};
      const Bytes bytes = MakeJpeg(shape);
      const Shown whole = ShowWhole(bytes);
      ForRegions(shape.height, shape.width, 1, 3,
                 [&](const Region& region) { CheckRegion(bytes, whole, region, &decoder, shape.Name()); });
    }
  }
}

/// Codes of all lengths: coefficients that are large, runs of zeros, tables that are full.
void TestCodes() {
  Decoder decoder;
  for (const int quality : {1, 10, 50, 95, 100}) {
    for (const bool optimised : {false, true}) {
      for (uint32_t seed = 1; seed <= 3; ++seed) {
        const JpegShape shape{.height = 150,
                              .width = 170,
                              .h = seed == 1 ? 2 : 1,
                              .v = seed == 1 ? 2 : 1,
                              .restart = seed == 2 ? 7 : 0,
                              .optimised = optimised,
                              .quality = quality,
                              .seed = seed};
        const Bytes bytes = MakeJpeg(shape);
        const Shown whole = ShowWhole(bytes);
        const std::string name = shape.Name() + ", quality " + std::to_string(quality);
        ForRegions(shape.height, shape.width, 32, 5,
                   [&](const Region& region) { CheckRegion(bytes, whole, region, &decoder, name); });
      }
    }
  }
}

/// libjpeg-turbo 915: with fancy upsampling, rows were wrong after a skip that did not begin at a row group.
/// Rows come in pieces of every size here, and images begin at every row.
void TestRowsInPieces() {
  Decoder decoder;
  for (const auto& [h, v, grey] : kSamplings) {
    for (const bool progressive : {false, true}) {
      const JpegShape shape{
          .height = 67, .width = 50, .h = h, .v = v, .grey = grey, .progressive = progressive};
      const Bytes bytes = MakeJpeg(shape);
      const Shown whole = ShowWhole(bytes);
      for (int top = 0; top < shape.height; ++top) {
        for (const int piece : {1, 2, 3, 5, 16}) {
          const Region region{top, top % 7, shape.height - top, 30};
          const std::string name =
              shape.Name() + ", in pieces of " + std::to_string(piece) + ", " + testing::Name(region);
          Check(decoder.Begin(bytes, region).empty(), name);
          for (int y = 0; y < region.height; y += piece) {
            const int count = std::min(piece, region.height - y);
            Check(decoder.Next(count).empty(), name + ": rows");
            for (int i = 0; i < count; ++i) {
              const uint8_t* const row = decoder.row(i);
              Check(std::equal(row, row + 3 * region.width, whole.at(top + y + i, region.left)), name);
              uint8_t behind = 0;  // may be read, whatever it is
              for (size_t k = 0; k < Decoder::kSlack; ++k)
                behind |= row[3 * static_cast<size_t>(region.width) + k];
              if (behind == 0 && whole.empty()) return;
            }
          }
        }
      }
    }
  }
}

/// An image that is left in the middle, then another kind, then one that is no image.
void TestOneAfterTheOther() {
  Decoder decoder;
  const Bytes first = MakeJpeg({.height = 90, .width = 120, .restart = 2});
  const Bytes second = MakeJpeg({.height = 300, .width = 20, .grey = true, .seed = 5});
  const Bytes third = MakeJpeg({.height = 30, .width = 333, .h = 1, .v = 1, .progressive = true});
  const Bytes none{0xff, 0xd8, 0xff, 0xe0, 0, 2};
  for (int round = 0; round < 3; ++round) {
    Check(decoder.Begin(first, {10, 20, 60, 70}).empty() && decoder.Next(7).empty(), "seven rows");
    CheckRegion(second, ShowWhole(second), {200, 3, 100, 17}, &decoder, "grey");
    Check(!decoder.Begin(none, {0, 0, 1, 1}).empty(), "no image");
    CheckRegion(third, ShowWhole(third), {5, 300, 25, 33}, &decoder, "progressive");
    CheckRegion(first, ShowWhole(first), {10, 20, 60, 70}, &decoder, "the first again");
  }
}

/// Tables that a file lacks are the standard ones, not those of the file before.
void TestTablesThatAreMissing() {
  Decoder decoder;
  const JpegShape shape{.height = 40, .width = 60, .optimised = false};
  const Bytes other = MakeJpeg({.height = 40, .width = 60, .quality = 5});
  const Bytes sound = MakeJpeg(shape);
  for (const uint8_t marker : {0xc4, 0xdb}) {  // DHT, DQT
    Bytes bytes(sound.begin(), sound.begin() + 2);
    for (size_t at = 2; at + 4 <= sound.size();) {
      const bool scan = sound[at + 1] == 0xda;
      const size_t end = scan ? sound.size() : at + 2 + (size_t{sound[at + 2]} << 8 | sound[at + 3]);
      if (sound[at + 1] != marker)
        bytes.insert(bytes.end(), sound.begin() + static_cast<ptrdiff_t>(at),
                     sound.begin() + static_cast<ptrdiff_t>(end));
      at = end;
    }
    for (int round = 0; round < 2; ++round) {
      const std::string name =
          "without " + std::to_string(marker) + ", behind another file " + std::to_string(round);
      if (round == 1) CheckRegion(other, ShowWhole(other), {3, 5, 30, 40}, &decoder, "the other file");
      if (marker == 0xdb) {
        Check(!decoder.Begin(bytes, {3, 5, 30, 40}).empty(), name);
      } else {
        CheckRegion(bytes, ShowWhole(sound), {3, 5, 30, 40}, &decoder, name);
      }
    }
  }
}

void TestWhatIsRefused() {
  Decoder decoder;
  const Bytes bytes = MakeJpeg({.height = 40, .width = 60, .restart = 2});
  const Bytes progressive = MakeJpeg({.height = 40, .width = 60, .progressive = true});
  const Region outside[] = {
      {0, 0, 41, 1},  {0, 0, 1, 61},         {40, 0, 1, 1},         {0, 60, 1, 1},        {-1, 0, 2, 2},
      {0, -1, 2, 2},  {0, 0, 0, 1},          {0, 0, 1, 0},          {39, 59, 2, 1},       {39, 59, 1, 2},
      {0, 0, -1, -1}, {2147483647, 0, 1, 1}, {1, 1, 2147483647, 1}, {1, 1, 1, 2147483647}};
  for (const Region& region : outside) {
    Check(!decoder.Begin(bytes, region).empty(), "outside: " + testing::Name(region));
    Check(!decoder.Begin(progressive, region).empty(), "outside, progressive: " + testing::Name(region));
  }
  Check(decoder.Begin(bytes, {39, 59, 1, 1}).empty() && decoder.Next(1).empty(), "the last pixel");
  Check(!IsJpeg({}) && !IsJpeg({bytes.data(), 2}) && IsJpeg({bytes.data(), 3}), "the beginning of a JPEG");
  for (size_t size = 0; size < ScanOf(bytes); ++size) {
    const Bytes part(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    if (const Shown whole = ShowWhole(part); !whole.empty()) {  // libjpeg ends what is cut off by itself
      CheckRegion(part, whole, {0, 0, 8, 8}, &decoder, "the first " + std::to_string(size) + " bytes");
    } else {
      Check(!decoder.Begin(part, {0, 0, 8, 8}).empty(), "the first " + std::to_string(size) + " bytes");
    }
  }
}

/// What is damaged shows what libjpeg makes of it, in every region; never anything else.
void CheckDamaged(const Bytes& bytes, const JpegShape& shape, size_t every, Decoder* decoder,
                  const std::string& name) {
  const Bytes own(bytes);  // of this very size
  const Shown whole = ShowWhole(own);
  if (whole.height != shape.height || whole.width != shape.width)
    return;  // libjpeg refuses it, or the header changed
  ForRegions(shape.height, shape.width, 32, every, [&](const Region& region) {
    CheckRegion(own, whole, region, decoder, shape.Name() + ", " + name);
  });
}

void TestMarkers() {
  Decoder decoder;
  for (const int restart : {2, 3, 8}) {  // tiles, no tiles, rows
    const JpegShape shape{.height = 80, .width = 128, .restart = restart};
    const Bytes sound = MakeJpeg(shape);
    const std::vector<size_t> places = RestartsOf(sound);
    const auto at = [](Bytes* bytes, size_t place) { return bytes->begin() + static_cast<ptrdiff_t>(place); };
    using Change = std::function<void(Bytes*, size_t)>;
    const std::pair<const char*, Change> changes[] = {
        {"another number",
         [](Bytes* b, size_t place) { (*b)[place + 1] = 0xd0 + ((*b)[place + 1] + 1) % 8; }},
        {"a number far off",
         [](Bytes* b, size_t place) { (*b)[place + 1] = 0xd0 + ((*b)[place + 1] + 4) % 8; }},
        {"missing", [&](Bytes* b, size_t place) { b->erase(at(b, place), at(b, place + 2)); }},
        {"doubled", [&](Bytes* b, size_t place) { b->insert(at(b, place), {0xff, (*b)[place + 1]}); }},
        {"a data byte", [](Bytes* b, size_t place) { (*b)[place + 1] = 0; }},
        {"fill bytes", [&](Bytes* b, size_t place) { b->insert(at(b, place), {0xff, 0xff}); }},
        {"the end", [](Bytes* b, size_t place) { (*b)[place + 1] = 0xd9; }},
        {"a comment", [&](Bytes* b, size_t place) { b->insert(at(b, place), {0xff, 0xfe, 0, 3, 1}); }},
        {"an empty tile",
         [&](Bytes* b, size_t place) {
           b->insert(at(b, place + 2), {0xff, static_cast<uint8_t>(0xd0 + ((*b)[place + 1] + 1) % 8)});
         }},
        {"junk before", [&](Bytes* b, size_t place) { b->insert(at(b, place), {0x12, 0x34, 0x56, 0x78}); }},
        {"data missing before", [&](Bytes* b, size_t place) { b->erase(at(b, place - 3), at(b, place)); }},
        {"cut off", [&](Bytes* b, size_t place) { b->resize(place); }},
        {"cut off within", [&](Bytes* b, size_t place) { b->resize(place + 1); }},
    };
    for (const auto& [what, change] : changes) {
      for (size_t number = 0; number < places.size(); ++number) {
        Bytes bytes = sound;
        change(&bytes, places[number]);
        CheckDamaged(bytes, shape, 17, &decoder, std::string(what) + ", marker " + std::to_string(number));
      }
    }
  }
}

void TestDamage() {
  Decoder decoder;
  uint32_t state = 1;
  const auto random = [&](size_t below) {
    state = state * 1664525 + 1013904223;
    return (size_t{state} >> 8) % below;
  };
  for (const int restart : {0, 1, 4}) {
    const JpegShape shape{.height = 64, .width = 128, .h = restart == 1 ? 1 : 2, .v = 1, .restart = restart};
    const Bytes sound = MakeJpeg(shape);
    for (int round = 0; round < 400; ++round) {
      Bytes bytes = sound;
      const size_t begin = round % 4 == 3 ? 0 : ScanOf(sound), at = begin + random(sound.size() - begin);
      if (round % 5 == 4) {
        bytes.resize(at);
      } else {
        bytes[at] ^= static_cast<uint8_t>(1 << random(8));
      }
      CheckDamaged(bytes, shape, 41, &decoder, "damaged at " + std::to_string(at));
    }
  }
}

}  // namespace
}  // namespace dali_dr::jpeg

int main() {
  dali_dr::jpeg::TestRegions();
  dali_dr::jpeg::TestAllRegionsOfSmallImages();
  dali_dr::jpeg::TestCodes();
  dali_dr::jpeg::TestRowsInPieces();
  dali_dr::jpeg::TestOneAfterTheOther();
  dali_dr::jpeg::TestTablesThatAreMissing();
  dali_dr::jpeg::TestWhatIsRefused();
  dali_dr::jpeg::TestMarkers();
  dali_dr::jpeg::TestDamage();
  return dali_dr::testing::Verdict("decode");
}
