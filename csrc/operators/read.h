// fn.dr.read: sample numbers and view numbers in; the sample's bytes, label and views out. What they are is
// decided in samples/.
#ifndef DALI_DR_CSRC_OPERATORS_READ_H_
#define DALI_DR_CSRC_OPERATORS_READ_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "fault.h"
#include "operators/monitor.h"
#include "record/reader.h"
#include "samples/patience.h"
#include "samples/samples.h"

namespace dali_dr {

class Read : public dali::StatelessOperator<dali::CPUBackend> {
 public:
  explicit Read(const dali::OpSpec& spec);

 protected:
  // Shapes depend on the data, and images are read where they stay: RunImpl makes the outputs itself.
  bool SetupImpl(std::vector<dali::OutputDesc>&, const dali::Workspace&) override { return false; }
  bool HasContiguousOutputs() const override { return false; }
  void RunImpl(dali::Workspace& ws) override;

 private:
  // One sample of the current batch. Kept from batch to batch for its buffers.
  struct Slot {
    std::optional<Fault> fault;  // why the sample cannot be had; then the rest holds anything
    bool done = false;           // it is filled, or has a fault that stands
    samples::Filled filled;
  };

  void CheckInputs(const dali::Workspace& ws) const;

  // The view numbers of sample i of the batch; none without views.
  std::span<const int32_t> Views(const dali::Workspace& ws, int i) const;

  // Fills the slots of the batch; after it, none has a fault. Throws BatchError with the first there is.
  void FillSlots(const dali::Workspace& ws);
  // Fills those that are not done.
  void TryToFill(const dali::Workspace& ws);
  // Whether there are slots worth trying once more after some time; they are then not done.
  bool Reconsider(samples::Patience::Series* series);
  void ThrowFaults(const dali::TensorList<dali::CPUBackend>& samples) const;

  // Make outputs from the slots; the functions take a samples::Filled.
  template <typename ImageOf>
  void PutImages(dali::Workspace& ws, int output, const ImageOf& image_of);
  void PutLabels(dali::Workspace& ws) const;
  template <typename RegionOf>
  void PutRegions(dali::Workspace& ws, int start, int shape, const RegionOf& region_of) const;
  void PutViews(dali::Workspace& ws) const;

  samples::Source source_;
  samples::Patience patience_;
  bool with_views_, mixing_;
  Monitor* monitor_;  // or null
  std::vector<Slot> slots_;
  std::vector<record::Reader> readers_;  // one per thread
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_READ_H_
