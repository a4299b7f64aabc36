// What dali_dr/loader/partners.py calls through ctypes: partner_cache.h as C functions.
#include "samples/partner_cache.h"

using dali_dr::samples::PartnerCache;

/// PartnerCache::Counts.
struct DaliDrPartners {
  int64_t images, bytes, hits, misses;
};

extern "C" {

/// Lets go of the images of cache `number`.
__attribute__((visibility("default"))) void dali_dr_partners_drop(int number) { PartnerCache::Drop(number); }

/// All zero where there is no such cache (yet).
__attribute__((visibility("default"))) void dali_dr_partners_counts(int number, DaliDrPartners* counts) {
  *counts = {};
  const auto cache = PartnerCache::Get(number);
  if (!cache) return;
  const auto [images, bytes, hits, misses] = cache->counts();
  *counts = {images, bytes, hits, misses};
}
}
