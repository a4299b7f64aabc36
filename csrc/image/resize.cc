// See resize.h.
#include "image/resize.h"

#include <algorithm>
#include <cstring>

#include "image/grow.h"

namespace dali_dr::image {
namespace {

constexpr int32_t kRowGroup = 4;  // rows per call of Kernels::resize_rows
static_assert(kRowGroup == RowSource::kMostRows);
// Taps that a table may have beyond MaxTaps, of weight 0: kernels take them in groups.
constexpr int32_t kMoreTaps = 4;
static_assert(RowSource::kSlack >= kPad + 3 * kMoreTaps + 3);

int32_t RoundUp(int32_t v, int32_t multiple) { return (v + multiple - 1) / multiple * multiple; }

// What output coordinates first .. first + count of an axis read, and what SetTaps' taps of weight 0 touch.
void Extent(const Axis& axis, int32_t first, int32_t count, int32_t* begin, int32_t* length) {
  int32_t start, last, used;
  Window(axis, first, &start, &used);
  Window(axis, first + count - 1, &last, &used);
  const int32_t reach = MaxTaps(axis) + kMoreTaps;
  if (last + reach > axis.in) start = std::min(start, std::max(0, axis.in - reach));
  *begin = start;
  *length = std::min(axis.in, last + reach) - start;
}

}  // namespace

Box Needed(const Plan& plan, Filter filter) {
  const Box& crop = plan.crop;
  const Size out = plan.out, resized = plan.resized;
  Box box{0, 0, crop.height, crop.width};
  if (out.height != resized.height)
    Extent(MakeAxis(crop.height, resized.height, filter), plan.window_top, out.height, &box.top, &box.height);
  if (out.width != resized.width)
    Extent(MakeAxis(crop.width, resized.width, filter), plan.window_left, out.width, &box.left, &box.width);
  box.top += crop.top;
  box.left += crop.left;
  return box;
}

bool CanStream(const Plan& plan) {
  const Box& crop = plan.crop;
  const Size resized = plan.resized;
  return crop.width != resized.width && crop.height != resized.height &&
         !VerticalFirst(crop.height, crop.width, resized.height, resized.width);
}

struct Resizer::Work {
  const Plan& plan;
  const Kernels& kernels;
  uint8_t* const* planes;
  Box box;  // of the image, that is needed
  bool horizontal, vertical;
  int32_t taps;    // rows that an output row is made of
  int32_t top;     // of the box, in rows of the crop
  ptrdiff_t left;  // of the box, in bytes of a row of the crop
  size_t read;     // bytes that kernels may read from the start of a row of the box

  void Write(int32_t y, const uint8_t* row) const {
    const size_t at = size_t(y) * plan.out.width;
    uint8_t* const to[3] = {planes[0] + at, planes[1] + at, planes[2] + at};
    kernels.split_row(row, plan.out.width, plan.flip, to);
  }
};

class Resizer::ImageRows : public RowSource {
 public:
  ImageRows(const Work& work, const Image& image, std::vector<uint8_t>* padded)
      : row_(RowOf(work, image)),
        end_(image.data + size_t(image.size.height) * image.size.width * 3),
        pitch_(3 * size_t(image.size.width)),
        used_(3 * size_t(work.box.width)),
        read_(work.read),
        padded_(padded) {
    Grow(padded, kMostRows * read_);
  }

  static const uint8_t* RowOf(const Work& work, const Image& image) {
    return image.data +
           (size_t(work.box.top - image.top) * image.size.width + (work.box.left - image.left)) * 3;
  }

  bool Next(int32_t count, const uint8_t** rows) override {
    for (int32_t i = 0; i < count; ++i, row_ += pitch_) {
      rows[i] = row_;
      if (size_t(end_ - row_) >= read_) continue;
      uint8_t* copy = padded_->data() + i * read_;  // past the row nothing may be read
      std::memcpy(copy, row_, used_);
      rows[i] = copy;
    }
    return true;
  }

