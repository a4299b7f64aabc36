// See replay.h.
#include "image/replay.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "image/grow.h"

namespace dali_dr::image {
// Points planes_ and spare_ at buffers for a view of this size.
void Scratch::UseView(Size size) {
  count_ = size_t(size.height) * size.width;
  const size_t stride = (count_ + 31) / 32 * 32 + 2 * kPad;
  Grow(&pixels_, kPad + 6 * stride);
  for (int c = 0; c < 3; ++c) {
    planes_[c] = pixels_.data() + kPad + c * stride;
    spare_[c] = pixels_.data() + kPad + (c + 3) * stride;
  }
}

void Scratch::SwapPlanes() { std::swap(planes_, spare_); }

void Scratch::CropResizeFlip(const Plan& plan, const Image& image, Filter filter) {
  UseView(plan.out);
  resizer_.Run(plan, image, filter, planes_);
}

bool Scratch::StreamResizeFlip(const Plan& plan, RowSource* rows, Filter filter) {
  UseView(plan.out);
  return resizer_.Stream(plan, rows, filter, planes_);
}

void Scratch::ApplyLut(const uint8_t table[256], int c) { kernels_->lut(table, planes_[c], count_); }

void Scratch::Histogram(int c, uint32_t counts[256]) {
  uint32_t part[4][256] = {};  // four, so that equal neighbours do not wait for each other
  const uint8_t* p = planes_[c];
  size_t i = 0;
  for (; i + 8 <= count_; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, p + i, 8);
    for (int k = 0; k < 8; ++k) ++part[k % 4][uint8_t(eight >> (8 * k))];
  }
  for (; i < count_; ++i) ++part[0][p[i]];
  std::fill_n(counts, 256, 0u);
  for (const auto& each : part) {
    for (int v = 0; v < 256; ++v) counts[v] += each[v];
  }
}

void Scratch::ApplyAffine(const Affine& map, Size size) {
  const int32_t h = size.height, w = size.width;
  const bool unit = map.xx == 65536 && map.yy == 65536;
  if (unit && map.yx == 0) {
    // Translations and ShearX: every row moves as a whole.
    for (int32_t y = 0; y < h; ++y) {
      const int32_t sy = FixedY(map, 0, y) >> 16, shift = FixedX(map, 0, y) >> 16;
      const int32_t x0 = std::clamp(-shift, 0, w), x1 = std::clamp(w - shift, x0, w);
      for (int c = 0; c < 3; ++c) {
        uint8_t* to = spare_[c] + size_t(y) * w;
        if (uint32_t(sy) >= uint32_t(h)) {
          std::memset(to, 0, w);
          continue;
        }
        std::memset(to, 0, x0);
        std::memcpy(to + x0, planes_[c] + size_t(sy) * w + x0 + shift, x1 - x0);
        std::memset(to + x1, 0, w - x1);
      }
    }
  } else {
    kernels_->affine(map, planes_, h, w, spare_);
  }
  SwapPlanes();
}

void Scratch::ApplyBlur(const Blur& blur, Size size) {
  for (const bool down : {false, true}) {
    const BoxBlur& box = down ? blur.down : blur.across;
    if (box.weight == 0) continue;
    const auto pass = down ? kernels_->blur_columns : kernels_->blur_rows;
    for (int i = 0; i < kBlurPasses; ++i) {
      for (int c = 0; c < 3; ++c) pass(box, planes_[c], size.height, size.width, spare_[c]);
      SwapPlanes();
    }
  }
}

// Blends every level with one other.
void Scratch::BlendLevels(int32_t degenerate, float factor) {
  uint8_t table[256];
  for (int v = 0; v < 256; ++v) table[v] = Blend(degenerate, v, factor);
  for (int c = 0; c < 3; ++c) ApplyLut(table, c);
}

void Scratch::ApplyAutoContrast(int c) {
  uint8_t lo, hi, table[256];
  kernels_->min_max(planes_[c], count_, &lo, &hi);
  if (hi <= lo || (lo == 0 && hi == 255)) return;  // unchanged: 255 / 255 = 1 and offset 0
  for (int v = 0; v < 256; ++v) table[v] = AutoContrast(v, lo, hi);
  ApplyLut(table, c);
}

void Scratch::ApplyEqualize(int c) {
  uint32_t counts[256], below = 0;
  uint8_t table[256];
  Histogram(c, counts);
  int last = 255;
  while (counts[last] == 0) --last;
  const uint32_t size = EqualizeStep(uint32_t(count_), counts[last]);
  if (size == 0) return;
  for (int v = 0; v < 256; ++v) {
    table[v] = Equalize(below, size);
    below += counts[v];
  }
  ApplyLut(table, c);
}

