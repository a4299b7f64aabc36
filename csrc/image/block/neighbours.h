// Operations that make a pixel from others: geometry, sharpness and blur.
// Part of block.h, which includes it.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_NEIGHBOURS_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_NEIGHBOURS_H_

#include <cstdint>

#include "image/block/block.h"

namespace dali_dr::image {

template <typename Block>
template <typename Word>
DR_BLOCK void BlockReplay<Block>::MakeInSpare(Word word) {
  DR_UNROLL
  for (int32_t c = 0; c < 3; ++c) {
    const uint8_t* from = pixels_ + plane_[c];
    uint8_t* to = pixels_ + plane_[3];
    block_.ForEach(quads_, [&](int32_t quad) {
      int32_t x;
      const int32_t y = batch_.out.columns.Divide(4 * quad, &x);
      StoreWord(to + 4 * quad, word(c, from, quad, y, x));
    });
    block_.Sync();
    SwapWithSpare(c);
  }
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::ApplyAffine(const Affine& given) {
  const Affine map = given;
  MakeInSpare([&](int32_t c, const uint8_t* from, int32_t, int32_t y, int32_t x) {
    uint32_t word = 0;
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) {
      const int32_t sx = FixedX(map, x, y) >> 16, sy = FixedY(map, x, y) >> 16;
      if (uint32_t(sx) < uint32_t(width_) && uint32_t(sy) < uint32_t(height_))
        word |= uint32_t(Current(c, from[sy * width_ + sx])) << (8 * k);
      Advance(&y, &x);
    }
    return word;
  });
  pending_ = false;
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::Settle() {
  if (!pending_) return;
  DR_UNROLL
  for (int32_t c = 0; c < 3; ++c) {
    block_.ForEach(quads_,
                   [&](int32_t quad) { StoreWord(pixels_ + plane_[c] + 4 * quad, CurrentWord(c, quad)); });
  }
  pending_ = false;
  block_.Sync();
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::ApplyBlur(const Blur& given) {
  Settle();
  DR_ROLLED
  for (int32_t pass = 0; pass < 2 * kBlurPasses; ++pass) {
    const bool down = pass >= kBlurPasses;
    const BoxBlur box = down ? given.down : given.across;
    if (box.weight == 0) continue;
    const int32_t n = down ? height_ : width_, step = down ? width_ : 1;
    MakeInSpare([&](int32_t, const uint8_t* from, int32_t quad, int32_t y, int32_t x) {
      uint32_t word = 0;
      DR_ROLLED
      for (int32_t k = 0; k < QuadPixels(quad); ++k) {
        const uint8_t* const line = from + (down ? x : y * width_);
        word |= uint32_t{BoxedAt(line, step, n, down ? y : x, box)} << (8 * k);
        Advance(&y, &x);
      }
      return word;
    });
  }
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::ApplySharpness(float factor) {
  Settle();
  MakeInSpare([&](int32_t, const uint8_t* from, int32_t quad, int32_t y, int32_t x) {
    uint32_t word = 0;
    if (x >= 1 && x + 4 < width_ && y >= 1 && y + 1 < height_) {
      const uint8_t* p = from + 4 * quad;
      int32_t column[6];
      DR_UNROLL
      for (int32_t k = 0; k < 6; ++k) column[k] = p[k - 1 - width_] + p[k - 1] + p[k - 1 + width_];
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        const int32_t sum = column[k] + column[k + 1] + column[k + 2] + 4 * p[k];
        word |= uint32_t{Blend(Smooth(sum), p[k], factor)} << (8 * k);
      }
      return word;
    }
    for (int32_t k = 0; k < QuadPixels(quad); ++k) {
      const uint8_t* p = from + 4 * quad + k;
      uint32_t v = p[0];
      if (x >= 1 && x + 1 < width_ && y >= 1 && y + 1 < height_) {
        int32_t sum = 4 * p[0];
        for (int32_t row = -1; row <= 1; ++row) {
          const uint8_t* q = p + row * width_;
          sum += q[-1] + q[0] + q[1];
        }
        v = Blend(Smooth(sum), p[0], factor);
      }
      word |= v << (8 * k);
      Advance(&y, &x);
    }
    return word;
  });
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_NEIGHBOURS_H_
