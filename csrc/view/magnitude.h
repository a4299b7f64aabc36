// Which magnitudes an operation may be stored with.
#ifndef DALI_DR_CSRC_VIEW_MAGNITUDE_H_
#define DALI_DR_CSRC_VIEW_MAGNITUDE_H_

#include <cmath>
#include <cstdint>

#include "view/layout.h"

namespace dali_dr {

// As `least`, `most` and `whole` of dali_dr/augment/operations.py say. RandAugment's have no limits here:
// records of the first versions may hold any; replay refuses those that it cannot do.
inline bool IsMagnitude(int32_t id, float magnitude) {
  if (!std::isfinite(magnitude)) return false;
  switch (id) {
    case kHue:
      return std::fabs(magnitude) <= 0.5f;
    case kGaussianBlur:
      return magnitude > 0;
    case kWindowTop:
    case kWindowLeft:
      return magnitude >= 0 && magnitude == std::floor(magnitude);
    default:
      return true;
  }
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_VIEW_MAGNITUDE_H_
