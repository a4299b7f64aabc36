// The encoder's side of log_probabilities.h.
#ifndef DALI_DR_CSRC_RECORD_LOG_CODES_H_
#define DALI_DR_CSRC_RECORD_LOG_CODES_H_

#include <cstdint>
#include <span>

namespace dali_dr::record {

inline constexpr float kMinLogStep = 0.1f, kMaxLogStep = 1.0f;  ///< that are written; any finite one is read

/// Writes topk columns to `codes`, an element for each row: rest codes, then steps. `probs` are rows of topk
/// > 0 falling probabilities. Returns whether `recode`, and found for every row, codes whose reading gives
/// it.
bool LogCodes(std::span<const float> probs, uint32_t topk, float step, bool recode, uint8_t* codes);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_LOG_CODES_H_
