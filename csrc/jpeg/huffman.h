// Huffman codes of sequential JPEGs (ITU-T T.81, annex F.2): blocks of coefficients decoded, or passed over.
//
// Two thirds of a decoder's time go here. libjpeg-turbo looks a symbol's code up and then takes its bits;
// here one look-up mostly gives the whole coefficient, or, where blocks are passed over, several.
#ifndef DALI_DR_CSRC_JPEG_HUFFMAN_H_
#define DALI_DR_CSRC_JPEG_HUFFMAN_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dali_dr::jpeg {

/// Codes as a DHT segment gives them: how many of each length, and their symbols in order.
struct Codes {
  std::array<uint8_t, 17> counts;  ///< counts[0] is not used
  std::array<uint8_t, 256> symbols;

  bool operator==(const Codes&) const = default;
};

/// Bits of one restart interval, stuffing taken out, behind which there are kMcuBytes more that may be read.
struct BitReader {
  const uint8_t* next;  ///< byte to take next
  uint64_t bits;        ///< the first of them at the top; below `count` of them: bits that may be set again
  int32_t count;        ///< of bits taken from bytes and not used

  void Begin(const uint8_t* begin) {
    next = begin;
    bits = 0;
    count = 0;
  }
  /// Makes `count` at least 56.
  void Refill() {
    uint64_t more;
    std::memcpy(&more, next, sizeof more);
    bits |= __builtin_bswap64(more) >> count;
    next += (63 - count) >> 3;
    count |= 56;
  }
  void Drop(int32_t n) {
    bits <<= n;
    count -= n;
  }
  /// The byte behind the last one of which bits were used.
  const uint8_t* position() const { return next - count / 8; }
};

/// Tables for the codes of DC or of AC symbols.
class HuffmanTable {
 public:
  /// Makes them for `codes`, unless they are for those already. False if these are no prefix code.
  bool Assign(const Codes& codes, bool is_dc);

  /// Makes what passes over blocks in half of the time, where there are many of them: the time of some
  /// hundred.
  void PrepareToSkip();

  /// A block: coefficients that are not 0 into `block`, 64 in natural order, which are all 0 before. `dc` is
  /// the DC predictor, which it changes. False if the data are damaged; they are then taken to anywhere
  /// within kMcuBytes / 10 of where they were.
  static bool Decode(const HuffmanTable& dc_table, const HuffmanTable& ac_table, BitReader* reader,
                     int32_t* dc, int16_t* block);
  /// The same without coefficients.
  static bool Skip(const HuffmanTable& dc_table, const HuffmanTable& ac_table, BitReader* reader,
                   int32_t* dc);

 private:
  // Of the next kPeek bits; an entry is, from the lowest bit on: 5 bits, those that code and value take, 0:
  // they do not tell; 4 bits: those of the value that are not known yet; 7 bits: by how many coefficients it
  // leads on, kEnd: to the end of the block; 16 bits: the value, if known. Of DC the 7 bits say nothing.
  static constexpr int kPeek = 11;
  static constexpr uint32_t kEnd = 127;
  // Of symbols that are passed over, the same; an entry is of as many symbols as the bits hold: 5 bits, those
  // that they take; then, in 8 bits, by how many coefficients they lead on; and kLast, where they end the
  // block.
  static constexpr int kSkipPeek = 12;
  static constexpr uint16_t kLast = 1 << 15;

  static uint32_t Entry(uint8_t symbol, int length, bool is_dc);
  uint32_t Long(uint64_t bits) const;
  uint32_t Find(uint64_t bits) const {
    const uint32_t entry = entries_[bits >> (64 - kPeek)];
    return entry & 31 ? entry : Long(bits);
  }
  static bool DecodeDc(const HuffmanTable& table, BitReader* reader, int32_t* dc);

  std::array<uint32_t, 1 << kPeek> entries_{};
  std::array<uint16_t, 1 << kSkipPeek> skips_{};  // of AC only
  std::array<int32_t, 18> largest_{};             // code of each length, -1: there is none
  std::array<int32_t, 17> offset_{};              // of a code's symbol, when added to the code
  Codes codes_{};
  bool is_dc_ = false, made_ = false, skips_made_ = false;
};

/// The most bytes that an MCU may take, ten blocks of 64 symbols of 31 bits, and what is read at once.
constexpr size_t kMcuBytes = 10 * 64 * 4 + 16;

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_HUFFMAN_H_
