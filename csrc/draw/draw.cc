// See draw.h. Every expression keeps the order of operations of draw.py, because its last bits decide
// roundings.
#include "draw/draw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "message.h"

namespace dali_dr::draw {
namespace {

static_assert(std::endian::native == std::endian::little, "words of hashes are read in place");

constexpr int kTries = 10;                    // of a box, as torchvision's
constexpr char kPerson[] = "dali_dr draw 1";  // of the derivation of Philox's key
constexpr double kMaxRatio = 1e6;             // of a side to the other
constexpr int kTop = 2 * kTries, kLeft = kTop + 1, kFlip = kTop + 2,
              kGate = kTop + 2;  // words of the streams

// Words of 64 bits per view; the stream's number is its place in the counter's highest word.
struct Stream {
  uint64_t number;
  int words;
};
constexpr Stream kCropStream{0, 24}, kEraseStream{1, 24}, kOpsStream{2, 2 * kMaxDrawnOps};

// The uniforms of one view in one stream, a block of four computed when the first of them is asked for.
class Uniforms {
 public:
  Uniforms(const uint64_t key[2], Stream stream, int64_t view)
      : key_{key[0], key[1]},
        stream_(stream.number),
        first_(static_cast<uint64_t>(view) * static_cast<uint64_t>(stream.words / 4) + 1) {}

  double operator[](int word) {
    if (word / 4 != block_) {
      block_ = word / 4;
      words_ = Philox({first_ + static_cast<uint64_t>(block_), 0, 0, stream_}, key_);
    }
    return static_cast<double>(words_[word % 4] >> 11) * 0x1p-53;
  }

