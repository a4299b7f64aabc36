// The encoder's side of root_probabilities.h.
#ifndef DALI_DR_CSRC_RECORD_ROOT_CODES_H_
#define DALI_DR_CSRC_RECORD_ROOT_CODES_H_

#include <cstdint>
#include <span>

namespace dali_dr::record {

/// Writes topk + 1 columns to `codes`, an element for each row: rest codes, first codes, falls. `probs` are
/// rows of topk > 0 falling probabilities. Returns whether `recode`, and found for every row, codes whose
/// reading gives it.
bool RootCodes(std::span<const float> probs, uint32_t topk, float step, bool recode, uint8_t* codes);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_ROOT_CODES_H_
