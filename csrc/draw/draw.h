// Draws view parameters exactly as dali_dr/augment/draw.py does, whose docstring defines the derivation: a
// pure function of (spec, seed, key, view number, image size), without state and without a record.
//
// The two agree in every bit as long as the exp and log of both math libraries do; where a last bit of them
// differs, one edge of a crop in some 10^13 does.
#ifndef DALI_DR_CSRC_DRAW_DRAW_H_
#define DALI_DR_CSRC_DRAW_DRAW_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>

#include "image/plan.h"
#include "view/layout.h"

namespace dali_dr::draw {

/// A spec that cannot be drawn from; what() says what is wrong in it.
class SpecError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A box of random area and aspect ratio.
struct RandomBox {
  double scale[2];      // area as a part of the whole: lowest, highest
  double ratio[2];      // aspect ratio: lowest, highest
  double log_ratio[2];  // their logarithms
};

/// What may be drawn; the C++ form of dali_dr.augment.spec.AugmentationSpec with the seed.
struct Spec {
  /// Reads what dali_dr.augment.fresh.draw_argument writes: "whole", or NAME=VALUE[,VALUE…] separated by
  /// spaces, in any order:
  ///   seed=0..2^64-1  size=PIXELS  crop_scale=LOW,HIGH  crop_ratio=LOW,HIGH  flip=PROBABILITY
  ///   num_ops=0..8  magnitudes=14 NUMBERS (physical, unsigned, in the order of OpId)
  ///   erase_probability=PROBABILITY  erase_scale=LOW,HIGH  erase_ratio=LOW,HIGH
  /// All must be there, but for the last two with erase_probability=0 and for the magnitudes with num_ops=0.
  /// Throws SpecError.
  static Spec Parse(std::string_view text);

  bool whole = false;  // no drawing: every view is the whole image as it is
  uint64_t seed = 0;
  int32_t size = 0;  // edge of the view in pixels
  RandomBox crop{};
  double flip = 0;
  int32_t num_ops = 0;
  std::array<float, kNumOpIds> magnitudes{};
  double erase_probability = 0;
  RandomBox erase{};  // its ratio is height / width, that of the crop width / height
};

/// Draws the views of one image. Making one costs a hash of the key, about 0.3 us; a view somewhat less.
class Drawer {
 public:
  Drawer(const Spec& spec, std::string_view key, image::Size size);

  /// Words of a packed view (see view/layout.h).
  static size_t words(const Spec& spec) { return ViewWords(spec.num_ops); }
  /// Writes the packed view of this number, 0 <= number < 2^53, to words(spec) words.
  void Draw(int64_t number, std::span<int32_t> out) const;

 private:
  Box Crop(int64_t number, bool* flip) const;
  Box Erase(int64_t number) const;

  const Spec& spec_;
  uint64_t key_[2];
  image::Size size_;
};

/// Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): one block.
std::array<uint64_t, 4> Philox(std::array<uint64_t, 4> counter, std::array<uint64_t, 2> key);

/// BLAKE2b (RFC 7693) without a key: the first `digest.size()` <= 64 bytes of the hash for that digest
/// length. `person`: the personalisation, at most 16 bytes, filled up with zeros.
void Blake2b(std::span<const uint8_t> message, std::string_view person, std::span<uint8_t> digest);

}  // namespace dali_dr::draw

#endif  // DALI_DR_CSRC_DRAW_DRAW_H_
