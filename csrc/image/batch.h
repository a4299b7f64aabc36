// Sorts the views of a batch into jobs for blocks of threads: which fit shared memory, how the memory is laid
// out, and in what order they run. Plain C++; the launch is in device.h, the algorithm in block/block.h.
#ifndef DALI_DR_CSRC_IMAGE_BATCH_H_
#define DALI_DR_CSRC_IMAGE_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "image/block/layout.h"
#include "image/plan.h"
#include "image/replay.h"

namespace dali_dr::image {

/// One view to make. Images and output may lie in device memory: none is touched here.
struct Task {
  const Plan* plan;
  Image image;
  void* out;
  /// Of a mixed view: its partner's, and the ways to mix the two, each of which is an output, one behind the
  /// other.
  const Plan* partner_plan = nullptr;
  Image partner_image{};
  std::span<const MixPlan> mixes{};
};

/// The views of a batch in two parts: [0] keep everything in shared memory, [1] keep pixels and weights in
/// global memory: large views, crops so large that their weights do not fit, chips with little shared memory.
/// A block needs a slot of slot_bytes(part) of global memory.
class Batch {
 public:
  /// `shared_limit`: bytes of shared memory that a block may have.
  Batch(Filter filter, const Finish& finish, int64_t shared_limit)
      : filter_(filter), finish_(&finish), shared_limit_(shared_limit) {}

  /// Takes the views of a batch, all of size `out`.
  void Assign(Size out, std::span<const Task> tasks);

  /// Counters, jobs, ways of mixing and steps, to be copied to where the blocks can read and write them.
  /// 16-byte aligned.
  size_t bytes() const;
  void Write(uint8_t* to) const;

  /// The kernel argument of a part whose bytes were copied to `data`. Write() again before every use.
  BlockBatch Argument(int part, uint8_t* data) const;
  /// Whether a view has such a step: kernels without them are faster.
  bool hue_and_blur() const;
  uint32_t num_jobs(int part) const { return uint32_t(jobs_[part].size()); }
  int64_t shared_bytes(int part) const;
  int64_t slot_bytes(int part) const;

 private:
  void SetSize(Size out);

  Filter filter_;
  const Finish* finish_;
  int64_t shared_limit_;
  Size out_{};
  BlockLayout layout_[2] = {};  ///< [0].plane_bytes 0: nothing fits shared memory
  std::vector<Job> jobs_[2], partners_;
  std::vector<MixPlan> mixes_;
  std::vector<Step> steps_;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BATCH_H_
