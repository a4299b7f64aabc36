// The CPU path of replay: crop + resize + flip, RandAugment operations, erase, normalise + layout.
// The stages are separate functions over one planar uint8 view, so that views can be mixed after them.
#ifndef DALI_DR_CSRC_IMAGE_REPLAY_H_
#define DALI_DR_CSRC_IMAGE_REPLAY_H_

#include <cstdint>
#include <span>
#include <vector>

#include "image/kernels.h"
#include "image/pixel.h"
#include "image/plan.h"

namespace dali_dr::image {

// Interleaved RGB pixels without padding between rows.
struct Image {
  const uint8_t* data;
  Size size;
};

// The map from uint8 pixels to output values: ((v / 255) - mean) / std in float32 per channel if mean and std
// are given (3 values each), else a plain cast. Build once, share between threads.
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

// One worker's buffers and the view that it works on. Grows to the largest view seen and then allocates no
// more.
class Scratch {
 public:
  explicit Scratch(const Kernels& kernels = BestKernels()) : kernels_(&kernels) {}

  // The three stages, in order.
  void CropResizeFlip(const Plan& plan, const Image& image, Filter filter);
  void ApplySteps(const Plan& plan);
  // Erases and writes out.height * out.width * 3 values to `out`, which needs no alignment beyond that of a
  // value.
  void Write(const Plan& plan, const Finish& finish, void* out);

  // In place of Write, of a view and its partner's, both after Erase: mixes them into `out` (not of type
  // uint8).
  void Erase(const Plan& plan);
  void WriteMixed(const Scratch& partner, const MixPlan& mix, Size size, const Finish& finish, void* out);

  // The view: plane c, row after row without padding.
  const uint8_t* plane(int c) const { return planes_[c]; }

 private:
  struct TapTable {
    std::vector<int32_t> start;
    std::vector<TapPair> weight;
    int32_t pairs = 0;
    Taps view() const { return {start.data(), weight.data(), pairs}; }
  };

  // Of output coordinates first .. first + count.
  void SetTaps(const Axis& axis, int32_t first, int32_t count, TapTable* table);
  void UseView(Size size);
  void SwapPlanes();
  void ApplyAffine(const Affine& map, Size size);
  void ApplyLut(const uint8_t table[256], int c);
  void Histogram(int c, uint32_t counts[256]);

  const Kernels* kernels_;
  TapTable columns_, rows_;
  std::vector<double> raw_;
  std::vector<int32_t> fixed_;
  std::vector<uint8_t> ring_, padded_, line_, pixels_;
  std::vector<const uint8_t*> sources_;
  std::vector<float> floats_;
  size_t count_ = 0;  // pixels per plane
  uint8_t* planes_[3] = {};
  uint8_t* spare_[3] = {};
};

// All stages.
inline void Replay(const Plan& plan, const Image& image, Filter filter, const Finish& finish,
                   Scratch* scratch, void* out) {
  scratch->CropResizeFlip(plan, image, filter);
  scratch->ApplySteps(plan);
  scratch->Write(plan, finish, out);
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_REPLAY_H_
