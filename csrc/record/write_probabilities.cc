// See write_probabilities.h.
#include "record/write_probabilities.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "record/log_codes.h"
#include "record/root_codes.h"

namespace dali_dr::record {
namespace {

constexpr uint8_t kNibble = 15;
constexpr uint32_t kMaxPairRank = 255;

/// The nearest IEEE 754 binary16 number, of equally near ones the even one; `value` is 0 to 1, or -0.
uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude < 0x38800000) {  // below 2^-14: multiples of 2^-24, to which adding 0.5 rounds
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

template <typename T, typename Convert>
void PutFloats(std::span<const float> probs, uint32_t topk, Convert convert, ProbabilityColumn* column) {
  const size_t rows = topk ? probs.size() / topk : 0;
  column->columns = topk;
  column->bytes = sizeof(T);
  column->values.resize(probs.size() * sizeof(T));
  uint8_t* to = column->values.data();
  for (uint32_t k = 0; k < topk; ++k) {
    for (size_t row = 0; row < rows; ++row, to += sizeof(T)) {
      const T value = convert(probs[row * topk + k]);
      std::memcpy(to, &value, sizeof value);
    }
  }
}

/// The first rank from which on all falls of a root code fit four bits; 0: there is none.
uint32_t PairRank(const std::vector<uint8_t>& codes, size_t rows, uint32_t topk) {
  uint32_t rank = topk;
  const auto small = [](uint8_t fall) { return fall <= kNibble; };
  while (rank > 1) {
    const auto falls = codes.begin() + static_cast<std::ptrdiff_t>(rows * rank);  // of rank - 1
    if (!std::all_of(falls, falls + static_cast<std::ptrdiff_t>(rows), small)) break;
    --rank;
  }
  return rank < topk && rank <= kMaxPairRank ? rank : 0;
}

/// Falls from `rank` > 0 on, two in a byte. In place: what is written was read before.
void PackFalls(size_t rows, uint32_t topk, uint32_t rank, ProbabilityColumn* column) {
  uint8_t* codes = column->values.data();
  for (uint32_t k = rank, to = rank + 1; k < topk; k += 2, ++to) {
    const uint8_t* low = codes + rows * (k + 1);
    const uint8_t* high = k + 1 < topk ? low + rows : nullptr;
    for (size_t row = 0; row < rows; ++row)
      codes[rows * to + row] = static_cast<uint8_t>(low[row] | (high ? high[row] << 4 : 0));
  }
  column->columns = rank + 1 + (topk - rank + 1) / 2;
  column->values.resize(rows * column->columns);
}

}  // namespace

float RootStep(uint32_t topk) {
  constexpr double kStep = 0.0235, kRanks = 10, kLeast = 1.0 / 256;
  const double step = kStep * std::sqrt(kRanks / std::max(static_cast<double>(topk), kRanks));
  return static_cast<float>(std::max(static_cast<double>(static_cast<float>(step)), kLeast));
}

void EncodeProbabilities(std::span<const float> probs, uint32_t topk, Encoding encoding, float step,
                         bool recode, ProbabilityColumn* column) {
  column->pair_rank = 0;
  column->recoded = false;
  if (encoding == kFloat32) return PutFloats<float>(probs, topk, [](float p) { return p; }, column);
  if (encoding == kFloat16) return PutFloats<uint16_t>(probs, topk, FloatToHalf, column);
  column->bytes = 1;
  column->columns = encoding == kRootCode && topk ? topk + 1 : topk;
  const size_t rows = topk ? probs.size() / topk : 0;
  column->values.resize(rows * column->columns);
  if (rows == 0) return;
  if (encoding == kLogCode) {
    column->recoded = LogCodes(probs, topk, step, recode, column->values.data());
    return;
  }
  column->recoded = RootCodes(probs, topk, step, recode, column->values.data());
  column->pair_rank = PairRank(column->values, rows, topk);
  if (column->pair_rank) PackFalls(rows, topk, column->pair_rank, column);
}

}  // namespace dali_dr::record
