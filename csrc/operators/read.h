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
#include "jpeg/slice.h"
#include "operators/monitor.h"
#include "samples/patience.h"
#include "samples/samples.h"
#include "shards/buffers.h"

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
  // An image file as it is given out.
  struct Picture {
    std::span<const uint8_t> bytes{};  // the file, or a slice of it
    shards::Buffer buffer{};           // that holds it
    samples::Region region{};          // to decode of `bytes`
    samples::Region source{};          // the same in pixels of the image
  };
  // One sample of the current batch. Kept from batch to batch for its buffers.
  struct Slot {
    std::optional<Fault> fault;  // why the sample cannot be had; then the rest holds anything
    bool done = false;           // it is filled, or has a fault that stands
    samples::Filled filled;
    Picture image, partner;
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

  // Moves the files out of the filled samples, or what is to be decoded of them.
  void TakePictures(dali::Workspace& ws);
  Picture Taken(std::span<const uint8_t> bytes, shards::Buffer buffer, const samples::Region& region,
                jpeg::Slicer* slicer);

  // Make outputs from the slots.
  void PutImages(dali::Workspace& ws, int output, Picture Slot::* picture);
  void PutLabels(dali::Workspace& ws) const;
  void PutRegions(dali::Workspace& ws, int start, int shape, Picture Slot::* picture) const;
  void PutMore(dali::Workspace& ws, int output) const;
  void PutViews(dali::Workspace& ws) const;
  void PutMixLabels(dali::Workspace& ws) const;

  samples::Source source_;
  samples::Patience patience_;
  bool with_views_, mixing_, slices_, foreign_;
  Monitor* monitor_;  // or null
  std::vector<Slot> slots_;
  std::vector<samples::Readers> readers_;  // one per thread
  std::vector<jpeg::Slicer> slicers_;      // one per thread
  shards::Buffers buffers_;                // of slices
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_READ_H_