 private:
  const uint8_t *row_, *end_;
  size_t pitch_, used_, read_;
  std::vector<uint8_t>* padded_;
};

Resizer::Work Resizer::Prepare(const Plan& plan, Filter filter, uint8_t* const planes[3]) {
  const Box& crop = plan.crop;
  const Size out = plan.out, resized = plan.resized;
  const bool horizontal = crop.width != resized.width, vertical = crop.height != resized.height;
  const Box box = Needed(plan, filter);
  if (horizontal) {
    columns_.Set(*kernels_, TapTable::Pass::kHorizontal, MakeAxis(crop.width, resized.width, filter),
                 plan.window_left, out.width);
  }
  if (vertical) {
    rows_.Set(*kernels_, TapTable::Pass::kVertical, MakeAxis(crop.height, resized.height, filter),
              plan.window_top, out.height);
  }
  const int32_t taps = vertical ? 2 * rows_.pairs() : 1;
  Grow(&sources_, taps);
  const size_t read = 3 * size_t(horizontal ? std::max(box.width, 2 * columns_.pairs()) : box.width) + kPad;
  const int32_t top = box.top - crop.top;
  const ptrdiff_t left = 3 * ptrdiff_t(box.left - crop.left);
  return {plan, *kernels_, planes, box, horizontal, vertical, taps, top, left, read};
}

void Resizer::Run(const Plan& plan, const Image& image, Filter filter, uint8_t* const planes[3]) {
  const Work work = Prepare(plan, filter, planes);
  if (CanStream(plan)) {
    ImageRows rows(work, image, &padded_);
    ThroughRing(work, &rows);
  } else {
    ByGroups(work, image);
  }
}

bool Resizer::Stream(const Plan& plan, RowSource* rows, Filter filter, uint8_t* const planes[3]) {
  return ThroughRing(Prepare(plan, filter, planes), rows);
}

// Of rows that begin where the box does; windows count from the crop.
void Resizer::ResizeRows(const Work& work, const uint8_t* const in[], uint8_t* const to[]) const {
  const uint8_t* shifted[kRowGroup];
  for (int32_t i = 0; i < kRowGroup; ++i) shifted[i] = in[i] - work.left;
  kernels_->resize_rows(shifted, columns_.columns(), work.plan.out.width, to);
}

bool Resizer::ThroughRing(const Work& work, RowSource* rows) {
  const Size out = work.plan.out;
  const int32_t taps = work.taps, ring_rows = RoundUp(taps + 2 * kRowGroup, kRowGroup);
  const size_t stride = size_t(RoundUp(3 * out.width, 32)) + kPad;
  Grow(&ring_, ring_rows * stride);
  Grow(&line_, kPad + stride);
  const auto ring = [&](int32_t y) { return ring_.data() + y % ring_rows * stride; };
  int32_t done = 0;  // rows of the box resized horizontally so far
  for (int32_t y = 0; y < out.height; ++y) {
    const int32_t first = rows_.start(y) - work.top, last = std::min(first + taps, work.box.height);
    for (; done < last; done += kRowGroup) {
      const uint8_t* in[kRowGroup];
      uint8_t* to[kRowGroup];
      const int32_t group = std::min(kRowGroup, work.box.height - done);
      if (!rows->Next(group, in)) return false;
      std::fill(in + group, in + kRowGroup, in[0]);
      for (int32_t i = 0; i < kRowGroup; ++i) to[i] = ring(done + i);
      ResizeRows(work, in, to);
    }
    for (int32_t i = 0; i < taps; ++i) sources_[i] = ring(std::min(first + i, work.box.height - 1));
    kernels_->resize_column(sources_.data(), rows_.row(y), 3 * out.width, line_.data() + kPad);
    work.Write(y, line_.data() + kPad);
  }
  return true;
}

void Resizer::ByGroups(const Work& work, const Image& image) {
  const Size out = work.plan.out;
  const size_t in_stride = kPad + work.read + kPad,
               out_stride = kPad + size_t(RoundUp(3 * out.width, 32)) + kPad;
  Grow(&padded_, kRowGroup * in_stride);
  Grow(&line_, kRowGroup * out_stride);
  const uint8_t* const begin = ImageRows::RowOf(work, image);
  const uint8_t* const end = image.data + size_t(image.size.height) * image.size.width * 3;
  const auto source = [&](int32_t y) { return begin + size_t(y) * image.size.width * 3; };
  Grow(&tail_, work.taps * work.read);
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
        std::memcpy(row, source(y + i), 3 * size_t(work.box.width));
        continue;
      }
      for (int32_t k = 0; k < work.taps; ++k) {
        sources_[k] = source(std::min(rows_.start(y + i) - work.top + k, work.box.height - 1));
        if (size_t(end - sources_[k]) >= work.read) continue;
        uint8_t* const copy = tail_.data() + k * work.read;  // past the image nothing may be read
        std::memcpy(copy, sources_[k], 3 * size_t(work.box.width));
        sources_[k] = copy;
      }
      kernels_->resize_column(sources_.data(), rows_.row(y + i), 3 * work.box.width, row);
    }
    if (work.horizontal) ResizeRows(work, in, to);
    for (int32_t i = 0; i < group; ++i) work.Write(y + i, work.horizontal ? to[i] : in[i]);
  }
}

}  // namespace dali_dr::image
