// Huffman tables that fit an image (ITU-T T.81, annex K.2). libjpeg makes them, too, in a first pass of its
// own that takes a quarter of the time of tiling; this one skips zeros.
#ifndef DALI_DR_CSRC_JPEG_FIT_H_
#define DALI_DR_CSRC_JPEG_FIT_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "jpeg/huffman.h"

namespace dali_dr::jpeg {

/// How often each symbol comes.
class SymbolCounts {
 public:
  void Add(int symbol, uint32_t count = 1) { counts_[static_cast<size_t>(symbol)] += count; }

  /// The shortest codes of at most 16 bits, none of which is all ones.
  Codes Optimal() const;

 private:
  std::array<uint32_t, 256> counts_{};
};

/// Symbols of the blocks that share two tables.
class BlockSymbols {
 public:
  /// A block's, whose coefficients are in natural order; `previous` is the mean coefficient of the block of
  /// the same colour before it, or 0.
  void Add(const int16_t* block, int previous);
  /// Those of `count` blocks without coefficients but the mean of the block before, as they fill an MCU.
  void AddEmpty(uint32_t count) { dc_.Add(0, count), ac_.Add(0, count); }

  /// Whether baseline has symbols for all of them.
  bool fit() const { return fit_; }
  const SymbolCounts& dc() const { return dc_; }
  const SymbolCounts& ac() const { return ac_; }

 private:
  SymbolCounts dc_, ac_;
  bool fit_ = true;
};

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_FIT_H_
