// Operations that need to know all pixels of the view first: sums and histograms.
// Part of block.h, which includes it.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_HISTOGRAM_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_HISTOGRAM_H_

#include <cstdint>

#include "image/block/block.h"

namespace dali_dr::image {

template <typename Block>
DR_BLOCK uint64_t BlockReplay<Block>::GreySum() {
  if (block_.Leader()) tables_->grey = 0;
  block_.Sync();
  uint32_t sum = 0;  // at most 2^26 pixels of 255 over all threads of a block, each with its share
  block_.ForEach(quads_, [&](int32_t quad) {
    const uint32_t r = CurrentWord(0, quad), g = CurrentWord(1, quad), b = CurrentWord(2, quad);
    const int32_t pixels = QuadPixels(quad);
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) {
      if (k < pixels) sum += uint32_t(Grey(ByteOf(r, k), ByteOf(g, k), ByteOf(b, k)));
    }
  });
  block_.Sum(&tables_->grey, sum);
  block_.Sync();
  return tables_->grey;
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::Histogram() {
  const int32_t replicas = batch_.layout.replicas;
  uint32_t* const counts = merged_ + 3 * kLevels;
  block_.ForEach((1 + replicas) * 3 * kLevels, [&](int32_t i) { merged_[i] = 0; });
  block_.ForEach(3, [&](int32_t c) {
    tables_->lo[c] = kLevels - 1;
    tables_->hi[c] = 0;
  });
  block_.Sync();
  uint32_t* const own = counts + block_.Replica() % replicas * (3 * kLevels);
  DR_UNROLL
  for (int32_t c = 0; c < 3; ++c) {
    block_.ForEach(quads_, [&](int32_t quad) {
      const uint32_t word = LoadWord(pixels_ + plane_[c] + 4 * quad);
      const int32_t pixels = QuadPixels(quad);
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        if (k < pixels) block_.Count(own + c * kLevels + ByteOf(word, k), 1);
      }
    });
  }
  block_.Sync();
  block_.ForEach(3 * kLevels, [&](int32_t i) {
    const int32_t c = i / kLevels;
    uint32_t n = 0;
    for (int32_t r = 0; r < replicas; ++r) n += counts[r * (3 * kLevels) + i];
    if (n == 0) return;
    const int32_t v = Current(c, i % kLevels);
    block_.Count(merged_ + c * kLevels + v, n);
    block_.Lower(&tables_->lo[c], v);
    block_.Raise(&tables_->hi[c], v);
  });
  block_.Sync();
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::ApplyEqualize() {
  Histogram();
  constexpr int32_t length = kLevels / kSegments;
  block_.ForEach(3 * kSegments, [&](int32_t i) {
    uint32_t n = 0;
    for (int32_t k = 0; k < length; ++k) n += merged_[i * length + k];
    tables_->segment[i / kSegments][i % kSegments] = n;
  });
  block_.Sync();
  block_.ForEach(3 * kLevels, [&](int32_t i) {
    const int32_t c = i / kLevels, v = i % kLevels;
    const uint32_t* counts = merged_ + c * kLevels;
    const uint32_t step = EqualizeStep(uint32_t(count_), counts[tables_->hi[c]]);
    uint32_t below = 0;
    for (int32_t s = 0; s < v / length; ++s) below += tables_->segment[c][s];
    for (int32_t u = v / length * length; u < v; ++u) below += counts[u];
    tables_->next[c][v] = step == 0 ? uint8_t(v) : Equalize(below, step);
  });
  block_.Sync();
  Compose([&](int32_t c, int32_t v) { return tables_->next[c][v]; });
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_HISTOGRAM_H_
