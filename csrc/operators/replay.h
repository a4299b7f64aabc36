// fn.dr.replay: shows stored views of images, decoded or not. The CPU operator, the GPU operator where the
// plugin is built with CUDA, and the base of both.
#ifndef DALI_DR_CSRC_OPERATORS_REPLAY_H_
#define DALI_DR_CSRC_OPERATORS_REPLAY_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "image/batch.h"
#include "image/device.h"
#include "image/replay.h"
#include "image/view_plans.h"
#include "operators/encoded_image.h"
#include "operators/monitor.h"

namespace dali_dr {

// What both backends share: arguments, shapes, and the plans of a batch.
template <typename Backend>
class ReplayBase : public dali::StatelessOperator<Backend> {
 public:
  explicit ReplayBase(const dali::OpSpec& spec);

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) override;
  void SetLayout(dali::Workspace& ws) const;

  image::Shown shown_;  // of the current batch
  image::Filter filter_;
  std::optional<image::Finish> finish_;
  image::ViewPlans views_;                         // of the current batch
  std::vector<std::array<PixelSource, 2>> given_;  // the images of the current batch, and their partners
  bool pixels_;                                    // images that are no JPEG come as pixels in further inputs
  bool mixing_;                                    // with a third input, the partner images
  Monitor* monitor_;                               // or null; RunImpl tells it when it has done

 private:
  static constexpr bool kDecodes = std::is_same_v<Backend, dali::CPUBackend>;

  // An image, and the place of its pixels in it.
  struct Given {
    PixelSource source{};
    image::Placed placed{};
  };

  void ReadFinish(const dali::OpSpec& spec);
  void SetSize(image::Size size);
  void CheckInputs(const dali::Workspace& ws) const;
  void AcquireArguments(const dali::Workspace& ws);
  void CheckImages(const dali::Workspace& ws, int input, const char* name) const;
  int PixelsInput(bool partner) const { return (mixing_ ? 3 : 2) + partner; }
  // Finds the image of sample i, or its partner's.
  Given Find(const dali::Workspace& ws, bool partner, int i) const;
  void MakePlans(const dali::Workspace& ws);
  void Describe(const dali::Workspace& ws, dali::OutputDesc* output) const;

  dali::ArgValue<int, 1> origin_, partner_origin_, size_;
  image::Size stored_argument_;
};

class ReplayCpu : public ReplayBase<dali::CPUBackend> {
 public:
  explicit ReplayCpu(const dali::OpSpec& spec) : ReplayBase(spec) {}

 protected:
  void RunImpl(dali::Workspace& ws) override;

 private:
  // Views begin .. end of the image at `place` in the batch, to be written one behind the other.
  struct Item {
    int place;
    int64_t begin, end;
    PixelSource source{}, partner{};
    uint8_t* out;
  };
  // What a thread works with: for the view and for the partner's.
  struct Worker {
    std::array<image::Scratch, 2> scratch;
    std::array<EncodedImage, 2> images;
  };
  // Why an image, or its partner, cannot be decoded; empty: it can be.
  struct Failure {
    std::string problem{};
    bool partner = false;
  };

  std::array<std::vector<const image::Plan*>, 2> PlansOf(const Item& item) const;
  void MakeItems(dali::Workspace& ws);
  Failure ShowViews(const Item& item, Worker* worker) const;
  void ThrowFailure() const;

  std::vector<Item> items_;  // of the current batch
  std::vector<Failure> failures_;
  std::vector<std::unique_ptr<Worker>> workers_;  // one per thread
};

class ReplayGpu : public ReplayBase<dali::GPUBackend> {
 public:
  explicit ReplayGpu(const dali::OpSpec& spec);

 protected:
  void RunImpl(dali::Workspace& ws) override;

 private:
  image::DeviceLimits limits_{};
  std::optional<image::Batch> batch_;
  std::vector<image::Task> tasks_;
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_REPLAY_H_
