// Label maps for tests and fuzzers' seeds, written from schemas/label-map.md alone, so that they share
// nothing with the parser.
#ifndef DALI_DR_CSRC_TESTS_MAKE_LABEL_MAP_H_
#define DALI_DR_CSRC_TESTS_MAKE_LABEL_MAP_H_

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <vector>

namespace dali_dr::testing {

struct MadeMap {
  uint32_t side = 15, depth = 5, num_classes = 1000;
  std::vector<int32_t> ids{};    // of (depth, side, side)
  std::vector<float> scores{};   // likewise
  bool half = false;             // scores are multiples of 1/8, kept as float16
  std::vector<uint8_t> bytes{};  // uncompressed
};

inline void AppendLittle(std::vector<uint8_t>* to, uint64_t value, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i) to->push_back(static_cast<uint8_t>(value >> (8 * i)));
}

/// The bits of a multiple of 1/8 below 128 as IEEE 754 binary16.
inline uint32_t HalfBits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value == 0) return bits >> 16 & 0x8000;
  return (bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023);
}

/// Fills in `bytes` from the rest.
inline void WriteMap(MadeMap* made) {
  std::map<int32_t, uint32_t> table;
  for (const int32_t id : made->ids) table[id] = 0;
  uint32_t place = 0;
  for (auto& [id, entry] : table) entry = place++;
  auto& bytes = made->bytes;
  bytes.assign({'d', 'r', 'l', 'm'});
  const uint64_t fields[][2] = {{1, 2},
                                {28, 2},
                                {0, 4},
                                {made->side, 2},
                                {made->side, 2},
                                {made->depth, 2},
                                {table.size(), 2},
                                {made->num_classes, 4},
                                {made->half, 4}};
  for (const auto& [value, width] : fields) AppendLittle(&bytes, value, static_cast<uint32_t>(width));
  for (const auto& [id, entry] : table)
    AppendLittle(&bytes, static_cast<uint64_t>(id), made->num_classes > 65536 ? 4 : 2);
  for (const int32_t id : made->ids) AppendLittle(&bytes, table[id], table.size() > 256 ? 2 : 1);
  for (uint32_t plane = 0; plane < (made->half ? 2u : 4u); ++plane)
    for (const float score : made->scores) {
      const uint32_t bits = made->half ? HalfBits(score) : std::bit_cast<uint32_t>(score);
      bytes.push_back(static_cast<uint8_t>(bits >> (8 * plane)));
    }
  const auto length = static_cast<uint32_t>(bytes.size());
  std::memcpy(&bytes[8], &length, sizeof length);
}

/// A map of `made`'s shape with classes below `classes`, distinct within a cell.
inline MadeMap RandomMap(unsigned seed, MadeMap made = {}, uint32_t classes = 40) {
  std::mt19937 random(seed);
  const size_t cells = size_t{made.side} * made.side;
  made.ids.resize(cells * made.depth);
  made.scores.resize(made.ids.size());
  std::vector<int32_t> all(std::min(classes, made.num_classes));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>((i * 31 + seed) % made.num_classes);
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  for (size_t cell = 0; cell < cells; ++cell) {
    std::shuffle(all.begin(), all.end(), random);
    for (size_t d = 0; d < made.depth; ++d) {
      made.ids[d * cells + cell] = all[d % all.size()];
      const auto eighths = static_cast<int>(random() % 160) - 40;
      made.scores[d * cells + cell] =
          made.half ? static_cast<float>(eighths) / 8 : static_cast<float>(eighths) / 7;
    }
  }
  WriteMap(&made);
  return made;
}

/// One zstd frame with a checksum.
inline std::vector<uint8_t> CompressMap(const std::vector<uint8_t>& bytes, bool checksum = true) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum);
  std::vector<uint8_t> member(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress2(context, member.data(), member.size(), bytes.data(), bytes.size());
  ZSTD_freeCCtx(context);
  if (ZSTD_isError(size)) throw std::runtime_error(ZSTD_getErrorName(size));
  member.resize(size);
  return member;
}

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_MAKE_LABEL_MAP_H_
