// What is refused of the columns that a record is to be written of: as `Reinforcements.validate` and `encode`
// of dali_dr refuse it.
#ifndef DALI_DR_CSRC_RECORD_WRITE_CHECK_H_
#define DALI_DR_CSRC_RECORD_WRITE_CHECK_H_

#include "record/views.h"
#include "record/write.h"

namespace dali_dr::record {

/// Throws RecordError for the first setting, size or view that does not fit. What is left to check are the
/// probabilities (falling only once they are sorted), that the classes of a row are distinct, and the tables'
/// sizes.
void CheckColumns(const Reinforcements& reinforcements, const WriteSettings& settings);

/// Whether rows 2i and 2i + 1 are pairs of a double-mix, as CheckColumns has checked then.
bool IsDouble(const Reinforcements& reinforcements);

/// Whether the two of some pair differ in lam or CutMix box.
bool HasOwnMixes(const Reinforcements& reinforcements);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_WRITE_CHECK_H_
