// One operation of a view as a step of a plan, and how lengths change with the size. Internal to plans.
#ifndef DALI_DR_CSRC_IMAGE_STEP_H_
#define DALI_DR_CSRC_IMAGE_STEP_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "image/plan.h"

namespace dali_dr::image {

/// floor(x * out / stored + 0.5) for x >= 0
inline int32_t Rescale(int64_t x, int32_t out, int32_t stored) {
  return out == stored ? int32_t(x) : int32_t((2 * x * out + stored) / (2 * int64_t{stored}));
}

/// What the shorter side of a crop is resized to, of what it would be at the stored size.
inline int64_t RescaleShorter(int32_t shorter, Size out, Size stored) {
  const auto scaled = [&](int32_t to, int32_t from) {
    return (2 * int64_t{shorter} * to + from) / (2 * int64_t{from});
  };
  return std::max(scaled(out.height, stored.height), scaled(out.width, stored.width));
}

/// Turns one operation into a step; false if it changes nothing. Sets `error` if it cannot be done.
bool MakeStep(const Op& op, Size out, Size stored, Step* step, std::string* error);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_STEP_H_
