// See fit.h.
#include "jpeg/fit.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <utility>

#include "jpeg/markers.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace dali_dr::jpeg {
namespace {

constexpr int kMostDcBits = 11, kMostAcBits = 10;  // of the difference of means, and of others: T.81, F.1.2
constexpr int kLongRun = 0xf0;                     // the symbol of 16 zeros
constexpr size_t kNone = 256;                      // a symbol that never comes, so that no code is all ones
constexpr int kMostLength = 16;

using Masks = std::array<std::array<uint64_t, 256>, 8>;

// Of each row of a block and each set of its coefficients: their places in zigzag order, as bits.
constexpr Masks MakeMasks() {
  Masks masks{};
  for (size_t place = 0; place < 64; ++place)
    for (size_t set = 0; set < 256; ++set)
      if (set >> kNatural[place] % 8 & 1) masks[kNatural[place] / 8][set] |= uint64_t{1} << place;
  return masks;
}
constexpr Masks kMasks = MakeMasks();

// Which coefficients of a row are not 0, as bits.
inline unsigned NonZero(const int16_t* row) {
#ifdef __SSE2__
  const __m128i zero = _mm_setzero_si128();
  const __m128i is_zero = _mm_cmpeq_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)), zero);
  return ~static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(is_zero, zero))) & 255;
#else
  unsigned set = 0;
  for (int i = 0; i < 8; ++i) set |= unsigned{row[i] != 0} << i;
  return set;
#endif
}

// Of each size below 2048: counting leading zeros is slow where the instruction for it cannot be counted on.
constexpr auto kBits = [] {
  std::array<uint8_t, 2048> bits{};
  for (unsigned size = 0; size < bits.size(); ++size) bits[size] = static_cast<uint8_t>(std::bit_width(size));
  return bits;
}();

// Of larger ones, which are not allowed, too few.
int Bits(unsigned size) { return kBits[size % kBits.size()]; }

}  // namespace

void BlockSymbols::Add(const int16_t* block, int previous) {
  const auto difference = static_cast<unsigned>(std::abs(block[0] - previous));
  dc_.Add(Bits(difference));
  unsigned most = 0;  // bits of all others
  uint64_t places = 0;
  for (size_t row = 0; row < 8; ++row) places |= kMasks[row][NonZero(block + 8 * row)];
  int before = 0;
  for (places &= ~uint64_t{1}; places != 0; places &= places - 1) {
    const int place = std::countr_zero(places);
    int zeros = place - before - 1;
    for (; zeros > 15; zeros -= 16) ac_.Add(kLongRun);
    const auto size = static_cast<unsigned>(std::abs(block[kNatural[static_cast<size_t>(place)]]));
    ac_.Add(zeros << 4 | Bits(size));
    most |= size;
    before = place;
  }
  if (before < 63) ac_.Add(0);
  fit_ &= difference >> kMostDcBits == 0 && most >> kMostAcBits == 0;
}

Codes SymbolCounts::Optimal() const {
  // Trees: how often any of their symbols comes, and the first of them; `next` is the one behind in the same
  // tree.
  struct Tree {
    uint64_t count;
    size_t first;
  };
  std::array<Tree, kNone + 1> trees;
  std::array<size_t, kNone + 1> next;
  std::array<int, kNone + 1> length{};
  size_t left = 0;
  for (size_t symbol = 0; symbol < kNone; ++symbol)
    if (counts_[symbol] > 0) trees[left++] = {counts_[symbol], symbol};
  trees[left++] = {1, kNone};
  next.fill(kNone + 1);
  // Joins the two that come least often; of equals the later ones, so that the symbol that never comes is the
  // deepest.
  while (left > 1) {
    size_t least = 0, second = 0;
    uint64_t low = std::numeric_limits<uint64_t>::max(), high = low;
    for (size_t i = 0; i < left; ++i) {
      if (trees[i].count <= low) {
        second = least, high = low;
        least = i, low = trees[i].count;
      } else if (trees[i].count <= high) {
        second = i, high = trees[i].count;
      }
    }
    size_t last = trees[least].first;
    for (size_t s = last; s <= kNone; s = next[s]) ++length[s], last = s;
    next[last] = trees[second].first;
    for (size_t s = trees[second].first; s <= kNone; s = next[s]) ++length[s];
    trees[least].count = low + high;
    for (size_t i = second + 1; i < left; ++i) trees[i - 1] = trees[i];
    --left;
  }
  std::array<int, kNone + 2> counts{};  // of codes of each length
  for (size_t symbol = 0; symbol <= kNone; ++symbol) ++counts[static_cast<size_t>(length[symbol])];
  counts[0] = 0;
  // Codes that are too long: two of them become one of a bit less and share the place of a shorter one
  // (figure K.3).
  for (size_t bits = kNone; bits > kMostLength; --bits) {
    while (counts[bits] > 0) {
      size_t shorter = bits - 2;
      while (counts[shorter] == 0) --shorter;
      counts[bits] -= 2;
      ++counts[bits - 1];
      counts[shorter + 1] += 2;
      --counts[shorter];
    }
  }
  size_t longest = kMostLength;
  while (longest > 0 && counts[longest] == 0) --longest;
  if (longest > 0) --counts[longest];  // the symbol that never comes
  Codes table{};
  for (size_t bits = 1; bits <= kMostLength; ++bits) table.counts[bits] = static_cast<uint8_t>(counts[bits]);
  std::array<size_t, kNone> symbols;
  size_t used = 0;
  for (size_t symbol = 0; symbol < kNone; ++symbol)
    if (counts_[symbol] > 0) symbols[used++] = symbol;
  std::sort(symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(used),
            [&](size_t a, size_t b) { return std::pair{length[a], a} < std::pair{length[b], b}; });
  for (size_t i = 0; i < used; ++i) table.symbols[i] = static_cast<uint8_t>(symbols[i]);
  return table;
}

}  // namespace dali_dr::jpeg