void Scratch::ApplyStep(const Step& step, Size size) {
  switch (step.kind) {
    case StepKind::kAffine:
      return ApplyAffine(step.affine, size);
    case StepKind::kBrightness:
      return BlendLevels(0, step.factor);
    case StepKind::kContrast:
      return BlendLevels(ContrastMean(kernels_->grey_sum(planes_, count_), count_), step.factor);
    case StepKind::kColor:
      return kernels_->color(step.factor, planes_, count_);
    case StepKind::kSharpness:
      for (int c = 0; c < 3; ++c)
        kernels_->sharpness(step.factor, planes_[c], size.height, size.width, spare_[c]);
      return SwapPlanes();
    case StepKind::kPosterize:
      for (int c = 0; c < 3; ++c) kernels_->mask(uint8_t(step.value), planes_[c], count_);
      return;
    case StepKind::kSolarize:
      for (int c = 0; c < 3; ++c) kernels_->solarize(uint8_t(step.value), planes_[c], count_);
      return;
    case StepKind::kAutoContrast:
      for (int c = 0; c < 3; ++c) ApplyAutoContrast(c);
      return;
    case StepKind::kEqualize:
      for (int c = 0; c < 3; ++c) ApplyEqualize(c);
      return;
    case StepKind::kHue:
      return kernels_->hue(step.value, planes_, count_);
    case StepKind::kBlur:
      return ApplyBlur(step.blur, size);
  }
}

void Scratch::ApplySteps(const Plan& plan) {
  for (int32_t i = 0; i < plan.num_steps; ++i) ApplyStep(plan.steps[i], plan.out);
}

void Scratch::Erase(const Plan& plan) {
  const Box& erase = plan.erase;
  const int32_t width = plan.out.width;
  for (int c = 0; c < 3; ++c) {
    for (int32_t y = erase.top; y < erase.top + erase.height; ++y) {
      std::memset(planes_[c] + size_t(y) * width + erase.left, 0, erase.width);
    }
  }
}

void Scratch::WriteMixed(const Scratch& partner, const MixPlan& mix, Size size, const Finish& finish,
                         void* out) {
  const Scratch &a = mix.swapped ? partner : *this, &b = mix.swapped ? *this : partner;
  const float lam = mix.lam, rest = 1.0f - lam;
  const size_t width = size.width;
  Grow(&floats_, 2 * width);
  float *const line = floats_.data(), *const other = line + width;
  for (int c = 0; c < 3; ++c) {
    const Channel& channel = finish.channel(c);
    for (int32_t y = 0; y < size.height; ++y) {
      const size_t at = size_t(y) * width;
      const bool cut = y >= mix.cut.top && y < mix.cut.top + mix.cut.height;
      kernels_->finish_float(channel, a.planes_[c] + at, width, line);
      if (lam != 1.0f || cut) kernels_->finish_float(channel, b.planes_[c] + at, width, other);
      if (lam != 1.0f) {
        for (size_t x = 0; x < width; ++x) line[x] = MixUp(lam, line[x], rest, other[x]);
      }
      if (cut) std::memcpy(line + mix.cut.left, other + mix.cut.left, mix.cut.width * sizeof(float));
      const size_t plane = c * count_ + at;
      if (finish.channels_last()) {
        for (size_t x = 0; x < width; ++x) {
          const size_t to = 3 * (at + x) + c;
          if (finish.value_bytes() == 2) {
            static_cast<uint16_t*>(out)[to] = ShortBits(finish.type(), line[x]);
          } else {
            static_cast<float*>(out)[to] = line[x];
          }
        }
      } else if (finish.value_bytes() == 2) {
        (finish.type() == OutputType::kFloat16 ? kernels_->round_half : kernels_->round_bfloat)(
            line, width, static_cast<uint16_t*>(out) + plane);
      } else {
        std::memcpy(static_cast<float*>(out) + plane, line, width * sizeof(float));
      }
    }
  }
}

void Scratch::Write(const Plan& plan, const Finish& finish, void* out) {
  Erase(plan);
  if (finish.channels_last()) {
    const auto interleave = [&](auto* to, const auto* r, const auto* g, const auto* b) {
      for (size_t i = 0; i < count_; ++i) {
        to[3 * i] = r[planes_[0][i]];
        to[3 * i + 1] = g[planes_[1][i]];
        to[3 * i + 2] = b[planes_[2][i]];
      }
    };
    const Channel &r = finish.channel(0), &g = finish.channel(1), &b = finish.channel(2);
    if (finish.type() == OutputType::kUint8) {
      kernels_->join(planes_, count_, static_cast<uint8_t*>(out));
    } else if (finish.value_bytes() == 2) {
      interleave(static_cast<uint16_t*>(out), r.half, g.half, b.half);
    } else {
      interleave(static_cast<float*>(out), r.value, g.value, b.value);
    }
    return;
  }
  for (int c = 0; c < 3; ++c) {
    if (finish.type() == OutputType::kUint8) {
      std::memcpy(static_cast<uint8_t*>(out) + c * count_, planes_[c], count_);
    } else if (finish.value_bytes() == 2) {
      (finish.type() == OutputType::kFloat16 ? kernels_->finish_half : kernels_->finish_bfloat)(
          finish.channel(c), planes_[c], count_, static_cast<uint16_t*>(out) + c * count_);
    } else {
      kernels_->finish_float(finish.channel(c), planes_[c], count_, static_cast<float*>(out) + c * count_);
    }
  }
}

}  // namespace dali_dr::image
