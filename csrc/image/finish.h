// From uint8 pixels to output values.
#ifndef DALI_DR_CSRC_IMAGE_FINISH_H_
#define DALI_DR_CSRC_IMAGE_FINISH_H_

#include <cstdint>
#include <span>

#include "image/kernels.h"
#include "image/pixel.h"

namespace dali_dr::image {

/// The map from uint8 pixels to output values: ((v / 255) - mean) / std in float32 per channel if mean and
/// std are given (3 values each), else a plain cast. Build once, share between threads.
class Finish {
 public:
  Finish(OutputType type, bool channels_last, std::span<const float> mean, std::span<const float> std);

  OutputType type() const { return type_; }
  bool channels_last() const { return channels_last_; }
  const Channel& channel(int c) const { return channels_[c]; }
  int64_t value_bytes() const {
    return type_ == OutputType::kUint8 ? 1 : type_ == OutputType::kFloat32 ? 4 : 2;
  }

 private:
  OutputType type_;
  bool channels_last_;
  Channel channels_[3];
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_FINISH_H_
