// See resize.h.
#include "image/resize.h"

#include <algorithm>
#include <cstring>

namespace dali_dr::image {
namespace {

constexpr int32_t kRowGroup = 4;  // rows per call of Kernels::resize_rows

template <typename T>
void Grow(std::vector<T>* v, size_t n) {
  if (v->size() < n) v->resize(n);
}

int32_t RoundUp(int32_t v, int32_t multiple) { return (v + multiple - 1) / multiple * multiple; }

}  // namespace

struct Resizer::Work {
  const Plan& plan;
  const Image& image;
  const Kernels& kernels;
  uint8_t* const* planes;
  bool horizontal, vertical;
  int32_t taps;  // rows that an output row is made of
  size_t read;   // bytes that kernels may read from the start of a row of the crop

  const uint8_t* source(int32_t y) const {
    return image.data + (size_t(plan.crop.top + y) * image.size.width + plan.crop.left) * 3;
  }
  /// Whether reading past the row would leave the image.
  bool AtEnd(const uint8_t* row) const {
    const uint8_t* const end = image.data + size_t(image.size.height) * image.size.width * 3;
    return size_t(end - row) < read;
  }
  void Write(int32_t y, const uint8_t* row) const {
    const size_t at = size_t(y) * plan.out.width;
    uint8_t* const to[3] = {planes[0] + at, planes[1] + at, planes[2] + at};
    kernels.split_row(row, plan.out.width, plan.flip, to);
  }
};

void Resizer::SetTaps(const Axis& axis, int32_t first, int32_t count, TapTable* table) {
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

void Resizer::Run(const Plan& plan, const Image& image, Filter filter, uint8_t* const planes[3]) {
  const Box& crop = plan.crop;
  const Size out = plan.out, resized = plan.resized;
  const bool horizontal = crop.width != resized.width, vertical = crop.height != resized.height;
  if (horizontal)
    SetTaps(MakeAxis(crop.width, resized.width, filter), plan.window_left, out.width, &columns_);
  if (vertical) SetTaps(MakeAxis(crop.height, resized.height, filter), plan.window_top, out.height, &rows_);
  const int32_t taps = vertical ? 2 * rows_.pairs : 1;
  Grow(&sources_, taps);
  const size_t read = 3 * size_t(horizontal ? std::max(crop.width, 2 * columns_.pairs) : crop.width) + kPad;
  const Work work{plan, image, *kernels_, planes, horizontal, vertical, taps, read};
  if (horizontal && vertical && !VerticalFirst(crop.height, crop.width, resized.height, resized.width)) {
    ThroughRing(work);
  } else {
    ByGroups(work);
  }
}

void Resizer::ThroughRing(const Work& work) {
  const Box& crop = work.plan.crop;
  const Size out = work.plan.out;
  const int32_t taps = work.taps, ring_rows = RoundUp(taps + 2 * kRowGroup, kRowGroup);
  const size_t stride = size_t(RoundUp(3 * out.width, 32)) + kPad;
  Grow(&ring_, ring_rows * stride);
  Grow(&padded_, kRowGroup * work.read);
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
        in[i] = done + i < crop.height ? work.source(done + i) : in[0];
        to[i] = ring(done + i);
        if (work.AtEnd(in[i])) {
          uint8_t* copy = padded_.data() + i * work.read;
          std::memcpy(copy, in[i], 3 * size_t(crop.width));
          in[i] = copy;
        }
      }
      kernels_->resize_rows(in, columns_.view(), out.width, to);
    }
    for (int32_t i = 0; i < taps; ++i) sources_[i] = ring(std::min(first + i, crop.height - 1));
    kernels_->resize_column(sources_.data(), rows_.row(y), rows_.pairs, 3 * out.width, line_.data() + kPad);
    work.Write(y, line_.data() + kPad);
  }
}

void Resizer::ByGroups(const Work& work) {
  const Box& crop = work.plan.crop;
  const Size out = work.plan.out;
  const size_t in_stride = kPad + work.read + kPad,
               out_stride = kPad + size_t(RoundUp(3 * out.width, 32)) + kPad;
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
      if (!work.vertical) {
        std::memcpy(row, work.source(y + i), 3 * size_t(crop.width));
        continue;
      }
      for (int32_t k = 0; k < work.taps; ++k)
        sources_[k] = work.source(std::min(rows_.start[y + i] + k, crop.height - 1));
      // The last rows of the image: past them nothing may be read.
      const Kernels& kernels = work.AtEnd(sources_[work.taps - 1]) ? kPortableKernels : *kernels_;
      kernels.resize_column(sources_.data(), rows_.row(y + i), rows_.pairs, 3 * crop.width, row);
    }
    if (work.horizontal) kernels_->resize_rows(in, columns_.view(), out.width, to);
    for (int32_t i = 0; i < group; ++i) work.Write(y + i, work.horizontal ? to[i] : in[i]);
  }
}

}  // namespace dali_dr::image
