// See replay.h.
#include "image/replay.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace dali_dr::image {
namespace {

constexpr int32_t kRowGroup = 4;  // rows per call of Kernels::resize_rows

template <typename T>
void Grow(std::vector<T>* v, size_t n) {
  if (v->size() < n) v->resize(n);
}

int32_t RoundUp(int32_t v, int32_t multiple) { return (v + multiple - 1) / multiple * multiple; }

// Looks for a scale and a bias whose fused multiply-add gives all 256 wanted values, near the straight line
// through them. The reference rounds three times, so the line alone often misses a few entries by one unit.
template <typename Equal>
bool FindLine(const float value[256], float* scale, float* bias, Equal equal) {
  const float slope = float((double(value[255]) - value[0]) / 255.0);
  for (int step = 0; step < 81; ++step) {
    float s = slope, b = value[0];
    const int ds = step % 9 - 4, db = step / 9 - 4;
    for (int i = 0; i < std::abs(ds); ++i) s = std::nextafter(s, ds < 0 ? -INFINITY : INFINITY);
    for (int i = 0; i < std::abs(db); ++i) b = std::nextafter(b, db < 0 ? -INFINITY : INFINITY);
    bool all = true;
    for (int v = 0; v < 256 && all; ++v) all = equal(v, std::fma(float(v), s, b));
    if (all) {
      *scale = s;
      *bias = b;
      return true;
    }
  }
  return false;
}

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// a / b for b's rounded reciprocal: one product and one fused correction (Markstein). Right for nearly all
// operands; the caller checks the ones that it uses.
float Divide(float a, float b, float reciprocal) {
  const float q = a * reciprocal;
  return std::fma(std::fma(-b, q, a), reciprocal, q);
}

Channel MakeChannel(OutputType type, bool normalise, float mean, float std) {
  const auto bits = [&](float x) {
    return ShortBits(type == OutputType::kBfloat16 ? type : OutputType::kFloat16, x);
  };
  Channel c{};
  c.mean = mean;
  c.std = std;
  c.inverse_std = 1.0f / std;
  for (int v = 0; v < 256; ++v) {
    c.value[v] = normalise ? Normalise(v, mean, std) : float(v);
    c.half[v] = bits(c.value[v]);
  }
  bool divide = normalise;
  for (int v = 0; v < 256 && divide; ++v) {
    divide = SameBits(Divide(Divide(float(v), 255.0f, 1.0f / 255.0f) - mean, std, c.inverse_std), c.value[v]);
  }
  const bool line =
      FindLine(c.value, &c.scale, &c.bias, [&](int v, float x) { return SameBits(x, c.value[v]); });
  c.rule = line ? Rule::kScale : divide ? Rule::kDivide : Rule::kTable;
  const bool half_line =
      FindLine(c.value, &c.half_scale, &c.half_bias, [&](int v, float x) { return bits(x) == c.half[v]; });
  c.half_rule = half_line ? Rule::kScale : divide ? Rule::kDivide : Rule::kTable;
  return c;
}

}  // namespace

Finish::Finish(OutputType type, bool channels_last, std::span<const float> mean, std::span<const float> std)
    : type_(type), channels_last_(channels_last) {
  for (int c = 0; c < 3; ++c) {
    channels_[c] =
        mean.empty() ? MakeChannel(type, false, 0.0f, 1.0f) : MakeChannel(type, true, mean[c], std[c]);
  }
}

