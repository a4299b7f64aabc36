// The CPU path of replay: crop + resize + flip, RandAugment operations, erase, normalise + layout.
// The stages are separate functions over one planar uint8 view, so that views can be mixed after them.
#ifndef DALI_DR_CSRC_IMAGE_REPLAY_H_
#define DALI_DR_CSRC_IMAGE_REPLAY_H_

#include <cstdint>
#include <vector>

#include "image/finish.h"
#include "image/kernels.h"
#include "image/pixel.h"
#include "image/plan.h"
#include "image/resize.h"

namespace dali_dr::image {

/// One worker's buffers and the view that it works on. Grows to the largest view seen and then allocates no
/// more.
class Scratch {
 public:
  explicit Scratch(const Kernels& kernels = BestKernels()) : kernels_(&kernels), resizer_(kernels) {}

  /// The three stages, in order.
  void CropResizeFlip(const Plan& plan, const Image& image, Filter filter);
  /// In place of the first, from rows of what is Needed, where CanStream. Returns whether they could all be
  /// had.
  bool StreamResizeFlip(const Plan& plan, RowSource* rows, Filter filter);
  void ApplySteps(const Plan& plan);
  /// Erases and writes out.height * out.width * 3 values to `out`, which needs no alignment beyond that of a
  /// value.
  void Write(const Plan& plan, const Finish& finish, void* out);

  /// In place of Write, of a view and its partner's, both after Erase: mixes them into `out` (not of type
  /// uint8).
  void Erase(const Plan& plan);
  void WriteMixed(const Scratch& partner, const MixPlan& mix, Size size, const Finish& finish, void* out);

  /// The view: plane c, row after row without padding.
  const uint8_t* plane(int c) const { return planes_[c]; }

 private:
  void UseView(Size size);
  void SwapPlanes();
  void ApplyStep(const Step& step, Size size);
  void ApplyAffine(const Affine& map, Size size);
  void ApplyBlur(const Blur& blur, Size size);
  void ApplyLut(const uint8_t table[256], int c);
  void BlendLevels(int32_t degenerate, float factor);
  void ApplyAutoContrast(int c);
  void ApplyEqualize(int c);
  void Histogram(int c, uint32_t counts[256]);

  const Kernels* kernels_;
  Resizer resizer_;
  std::vector<uint8_t> pixels_;
  std::vector<float> floats_;
  size_t count_ = 0;  ///< pixels per plane
  uint8_t* planes_[3] = {};
  uint8_t* spare_[3] = {};
};

/// All stages.
inline void Replay(const Plan& plan, const Image& image, Filter filter, const Finish& finish,
                   Scratch* scratch, void* out) {
  scratch->CropResizeFlip(plan, image, filter);
  scratch->ApplySteps(plan);
  scratch->Write(plan, finish, out);
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_REPLAY_H_
