// Operations on the pixels by themselves, and which operation is done how. Every one ends with a barrier.
// Part of block.h, which includes it.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_OPERATIONS_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_OPERATIONS_H_

#include <cstdint>

#include "image/block/block.h"

namespace dali_dr::image {

template <typename Block>
DR_BLOCK void BlockReplay<Block>::Apply(const Step& step) {
  const int32_t value = step.value;
  const float factor = step.factor;
  switch (step.kind) {
    case StepKind::kAffine:
      ApplyAffine(step.affine);
      break;
    case StepKind::kBrightness:
      Compose([&](int32_t, int32_t v) { return Blend(0, v, factor); });
      break;
    case StepKind::kContrast: {
      const int32_t mean = ContrastMean(GreySum(), uint64_t(count_));
      Compose([&](int32_t, int32_t v) { return Blend(mean, v, factor); });
      break;
    }
    case StepKind::kColor:
      ApplyColor(factor);
      break;
    case StepKind::kSharpness:
      ApplySharpness(factor);
      break;
    case StepKind::kPosterize:
      Compose([&](int32_t, int32_t v) { return uint8_t(v & value); });
      break;
    case StepKind::kSolarize:
      Compose([&](int32_t, int32_t v) { return uint8_t(v >= value ? 255 - v : v); });
      break;
    case StepKind::kAutoContrast:
      Histogram();
      Compose([&](int32_t c, int32_t v) { return AutoContrast(v, tables_->lo[c], tables_->hi[c]); });
      break;
    case StepKind::kEqualize:
      ApplyEqualize();
      break;
    case StepKind::kHue:
      if constexpr (Block::kHueAndBlur) ApplyHue(value);
      break;
    case StepKind::kBlur:
      if constexpr (Block::kHueAndBlur) ApplyBlur(step.blur);
      break;
  }
}

template <typename Block>
template <typename Map>
DR_BLOCK void BlockReplay<Block>::Compose(Map map) {
  block_.ForEach(3 * kLevels, [&](int32_t i) {
    const int32_t c = i / kLevels, v = i % kLevels;
    tables_->lut[c][v] = map(c, Current(c, v));
  });
  pending_ = true;
  block_.Sync();
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::ApplyColor(float factor) {
  block_.ForEach(quads_, [&](int32_t quad) {
    const uint32_t in[3] = {CurrentWord(0, quad), CurrentWord(1, quad), CurrentWord(2, quad)};
    uint32_t out[3] = {};
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) {
      const int32_t grey = Grey(ByteOf(in[0], k), ByteOf(in[1], k), ByteOf(in[2], k));
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) out[c] |= uint32_t{Blend(grey, ByteOf(in[c], k), factor)} << (8 * k);
    }
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) StoreWord(pixels_ + plane_[c] + 4 * quad, out[c]);
  });
  pending_ = false;
  block_.Sync();
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::ApplyHue(int32_t shift) {
  block_.ForEach(quads_, [&](int32_t quad) {
    const uint32_t in[3] = {CurrentWord(0, quad), CurrentWord(1, quad), CurrentWord(2, quad)};
    uint32_t out[3] = {};
    DR_ROLLED  // a long way for each pixel
        for (int32_t k = 0; k < 4; ++k) {
      const uint32_t turned = TurnHue(ByteOf(in[0], k), ByteOf(in[1], k), ByteOf(in[2], k), shift);
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) out[c] |= uint32_t(ByteOf(turned, c)) << (8 * k);
    }
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) StoreWord(pixels_ + plane_[c] + 4 * quad, out[c]);
  });
  pending_ = false;
  block_.Sync();
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_OPERATIONS_H_
