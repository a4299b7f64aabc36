// The logarithmic code of probabilities: a byte each, in steps of a fixed ratio below the first class.
#ifndef DALI_DR_CSRC_RECORD_LOG_PROBABILITIES_H_
#define DALI_DR_CSRC_RECORD_LOG_PROBABILITIES_H_

#include <array>
#include <cmath>
#include <cstdint>
#include <span>

#include "record/error.h"

namespace dali_dr::record {

inline constexpr uint32_t kMaxCode = 255;  ///< stands for a weight of zero
/// Rest code r weighs exp(-step (r - kRestBias)): the rest may outweigh the first class.
inline constexpr int kRestBias = 96;

/// Weights of the code for one step. A data set has one step, so each thread keeps the last table.
struct LogWeights {
  float step = 0;
  std::array<double, kMaxCode + 1> code{}, rest{};

  static const LogWeights& For(float step) {
    thread_local LogWeights table;
    if (table.step != step) {
      const double delta = step;
      for (int c = 0; c < static_cast<int>(kMaxCode); ++c) {
        table.code[c] = std::exp(-delta * c);
        table.rest[c] = std::exp(-delta * (c - kRestBias));
      }
      table.step = step;  // code[255] and rest[255] stay 0
    }
    return table;
  }
};

/// Row `at` of a column of `rows` rows, rank after rank: its rest code, then the steps between the codes.
/// `row` is for the message.
inline void DecodeLogProbabilities(const uint8_t* column, uint32_t rows, uint32_t at, float step,
                                   uint32_t row, std::span<float> probs) {
  const LogWeights& weights = LogWeights::For(step);
  const size_t ranks = probs.size();
  double total = weights.rest[column[at]];
  uint32_t code = 0;
  // Two passes over the codes: the weights are divided by a sum that is known only at the end, and a float
  // could not hold them in between.
  for (size_t k = 0; k < ranks; ++k) {
    if (k > 0) code += column[uint64_t{k} * rows + at];
    if (code > kMaxCode)
      Fail("view ", row, ": probability code ", code, " of rank ", k, " is above ", kMaxCode);
    total += weights.code[code];
  }
  if (!std::isfinite(total)) Fail("view ", row, ": log_step ", step, " makes the rest infinite");
  code = 0;
  for (size_t k = 0; k < ranks; ++k) {
    if (k > 0) code += column[uint64_t{k} * rows + at];
    probs[k] = static_cast<float>(weights.code[code] / total);
  }
}

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_LOG_PROBABILITIES_H_
