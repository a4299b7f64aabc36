// Any bytes in place of a JPEG: a reason, or a tiled file that libjpeg shows as it shows the original,
// without a warning, and that is taken for a tiled one where it is read.
#include <vector>

#include "fuzz/fuzz.h"
#include "jpeg/outline.h"
#include "jpeg/slice.h"
#include "jpeg/tile.h"
#include "tests/make_jpeg.h"

using namespace dali_dr;

namespace {

constexpr int64_t kMostBlocks = 2000;  // larger images take too long, and show nothing that small ones do not

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fuzz::Require;
  const std::span<const uint8_t> original(data, size);
  jpeg::Outline outline;
  const bool taken = jpeg::ReadOutline(original, &outline) == nullptr;
  if (taken && outline.blocks() * outline.scans > kMostBlocks) return 0;
  std::vector<uint8_t> tiled;
  const std::string reason = jpeg::Tile(original, &tiled);
  Require(reason.empty() != tiled.empty(), "a reason or a file");
  if (!reason.empty()) return 0;
  Require(taken, "its markers were taken");
  jpeg::Frame frame;
  Require(jpeg::ReadFrame(tiled, &frame) && jpeg::IsTiled(frame), "taken for a tiled one");
  Require(frame.height == outline.height && frame.width == outline.width, "of the same size");
  jpeg::Outline again;
  Require(jpeg::ReadOutline(tiled, &again) == nullptr && again.metadata.size() == outline.metadata.size(),
          "as much metadata");
  for (size_t i = 0; i < again.metadata.size(); ++i)
    Require(std::ranges::equal(again.metadata[i], outline.metadata[i]), "the same metadata");
  const auto before = testing::ShowWhole(original), after = testing::ShowWhole(tiled);
  Require(!before.empty() && before.pixels == after.pixels, "the same pixels");
  Require(after.warnings == 0, "no warning");
  return 0;
}
