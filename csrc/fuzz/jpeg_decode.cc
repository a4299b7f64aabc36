// Any bytes in place of a JPEG: an error, or rows within their buffer, which of what is coded sequentially
// are those that libjpeg shows of the whole file, however damaged; where that is cut off, an error, too. (Of
// a progressive file that lacks scans libjpeg smooths what it shows, and at the edges of a region otherwise;
// such files do not enter a data set.)
#include "fuzz/jpeg_case.h"
#include "jpeg/decode.h"

using namespace dali_dr;

namespace {

/// Decodes a region, so many rows at a time. Empty: there was an error.
std::vector<uint8_t> Rows(jpeg::Decoder* decoder, const fuzz::JpegCase& one, const jpeg::Region& region) {
  std::vector<uint8_t> pixels;
  if (!decoder->Begin(one.bytes, region).empty()) return pixels;
  for (int32_t y = 0; y < region.height; y += one.rows) {
    const int32_t count = std::min(one.rows, region.height - y);
    if (!decoder->Next(count).empty()) return {};
    for (int32_t i = 0; i < count; ++i)
      pixels.insert(pixels.end(), decoder->row(i), decoder->row(i) + 3 * static_cast<size_t>(region.width));
  }
  return pixels;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fuzz::Require;
  static jpeg::Decoder decoder;  // what one image leaves in it must not change the next
  const fuzz::JpegCase one({data, size});
  const testing::Shown whole = testing::ShowWhole(one.bytes, fuzz::kMostPixels);
  if (whole.empty()) {  // refused, or too large to look at: no rows of it, then
    const std::string problem = decoder.Begin(one.bytes, {0, 0, 1, 1});
    Require(!problem.empty() || jpeg::IsJpeg(one.bytes), "an error of what is no JPEG");
    return 0;
  }
  const jpeg::Region& asked = one.asked;
  const bool inside = asked.top >= 0 && asked.left >= 0 && asked.height >= 1 && asked.width >= 1 &&
                      asked.top + asked.height <= whole.height && asked.left + asked.width <= whole.width;
  if (!inside) Require(Rows(&decoder, one, asked).empty(), "an error of a region outside");
  const jpeg::Region region = one.Inside(whole.height, whole.width);
  const std::vector<uint8_t> pixels = Rows(&decoder, one, region);
  jpeg::Frame frame;
  if (!jpeg::ReadFrame(one.bytes, &frame)) return 0;
  if (pixels.empty() && whole.cut_off) return 0;  // libjpeg makes up what is missing
  Require(!pixels.empty(), "what libjpeg shows is shown");
  Require(whole.Has(region, pixels.data()), "the bytes that libjpeg shows");
  return 0;
}
