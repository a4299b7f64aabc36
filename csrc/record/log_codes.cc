// See log_codes.h.
#include "record/log_codes.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "record/log_probabilities.h"
#include "record/pairwise.h"

namespace dali_dr::record {
namespace {

/// Of a weight that is `ratio` times smaller than the first class's; `bias` more.
double Code(double ratio, double step, int bias) {
  return std::clamp(std::nearbyint(std::log(ratio) / step) + bias, 0.0, double{kMaxCode - 1});
}

/// Whether reading these codes, `rest` the rest's, gives the row.
bool Same(const LogWeights& weights, std::span<const float> row, const std::vector<uint8_t>& codes,
          uint32_t rest) {
  double total = weights.rest[rest];
  for (const uint8_t code : codes) total += weights.code[code];
  for (size_t k = 0; k < row.size(); ++k)
    if (static_cast<float>(weights.code[codes[k]] / total) != row[k]) return false;
  return true;
}

/// The lightest rest with which reading `codes` gives the row: the one whose sum is closest to 1, as the
/// first class's weight is 1. -1: there is none.
int RestOf(const LogWeights& weights, std::span<const float> row, const std::vector<uint8_t>& codes) {
  constexpr double kNear = 1e-6;  // what rounds to the same float32 is closer, relatively
  double ranks = 0;
  for (const uint8_t code : codes) ranks += weights.code[code];
  for (int rest = kMaxCode; rest >= 0; --rest) {
    const double total = (ranks + weights.rest[rest]) * row[0];
    if (total > 1 + kNear) return -1;
    if (total >= 1 - kNear && Same(weights, row, codes, static_cast<uint32_t>(rest))) return rest;
  }
  return -1;
}

}  // namespace

bool LogCodes(std::span<const float> probs, uint32_t topk, float step, bool recode, uint8_t* out) {
  const LogWeights& weights = LogWeights::For(step);
  const size_t rows = probs.size() / topk;
  std::vector<uint8_t> codes(topk);
  std::vector<double> values(topk);
  bool all = recode;
  for (size_t at = 0; at < rows; ++at) {
    const auto row = probs.subspan(at * topk, topk);
    std::copy(row.begin(), row.end(), values.begin());
    double sum;
    PairwiseSums<1>(values.data(), topk, &sum);
    const double rest = 1 - sum;
    uint8_t last = codes[0] = 0;
    for (uint32_t k = 1; k < topk; ++k) {
      // A logarithm need not be monotonic to the last bit, and steps must not be negative.
      const double code = values[k] == 0 ? kMaxCode : Code(values[0] / values[k], step, 0);
      last = codes[k] = std::max(last, static_cast<uint8_t>(code));
    }
    int rest_code = recode ? RestOf(weights, row, codes) : -1;
    all &= rest_code >= 0;
    if (rest_code < 0)
      rest_code = rest <= 0 ? kMaxCode : static_cast<int>(Code(values[0] / rest, step, kRestBias));
    out[at] = static_cast<uint8_t>(rest_code);
    for (uint32_t k = 1; k < topk; ++k) out[k * rows + at] = static_cast<uint8_t>(codes[k] - codes[k - 1]);
  }
  return all;
}

}  // namespace dali_dr::record
