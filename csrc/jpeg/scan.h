// The scan of a JPEG: its MCUs decoded by place, those in between passed over, from its beginning or from the
// restart marker before the first that is wanted.
#ifndef DALI_DR_CSRC_JPEG_SCAN_H_
#define DALI_DR_CSRC_JPEG_SCAN_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "jpeg/frame.h"
#include "jpeg/huffman.h"

namespace dali_dr::jpeg {

/// Some MCUs of an image: rows and columns, each from the first to before the end.
struct McuBox {
  int32_t row, row_end, column, column_end;
};

/// The smallest box that holds what has to be decoded of a region (jpeg/slice.h, WithContext), and is wide
/// enough to be upsampled as the whole is.
McuBox BoxOf(const Frame& frame, const Region& region);

/// The blocks of an MCU, in order: the component of each, which has a code table for DC and one for AC.
struct McuLayout {
  int32_t blocks = 0;
  std::array<uint8_t, 10> component{};
  std::array<uint8_t, 4> dc_table{}, ac_table{};  ///< of each component
};

/// Reused from image to image, for its tables and its buffer.
class Scan {
 public:
  /// The code tables of the image that comes next. False if they are no codes.
  bool SetTable(bool is_dc, size_t number, const Codes& codes) {
    return tables_[is_dc][number].Assign(codes, is_dc);
  }

  /// Begins with the first MCU of `box`, row by row. `encoded`, whose header is `frame`, must live until the
  /// last.
  void Begin(std::span<const uint8_t> encoded, const Frame& frame, const McuLayout& layout,
             const McuBox& box);

  /// Decodes the next MCU: coefficients into layout.blocks blocks of 64, which are all 0 before. False where
  /// anything is out of order before it: markers, codes, the end of the data. libjpeg knows better what to do
  /// with such files.
  bool Next(int16_t* const* blocks);

  /// Whether restart markers were out of order since Begin, or Forget.
  bool misfit() const { return misfit_; }
  void Forget() { misfit_ = false; }

 private:
  int64_t Passed() const;
  bool Seek(int64_t mcu);
  bool Enter(int64_t segment);
  void Fill();
  template <typename Block>
  bool EachBlock(const Block& block);

  std::array<std::array<HuffmanTable, 4>, 2> tables_;  // of AC, of DC
  std::span<const uint8_t> encoded_;
  McuLayout layout_;
  McuBox box_{};
  int64_t mcus_per_row_ = 0, interval_ = 0, all_ = 0;  // of MCUs; no restarts: one interval
  int64_t row_ = 0, column_ = 0;                       // of the next wanted
  int64_t at_ = 0;                                     // MCU that comes next in the data
  int64_t segment_ = 0;                                // restart interval that it is in
  size_t raw_ = 0;      // place in `encoded_` up to which the segment is in `buffer_`
  bool ended_ = false;  // all of the segment is in `buffer_`
  bool misfit_ = false;
  std::vector<uint8_t> buffer_;  // data without stuffing, and kMcuBytes more
  size_t filled_ = 0;            // bytes of data in it
  BitReader reader_{};
  std::array<int32_t, 4> dc_{};
};

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_SCAN_H_
