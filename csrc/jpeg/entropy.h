// Our entropy decoding in libjpeg's place: libjpeg transforms, upsamples and converts the MCUs that Scan
// gives.
//
// libjpeg has no interface for that; the place is its decode_mcu pointer (jpegint.h), which has been where it
// is since version 6b. Whether it is in the library at hand is tried out once.
#ifndef DALI_DR_CSRC_JPEG_ENTROPY_H_
#define DALI_DR_CSRC_JPEG_ENTROPY_H_

#include "jpeg/library.h"
#include "jpeg/scan.h"

namespace dali_dr::jpeg {

/// Decodes an MCU; `blocks` are as decode_mcu gets them.
using DecodeMcu = boolean (*)(j_decompress_ptr, JBLOCKROW* blocks);

/// Has `info`, which was started for an image that Frame can tell of, get its MCUs from `decode`.
void Install(jpeg_decompress_struct* info, DecodeMcu decode);

/// Whether it does with this library. Never throws.
bool InstallWorks();

/// Gives `scan` the code tables and `layout` the blocks of an image of that kind that was started. False if
/// they are none.
bool Describe(const jpeg_decompress_struct& info, Scan* scan, McuLayout* layout);

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_ENTROPY_H_
