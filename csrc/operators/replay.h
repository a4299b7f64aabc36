// fn.dr.replay: shows stored views of decoded images. CPU operator; the GPU operator derives from the same
// base.
#ifndef DALI_DR_CSRC_OPERATORS_REPLAY_H_
#define DALI_DR_CSRC_OPERATORS_REPLAY_H_

#include <optional>
#include <string>
#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
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

  image::Size out_, stored_;
  int32_t resize_shorter_;  // 0: none
  image::Filter filter_;
  std::optional<image::Finish> finish_;
  // Of the current batch: the plans of sample i are plans_[first_[i] .. first_[i + 1]).
  std::vector<image::Plan> plans_;
  std::vector<int64_t> first_;
  Clock* clock_;  // or null; RunImpl tells it when it has done

 private:
  void SetSize(image::Size size);  // checks, and resolves a stored size of 0

  dali::ArgValue<int, 1> origin_, size_;
  image::Size stored_argument_;
};

class ReplayCpu : public ReplayBase<dali::CPUBackend> {
 public:
  explicit ReplayCpu(const dali::OpSpec& spec) : ReplayBase(spec) {}

 protected:
  void RunImpl(dali::Workspace& ws) override;

 private:
  std::vector<image::Scratch> scratch_;  // one per thread
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_REPLAY_H_
