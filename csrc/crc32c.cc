// See crc32c.h. The instruction takes three cycles but can begin anew in each, so three stretches go side by
// side; what their checksums are together follows from how zeros change one: a linear map, kept in tables.
#include "crc32c.h"

#include <array>
#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace dali_dr {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

using Table = std::array<uint32_t, 256>;

// kTables[k][b]: the effect of byte b with k bytes after it.
constexpr std::array<Table, 8> kTables = [] {
  std::array<Table, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ kPolynomial : crc >> 1;
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k)
    for (uint32_t b = 0; b < 256; ++b)
      tables[k][b] = tables[k - 1][b] >> 8 ^ tables[0][tables[k - 1][b] & 255];
  return tables;
}();

uint64_t Word(const uint8_t* from) {
  uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// The state of the checksum, which is inverted at either end, after the bytes.
uint32_t ByTables(uint32_t state, std::span<const uint8_t> bytes) {
  while (bytes.size() >= 8) {
    const uint64_t word = Word(bytes.data()) ^ state;
    state = 0;
    for (int i = 0; i < 8; ++i)
      state ^= kTables[static_cast<size_t>(7 - i)][static_cast<uint8_t>(word >> (8 * i))];
    bytes = bytes.subspan(8);
  }
  for (const uint8_t byte : bytes) state = state >> 8 ^ kTables[0][static_cast<uint8_t>(state ^ byte)];
  return state;
}

#if defined(__x86_64__)

// What `Zeros` zero bytes make of a state, a table for each byte of it.
template <size_t Zeros>
class Shift {
 public:
  Shift() {
    std::array<uint32_t, 32> images;  // of single bits
    for (uint32_t bit = 0; bit < 32; ++bit) {
      uint32_t state = 1u << bit;
      for (size_t i = 0; i < Zeros; ++i) state = state >> 8 ^ kTables[0][state & 255];
      images[bit] = state;
    }
    for (uint32_t byte = 0; byte < 4; ++byte)
      for (uint32_t value = 0; value < 256; ++value) {
        uint32_t sum = 0;
        for (uint32_t bit = 0; bit < 8; ++bit)
          if (value >> bit & 1) sum ^= images[8 * byte + bit];
        tables_[byte][value] = sum;
      }
  }

  uint32_t operator()(uint32_t state) const {
    return tables_[0][state & 255] ^ tables_[1][state >> 8 & 255] ^ tables_[2][state >> 16 & 255] ^
           tables_[3][state >> 24];
  }

 private:
  std::array<Table, 4> tables_;
};

template <size_t Stretch>
[[gnu::target("sse4.2")]] uint32_t ThreeAbreast(uint32_t state, std::span<const uint8_t>* bytes) {
  static const Shift<Stretch> shift;
  while (bytes->size() >= 3 * Stretch) {
    const uint8_t* at = bytes->data();
    uint64_t first = state, second = 0, third = 0;
    for (size_t i = 0; i < Stretch; i += 8) {
      first = _mm_crc32_u64(first, Word(at + i));
      second = _mm_crc32_u64(second, Word(at + Stretch + i));
      third = _mm_crc32_u64(third, Word(at + 2 * Stretch + i));
    }
    state = shift(shift(static_cast<uint32_t>(first)) ^ static_cast<uint32_t>(second)) ^
            static_cast<uint32_t>(third);
    *bytes = bytes->subspan(3 * Stretch);
  }
  return state;
}

[[gnu::target("sse4.2")]] uint32_t ByInstruction(uint32_t state, std::span<const uint8_t> bytes) {
  state = ThreeAbreast<8192>(state, &bytes);
  state = ThreeAbreast<256>(state, &bytes);
  while (bytes.size() >= 8) {
    state = static_cast<uint32_t>(_mm_crc32_u64(state, Word(bytes.data())));
    bytes = bytes.subspan(8);
  }
  for (const uint8_t byte : bytes) state = _mm_crc32_u8(state, byte);
  return state;
}

#endif

}  // namespace

uint32_t Crc32cByTables(std::span<const uint8_t> bytes, uint32_t before) { return ~ByTables(~before, bytes); }

uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t before) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  if (has_instruction) return ~ByInstruction(~before, bytes);
#endif
  return Crc32cByTables(bytes, before);
}

}  // namespace dali_dr
