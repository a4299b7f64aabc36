// The weights of one axis of a resize, in the forms that the kernels take.
#ifndef DALI_DR_CSRC_IMAGE_TAPS_H_
#define DALI_DR_CSRC_IMAGE_TAPS_H_

#include <cstdint>
#include <vector>

#include "image/kernels.h"
#include "image/pixel.h"

namespace dali_dr::image {

/// The tables of one axis. They grow to the largest seen.
class TapTable {
 public:
  enum class Pass { kHorizontal, kVertical };

  /// Of output coordinates first .. first + count.
  void Set(const Kernels& kernels, Pass pass, const Axis& axis, int32_t first, int32_t count);

  int32_t pairs() const { return pairs_; }
  int32_t start(int32_t x) const { return start_[x]; }
  /// Of a horizontal pass.
  Taps columns() const;
  /// Of row `y` of a vertical pass.
  RowWeights row(int32_t y) const;

 private:
  void SetWindows(const Axis& axis, int32_t first, int32_t count);
  void SetPairs(int32_t count);

  int32_t pairs_ = 0, stride_ = 0, wide_groups_ = 0;
  bool split_ = false;  ///< whether there are weights of bytes
  std::vector<int32_t> start_, fixed_;
  std::vector<TapPair> weight_;
  std::vector<uint32_t> bytes_;
  std::vector<uint8_t> fits_;
  std::vector<int32_t> offsets_;
  std::vector<ByteGroup> groups_;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_TAPS_H_
