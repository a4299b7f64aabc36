// See keyed.h.
#include "draw/keyed.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace dali_dr::draw {
namespace {

static_assert(std::endian::native == std::endian::little, "words of hashes are read in place");

uint64_t LoadLittle(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

std::array<uint64_t, 4> Philox(std::array<uint64_t, 4> c, std::array<uint64_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const auto a = static_cast<unsigned __int128>(0xD2E7470EE14C6C93u) * c[0];
    const auto b = static_cast<unsigned __int128>(0xCA5A826395121157u) * c[2];
    c = {static_cast<uint64_t>(b >> 64) ^ c[1] ^ key[0], static_cast<uint64_t>(b),
         static_cast<uint64_t>(a >> 64) ^ c[3] ^ key[1], static_cast<uint64_t>(a)};
    key[0] += 0x9E3779B97F4A7C15u;
    key[1] += 0xBB67AE8584CAA73Bu;
  }
  return c;
}

void Blake2b(std::span<const uint8_t> message, std::string_view person, std::span<uint8_t> digest) {
  static constexpr uint64_t kStart[8] = {// RFC 7693, 2.6
                                         0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
                                         0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f,
                                         0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  static constexpr uint8_t kOrder[10][16] = {// 2.7
                                             {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                             {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                             {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                             {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                             {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                             {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                             {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                             {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                             {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                             {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};
  constexpr size_t kBlock = 128;

  uint64_t h[8];
  std::copy(std::begin(kStart), std::end(kStart), h);
  // The parameter block: digest length, no key, fanout 1, depth 1; the personalisation in its last 16 bytes.
  h[0] ^= 0x01010000 ^ digest.size();
  uint8_t padded[16] = {};
  std::memcpy(padded, person.data(), std::min(person.size(), sizeof padded));
  h[6] ^= LoadLittle(padded);
  h[7] ^= LoadLittle(padded + 8);

  size_t done = 0;
  do {
    const size_t count = std::min(kBlock, message.size() - done);
    uint8_t block[kBlock] = {};
    if (count > 0) std::memcpy(block, message.data() + done, count);
    done += count;
    uint64_t m[16], v[16];
    std::memcpy(m, block, sizeof m);
    std::copy(h, h + 8, v);
    std::copy(std::begin(kStart), std::end(kStart), v + 8);
    v[12] ^= done;  // the high half of the length is 0
    if (done == message.size()) v[14] = ~v[14];
    const auto mix = [&](int a, int b, int c, int d, uint64_t x, uint64_t y) {
      v[a] += v[b] + x;
      v[d] = std::rotr(v[d] ^ v[a], 32);
      v[c] += v[d];
      v[b] = std::rotr(v[b] ^ v[c], 24);
      v[a] += v[b] + y;
      v[d] = std::rotr(v[d] ^ v[a], 16);
      v[c] += v[d];
      v[b] = std::rotr(v[b] ^ v[c], 63);
    };
    for (int round = 0; round < 12; ++round) {
      const uint8_t* s = kOrder[round % 10];
      for (int i = 0; i < 4; ++i) mix(i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
      for (int i = 0; i < 4; ++i)
        mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; ++i) h[i] ^= v[i] ^ v[i + 8];
  } while (done < message.size());
  std::memcpy(digest.data(), h, digest.size());
}

}  // namespace dali_dr::draw
