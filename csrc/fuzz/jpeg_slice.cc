// Any bytes in place of a tiled JPEG: no slice, or one that is a JPEG by itself, lies around the region, and
// shows there what the whole shows.
#include "fuzz/jpeg_case.h"
#include "jpeg/slice.h"

using namespace dali_dr;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fuzz::Require;
  const fuzz::JpegCase one({data, size});
  jpeg::Frame frame;
  if (!jpeg::ReadFrame(one.bytes, &frame)) return 0;
  Require(frame.height >= 1 && frame.width >= 1 && frame.scan <= one.bytes.size(),
          "a header inside the bytes");
  const jpeg::Region region = one.Inside(frame.height, frame.width);
  jpeg::Slicer slicer;
  if (!slicer.Cut(one.bytes, frame, region)) return 0;
  const jpeg::Region& place = slicer.region();
  Require(place.top >= 0 && place.left >= 0 && place.height >= 1 && place.width >= 1 &&
              place.height <= frame.height - place.top && place.width <= frame.width - place.left,
          "a slice inside the image");
  Require(place.top <= region.top && place.left <= region.left &&
              region.top + region.height <= place.top + place.height &&
              region.left + region.width <= place.left + place.width,
          "around the region");
  jpeg::Frame own;
  Require(jpeg::ReadFrame(slicer.bytes(), &own) && own.height == place.height && own.width == place.width,
          "a header of that size");
  if (static_cast<size_t>(frame.height) * static_cast<size_t>(frame.width) > fuzz::kMostPixels) return 0;
  const testing::Shown whole = testing::ShowWhole(one.bytes);
  if (whole.empty()) return 0;
  const testing::Shown slice = testing::ShowWhole(slicer.bytes());
  Require(slice.height == place.height && slice.width == place.width, "a JPEG of that size");
  for (int32_t y = region.top; y < region.top + region.height; ++y)
    Require(std::memcmp(whole.at(y, region.left), slice.at(y - place.top, region.left - place.left),
                        3 * static_cast<size_t>(region.width)) == 0,
            "the pixels of the whole");
  return 0;
}