void Scratch::SetTaps(const Axis& axis, int32_t first, int32_t count, TapTable* table) {
  const int32_t max_taps = MaxTaps(axis), out = RoundUp(count, 4);
  Grow(&raw_, max_taps);
  Grow(&fixed_, size_t(out) * max_taps);
  Grow(&table->start, out);
  int32_t longest = 1;
  for (int32_t x = 0; x < count; ++x) {
    int32_t* fixed = fixed_.data() + size_t(x) * max_taps;
    const int32_t used = FixedWeights(axis, first + x, raw_.data(), &table->start[x], fixed);
    std::fill(fixed + used, fixed + max_taps, 0);
    longest = std::max(longest, used);
  }
  table->pairs = (longest + 1) / 2;
  const int32_t taps = 2 * table->pairs;
  table->weight.assign(size_t(out) * table->pairs, TapPair{});
  for (int32_t x = count; x < out; ++x) table->start[x] = 0;
  for (int32_t x = 0; x < count; ++x) {
    // Move windows at the far edge inwards (leading weights 0), so that taps past the edge occur only in tiny
    // inputs.
    const int32_t begin = table->start[x], start = std::max(0, std::min(begin, axis.in - taps));
    table->start[x] = start;
    TapPair* pair = table->weight.data() + size_t(x) * table->pairs;
    const int32_t* fixed = fixed_.data() + size_t(x) * max_taps;
    for (int32_t i = 0; i < std::min(max_taps, taps - (begin - start)); ++i) {
      const int32_t tap = begin - start + i, low = fixed[i] & ((1 << kLowBits) - 1);
      pair[tap / 2].low[tap % 2] = int16_t(low);
      pair[tap / 2].high[tap % 2] = int16_t((fixed[i] - low) >> kLowBits);
    }
  }
}

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
  const Box& crop = plan.crop;
  const Size out = plan.out;
  UseView(out);
  const Size resized = plan.resized;
  const bool horizontal = crop.width != resized.width, vertical = crop.height != resized.height;
  if (horizontal) {
    SetTaps(MakeAxis(crop.width, resized.width, filter), plan.window_left, out.width, &columns_);
  }
  if (vertical) {
    SetTaps(MakeAxis(crop.height, resized.height, filter), plan.window_top, out.height, &rows_);
  }
  // Bytes that kernels may read from the start of a row of the crop.
  const size_t read = 3 * size_t(horizontal ? std::max(crop.width, 2 * columns_.pairs) : crop.width) + kPad;
  const int32_t taps = vertical ? 2 * rows_.pairs : 1;
  Grow(&sources_, taps);
  const uint8_t* const end = image.data + size_t(image.size.height) * image.size.width * 3;
  const auto source = [&](int32_t y) {
    return image.data + (size_t(crop.top + y) * image.size.width + crop.left) * 3;
  };
  const auto write = [&](int32_t y, const uint8_t* row) {
    const size_t at = size_t(y) * out.width;
    uint8_t* const to[3] = {planes_[0] + at, planes_[1] + at, planes_[2] + at};
    kernels_->split_row(row, out.width, plan.flip, to);
  };

  if (horizontal && vertical && !VerticalFirst(crop.height, crop.width, resized.height, resized.width)) {
    // The ring holds the horizontally resized rows that the vertical window of one output row needs.
    const int32_t ring_rows = RoundUp(taps + 2 * kRowGroup, kRowGroup);
    const size_t stride = size_t(RoundUp(3 * out.width, 32)) + kPad;
    Grow(&ring_, ring_rows * stride);
    Grow(&padded_, kRowGroup * read);
    Grow(&line_, kPad + stride);
    const auto ring = [&](int32_t y) { return ring_.data() + y % ring_rows * stride; };
    int32_t done = 0;  // rows resized horizontally so far
    for (int32_t y = 0; y < out.height; ++y) {
      const int32_t first = rows_.start[y], last = std::min(first + taps, crop.height);
      done = std::max(done, first / kRowGroup * kRowGroup);
      for (; done < last; done += kRowGroup) {
        const uint8_t* in[kRowGroup];
        uint8_t* to[kRowGroup];
        for (int32_t i = 0; i < kRowGroup; ++i) {
          in[i] = done + i < crop.height ? source(done + i) : in[0];
          to[i] = ring(done + i);
          if (size_t(end - in[i]) < read) {  // reading past the row would leave the image
            uint8_t* copy = padded_.data() + i * read;
            std::memcpy(copy, in[i], 3 * size_t(crop.width));
            in[i] = copy;
          }
        }
        kernels_->resize_rows(in, columns_.view(), out.width, to);
      }
      for (int32_t i = 0; i < taps; ++i) sources_[i] = ring(std::min(first + i, crop.height - 1));
      kernels_->resize_column(sources_.data(), rows_.weight.data() + size_t(y) * rows_.pairs, rows_.pairs,
                              3 * out.width, line_.data() + kPad);
      write(y, line_.data() + kPad);
    }
    return;
  }

  // Vertical first, one pass only, or none: rows need no ring.
  const size_t in_stride = kPad + read + kPad, out_stride = kPad + size_t(RoundUp(3 * out.width, 32)) + kPad;
  Grow(&padded_, kRowGroup * in_stride);
  Grow(&line_, kRowGroup * out_stride);
  for (int32_t y = 0; y < out.height; y += kRowGroup) {
    const uint8_t* in[kRowGroup];
    uint8_t* to[kRowGroup];
    const int32_t group = std::min(kRowGroup, out.height - y);
    for (int32_t i = 0; i < kRowGroup; ++i) {
      uint8_t* const row = padded_.data() + i * in_stride + kPad;
      to[i] = line_.data() + i * out_stride + kPad;
      in[i] = row;
      if (i >= group) continue;  // leftovers of the group before, whose result is not used
      if (!vertical) {
        std::memcpy(row, source(y + i), 3 * size_t(crop.width));
        continue;
      }
      for (int32_t k = 0; k < taps; ++k)
        sources_[k] = source(std::min(rows_.start[y + i] + k, crop.height - 1));
      // The last rows of the image: past them nothing may be read.
      const Kernels& kernels = size_t(end - sources_[taps - 1]) < read ? kPortableKernels : *kernels_;
      kernels.resize_column(sources_.data(), rows_.weight.data() + size_t(y + i) * rows_.pairs, rows_.pairs,
                            3 * crop.width, row);
    }
    if (horizontal) kernels_->resize_rows(in, columns_.view(), out.width, to);
    for (int32_t i = 0; i < group; ++i) write(y + i, horizontal ? to[i] : in[i]);
  }
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

