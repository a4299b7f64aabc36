// Which images are decoded here.
#ifndef DALI_DR_CSRC_JPEG_KIND_H_
#define DALI_DR_CSRC_JPEG_KIND_H_

#include <cstdint>
#include <span>

namespace dali_dr::jpeg {

/// Whether it is, by its header, a JPEG that libjpeg makes RGB of: 8-bit samples of one or three components,
/// coded sequentially or progressively, by Huffman's method or arithmetically. Trusts nothing; its data may
/// still turn out to be damaged.
bool IsDecodable(std::span<const uint8_t> encoded);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_KIND_H_
