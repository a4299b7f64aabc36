// Little-endian numbers, bits and columns in memory whose length was checked.
#ifndef DALI_DR_CSRC_RECORD_BYTES_H_
#define DALI_DR_CSRC_RECORD_BYTES_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "record/error.h"

namespace dali_dr::record {

static_assert(std::endian::native == std::endian::little, "records are little-endian and read by memcpy");

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// Element `index` of a column of unsigned integers of `bytes` = 1, 2 or 4.
inline uint32_t LoadUint(const uint8_t* column, uint32_t bytes, uint64_t index) {
  if (bytes == 1) return column[index];
  if (bytes == 2) return Load<uint16_t>(column + 2 * index);
  return Load<uint32_t>(column + 4 * index);
}

inline bool Bit(const uint8_t* column, uint64_t index) { return column[index / 8] >> (index % 8) & 1; }

/// `count` <= 31 bits from bit `first` on; touches only the bytes that hold them.
inline uint32_t LoadBits(const uint8_t* column, uint64_t first, uint32_t count) {
  const uint32_t shift = first % 8;
  const uint8_t* bytes = column + first / 8;
  uint64_t value = 0;
  for (uint32_t i = 0; i < (shift + count + 7) / 8; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return static_cast<uint32_t>(value >> shift) & ((uint32_t{1} << count) - 1);
}

/// How many of the first `bits` bits are set.
inline uint32_t CountBits(const uint8_t* column, uint32_t bits) {
  uint32_t count = 0, byte = 0;
  for (; (byte + 8) * 8 <= bits; byte += 8) count += std::popcount(Load<uint64_t>(column + byte));
  for (; (byte + 1) * 8 <= bits; ++byte) count += std::popcount(column[byte]);
  if (bits % 8) count += std::popcount(static_cast<uint8_t>(column[byte] & ((1u << (bits % 8)) - 1)));
  return count;
}

/// The value of IEEE 754 binary16 bits.
inline float HalfToFloat(uint16_t half) {
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  float value;
  if (exponent == 31) {
    value = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-24f;
  } else {
    value = std::bit_cast<float>((exponent + 112) << 23 | mantissa << 13);
  }
  return half >> 15 ? -value : value;
}

/// Cuts columns off the start of `bytes`, from `at` on. `part` is what messages call the bytes.
class Columns {
 public:
  Columns(const char* part, std::span<const uint8_t> bytes, uint64_t at)
      : part_(part), bytes_(bytes), at_(at) {}

  const uint8_t* Take(const char* name, uint64_t length) {
    if (length > bytes_.size() - at_)
      Fail("record ends inside the ", name, " column (", length, " bytes from offset ", at_, " of ", part_,
           ", which has ", bytes_.size(), ")");
    const uint8_t* begin = bytes_.data() + at_;
    at_ += length;
    return begin;
  }

  /// A column of `bits` bits; those that are left over must be zero.
  const uint8_t* TakeBits(const char* name, uint64_t bits) {
    const uint8_t* column = Take(name, (bits + 7) / 8);
    if (bits % 8 && column[bits / 8] >> (bits % 8))
      Fail("unused bits of the ", name, " column are not zero: last byte is ", unsigned{column[bits / 8]});
    return column;
  }

  size_t at() const { return at_; }

 private:
  const char* part_;
  std::span<const uint8_t> bytes_;
  uint64_t at_;  // cannot overflow: each column is below 2^35 bytes
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_BYTES_H_
