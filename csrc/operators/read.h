// fn.dr.read: sample numbers and view numbers in; the sample's bytes, label and stored views out.
#ifndef DALI_DR_CSRC_OPERATORS_READ_H_
#define DALI_DR_CSRC_OPERATORS_READ_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "operators/clock.h"
#include "record/record.h"
#include "shards/shards.h"

namespace dali_dr {

class Read : public dali::StatelessOperator<dali::CPUBackend> {
 public:
  explicit Read(const dali::OpSpec& spec);

 protected:
  // Shapes depend on the data, and images are not copied: RunImpl makes the outputs itself.
  bool SetupImpl(std::vector<dali::OutputDesc>&, const dali::Workspace&) override { return false; }
  bool HasContiguousOutputs() const override { return false; }
  void RunImpl(dali::Workspace& ws) override;

 private:
  // The union of crop boxes: (y, x) and (height, width), as the outputs have them.
  struct Region {
    int32_t start[2] = {}, shape[2] = {};

    void Add(const int32_t* box);  // top, left, height, width
  };

  // One sample of the current batch. Kept from batch to batch for its buffers.
  struct Slot {
    std::string error;  // not empty: why the sample cannot be had; then the rest holds anything
    shards::Sample sample;
    shards::Sample partner;  // no bytes: there is none, or it is the sample itself
    int words = 0, topk = 0;
    Region roi, partner_roi;
    std::vector<int32_t> params;  // one packed view after the other
    std::vector<int32_t> ids;
    std::vector<float> probs;
  };

  // Makes the outputs of a batch.
  void Batch(dali::Workspace& ws);

  // Brings one sample into memory and unpacks the given rows of its record; with mixing, finds its partner.
  // Throws ShardError, RecordError.
  void Fill(Slot* slot, std::span<const int32_t> rows, record::Decompressor* decompressor) const;

  // Notes the partner of one view, unpacked as `words`, in the slot. Throws RecordError.
  void AddPartner(Slot* slot, bool first, const int32_t* words) const;

  // Fills the slots of the batch; after it, none has an error. Throws DaliRuntimeError with the first error
  // there is.
  void FillSlots(const dali::Workspace& ws, int count);

  std::shared_ptr<const shards::ShardSet>
      shards_;  // shared with the images given out, which lie in its mappings
  bool with_views_, mixing_;
  Clock* clock_;  // or null
  std::vector<Slot> slots_;
  std::vector<record::Decompressor> decompressors_;  // one per thread
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_READ_H_
