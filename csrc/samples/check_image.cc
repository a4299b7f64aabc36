// See check_image.h.
#include "samples/check_image.h"

#include "crc32c.h"
#include "image/parse.h"

namespace dali_dr::samples {

std::string InWords(uint32_t height, uint32_t width) {
  return std::to_string(width) + " pixels wide and " + std::to_string(height) + " high";
}

bool SizeOf(const shards::Sample& sample, image::Size* size) {
  if (sample.height == 0) return image::ReadSize(sample.image.bytes, size).empty();
  *size = {sample.height, sample.width};
  return true;
}

namespace {

constexpr char kChanged[] = ": the shard was changed or damaged; `dali-dr verify` says what else is";

// That the header says the size that the index does, and no more than `max_pixels`.
template <typename Fail>
void CheckSize(const shards::Sample& sample, uint64_t max_pixels, const Fail& fail) {
  const bool indexed = sample.height != 0;
  if (!indexed && max_pixels == 0) return;
  image::Size size{};
  const std::string problem = image::ReadSize(sample.image.bytes, &size);
  // Without a size in the index nobody has read the header before, and the decoder may know more than we do.
  if (!problem.empty()) fail("cannot be used: " + problem + (indexed ? kChanged : ""));
  const auto height = static_cast<uint32_t>(size.height), width = static_cast<uint32_t>(size.width);
  if (indexed && (size.height != sample.height || size.width != sample.width))
    fail("is " + InWords(height, width) + ", its index says " +
         InWords(static_cast<uint32_t>(sample.height), static_cast<uint32_t>(sample.width)) + kChanged);
  if (max_pixels != 0 && uint64_t{height} * width > max_pixels)
    fail("is " + InWords(height, width) + ", " + std::to_string(uint64_t{height} * width) +
         " pixels, but `max_pixels` is " + std::to_string(max_pixels) +
         ": raise max_pixels, or leave it out");
}

}  // namespace

void CheckImage(const shards::ShardSet& shards, const shards::Sample& sample, uint64_t max_pixels,
                bool checksum) {
  const auto fail = [&](const std::string& problem) {
    throw FaultError(shards.At(sample, sample.image, Fault::Kind::kImage,
                               "the image of " + shards.Where(sample, sample.image) + " " + problem));
  };
  if (checksum && sample.image_crc && Crc32c(sample.image.bytes) != *sample.image_crc)
    fail(std::string("does not have the checksum that its index says") + kChanged);
  CheckSize(sample, max_pixels, fail);
  image::Size parsed{sample.height, sample.width};
  std::string refused = image::Parse(sample.image.bytes, &parsed);
  if (refused.empty() && sample.height != 0 &&
      (parsed.height != sample.height || parsed.width != sample.width))
    refused = "its size is given twice, and differs";
  if (!refused.empty())
    fail("cannot be decoded: " + refused +
         ". Leave it out, or pack it again: `dali-dr verify --images` finds all such");
}

}  // namespace dali_dr::samples
