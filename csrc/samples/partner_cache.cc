// See partner_cache.h.
#include "samples/partner_cache.h"

#include <map>

#include "image/header.h"
#include "image/raw.h"
#include "jpeg/kind.h"

namespace dali_dr::samples {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<int, std::shared_ptr<PartnerCache>> caches;
};

// Never destroyed: threads of a pipeline may outlive main.
Registry& All() {
  static auto& registry = *new Registry;
  return registry;
}

}  // namespace

std::shared_ptr<PartnerCache> PartnerCache::Open(int number, size_t most_bytes, const std::string& data_set) {
  if (number < 0) return nullptr;
  const std::lock_guard lock(All().mutex);
  auto& cache = All().caches[number];
  if (!cache) {
    cache = std::make_shared<PartnerCache>(most_bytes);
    cache->data_set_ = data_set;
  }
  return cache->data_set_ == data_set ? cache : nullptr;
}

void PartnerCache::Drop(int number) {
  const std::lock_guard lock(All().mutex);
  All().caches.erase(number);
}

std::shared_ptr<PartnerCache> PartnerCache::Get(int number) {
  const std::lock_guard lock(All().mutex);
  const auto found = All().caches.find(number);
  return found == All().caches.end() ? nullptr : found->second;
}

std::optional<KeptImage> PartnerCache::Find(int64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = images_.find(number);
  const bool here = found != images_.end();
  ++(here ? hits_ : misses_);
  return here ? std::optional(found->second) : std::nullopt;
}

bool PartnerCache::Reserve(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > most_bytes_ - bytes_) return false;
  bytes_ += bytes;
  return true;
}

std::optional<KeptImage> PartnerCache::Keep(int64_t number, std::span<const uint8_t> encoded,
                                            jpeg::Decoder* decoder) {
  image::Size size{};
  if (!jpeg::IsDecodable(encoded) || !image::ReadSize(encoded, &size).empty()) return std::nullopt;
  const size_t bytes = image::RawBytes(size);
  if (!Reserve(bytes)) return std::nullopt;
  // Without the lock, as it takes milliseconds: two threads may decode one image, of which the first is kept.
  KeptImage image;
  try {
    image.buffer = shards::Buffer(new uint8_t[bytes]);
    image.bytes = {image.buffer.get(), bytes};
    image::PutRawHeader(size, image.buffer.get());
    if (!jpeg::Decode(encoded, {0, 0, size.height, size.width}, decoder,
                      image.buffer.get() + image::kRawHeader)
             .empty())
      image = {};
  } catch (const std::bad_alloc&) {  // memory is short: others decode no more than they need
    image = {};
  }
  const std::lock_guard lock(mutex_);
  if (!image.buffer) {
    bytes_ -= bytes;
    return std::nullopt;
  }
  const auto [entry, is_new] = images_.try_emplace(number, std::move(image));
  if (!is_new) bytes_ -= bytes;
  return entry->second;
}

PartnerCache::Counts PartnerCache::counts() const {
  const std::lock_guard lock(mutex_);
  return {static_cast<int64_t>(images_.size()), static_cast<int64_t>(bytes_), hits_, misses_};
}

}  // namespace dali_dr::samples
