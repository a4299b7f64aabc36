// Tests of csrc/crc32c.h against known values (RFC 3720, B.4) and a checksum taken bit by bit.
#include "crc32c.h"

#include <cstdio>
#include <random>
#include <string_view>
#include <vector>

#include "check.h"

namespace {

using dali_dr::Crc32c;
using dali_dr::Crc32cByTables;
using dali_dr::testing::Check;

uint32_t BitByBit(std::span<const uint8_t> bytes) {
  uint32_t state = 0xffffffff;
  for (const uint8_t byte : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const bool out = (state ^ (byte >> bit)) & 1;
      state = (state >> 1) ^ (out ? 0x82f63b78u : 0);
    }
  return ~state;
}

void TestKnownValues() {
  const std::string_view digits = "123456789";
  std::vector<uint8_t> zeros(32, 0), ones(32, 0xff), rising(32), text(digits.begin(), digits.end());
  for (size_t i = 0; i < 32; ++i) rising[i] = static_cast<uint8_t>(i);
  const struct {
    std::vector<uint8_t> bytes;
    uint32_t want;
  } cases[] = {{{}, 0}, {text, 0xe3069283}, {zeros, 0x8a9136aa}, {ones, 0x62a8ab43}, {rising, 0x46dd794e}};
  for (const auto& [bytes, want] : cases) {
    Check(Crc32c(bytes) == want, "a known checksum");
    Check(Crc32cByTables(bytes) == want, "a known checksum, by tables");
    Check(BitByBit(bytes) == want, "the reference");
  }
}

void TestAgainstReference() {
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(100000);
  for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
  for (const size_t size : {1u, 7u, 8u, 9u, 767u, 768u, 769u, 1535u, 24575u, 24576u, 24577u, 49152u, 99990u})
    for (const size_t begin : {0u, 1u, 5u}) {
      const auto part = std::span<const uint8_t>(bytes).subspan(begin, size);
      const uint32_t want = BitByBit(part);
      Check(Crc32c(part) == want && Crc32cByTables(part) == want, "a checksum of any length and alignment");
      const size_t cut = random() % (size + 1);
      Check(Crc32c(part.subspan(cut), Crc32c(part.first(cut))) == want &&
                Crc32cByTables(part.subspan(cut), Crc32cByTables(part.first(cut))) == want,
            "a checksum in two parts");
    }
}

}  // namespace

int main() {
  TestKnownValues();
  TestAgainstReference();
  return dali_dr::testing::Verdict("crc32c");
}
