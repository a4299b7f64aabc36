// What is wrong with a sample, as data: what every library throws and the operators hand to Python. Knows
// nothing else.
#ifndef DALI_DR_CSRC_FAULT_H_
#define DALI_DR_CSRC_FAULT_H_

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace dali_dr {

struct Fault {
  enum class Kind : int32_t {  // dali_dr.loader.faults.KINDS in this order
    kInternal,                 // out of memory, for instance
    kArgument,  // what was asked for does not exist or does not fit, whatever the data set holds
    kShard,     // a file of the data set: missing, replaced, damaged, not to be read
    kRecord,    // a reinforcement record: damaged, or without what was asked for
    kImage,     // an image file
    kView,      // the packed words of a view, or what they say of their image
  };

  Kind kind = Kind::kInternal;
  std::string message{};  // whole: what, where, what to do
  int64_t sample = -1;    // its number; -1: unknown
  std::string key{};      // of the sample; empty: unknown
  std::string shard{};    // path of the file; empty: unknown
  int64_t offset = -1;    // of the member's data in the shard, in bytes; -1: unknown
  bool whole_file =
      false;  // nothing in the shard can be had: it is missing, or not the file that the index means
  bool passing = false;  // it may be gone in a moment: a store that does not answer, a file being copied
};

/// An error that knows its Fault; what() is the fault's message.
class FaultError : public std::runtime_error {
 public:
  explicit FaultError(Fault fault) : std::runtime_error(fault.message), fault_(std::move(fault)) {}

  const Fault& fault() const { return fault_; }

 private:
  Fault fault_;
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_FAULT_H_
