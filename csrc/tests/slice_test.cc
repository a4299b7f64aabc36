// Slices of tiled JPEGs: decoded by libjpeg they show what the whole file shows; markers that do not fit are
// found.
#include "jpeg/slice.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "make_jpeg.h"
#include "regions.h"

namespace dali_dr::jpeg {
namespace {

using namespace dali_dr::testing;

/// Whether a region of the whole is in the slice, in every byte.
bool SameIn(const Shown& whole, const Region& region, const Shown& slice, const Region& place) {
  if (slice.height != place.height || slice.width != place.width) return false;
  if (region.top < place.top || region.left < place.left ||
      region.top + region.height > place.top + place.height ||
      region.left + region.width > place.left + place.width)
    return false;
  for (int y = 0; y < region.height; ++y) {
    const uint8_t* const want = whole.at(region.top + y, region.left);
    if (!std::equal(want, want + 3 * region.width,
                    slice.at(region.top + y - place.top, region.left - place.left)))
      return false;
  }
  return true;
}

/// Whether markers of a slice begin with RST0 and count on.
bool InTurn(std::span<const uint8_t> bytes) {
  const std::vector<size_t> places = RestartsOf(bytes);
  for (size_t i = 0; i < places.size(); ++i)
    if (bytes[places[i] + 1] != 0xd0 + i % 8) return false;
  return true;
}

/// All intervals that make tiles: divisors of a row, and rows; and the first that does not.
std::vector<int> Intervals(const JpegShape& shape) {
  const int row = shape.mcus_per_row();
  std::vector<int> intervals{0, row * shape.mcu_rows(), row * shape.mcu_rows() + 5};
  bool misfit = false;
  for (int i = 1; i <= row; ++i) {
    if (row % i == 0) intervals.push_back(i);
    if (row % i != 0 && !misfit) intervals.push_back(i), misfit = true;
  }
  for (const int rows : {2, 3}) intervals.push_back(rows * row);
  intervals.push_back(row + 1);
  return intervals;
}

void TestRegions() {
  Slicer slicer;
  int slices = 0;
  for (const auto& [h, v, grey] : kSamplings) {
    for (const auto& [height, width] : {std::pair{1, 1}, {1, 130}, {131, 1}, {47, 65}, {64, 96}, {33, 177}}) {
      JpegShape shape{.height = height, .width = width, .h = h, .v = v, .grey = grey};
      for (const int restart : Intervals(shape)) {
        shape.restart = restart;
        const Bytes bytes = MakeJpeg(shape);
        const Shown whole = ShowWhole(bytes);
        Frame frame;
        Check(ReadFrame(bytes, &frame) && !whole.empty(), shape.Name() + ": read");
        const int row = shape.mcus_per_row();
        const bool tiled =
            restart > 0 && (row % restart == 0 || restart % row == 0) && restart < row * shape.mcu_rows();
        Check(IsTiled(frame) == tiled, shape.Name() + ": tiled or not");
        ForRegions(height, width, 16, tiled ? 7 : 101, [&](const Region& region) {
          const std::string name = shape.Name() + ": " + testing::Name(region);
          const bool cut = slicer.Cut(bytes, frame, region);
          Check(!slicer.misfit(), name + ": markers fit");
          Check(tiled || !cut, name + ": no tiles, no slice");
          if (!cut) return;
          ++slices;
          const Bytes own(slicer.bytes().begin(), slicer.bytes().end());
          const Shown slice = ShowWhole(own);
          Check(!slice.empty() && slice.warnings == 0, name + ": a sound JPEG");
          Check(SameIn(whole, region, slice, slicer.region()), name + ": the same pixels");
          Check(InTurn(own), name + ": markers in turn");
          Check(own.size() < bytes.size(), name + ": smaller");
        });
      }
    }
  }
  Check(slices > 10000, "many slices: " + std::to_string(slices));
}

/// A region that is not at an edge is cut with no more than the tiles that it and its context touch.
void TestNothingMoreIsCut() {
  const JpegShape shape{.height = 256, .width = 512, .h = 1, .v = 1, .restart = 4};  // tiles of 8 x 32
  const Bytes bytes = MakeJpeg(shape);
  Frame frame;
  Slicer slicer;
  Check(ReadFrame(bytes, &frame) && slicer.Cut(bytes, frame, {16, 32, 8, 32}), "one tile");
  const Region& place = slicer.region();
  Check(place.top == 16 && place.left == 32 && place.height == 8 && place.width == 32,
        "of 4:4:4 just the tile");
  Check(slicer.Cut(bytes, frame, {15, 31, 10, 34}) && slicer.region().height == 24 &&
            slicer.region().width == 96,
        "and where a pixel more is wanted on each side, three by three");
  Check(!slicer.Cut(bytes, frame, {0, 0, 256, 512}) && !slicer.misfit(), "of all tiles there is no slice");
}

/// What may have become of markers. A slice that is cut all the same must show what libjpeg makes of the
/// file.
void TestMarkers() {
  const JpegShape shape{.height = 80, .width = 128, .restart = 2};  // four tiles in each of five rows
  const Bytes sound = MakeJpeg(shape);
  const std::vector<size_t> places = RestartsOf(sound);
  Check(places.size() == 19, "19 markers");
  static constexpr char kEmpty[] = "an empty tile behind";
  using Change = std::function<void(Bytes*, size_t)>;
  const auto at = [](Bytes* bytes, size_t place) { return bytes->begin() + static_cast<ptrdiff_t>(place); };
  const std::pair<const char*, Change> changes[] = {
      {"another number", [](Bytes* b, size_t place) { (*b)[place + 1] = 0xd0 + ((*b)[place + 1] + 1) % 8; }},
      {"missing", [&](Bytes* b, size_t place) { b->erase(at(b, place), at(b, place + 2)); }},
      {"doubled", [&](Bytes* b, size_t place) { b->insert(at(b, place), {0xff, (*b)[place + 1]}); }},
      {"a data byte", [](Bytes* b, size_t place) { (*b)[place + 1] = 0; }},
      {"a fill byte before", [&](Bytes* b, size_t place) { b->insert(at(b, place), 0xff); }},
      {"the end in its place", [](Bytes* b, size_t place) { (*b)[place + 1] = 0xd9; }},
      {"a comment before", [&](Bytes* b, size_t place) { b->insert(at(b, place), {0xff, 0xfe, 0, 3, 1}); }},
      {"another scan", [](Bytes* b, size_t place) { (*b)[place + 1] = 0xda; }},
      {kEmpty,
       [&](Bytes* b, size_t place) {
         b->insert(at(b, place + 2), {0xff, static_cast<uint8_t>(0xd0 + ((*b)[place + 1] + 1) % 8)});
       }},
      {"cut off before", [&](Bytes* b, size_t place) { b->resize(place); }},
      {"cut off within", [&](Bytes* b, size_t place) { b->resize(place + 1); }},
      {"cut off behind", [&](Bytes* b, size_t place) { b->resize(place + 2); }},
  };
  Slicer slicer;
  for (const auto& [what, change] : changes) {
    for (size_t number = 0; number < places.size(); ++number) {
      Bytes bytes = sound;
      change(&bytes, places[number]);
      const Shown whole = ShowWhole(bytes);
      Frame frame;
      Check(ReadFrame(bytes, &frame), std::string(what) + ": the header is as it was");
      ForRegions(shape.height, shape.width, 32, 5, [&](const Region& region) {
        const std::string name =
            std::string(what) + ", marker " + std::to_string(number) + ": " + testing::Name(region);
        const Region context = WithContext(frame, region);
        const size_t last = static_cast<size_t>((context.top + context.height - 1) / 16 * 4 +
                                                (context.left + context.width - 1) / 32);
        const bool cut = slicer.Cut(bytes, frame, region);
        if (cut)
          Check(SameIn(whole, region, ShowWhole(slicer.bytes()), slicer.region()),
                name + ": the same pixels");
        // The marker behind the last tile that is wanted is the last that is looked at. An empty tile has
        // markers as there must be.
        if (last >= number + 1 && std::string(what) != kEmpty) Check(!cut, name + ": not cut");
        if (!cut && last < 19) Check(slicer.misfit(), name + ": and it is told");
      });
    }
  }
}

void TestHostileScans() {
  const JpegShape shape{.height = 80, .width = 128, .restart = 2};
  const Bytes sound = MakeJpeg(shape);
  Frame frame;
  Check(ReadFrame(sound, &frame), "read");
  Slicer slicer;
  for (size_t size = frame.scan; size < sound.size();
       ++size) {  // in memory of its own, so that an overrun is seen
    const Bytes bytes(sound.begin(), sound.begin() + static_cast<ptrdiff_t>(size));
    Check(!slicer.Cut(bytes, frame, {70, 100, 10, 28}) && slicer.misfit(),
          "cut off at " + std::to_string(size));
  }
  for (const uint8_t byte : {0x00, 0xff, 0xd0, 0x7f}) {
    Bytes bytes = sound;
    std::fill(bytes.begin() + static_cast<ptrdiff_t>(frame.scan), bytes.end(), byte);
    Check(!slicer.Cut(bytes, frame, {40, 64, 8, 8}) && slicer.misfit(), "a scan of " + std::to_string(byte));
  }
  Check(slicer.Cut(sound, frame, {40, 64, 8, 8}) && !slicer.misfit(), "and then a sound one");
}

/// Context: what fancy upsampling looks at, and never less than what is upsampled otherwise.
void TestContext() {
  for (const auto& [h, v, grey] : kSamplings) {
    const Bytes bytes = MakeJpeg({.height = 100, .width = 120, .h = h, .v = v, .grey = grey});
    Frame frame;
    Check(ReadFrame(bytes, &frame), "read");
    ForRegions(100, 120, 16, 1, [&](const Region& region) {
      const Region context = WithContext(frame, region);
      const int x = !grey && h > 1, y = !grey && v > 1;
      const std::string name = testing::Name(region);
      Check(context.top == std::max(0, region.top - y) && context.left <= std::max(0, region.left - x), name);
      Check(context.top + context.height == std::min(100, region.top + region.height + y), name + ": bottom");
      Check(context.left + context.width >= std::min(120, region.left + region.width + x) &&
                context.left + context.width <= 120 && context.width >= kNarrowest,
            name + ": right");
    });
  }
}

}  // namespace
}  // namespace dali_dr::jpeg

int main() {
  dali_dr::jpeg::TestRegions();
  dali_dr::jpeg::TestNothingMoreIsCut();
  dali_dr::jpeg::TestMarkers();
  dali_dr::jpeg::TestHostileScans();
  dali_dr::jpeg::TestContext();
  return dali_dr::testing::Verdict("slice");
}