void Scratch::ApplySteps(const Plan& plan) {
  for (int32_t i = 0; i < plan.num_steps; ++i) {
    const Step& step = plan.steps[i];
    uint8_t table[256];
    switch (step.kind) {
      case StepKind::kAffine:
        ApplyAffine(step.affine, plan.out);
        break;
      case StepKind::kBrightness:
      case StepKind::kContrast: {
        const int32_t degenerate = step.kind == StepKind::kBrightness
                                       ? 0
                                       : ContrastMean(kernels_->grey_sum(planes_, count_), count_);
        for (int v = 0; v < 256; ++v) table[v] = Blend(degenerate, v, step.factor);
        for (int c = 0; c < 3; ++c) ApplyLut(table, c);
        break;
      }
      case StepKind::kColor:
        kernels_->color(step.factor, planes_, count_);
        break;
      case StepKind::kSharpness:
        for (int c = 0; c < 3; ++c) {
          kernels_->sharpness(step.factor, planes_[c], plan.out.height, plan.out.width, spare_[c]);
        }
        SwapPlanes();
        break;
      case StepKind::kPosterize:
        for (int c = 0; c < 3; ++c) kernels_->mask(uint8_t(step.value), planes_[c], count_);
        break;
      case StepKind::kSolarize:
        for (int c = 0; c < 3; ++c) kernels_->solarize(uint8_t(step.value), planes_[c], count_);
        break;
      case StepKind::kAutoContrast:
        for (int c = 0; c < 3; ++c) {
          uint8_t lo, hi;
          kernels_->min_max(planes_[c], count_, &lo, &hi);
          if (hi <= lo || (lo == 0 && hi == 255)) continue;  // unchanged: 255 / 255 = 1 and offset 0
          for (int v = 0; v < 256; ++v) table[v] = AutoContrast(v, lo, hi);
          ApplyLut(table, c);
        }
        break;
      case StepKind::kEqualize:
        for (int c = 0; c < 3; ++c) {
          uint32_t counts[256], below = 0;
          Histogram(c, counts);
          int last = 255;
          while (counts[last] == 0) --last;
          const uint32_t size = EqualizeStep(uint32_t(count_), counts[last]);
          if (size == 0) continue;
          for (int v = 0; v < 256; ++v) {
            table[v] = Equalize(below, size);
            below += counts[v];
          }
          ApplyLut(table, c);
        }
        break;
    }
  }
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
