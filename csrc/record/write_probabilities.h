// Probabilities as the bytes of a record: the encoder's side of root_probabilities.h and log_probabilities.h,
// step for step as dali_dr/record/rootprobs.py and logprobs.py compute.
#ifndef DALI_DR_CSRC_RECORD_WRITE_PROBABILITIES_H_
#define DALI_DR_CSRC_RECORD_WRITE_PROBABILITIES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "record/header.h"

namespace dali_dr::record {

/// The column of probabilities before its rows are put in order and in groups.
struct ProbabilityColumn {
  uint32_t columns = 0;         ///< elements of a row
  uint32_t bytes = 0;           ///< of an element: 1, 2 or 4
  uint32_t pair_rank = 0;       ///< of the header
  bool recoded = false;         ///< the codes of every row were found whose reading gives its probabilities
  std::vector<uint8_t> values;  ///< the first elements of all rows, then all second ones, ...
};

/// The step of the root code with which a row of so many classes is stored.
float RootStep(uint32_t topk);

/// The column of `probs`, rows of `topk` falling probabilities each. `recode`: as WriteSettings says. The
/// column may be one that was filled before.
void EncodeProbabilities(std::span<const float> probs, uint32_t topk, Encoding encoding, float step,
                         bool recode, ProbabilityColumn* column);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_WRITE_PROBABILITIES_H_
