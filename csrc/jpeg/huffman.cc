// See huffman.h.
#include "jpeg/huffman.h"

#include <algorithm>

#include "jpeg/markers.h"

namespace dali_dr::jpeg {
namespace {

constexpr uint8_t kZeroRun = 0xf0;  // ZRL: sixteen coefficients that are 0

// kNatural, with places behind the last, which the end of a block leads to and where a 0 is written: it is 0
// already, as the block ended before.
constexpr auto kPlaces = [] {
  std::array<uint8_t, 64 + 128> places{};
  places.fill(63);
  std::copy(kNatural.begin(), kNatural.end(), places.begin());
  return places;
}();

// The value that `size` bits mean (T.81, EXTEND); without a branch, since signs cannot be foreseen.
int32_t Extend(uint32_t bits, int32_t size) {
  const int32_t value = static_cast<int32_t>(bits), low = (value >> (size - 1)) - 1;  // all ones, or 0
  return value + (low & (1 - (1 << size)));
}

// `size` bits, at least 1, behind the first `skipped` ones.
uint32_t BitsBehind(uint64_t bits, int32_t skipped, int32_t size) {
  return static_cast<uint32_t>(bits << skipped >> (64 - size));
}

}  // namespace

// Of a symbol whose code has `length` bits; its value is not known.
uint32_t HuffmanTable::Entry(uint8_t symbol, int length, bool is_dc) {
  const uint32_t size = symbol & 15, run = symbol >> 4;
  uint32_t advance = run + 1;
  if (!is_dc && size == 0 && symbol != kZeroRun) advance = kEnd;
  return (static_cast<uint32_t>(length) + size) | size << 5 | advance << 9;
}

bool HuffmanTable::Assign(const Codes& codes, bool is_dc) {
  if (made_ && is_dc == is_dc_ && codes == codes_) return true;
  made_ = false;
  entries_.fill(0);
  largest_.fill(-1);
  int32_t code = 0, symbol = 0;
  for (int length = 1; length <= 16; ++length, code <<= 1) {
    const int32_t count = codes.counts[static_cast<size_t>(length)];
    if (code + count > 1 << length || symbol + count > 256) return false;
    offset_[static_cast<size_t>(length)] = symbol - code;
    if (count > 0) largest_[static_cast<size_t>(length)] = code + count - 1;
    for (int32_t i = 0; i < count; ++i, ++code, ++symbol) {
      const uint8_t value = codes.symbols[static_cast<size_t>(symbol)];
      if (is_dc && value > 15) return false;
      if (length > kPeek) continue;
      const int rest = kPeek - length, size = value & 15;
      const uint32_t entry = Entry(value, length, is_dc);
      uint32_t* const to = entries_.data() + (static_cast<size_t>(code) << rest);
      if (size == 0 || size > rest) {
        std::fill_n(to, size_t{1} << rest, entry);
        continue;
      }
      const uint32_t known = entry & ~(15u << 5);  // nothing is left to be known
      for (uint32_t bits = 0; bits < 1u << size; ++bits)
        std::fill_n(to + (size_t{bits} << (rest - size)), size_t{1} << (rest - size),
                    known | static_cast<uint32_t>(Extend(bits, size)) << 16);
    }
  }
  codes_ = codes;
  is_dc_ = is_dc;
  made_ = true;
  skips_made_ = false;
  return true;
}

void HuffmanTable::PrepareToSkip() {
  if (skips_made_) return;
  skips_made_ = true;
  for (uint32_t peek = 0; peek < 1u << kSkipPeek; ++peek) {
    uint32_t used = 0, advance = 0;
    uint16_t last = 0;
    while (last == 0) {
      const uint32_t bits = peek << used & ((1u << kSkipPeek) - 1);
      const uint32_t entry = entries_[bits >> (kSkipPeek - kPeek)];
      const uint32_t total = entry & 31, length = total - (entry >> 5 & 15);
      // The code must be among the bits that there are; those of its value may lie behind.
      if (total == 0 || used + length > kSkipPeek || used + total > 31) break;
      used += total;
      if ((entry >> 9 & 127) == kEnd) {
        last = kLast;
      } else {
        advance += entry >> 9 & 127;
      }
      if (used >= kSkipPeek) break;
    }
    skips_[peek] = static_cast<uint16_t>(used | advance << 5 | last);
  }
}

// The entry of a code that is longer than kPeek; 0: there is no such code.
uint32_t HuffmanTable::Long(uint64_t bits) const {
  for (int length = kPeek + 1; length <= 16; ++length) {
    const auto code = static_cast<int32_t>(bits >> (64 - length));
    if (code <= largest_[static_cast<size_t>(length)])
      return Entry(codes_.symbols[static_cast<size_t>(code + offset_[static_cast<size_t>(length)])], length,
                   is_dc_);
  }
  return 0;
}

bool HuffmanTable::DecodeDc(const HuffmanTable& table, BitReader* reader, int32_t* dc) {
  reader->Refill();
  const uint32_t entry = table.Find(reader->bits);
  const auto total = static_cast<int32_t>(entry & 31), size = static_cast<int32_t>(entry >> 5 & 15);
  if (total == 0) return false;
  int32_t value = static_cast<int32_t>(entry) >> 16;
  if (size > 0) value = Extend(BitsBehind(reader->bits, total - size, size), size);
  reader->Drop(total);
  // As in libjpeg, which lets damaged files wrap.
  *dc = static_cast<int32_t>(static_cast<uint32_t>(*dc) + static_cast<uint32_t>(value));
  return true;
}

bool HuffmanTable::Decode(const HuffmanTable& dc_table, const HuffmanTable& ac_table, BitReader* shared,
                          int32_t* dc, int16_t* block) {
  BitReader reader = *shared;  // in registers
  if (!DecodeDc(dc_table, &reader, dc)) return false;
  block[0] = static_cast<int16_t>(*dc);
  uint32_t k = 1;
  while (k < 64) {
    if (reader.count < 32) reader.Refill();
    const uint32_t entry = ac_table.Find(reader.bits);
    const auto total = static_cast<int32_t>(entry & 31), size = static_cast<int32_t>(entry >> 5 & 15);
    if (total == 0) [[unlikely]]
      return false;
    int32_t value = static_cast<int32_t>(entry) >> 16;
    if (size > 0) value = Extend(BitsBehind(reader.bits, total - size, size), size);
    reader.Drop(total);
    k += entry >> 9 & 127;
    block[kPlaces[k - 1]] = static_cast<int16_t>(value);
  }
  *shared = reader;
  return k == 64 || k > kEnd;
}

bool HuffmanTable::Skip(const HuffmanTable& dc_table, const HuffmanTable& ac_table, BitReader* shared,
                        int32_t* dc) {
  BitReader reader = *shared;
  if (!DecodeDc(dc_table, &reader, dc)) return false;
  const bool several_at_once = ac_table.skips_made_;
  uint32_t k = 1;
  while (k < 64) {
    if (reader.count < 32) reader.Refill();
    if (several_at_once) {
      const uint32_t several = ac_table.skips_[reader.bits >> (64 - kSkipPeek)];
      const uint32_t after = k + (several >> 5 & 255);
      if ((several & 31) != 0 && after < 64) [[likely]] {
        reader.Drop(static_cast<int32_t>(several & 31));
        k = after;
        if (several & kLast) break;
        continue;
      }
    }
    const uint32_t entry = ac_table.Find(reader.bits);
    if ((entry & 31) == 0) return false;
    reader.Drop(static_cast<int32_t>(entry & 31));
    k += entry >> 9 & 127;
  }
  *shared = reader;
  return k <= 64 || k > kEnd;
}

}  // namespace dali_dr::jpeg
