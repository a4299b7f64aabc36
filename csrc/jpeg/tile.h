// The same JPEG in tiles: baseline with a restart marker about every 64 pixels, so that a region of it can be
// decoded without what lies beside and above (slice.h). Without loss: coefficients and metadata stay as they
// are.
#ifndef DALI_DR_CSRC_JPEG_TILE_H_
#define DALI_DR_CSRC_JPEG_TILE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dali_dr::jpeg {

/// How many MCUs stand between restart markers: a divisor of those of a row, so that tiles stand one below
/// the other; the one that comes nearest to 64 pixels, by ratio; the whole row where there is none of 32
/// pixels or more.
int RestartInterval(int mcus_per_row, int mcu_width);

/// Seconds of this thread that the steps took, for bench/tile.py.
struct TileSteps {
  double read = 0;     // coefficients of the original
  double write = 0;    // and Huffman tables
  double compare = 0;  // coefficients and pixels of what was written
  double slices = 0;   // a few regions, by way of slice.h

  static double Now();
};

/// The empty string and the tiled file, or why the original is to be stored as it is: what is not worth
/// tiling, and whatever would not be the same. The words are the same for all files of a kind. `tiled` is
/// then empty.
///
/// What was written is read again: coefficients, quantisation tables, sampling and size are the original's,
/// and so are all pixels, and those of a few regions by way of slices. Never prints, never exits; for any
/// number of threads.
std::string Tile(std::span<const uint8_t> original, std::vector<uint8_t>* tiled, TileSteps* steps = nullptr);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_TILE_H_
