// See draw.h. Every expression keeps the order of operations of draw.py, because its last bits decide
// roundings.
#include "draw/draw.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace dali_dr::draw {
namespace {

static_assert(std::endian::native == std::endian::little, "words of hashes are read in place");

constexpr int kTries = 10;                    // of a box, as torchvision's
constexpr char kPerson[] = "dali_dr draw 1";  // of the derivation of Philox's key
constexpr int32_t kMaxDrawnOps = 8;           // dali_dr.augment.spec.MAX_OPS: as many have random words
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

// ---- The text form of a spec

[[noreturn]] void Fail(std::string_view name, const std::string& want) {
  throw SpecError("`draw`: " + std::string(name) + ": " + want +
                  "; make the text by dali_dr.augment.fresh.draw_argument");
}

class Fields {
 public:
  explicit Fields(std::string_view text) {
    while (!text.empty()) {
      const size_t end = std::min(text.find(' '), text.size());
      const std::string_view field = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (field.empty()) continue;
      const size_t sign = field.find('=');
      if (sign == field.npos) Fail(field, "want NAME=VALUE");
      if (Find(field.substr(0, sign))) Fail(field.substr(0, sign), "stands there twice");
      fields_.push_back({field.substr(0, sign), field.substr(sign + 1), false});
    }
  }

  template <typename T>
  std::vector<T> Get(std::string_view name, size_t count) {
    Field* field = Find(name);
    if (field == nullptr) Fail(name, "is missing");
    field->used = true;
    std::vector<T> values;
    const char *at = field->value.data(), *const end = at + field->value.size();
    while (values.size() < count) {
      T value{};
      const auto [stop, error] = std::from_chars(at, end, value);
      if (error != std::errc{}) break;
      values.push_back(value);
      at = stop;
      if (at == end || *at != ',') break;
      ++at;
    }
    if (at != end || values.size() != count || field->value.ends_with(','))
      Fail(name, "want " + std::to_string(count) + " number(s), got \"" + std::string(field->value) + "\"");
    return values;
  }

  double Probability(std::string_view name) {
    const double p = Get<double>(name, 1)[0];
    if (!(p >= 0 && p <= 1)) Fail(name, "want a probability in 0..1");
    return p;
  }

  void Interval(const std::string& name, double at_most, double out[2]) {
    const auto v = Get<double>(name, 2);
    if (!(v[0] > 0 && v[0] <= v[1] && v[1] <= at_most)) Fail(name, "want two numbers 0 < low <= high");
    std::copy(v.begin(), v.end(), out);
  }

  RandomBox BoxField(const std::string& name) {
    RandomBox box{};
    Interval(name + "_scale", 1.0, box.scale);
    Interval(name + "_ratio", 1e6, box.ratio);
    for (int i : {0, 1}) box.log_ratio[i] = std::log(box.ratio[i]);
    return box;
  }

  void CheckAllUsed() const {
    for (const Field& field : fields_)
      if (!field.used) Fail(field.name, "is unknown, or of no use beside the others");
  }

 private:
  struct Field {
    std::string_view name, value;
    bool used;
  };

  Field* Find(std::string_view name) {
    for (Field& field : fields_)
      if (field.name == name) return &field;
    return nullptr;
  }

  std::vector<Field> fields_;
};

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

Spec Spec::Parse(std::string_view text) {
  Spec spec;
  if (text == "whole") {
    spec.whole = true;
    return spec;
  }
  Fields fields(text);
  spec.seed = fields.Get<uint64_t>("seed", 1)[0];
  spec.size = fields.Get<int32_t>("size", 1)[0];
  if (spec.size < 1 || spec.size > image::kMaxViewSize) Fail("size", "want 1 to 8192 pixels");
  spec.crop = fields.BoxField("crop");
  spec.flip = fields.Probability("flip");
  spec.num_ops = fields.Get<int32_t>("num_ops", 1)[0];
  if (spec.num_ops < 0 || spec.num_ops > kMaxDrawnOps) Fail("num_ops", "want 0 to 8");
  if (spec.num_ops > 0) {
    const auto magnitudes = fields.Get<float>("magnitudes", kNumOpIds);
    for (float m : magnitudes)
      if (!(m >= 0 && m <= kMaxMagnitude)) Fail("magnitudes", "want numbers 0 to 10^6");
    std::copy(magnitudes.begin(), magnitudes.end(), spec.magnitudes.begin());
  }
  spec.erase_probability = fields.Probability("erase_probability");
  if (spec.erase_probability > 0) spec.erase = fields.BoxField("erase");
  fields.CheckAllUsed();
  return spec;
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
    const auto op = static_cast<int32_t>(std::floor(u[2 * i] * int32_t{kNumOpIds}));
    float magnitude = spec_.magnitudes[op];
    if (IsSigned(op) && u[2 * i + 1] < 0.5 && magnitude != 0) magnitude = -magnitude;  // no -0.0
    out[kViewHeaderWords + 2 * i] = op;
    out[kViewHeaderWords + 2 * i + 1] = std::bit_cast<int32_t>(magnitude);
  }
}

}  // namespace dali_dr::draw
