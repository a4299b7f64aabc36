// See slice.h.
#include "jpeg/slice.h"

#include <algorithm>

#include "jpeg/markers.h"

namespace dali_dr::jpeg {
namespace {

// How the tiles of an image lie: each is some MCUs of one row, or some rows.
struct Grid {
  int32_t mcus, mcu_rows;       // of a tile
  int32_t tiles_per_row, rows;  // of tiles

  explicit Grid(const Frame& frame)
      : mcus(std::min(frame.restart_interval, frame.mcus_per_row)),
        mcu_rows(std::max(frame.restart_interval / frame.mcus_per_row, 1)),
        tiles_per_row(frame.mcus_per_row / mcus),
        rows((frame.mcu_rows + mcu_rows - 1) / mcu_rows) {}
};

// Makes begin .. end so wide that libjpeg upsamples it as it does the whole.
void Widen(int32_t length, int32_t* begin, int32_t* end) {
  *begin = std::max(0, std::min(*begin, *end - kNarrowest));
  *end = std::min(length, std::max(*end, *begin + kNarrowest));
}

// Copies bytes to the end of a vector.
void Append(std::span<const uint8_t> from, std::vector<uint8_t>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

}  // namespace

bool IsTiled(const Frame& frame) {
  const int32_t interval = frame.restart_interval, row = frame.mcus_per_row;
  if (interval == 0 || (row % interval != 0 && interval % row != 0)) return false;
  const Grid grid(frame);
  return grid.tiles_per_row > 1 || grid.rows > 1;
}

Region WithContext(const Frame& frame, const Region& region) {
  // One sample of a component that is coded at half the size, on each side: two pixels, of which the first
  // shows by itself what it is.
  const int32_t x = frame.max_h > 1, y = frame.max_v > 1;
  int32_t left = std::max(0, region.left - x), right = std::min(frame.width, region.left + region.width + x);
  const int32_t top = std::max(0, region.top - y),
                bottom = std::min(frame.height, region.top + region.height + y);
  Widen(frame.width, &left, &right);
  return {top, left, bottom - top, right - left};
}

// Finds tiles 0 .. last. Whether the markers between and behind them are those that there must be.
bool Slicer::FindTiles(std::span<const uint8_t> encoded, const Frame& frame, size_t last) {
  tiles_.clear();
  const Grid grid(frame);
  const size_t all = static_cast<size_t>(grid.tiles_per_row) * static_cast<size_t>(grid.rows);
  size_t begin = frame.scan;
  while (tiles_.size() <= last) {
    const size_t at = FindMarker(encoded, begin), number = tiles_.size();
    if (at == encoded.size()) return false;
    const uint8_t marker = encoded[at + 1];
    const bool right = number + 1 < all ? marker == kRst0 + number % kRestartMarkers : marker == kEoi;
    if (!right) return false;  // fill bytes before markers, too: nobody writes them
    tiles_.push_back({begin, at});
    begin = at + 2;
  }
  return true;
}

bool Slicer::Cut(std::span<const uint8_t> encoded, const Frame& frame, const Region& region) {
  misfit_ = false;
  if (!IsTiled(frame)) return false;
  const Grid grid(frame);
  const Region wanted = WithContext(frame, region);
  const int32_t height = grid.mcu_rows * frame.mcu_height, width = grid.mcus * frame.mcu_width;
  const int32_t row0 = wanted.top / height, row1 = (wanted.top + wanted.height - 1) / height;
  int32_t column0 = wanted.left / width;
  const int32_t column1 = (wanted.left + wanted.width - 1) / width;
  // The last tile of a row may show only a few pixels.
  while (column0 > 0 && std::min(frame.width, (column1 + 1) * width) - column0 * width < kNarrowest)
    --column0;
  const int32_t rows = row1 - row0 + 1, columns = column1 - column0 + 1;
  if (rows == grid.rows && columns == grid.tiles_per_row) return false;
  const auto number = [&](int32_t row, int32_t column) {
    return static_cast<size_t>(row) * static_cast<size_t>(grid.tiles_per_row) + static_cast<size_t>(column);
  };
  if (!FindTiles(encoded, frame, number(row1, column1))) {
    misfit_ = true;
    return false;
  }
  region_.top = row0 * height;
  region_.left = column0 * width;
  region_.height = std::min(frame.height, (row1 + 1) * height) - region_.top;
  region_.width = std::min(frame.width, (column1 + 1) * width) - region_.left;

  CopyHeader(encoded, frame, region_.height, region_.width, &bytes_);
  int32_t written = 0;
  for (int32_t row = row0; row <= row1; ++row) {
    for (int32_t column = column0; column <= column1; ++column, ++written) {
      if (written > 0) {
        const uint8_t marker[] = {0xff, static_cast<uint8_t>(kRst0 + (written - 1) % kRestartMarkers)};
        Append(marker, &bytes_);
      }
      const Range& tile = tiles_[number(row, column)];
      Append(encoded.subspan(tile.begin, tile.end - tile.begin), &bytes_);
    }
  }
  const uint8_t end[] = {0xff, kEoi};
  Append(end, &bytes_);
  return true;
}

}  // namespace dali_dr::jpeg
