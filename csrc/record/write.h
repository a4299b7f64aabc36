// Writes reinforcement records: counterpart of record.h, in bytes that dali_dr/record/encode.py would write,
// too (before compression: another libzstd compresses to other bytes).
#ifndef DALI_DR_CSRC_RECORD_WRITE_H_
#define DALI_DR_CSRC_RECORD_WRITE_H_

#include <cstdint>
#include <vector>

#include "record/error.h"
#include "record/header.h"
#include "record/views.h"

namespace dali_dr::record {

struct WriteSettings {
  uint32_t image_height = 0, image_width = 0;
  uint32_t view_height = 0, view_width = 0;
  Encoding encoding = kRootCode;
  float log_step = 0.15f;    ///< of kLogCode
  uint32_t num_outputs = 0;  ///< class ids are below; 0: no limit
  /// Look for the very codes whose reading gives these probabilities, as where they were read from a record
  /// before: then what is written is that record. Slower.
  bool recode = false;
};

/// The member KEY.dr.zst. Rows are put in order of falling confidence, classes of a row in order of falling
/// probability (equals keep their order). Throws RecordError for what does not fit image, view or format.
std::vector<uint8_t> Write(const Reinforcements& reinforcements, const WriteSettings& settings);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_WRITE_H_
