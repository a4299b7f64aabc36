// The root code of probabilities: their square roots in steps of equal size, a byte or half of one each.
#ifndef DALI_DR_CSRC_RECORD_ROOT_PROBABILITIES_H_
#define DALI_DR_CSRC_RECORD_ROOT_PROBABILITIES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "record/error.h"

namespace dali_dr::record {

/// Columns of bytes that rows of `topk` probabilities take: the rest code, the first code, and a fall for
/// each further rank, two of which share a byte from `pair_rank` on (0: none do).
inline uint32_t RootColumns(uint32_t topk, uint32_t pair_rank) {
  if (topk == 0) return 0;
  return pair_rank > 0 ? pair_rank + 1 + (topk - pair_rank + 1) / 2 : topk + 1;
}

/// Weights of the code for one step. A data set has one step, so each thread keeps the last table.
struct RootWeights {
  float step = 0;
  std::array<double, 256> code{};

  static const RootWeights& For(float step) {
    thread_local RootWeights table;
    if (table.step != step) {
      for (int c = 0; c < 256; ++c) {
        const double root = (c == 0 ? 0.3 : c) * static_cast<double>(step);
        table.code[c] = root * root;
      }
      table.step = step;
    }
    return table;
  }
};

/// Row `at` of the columns of `rows` rows; probs are not empty. `row` is for the message.
inline void DecodeRootProbabilities(const uint8_t* columns, uint32_t rows, uint32_t at, uint32_t pair_rank,
                                    float step, uint32_t row, std::span<float> probs) {
  const RootWeights& weights = RootWeights::For(step);
  const size_t ranks = probs.size(), single = pair_rank > 0 ? pair_rank : ranks;
  const uint8_t* byte = columns + at;  // of this row, in one column after another
  double total = weights.code[*byte];
  uint32_t code = *(byte += rows);
  const auto put = [&](size_t k, uint32_t fall) {
    if (fall > code) Fail("view ", row, ": probability code of rank ", k, " falls by ", fall, " from ", code);
    code -= fall;
    total += weights.code[code];
    probs[k] = static_cast<float>(code);  // until the sum is known
  };
  put(0, 0);
  for (size_t k = 1; k < single; ++k) put(k, *(byte += rows));
  uint32_t pair = 0;
  for (size_t k = single; k < ranks; ++k) {
    const bool second = (k - single) % 2;
    pair = second ? pair >> 4 : *(byte += rows);
    put(k, pair & 15);
  }
  if ((ranks - single) % 2 && pair >> 4)
    Fail("view ", row, ": unused bits of the last pair of falls are not zero");
  for (float& p : probs) p = static_cast<float>(weights.code[static_cast<size_t>(p)] / total);
}

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_ROOT_PROBABILITIES_H_
