// Images that views are mixed with, kept decoded, so that they cost neither a read nor a decode when they are
// wanted again. For data sets whose partners come from a library that fits into memory.
#ifndef DALI_DR_CSRC_SAMPLES_PARTNER_CACHE_H_
#define DALI_DR_CSRC_SAMPLES_PARTNER_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "jpeg/decode.h"
#include "shards/buffers.h"

namespace dali_dr::samples {

/// A whole image as image/raw.h has it, whose memory lives as long as somebody holds it.
struct KeptImage {
  shards::Buffer buffer{};
  std::span<const uint8_t> bytes{};
};

/// Holds as many images as fit, those that came first: every one of a library is wanted as often as any
/// other, so that nothing would be gained by letting one go for another. All functions may be called from
/// several threads at once.
class PartnerCache {
 public:
  /// At most so many bytes of pixels and their headers.
  explicit PartnerCache(size_t most_bytes) : most_bytes_(most_bytes) {}

  /// The cache of that number, made when first asked for; it lives until `Drop` and while somebody holds it,
  /// and so outlives pipelines that are built anew. `data_set` says whose images it holds: null for those of
  /// another, and for a negative number.
  static std::shared_ptr<PartnerCache> Open(int number, size_t most_bytes, const std::string& data_set);
  static void Drop(int number);
  /// Null where there is none.
  static std::shared_ptr<PartnerCache> Get(int number);

  /// Image `number`, if it is kept.
  std::optional<KeptImage> Find(int64_t number);

  /// Decodes image `number` and keeps it, unless there is no room or it is no JPEG that can be decoded; then
  /// nothing is changed, and the image is for others to decode.
  std::optional<KeptImage> Keep(int64_t number, std::span<const uint8_t> encoded, jpeg::Decoder* decoder);

  struct Counts {
    int64_t images = 0, bytes = 0;  ///< that are kept
    int64_t hits = 0, misses = 0;   ///< of Find
  };
  Counts counts() const;

 private:
  bool Reserve(size_t bytes);

  const size_t most_bytes_;
  mutable std::mutex mutex_;
  std::string data_set_;
  size_t bytes_ = 0;  // kept, or of images that are being decoded
  int64_t hits_ = 0, misses_ = 0;
  std::unordered_map<int64_t, KeptImage> images_;
};

}  // namespace dali_dr::samples

#endif  // DALI_DR_CSRC_SAMPLES_PARTNER_CACHE_H_
