// The columns of one group of rows, as bytes: the counterpart of group.h and row.h.
#ifndef DALI_DR_CSRC_RECORD_WRITE_GROUP_H_
#define DALI_DR_CSRC_RECORD_WRITE_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "record/header.h"
#include "record/views.h"
#include "record/write_probabilities.h"
#include "record/write_tables.h"

namespace dali_dr::record {

/// The content of a frame that is being written.
struct Part {
  std::vector<uint8_t> bytes;
  std::vector<size_t> cuts;  ///< where a zstd block may end

  void Clear() { bytes.clear(), cuts.clear(); }
  void Cut() { cuts.push_back(bytes.size()); }
  /// `count` more bytes, zero. Valid until the next call.
  uint8_t* Add(size_t count) {
    bytes.resize(bytes.size() + count);
    return bytes.data() + bytes.size() - count;
  }
};

/// Bits one after another, lowest first, into zero bytes that are enough for them.
class BitWriter {
 public:
  explicit BitWriter(uint8_t* to) : to_(to) {}
  ~BitWriter() {
    for (; filled_ > 0; filled_ -= 8, bits_ >>= 8) *to_++ = static_cast<uint8_t>(bits_);
  }
  BitWriter(const BitWriter&) = delete;
  BitWriter& operator=(const BitWriter&) = delete;

  /// The lowest `count` <= 32 bits; the others are zero.
  void Put(uint64_t bits, uint32_t count) {
    bits_ |= bits << filled_;
    filled_ += static_cast<int>(count);
    if (filled_ < 32) return;
    const auto word = static_cast<uint32_t>(bits_);
    std::memcpy(to_, &word, sizeof word);
    to_ += sizeof word;
    bits_ >>= 32;
    filled_ -= 32;
  }

 private:
  uint8_t* to_;
  uint64_t bits_ = 0;
  int filled_ = 0;  // below 32
};

/// What a record is written of.
struct Written {
  const Reinforcements& columns;
  const OpTable& ops;
  const PartnerTable& partners;
  const ClassTable& classes;
  const ProbabilityColumn& probabilities;
  std::span<const uint32_t> rows;  ///< in the order in which they are stored
  Header header;
};

/// Appends the columns of the stored rows `first` ... `first + count - 1`, which are a group.
void PutGroup(const Written& from, uint32_t first, uint32_t count, Part* part);

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_WRITE_GROUP_H_
