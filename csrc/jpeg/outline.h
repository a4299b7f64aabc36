// What a JPEG file is made of, by its markers (ITU-T T.81, annex B), before a decoder sees it.
#ifndef DALI_DR_CSRC_JPEG_OUTLINE_H_
#define DALI_DR_CSRC_JPEG_OUTLINE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace dali_dr::jpeg {

/// Of a JPEG of one frame of 8 bits, grey or of three colours.
struct Outline {
  int height = 0, width = 0;
  int colours = 0;                                   // 1 or 3
  int horizontal[3] = {}, vertical[3] = {};          // sampling factors, 1 … 4
  int scans = 0;                                     // with their data
  bool sequential = false;                           // by Huffman codes: SOF0 or SOF1
  bool interleaved = false;                          // the last scan holds all colours
  int restart_interval = 0;                          // in MCUs, of the last scan; 0: no restart markers
  std::vector<std::span<const uint8_t>> metadata{};  // APPn and COM, whole, in their order

  /// Blocks of 8 × 8 coefficients, whole MCUs.
  int64_t blocks() const;
  /// Of one scan of all colours. A scan of one colour counts blocks, whatever the sampling factors say.
  int mcu_width() const;
  int mcu_height() const;
  int mcus_per_row() const { return (width + mcu_width() - 1) / mcu_width(); }
  int mcu_rows() const { return (height + mcu_height() - 1) / mcu_height(); }
};

/// nullptr and the outline, or why the file is none that can be transcoded. Takes only what all decoders read
/// in one way: segments one behind the other, and nothing behind the end.
const char* ReadOutline(std::span<const uint8_t> file, Outline* outline);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_OUTLINE_H_
