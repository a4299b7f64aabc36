// See tile.h.
#include "jpeg/tile.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <new>

#include "jpeg/decode.h"
#include "jpeg/frame.h"
#include "jpeg/outline.h"
#include "jpeg/slice.h"
#include "jpeg/transcode.h"

namespace dali_dr::jpeg {
namespace {

constexpr double kTileWidth = 64;     // pixels; narrower: more bytes, wider: more that a crop does not need
constexpr int kLeastWidth = 32;       // narrower tiles grow a file by more than they save
constexpr double kMostGrowth = 1.08;  // of the file's bytes
constexpr int64_t kMostMemory = int64_t{1}
                                << 30;  // of the coefficients of both files, which lie in memory whole

constexpr const char kOther[] = "tiled, it would be another image";

bool IsTiledSo(const Outline& outline, int interval) {
  return outline.sequential && outline.scans == 1 && outline.interleaved &&
         outline.restart_interval == interval;
}

// Regions of an image, and their pixels in the whole of it: one in its middle, one in its last corner, and
// one a pixel wide, just right of the border between two tiles.
class Samples {
 public:
  Samples(const Outline& image, int interval) {
    constexpr int kMiddle = 70, kCorner = 40;  // pixels, of which no tile is a multiple
    const auto part = [&](int top, int left, int height, int width) {
      wanted_.push_back({{top, left, height, width}, nullptr});
    };
    const auto [h, w] = std::pair{image.height, image.width};
    const int mh = std::min(kMiddle, h), mw = std::min(kMiddle, w);
    part((h - mh) / 2, (w - mw) / 2, mh, mw);
    const int ch = std::min(kCorner, h), cw = std::min(kCorner, w);
    part(h - ch, w - cw, ch, cw);
    part((h - ch) / 2, std::min(interval * image.mcu_width(), w - 1), ch, 1);
    for (size_t i = 0; i < wanted_.size(); ++i) {
      pixels_[i].resize(3 * static_cast<size_t>(wanted_[i].region.height * wanted_[i].region.width));
      wanted_[i].pixels = pixels_[i].data();
    }
  }

  std::span<const WantedPixels> wanted() const { return wanted_; }

  /// Whether the decoder of training shows the same.
  bool AreOf(std::span<const uint8_t> file) const {
    Decoder decoder;
    std::vector<uint8_t> pixels;
    for (size_t i = 0; i < wanted_.size(); ++i) {
      pixels.resize(pixels_[i].size());
      if (!Decode(file, wanted_[i].region, &decoder, pixels.data()).empty() || pixels != pixels_[i] ||
          decoder.way() == Decoder::Way::kMisfit)
        return false;
    }
    return true;
  }

 private:
  std::vector<WantedPixels> wanted_;
  std::array<std::vector<uint8_t>, 3> pixels_;
};

// Whether the written file is taken for a tiled one where it is read, and its slices are the whole's.
bool IsSliced(std::span<const uint8_t> tiled, const Samples& samples) {
  Frame frame;
  return ReadFrame(tiled, &frame) && IsTiled(frame) && samples.AreOf(tiled);
}

// Into `out`, which is as large as the file may be; `size` is how large it is.
const char* Write(std::span<const uint8_t> original, const Outline& outline, int interval,
                  std::span<uint8_t> out, TileSteps* steps, size_t* size) {
  const Samples samples(outline, interval);
  const char* reason = Transcode({original, outline.metadata, interval, out, samples.wanted(), steps}, size);
  if (reason != nullptr) return reason;
  const double begun = TileSteps::Now();
  if (!IsSliced(out.first(*size), samples)) return kOther;
  steps->slices = TileSteps::Now() - begun;
  return nullptr;
}

}  // namespace

double TileSteps::Now() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

int RestartInterval(int mcus_per_row, int mcu_width) {
  const auto distance = [&](int interval) {
    const double ratio = interval * mcu_width / kTileWidth;
    return std::max(ratio, 1 / ratio);
  };
  int best = mcus_per_row;
  for (int interval = mcus_per_row - 1; interval * mcu_width >= kLeastWidth && interval > 0; --interval)
    if (mcus_per_row % interval == 0 && distance(interval) < distance(best)) best = interval;
  return best;
}

std::string Tile(std::span<const uint8_t> original, std::vector<uint8_t>* tiled, TileSteps* steps) {
  TileSteps unused;
  const char* reason = nullptr;
  try {
    tiled->clear();
    Outline outline;
    reason = ReadOutline(original, &outline);
    if (reason != nullptr) return reason;
    const int interval = RestartInterval(outline.mcus_per_row(), outline.mcu_width());
    if (IsTiledSo(outline, interval)) return "it is tiled already";
    if (outline.mcus_per_row() / interval * outline.mcu_rows() < 2) return "it is no larger than a tile";
    constexpr int64_t kBlock = 2 * 64;  // bytes
    if (outline.blocks() * kBlock * 2 > kMostMemory) return "its coefficients need more than 1 GiB of memory";
    // One byte more than may be used: libjpeg asks for more room as soon as there is none left.
    tiled->resize(static_cast<size_t>(static_cast<double>(original.size()) * kMostGrowth) + 1);
    size_t size = 0;
    reason = Write(original, outline, interval, *tiled, steps ? steps : &unused, &size);
    tiled->resize(reason == nullptr ? size : 0);
    return reason == nullptr ? "" : reason;
  } catch (const std::bad_alloc&) {
    tiled->clear();
    return "there is not enough memory for it";
  }
}

}  // namespace dali_dr::jpeg
