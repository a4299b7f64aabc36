// The code of crop boxes: one number per axis, of which exactly the valid boxes have one.
#ifndef DALI_DR_CSRC_RECORD_CROPS_H_
#define DALI_DR_CSRC_RECORD_CROPS_H_

#include <bit>
#include <cmath>
#include <cstdint>

#include "record/error.h"

namespace dali_dr::record {

/// How many boxes (start, extent >= 1) an axis of `length` pixels holds.
inline uint64_t BoxCount(uint64_t length) { return length * (length + 1) / 2; }

/// Bits of a box number; at most 31, for the longest side a record may have.
inline uint32_t BoxBits(uint64_t length) {
  return static_cast<uint32_t>(std::bit_width(BoxCount(length) - 1));
}

/// Inverse of the schema's box number d(d+1)/2 + start, d = length - extent. `axis` and `row` are for the
/// message.
inline void DecodeBox(const char* axis, uint32_t row, uint64_t number, uint32_t length, int32_t* start,
                      int32_t* extent) {
  if (number >= BoxCount(length))
    Fail("view ", row, ": ", axis, " crop number ", number, " is not below ", BoxCount(length),
         " (image side of ", length, " pixels)");
  // number < 2^31, so the square root is within one of the integer answer.
  auto d = static_cast<uint64_t>((std::sqrt(8.0 * static_cast<double>(number) + 1.0) - 1.0) / 2.0);
  while (BoxCount(d) > number) --d;
  while (BoxCount(d + 1) <= number) ++d;
  *start = static_cast<int32_t>(number - BoxCount(d));
  *extent = static_cast<int32_t>(length - d);
}

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_CROPS_H_
