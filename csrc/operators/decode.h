// fn.dr.decode: regions of JPEGs become pixels, by csrc/jpeg; fn.dr.foreign: which images it does not decode.
#ifndef DALI_DR_CSRC_OPERATORS_DECODE_H_
#define DALI_DR_CSRC_OPERATORS_DECODE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "jpeg/decode.h"
#include "operators/monitor.h"

namespace dali_dr {

class Decode : public dali::StatelessOperator<dali::CPUBackend> {
 public:
  explicit Decode(const dali::OpSpec& spec);

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) override;
  void RunImpl(dali::Workspace& ws) override;

 private:
  void CheckInputs(const dali::Workspace& ws) const;
  // Finds what sample i shows. Returns an empty string, or why it cannot be decoded.
  std::string Find(const dali::Workspace& ws, int i, jpeg::Region* region) const;
  [[noreturn]] void Fail(int place, const std::string& problem) const;

  bool partner_;                       // the images are those of partners
  bool with_region_;                   // with start and shape
  int pixels_;                         // the input of pixels of what is no JPEG; -1: there is none
  Monitor* monitor_;                   // or null
  std::vector<jpeg::Region> regions_;  // of the current batch
  std::vector<std::string> problems_;
  std::vector<std::optional<jpeg::Decoder::Way>> ways_;
  std::vector<std::unique_ptr<jpeg::Decoder>> decoders_;  // one per thread
};

class Foreign : public dali::StatelessOperator<dali::CPUBackend> {
 public:
  explicit Foreign(const dali::OpSpec& spec) : StatelessOperator(spec) {}

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) override;
  void RunImpl(dali::Workspace& ws) override;
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_DECODE_H_
