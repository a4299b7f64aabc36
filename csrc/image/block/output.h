// Erase, normalise, mix and lay out: from the view in the block's memory to the output.
// Part of block.h, which includes it.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_OUTPUT_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_OUTPUT_H_

#include <cstdint>

#include "image/block/block.h"

namespace dali_dr::image {

template <typename Block>
DR_BLOCK uint32_t BlockReplay<Block>::OutputBits(int32_t c, int32_t level) const {
  if (batch_.type == OutputType::kUint8) return uint32_t(level);
  const float value = tables_->base[c][level];
  return batch_.type == OutputType::kFloat32 ? FloatBits(value) : ShortBits(batch_.type, value);
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::Finish(const Job& given) {
  const Job job = given;
  const bool mixed = job.partner >= 0;
  block_.ForEach(3 * kLevels, [&](int32_t i) {
    const int32_t c = i / kLevels, level = Current(c, i % kLevels);
    merged_[i] = mixed ? FloatBits(tables_->base[c][level]) : OutputBits(c, level);
  });
  block_.Sync();
  if (mixed) {
    for (int32_t k = 0; k < job.num_mixes; ++k) {
      const MixPlan mix = batch_.mixes[job.first_mix + k];
      const int64_t from = 3 * int64_t{k} * count_;
      if (batch_.type == OutputType::kFloat32) {
        WriteMixed(job.erase, mix, static_cast<uint32_t*>(InGlobal(job.out)) + from);
      } else {
        WriteMixed(job.erase, mix, static_cast<uint16_t*>(InGlobal(job.out)) + from);
      }
    }
  } else if (batch_.type == OutputType::kUint8) {
    WriteAlone(job.erase, static_cast<uint8_t*>(InGlobal(job.out)));
  } else if (batch_.type == OutputType::kFloat32) {
    WriteAlone(job.erase, static_cast<uint32_t*>(InGlobal(job.out)));
  } else {
    WriteAlone(job.erase, static_cast<uint16_t*>(InGlobal(job.out)));
  }
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::Park(const Box& given) {
  const Box erase = given;
  DR_UNROLL
  for (int32_t c = 0; c < 3; ++c) {
    block_.ForEach(quads_, [&](int32_t quad) {
      const uint32_t erased = Covered(erase, quad);
      uint32_t word = CurrentWord(c, quad);
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) {
        if (erased >> k & 1) word &= ~(0xffu << (8 * k));
      }
      StoreWord(InGlobal(parked_) + c * batch_.layout.plane_bytes + 4 * quad, word);
    });
  }
}

template <typename Block>
DR_BLOCK uint32_t BlockReplay<Block>::Covered(const Box& box, int32_t quad) const {
  if (box.height <= 0 || box.width <= 0) return 0;
  int32_t x, y = batch_.out.columns.Divide(4 * quad, &x);
  uint32_t bits = 0;
  DR_UNROLL
  for (int32_t k = 0; k < 4; ++k) {
    if (uint32_t(y - box.top) < uint32_t(box.height) && uint32_t(x - box.left) < uint32_t(box.width))
      bits |= 1u << k;
    Advance(&y, &x);
  }
  return bits;
}

template <typename Block>
template <typename T>
DR_BLOCK void BlockReplay<Block>::WriteAlone(const Box& erase, T* out) {
  const uint32_t black[3] = {OutputBits(0, 0), OutputBits(1, 0), OutputBits(2, 0)};
  const auto covered = [&](int32_t quad) { return Covered(erase, quad); };
  Write(out, covered, [&](int32_t c, int32_t quad, uint32_t erased, uint32_t v[4]) {
    const uint32_t word = LoadWord(pixels_ + plane_[c] + 4 * quad);
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k)
      v[k] = erased >> k & 1 ? black[c] : merged_[c * kLevels + ByteOf(word, k)];
  });
}

template <typename Block>
template <typename T>
DR_BLOCK void BlockReplay<Block>::WriteMixed(const Box& erase, const MixPlan& mix, T* out) {
  const float lam = mix.lam, rest = Add(1.0f, -lam);
  const bool swapped = mix.swapped;
  const uint8_t* const parked = InGlobal(parked_);
  const auto covered = [&](int32_t quad) { return Covered(erase, quad) | Covered(mix.cut, quad) << 4; };
  Write(out, covered, [&](int32_t c, int32_t quad, uint32_t bits, uint32_t v[4]) {
    const uint32_t own = LoadWord(pixels_ + plane_[c] + 4 * quad),
                   other = LoadWord(parked + c * batch_.layout.plane_bytes + 4 * quad);
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) {
      const float view = bits >> k & 1 ? tables_->base[c][0] : FloatOf(merged_[c * kLevels + ByteOf(own, k)]);
      const float partner = tables_->base[c][ByteOf(other, k)];
      const float a = swapped ? partner : view, b = swapped ? view : partner;
      const float x = bits >> (4 + k) & 1 ? b : lam == 1.0f ? a : MixUp(lam, a, rest, b);
      v[k] = sizeof(T) == 2 ? ShortBits(batch_.type, x) : FloatBits(x);
    }
  });
}

template <typename Block>
template <typename T, typename CoveredBy, typename Values>
DR_BLOCK void BlockReplay<Block>::Write(T* out, CoveredBy covered, Values values) {
  const bool aligned = count_ % 4 == 0 && reinterpret_cast<uintptr_t>(out) % (4 * sizeof(T)) == 0;
  if (batch_.channels_last) {
    block_.ForEach(quads_, [&](int32_t quad) {
      const uint32_t bits = covered(quad);
      uint32_t v[12];
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) {
        uint32_t plane[4];
        values(c, quad, bits, plane);
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) v[3 * k + c] = plane[k];
      }
      T* to = out + 12 * int64_t{quad};
      if (aligned) {
        DR_UNROLL
        for (int32_t k = 0; k < 12; k += 4) StoreFour(to + k, v + k);
      } else {
        const int32_t count = 3 * QuadPixels(quad);
        DR_UNROLL
        for (int32_t k = 0; k < 12; ++k) {
          if (k < count) to[k] = T(v[k]);
        }
      }
    });
    return;
  }
  block_.ForEach(quads_, [&](int32_t quad) {
    const uint32_t bits = covered(quad);
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) {
      uint32_t v[4];
      values(c, quad, bits, v);
      T* to = out + c * count_ + 4 * quad;
      if (aligned) {
        StoreFour(to, v);
      } else {
        const int32_t pixels = QuadPixels(quad);
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) {
          if (k < pixels) to[k] = T(v[k]);
        }
      }
    }
  });
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_OUTPUT_H_
