// What is checked of an image file before it is decoded.
#ifndef DALI_DR_CSRC_SAMPLES_CHECK_IMAGE_H_
#define DALI_DR_CSRC_SAMPLES_CHECK_IMAGE_H_

#include <cstdint>
#include <string>

#include "image/header.h"
#include "shards/shards.h"

namespace dali_dr::samples {

/// Checks the image of a loaded sample: its checksum, if `checksum`, the size in its header against that in
/// the index, if the index has one, and against `max_pixels`, unless that is 0; and that the decoders'
/// parsers take it (image/parse.h). Throws FaultError.
void CheckImage(const shards::ShardSet& shards, const shards::Sample& sample, uint64_t max_pixels,
                bool checksum);

/// The size of a loaded sample's image that CheckImage has seen: by the index, else by its header. Whether it
/// is known.
bool SizeOf(const shards::Sample& sample, image::Size* size);

/// "500 pixels wide and 375 high".
std::string InWords(uint32_t height, uint32_t width);

}  // namespace dali_dr::samples

#endif  // DALI_DR_CSRC_SAMPLES_CHECK_IMAGE_H_
