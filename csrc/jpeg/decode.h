// Decoding by libjpeg-turbo: the rows of a region of a JPEG, one after the other, as they are asked for.
//
// Pixels are those of Pillow's convert("RGB") of the whole image (libjpeg's defaults: accurate integer DCT,
// fancy upsampling), which is what the teacher saw. Of a tiled JPEG only the tiles that the region touches
// are looked at; of others everything above and beside the region is passed over. Sequential Huffman-coded
// files have their codes read by Scan; of others, and where anything is out of order, libjpeg reads all.
#ifndef DALI_DR_CSRC_JPEG_DECODE_H_
#define DALI_DR_CSRC_JPEG_DECODE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "jpeg/frame.h"

namespace dali_dr::jpeg {

/// Whether the bytes begin as a JPEG does.
bool IsJpeg(std::span<const uint8_t> encoded);

/// One worker's decoder, used for one image after the other.
class Decoder {
 public:
  Decoder();
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Where the rows of an image came from.
  enum class Way {
    kTiles,   ///< its tiles, those that the region touches
    kWhole,   ///< its beginning: it has no tiles
    kMisfit,  ///< its beginning, as the markers of its tiles are not those that there must be
  };

  /// Begins an image. `encoded` must live until it is done with. Returns an empty string, or what is wrong:
  /// no JPEG, one that libjpeg refuses, or a region that is not inside it.
  std::string Begin(std::span<const uint8_t> encoded, const Region& region);

  /// Decodes the next `rows` rows of the region, at most kMaxRows. Returns an empty string, or what is wrong.
  std::string Next(int32_t rows);
  static constexpr int32_t kMaxRows = 16;

  /// Row `i` of those that Next decoded, 3 * width bytes (R, G, B), valid until it is called again; kSlack
  /// bytes behind it may be read, too.
  const uint8_t* row(int32_t i) const;
  static constexpr size_t kSlack = 256;

  /// Of the image in work; it may turn out late that markers do not fit.
  Way way() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// All of a region, 3 * width bytes a row without padding, into `out`. Returns as Begin and Next do.
std::string Decode(std::span<const uint8_t> encoded, const Region& region, Decoder* decoder, uint8_t* out);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_DECODE_H_
