// See taps.h.
#include "image/taps.h"

#include <algorithm>

#include "image/grow.h"

namespace dali_dr::image {
void TapTable::Set(const Kernels& kernels, Pass pass, const Axis& axis, int32_t first, int32_t count) {
  SetWindows(axis, first, count);
  Grow(&fixed_, size_t(stride_) * 2 * pairs_);
  Grow(&weight_, size_t(stride_) * pairs_);
  const Coordinates range{&axis, first, count, start_.data(), 2 * pairs_, stride_};
  kernels.weigh(range, fixed_.data());
  // Weights of bicubic filters are negative, too.
  split_ = kernels.split_weights && pairs_ <= kMaxBytePairs && axis.filter == Filter::kBilinear;
  bool all = false;
  if (split_) {
    Grow(&bytes_, size_t(stride_) * 3 * pairs_);
    Grow(&fits_, stride_);
    all = kernels.split_weights(range, fixed_.data(), bytes_.data(), fits_.data());
    if (pass == Pass::kHorizontal) {
      Grow(&offsets_, stride_ / 2);
      Grow(&groups_, size_t(stride_) / kTapGroup * (1 + 3 * pairs_));
      wide_groups_ =
          kernels.group_weights(range, bytes_.data(), fits_.data(), offsets_.data(), groups_.data());
      all = wide_groups_ == 0;
    }
  }
  if (!all) SetPairs(count);
}

void TapTable::SetWindows(const Axis& axis, int32_t first, int32_t count) {
  stride_ = (count + kTapPadding - 1) / kTapPadding * kTapPadding;
  Grow(&start_, stride_);
  int32_t longest = 1, used;
  for (int32_t x = 0; x < count; ++x) {
    Window(axis, first + x, &start_[x], &used);
    longest = std::max(longest, used);
  }
  pairs_ = (longest + 1) / 2;
  // Move windows at the far edge inwards (leading weights 0), so that taps past the edge occur only in tiny
  // inputs.
  const int32_t last = std::max(0, axis.in - 2 * pairs_);
  for (int32_t x = 0; x < count; ++x) start_[x] = std::min(start_[x], last);
  for (int32_t x = count; x < stride_; ++x) start_[x] = start_[count - 1];
}

void TapTable::SetPairs(int32_t count) {
  constexpr int32_t kLow = (1 << kLowBits) - 1;
  for (int32_t p = 0; p < pairs_; ++p) {
    const int32_t *even = fixed_.data() + size_t(stride_) * 2 * p, *odd = even + stride_;
    TapPair* pair = weight_.data() + p;
    for (int32_t x = 0; x < count; ++x, pair += pairs_) {
      *pair = {{int16_t(even[x] & kLow), int16_t(odd[x] & kLow)},
               {int16_t(even[x] >> kLowBits), int16_t(odd[x] >> kLowBits)}};
    }
    for (int32_t x = count; x < stride_; ++x, pair += pairs_) *pair = {};
  }
}

Taps TapTable::columns() const {
  return {start_.data(),  weight_.data(), pairs_, split_ ? offsets_.data() : nullptr,
          groups_.data(), wide_groups_};
}

RowWeights TapTable::row(int32_t y) const {
  return {weight_.data() + size_t(y) * pairs_, pairs_, split_ && fits_[y] ? bytes_.data() + y : nullptr,
          stride_};
}

}  // namespace dali_dr::image