 private:
  std::array<uint64_t, 2> key_;
  uint64_t stream_, first_;
  int block_ = -1;
  std::array<uint64_t, 4> words_{};
};

// Try i of a box: round(sqrt(area * ratio)) and round(sqrt(area / ratio)).
void Try(const RandomBox& box, double whole, Uniforms& u, int i, double* times, double* over) {
  const double area = whole * (box.scale[0] + u[2 * i] * (box.scale[1] - box.scale[0]));
  const double ratio = std::exp(box.log_ratio[0] + u[2 * i + 1] * (box.log_ratio[1] - box.log_ratio[0]));
  *times = std::nearbyint(std::sqrt(area * ratio));
  *over = std::nearbyint(std::sqrt(area / ratio));
}

// A box of this size at a uniform place in the outer one.
Box Place(Uniforms& u, double height, double width, image::Size outer) {
  const double top = std::floor(u[kTop] * (outer.height - height + 1));
  const double left = std::floor(u[kLeft] * (outer.width - width + 1));
  return {static_cast<int32_t>(top), static_cast<int32_t>(left), static_cast<int32_t>(height),
          static_cast<int32_t>(width)};
}

// torchvision's fallback: the largest centred box of an allowed ratio (and, unlike its, never empty).
Box CentreCrop(const RandomBox& box, image::Size size) {
  int32_t height = size.height, width = size.width;
  const double ratio = static_cast<double>(width) / height;
  if (ratio < box.ratio[0])
    height = std::max(static_cast<int32_t>(std::nearbyint(width / box.ratio[0])), 1);
  else if (ratio > box.ratio[1])
    width = std::max(static_cast<int32_t>(std::nearbyint(height * box.ratio[1])), 1);
  return {(size.height - height) / 2, (size.width - width) / 2, height, width};
}

bool IsSigned(int32_t op) { return op >= kShearX && op <= kSharpness; }

template <typename... Parts>
[[noreturn]] void Fail(const char* name, const char* want, const Parts&... got) {
  throw SpecError(Message("`draw_", name, "`: want ", want, ", got ", got...));
}

void CheckProbability(const char* name, double value) {
  if (!(value >= 0 && value <= 1)) Fail(name, "a probability in 0 to 1", value);
}

void CheckBox(const RandomBox& box, const char* scale, const char* ratio) {
  if (!(box.scale[0] > 0 && box.scale[0] <= box.scale[1] && box.scale[1] <= 1))
    Fail(scale, "two numbers 0 < low <= high <= 1", box.scale[0], ", ", box.scale[1]);
  if (!(box.ratio[0] > 0 && box.ratio[0] <= box.ratio[1] && box.ratio[1] <= kMaxRatio))
    Fail(ratio, "two numbers 0 < low <= high <= 10^6", box.ratio[0], ", ", box.ratio[1]);
}

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

RandomBox::RandomBox(std::array<double, 2> area, std::array<double, 2> aspect)
    : scale(area), ratio(aspect), log_ratio{std::log(aspect[0]), std::log(aspect[1])} {}

void Spec::Check() const {
  if (num_ops < 0 || num_ops > kMaxDrawnOps) Fail("num_ops", "0 to 8 operations", num_ops);
  for (const float m : magnitudes)
    if (!(m >= 0 && m <= kMaxMagnitude)) Fail("magnitudes", "numbers 0 to 10^6", m);
  if (whole) return;
  if (size < 1 || size > image::kMaxViewSize) Fail("size", "1 to 8192 pixels", size);
  CheckBox(crop, "crop_scale", "crop_ratio");
  CheckProbability("flip", flip);
  CheckProbability("erase_probability", erase_probability);
  if (erase_probability > 0) CheckBox(erase, "erase_scale", "erase_ratio");
}

Drawer::Drawer(const Spec& spec, std::string_view key, image::Size size) : spec_(spec), key_{}, size_(size) {
  if (spec.whole) return;
  uint8_t small[256];  // as long as nearly every key
  std::vector<uint8_t> large;
  uint8_t* message = small;
  if (key.size() + 8 > sizeof small) {
    large.resize(key.size() + 8);
    message = large.data();
  }
  std::memcpy(message, &spec.seed, 8);
  if (!key.empty()) std::memcpy(message + 8, key.data(), key.size());
  uint8_t digest[16];
  Blake2b({message, key.size() + 8}, kPerson, digest);
  key_[0] = LoadLittle(digest);
  key_[1] = LoadLittle(digest + 8);
}

Box Drawer::Crop(int64_t number, bool* flip) const {
  Uniforms u(key_, kCropStream, number);
  const double area = static_cast<double>(int64_t{size_.height} * size_.width);
  Box box = CentreCrop(spec_.crop, size_);
  for (int i = 0; i < kTries; ++i) {
    double width, height;
    Try(spec_.crop, area, u, i, &width, &height);
    if (width >= 1 && width <= size_.width && height >= 1 && height <= size_.height) {
      box = Place(u, height, width, size_);
      break;
    }
  }
  *flip = u[kFlip] < spec_.flip;
  return box;
}

Box Drawer::Erase(int64_t number) const {
  Uniforms u(key_, kEraseStream, number);
  if (!(u[kGate] < spec_.erase_probability)) return {};
  const double area = static_cast<double>(int64_t{spec_.size} * spec_.size);
  for (int i = 0; i < kTries; ++i) {
    double height, width;
    Try(spec_.erase, area, u, i, &height, &width);
    if (height < spec_.size && width < spec_.size) {
      if (height == 0 || width == 0) return {};
      return Place(u, height, width, {spec_.size, spec_.size});
    }
  }
  return {};
}

void Drawer::Draw(int64_t number, std::span<int32_t> out) const {
  Box crop{0, 0, size_.height, size_.width}, erase{};
  bool flip = false;
  if (!spec_.whole) {
    crop = Crop(number, &flip);
    if (spec_.erase_probability > 0) erase = Erase(number);
  }
  const int32_t head[kViewHeaderWords] = {crop.top,  crop.left,  crop.height,  crop.width,  flip,
                                          erase.top, erase.left, erase.height, erase.width, spec_.num_ops};
  std::memcpy(out.data(), head, sizeof head);
  Uniforms u(key_, kOpsStream, number);
  for (int i = 0; i < spec_.num_ops; ++i) {
    const auto op = static_cast<int32_t>(std::floor(u[2 * i] * int32_t{kNumRandAugmentOps}));
    float magnitude = spec_.magnitudes[op];
    if (IsSigned(op) && u[2 * i + 1] < 0.5 && magnitude != 0) magnitude = -magnitude;  // no -0.0
    out[kViewHeaderWords + 2 * i] = op;
    out[kViewHeaderWords + 2 * i + 1] = std::bit_cast<int32_t>(magnitude);
  }
}

}  // namespace dali_dr::draw
