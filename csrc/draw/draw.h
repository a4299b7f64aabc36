// Draws view parameters exactly as dali_dr/augment/draw.py does, whose docstring defines the derivation: a
// pure function of (spec, seed, key, view number, image size), without state and without a record.
//
// The two agree in every bit as long as the exp and log of both math libraries do; where a last bit of them
// differs, one edge of a crop in some 10^13 does.
#ifndef DALI_DR_CSRC_DRAW_DRAW_H_
#define DALI_DR_CSRC_DRAW_DRAW_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "draw/keyed.h"
#include "draw/operations.h"
#include "image/plan.h"
#include "view/layout.h"

namespace dali_dr::draw {

/// A box of random area and aspect ratio.
struct RandomBox {
  RandomBox() = default;
  RandomBox(std::array<double, 2> area, std::array<double, 2> aspect);

  std::array<double, 2> scale{};      // area as a part of the whole: lowest, highest
  std::array<double, 2> ratio{};      // aspect ratio: lowest, highest
  std::array<double, 2> log_ratio{};  // their logarithms
};

/// What may be drawn; the C++ form of dali_dr.augment.spec.AugmentationSpec with the seed. Names and meanings
/// are those of the arguments draw_... of fn.dr.read.
struct Spec : OpTables {
  /// Throws SpecError unless it can be drawn from: sizes 1 to kMaxViewSize, probabilities 0 to 1, parts of an
  /// area in 0 < low <= high <= 1, ratios in 0 < low <= high <= 10^6, operations that can be drawn. The erase
  /// box is of no concern where erase_probability is 0, the crop where `resize` is given.
  void Check() const;

  /// Operations that say where the window is, which come first.
  int32_t window_ops() const { return random_window && !whole ? 2 : 0; }

  bool whole = false;  // no drawing: every view is the whole image; only the operations are of concern, too
  uint64_t seed = 0;
  int32_t size = 0;  // edge of the view in pixels
  RandomBox crop;
  int32_t resize = 0;          // of the image's shorter side, instead of a crop: at least `size`
  bool random_window = false;  // with `resize`: views are anywhere in the resized image, not in its centre
  double flip = 0;             // probability
  double erase_probability = 0;
  RandomBox erase;  // its ratio is height / width, that of the crop width / height
};

/// Draws the views of one image. Making one costs a hash of the key, about 0.3 us; a view somewhat less.
class Drawer {
 public:
  Drawer(const Spec& spec, std::string_view key, image::Size size);

  /// Words of a packed view (see view/layout.h).
  static size_t words(const Spec& spec) { return ViewWords(spec.window_ops() + spec.count()); }
  /// Writes the packed view of this number, 0 <= number < 2^53, to words(spec) words.
  void Draw(int64_t number, std::span<int32_t> out) const;

 private:
  Box Crop(int64_t number, bool* flip) const;
  Box Erase(int64_t number) const;
  void Window(int64_t number, std::span<int32_t> out) const;

  const Spec& spec_;
  uint64_t key_[2];
  image::Size size_;
};

}  // namespace dali_dr::draw

#endif  // DALI_DR_CSRC_DRAW_DRAW_H_
