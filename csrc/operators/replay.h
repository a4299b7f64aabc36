// fn.dr.replay: shows stored views of decoded images. The CPU operator, the GPU operator where the plugin is
// built with CUDA, and the base of both.
#ifndef DALI_DR_CSRC_OPERATORS_REPLAY_H_
#define DALI_DR_CSRC_OPERATORS_REPLAY_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "image/batch.h"
#include "image/device.h"
#include "image/plan.h"
#include "image/replay.h"
#include "operators/clock.h"

namespace dali_dr {

// What both backends share: arguments, shapes, and the plans of a batch.
template <typename Backend>
class ReplayBase : public dali::StatelessOperator<Backend> {
 public:
  explicit ReplayBase(const dali::OpSpec& spec);

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) override;
  // Calls make(k, end, image, partner image, out) for every view k of the batch, of a sample whose views end
  // at `end`; images and views may lie in device memory.
  template <typename Make>
  void ForEachView(dali::Workspace& ws, Make make);

  image::Size out_, stored_;
  int32_t resize_shorter_;  // 0: none
  image::Filter filter_;
  std::optional<image::Finish> finish_;
  // Of the current batch: the plans of sample i are plans_[first_[i] .. first_[i + 1]).
  std::vector<image::Plan> plans_;
  std::vector<int64_t> first_;
  Clock* clock_;  // or null; RunImpl tells it when it has done

  // With a third input, the partner images: how plans_[k] is mixed, and with what. The partner's plan is for
  // the partner image of the sample, or for its own image where mixes_[k].partner is kSelfPartner; where it
  // is kNoPartner, the view is written as it is.
  bool mixing_;
  std::vector<image::MixPlan> mixes_;
  std::vector<image::Plan> partner_plans_;
  // 1 where plans_[k] and partner_plans_[k] are those of k - 1 (a double-mix pair): both need but one replay.
  std::vector<uint8_t> repeats_;

 private:
  // Adds view `words` of sample i to the plans. Returns what is wrong, or nothing.
  std::string AddView(std::span<const int32_t> words, std::span<const int32_t> before, int i,
                      image::Size image, image::Size partner);

  void SetSize(image::Size size);  // checks, and resolves a stored size of 0

  dali::ArgValue<int, 1> origin_, partner_origin_, size_;
  image::Size stored_argument_;
};

class ReplayCpu : public ReplayBase<dali::CPUBackend> {
 public:
  explicit ReplayCpu(const dali::OpSpec& spec) : ReplayBase(spec) {}

 protected:
  void RunImpl(dali::Workspace& ws) override;

 private:
  // Writes view k and those up to `end` that repeat it; `scratch` are two.
  void ReplayMixed(int64_t k, int64_t end, const image::Image& source, const image::Image& partner,
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
