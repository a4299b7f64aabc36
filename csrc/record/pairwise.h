// Sums in the order in which NumPy adds, of many rows at once.
#ifndef DALI_DR_CSRC_RECORD_PAIRWISE_H_
#define DALI_DR_CSRC_RECORD_PAIRWISE_H_

#include <algorithm>
#include <cstddef>

namespace dali_dr::record {

/// sums[i] = the sum of values[k * kLanes + i] over k < count, added as `ndarray.sum` adds float64 numbers
/// that lie one after another: in eight partial sums, of halves where there are more than 128.
template <size_t kLanes>
void PairwiseSums(const double* values, size_t count, double* sums) {
  const auto add = [&](size_t k, double* to) {
    for (size_t i = 0; i < kLanes; ++i) to[i] += values[k * kLanes + i];
  };
  if (count < 8) {
    std::fill_n(sums, kLanes, 0.0);
    for (size_t k = 0; k < count; ++k) add(k, sums);
    return;
  }
  if (count <= 128) {
    double part[8][kLanes];
    std::copy_n(values, 8 * kLanes, part[0]);
    size_t k = 8;
    for (; k < count - count % 8; k += 8)
      for (size_t j = 0; j < 8; ++j) add(k + j, part[j]);
    for (size_t i = 0; i < kLanes; ++i)
      sums[i] = ((part[0][i] + part[1][i]) + (part[2][i] + part[3][i])) +
                ((part[4][i] + part[5][i]) + (part[6][i] + part[7][i]));
    for (; k < count; ++k) add(k, sums);
    return;
  }
  size_t half = count / 2;
  half -= half % 8;
  double second[kLanes];
  PairwiseSums<kLanes>(values, half, sums);
  PairwiseSums<kLanes>(values + half * kLanes, count - half, second);
  for (size_t i = 0; i < kLanes; ++i) sums[i] += second[i];
}

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_PAIRWISE_H_
