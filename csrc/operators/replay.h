// fn.dr.replay: shows stored views of decoded images. The CPU operator, the GPU operator where the plugin is
// built with CUDA, and the base of both.
#ifndef DALI_DR_CSRC_OPERATORS_REPLAY_H_
#define DALI_DR_CSRC_OPERATORS_REPLAY_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "image/batch.h"
#include "image/device.h"
#include "image/replay.h"
#include "image/view_plans.h"
#include "operators/monitor.h"

namespace dali_dr {

// What both backends share: arguments, shapes, and the plans of a batch.
template <typename Backend>
class ReplayBase : public dali::StatelessOperator<Backend> {
 public:
  explicit ReplayBase(const dali::OpSpec& spec);

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) override;
  // Calls make(k, image, partner image, out) for every view k of the batch that is no repetition; images and
  // views may lie in device memory. The partner image is the view's own where it is its own partner.
  template <typename Make>
  void ForEachView(dali::Workspace& ws, Make make);

  image::Shown shown_;  // of the current batch
  image::Filter filter_;
  std::optional<image::Finish> finish_;
  image::ViewPlans views_;  // of the current batch
  bool mixing_;             // with a third input, the partner images
  Monitor* monitor_;        // or null; RunImpl tells it when it has done

 private:
  void ReadFinish(const dali::OpSpec& spec);
  void SetSize(image::Size size);
  void CheckInputs(const dali::Workspace& ws) const;
  void AcquireArguments(const dali::Workspace& ws);
  // The place of the pixels of sample i of an input, which must be RGB.
  image::Placed Place(const dali::Workspace& ws, int input, const char* name,
                      const dali::ArgValue<int, 1>& origin, int i) const;
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
  // Writes view k and those that repeat it; `scratch` are two.
  void ReplayMixed(int64_t k, const image::Image& source, const image::Image& partner,
                   image::Scratch* scratch, uint8_t* out) const;

  std::vector<image::Scratch> scratch_;  // two per thread: the view, the partner's view
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
