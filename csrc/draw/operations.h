// The operations of drawn views, as dali_dr/augment/op_tables.py draws them: from tables that are made there,
// so that no arithmetic of magnitudes is done twice.
#ifndef DALI_DR_CSRC_DRAW_OPERATIONS_H_
#define DALI_DR_CSRC_DRAW_OPERATIONS_H_

#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "draw/keyed.h"
#include "message.h"
#include "view/layout.h"

namespace dali_dr::draw {

/// dali_dr.augment.members.MAX_OPS: as many operations of RandAugment have random words.
inline constexpr int32_t kMaxDrawnOps = 8;
/// dali_dr.augment.op_tables.LEVELS: values of a range that is drawn evenly.
inline constexpr int32_t kLevels = 32;
/// Of RandAugment or TrivialAugmentWide (dali_dr.augment.members.MAX_WIDE_BINS).
inline constexpr size_t kMaxStrengths = 256;
/// Pairs of AutoAugment; its ImageNet policy has 25.
inline constexpr size_t kMaxPolicies = 256;

/// A spec that cannot be drawn from; what() names the field and its value.
class SpecError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// Throws the error about `draw_NAME`.
template <typename... Parts>
[[noreturn]] void Fail(const char* name, const char* want, const Parts&... got) {
  throw SpecError(Message("`draw_", name, "`: want ", want, ", got ", got...));
}

void CheckProbability(const char* name, double value);

/// The unsigned physical magnitude of each of RandAugment's operations, in the order of OpId.
using Magnitudes = std::array<float, kNumRandAugmentOps>;

/// What operations are drawn from: dali_dr.augment.op_tables.OpTables. Names and meanings are those of the
/// arguments draw_... of fn.dr.read.
struct OpTables {
  struct Strength {
    double end;  // drawn where it is the first whose end is above the uniform
    Magnitudes magnitudes;
  };
  struct Step {  // of AutoAugment
    int32_t op;
    double probability;
    float magnitude;  // unsigned
  };

  /// Throws SpecError unless views can be drawn from them.
  void CheckOperations() const;
  /// Operations of a view; one that is not applied is kIdentity with magnitude 0.
  int32_t count() const;
  /// Writes the operations of the view of this number: 2 * count() words.
  void DrawOperations(const uint64_t key[2], int64_t number, std::span<int32_t> out) const;

  double jitter_probability = 0;
  std::vector<int32_t> jitter_ops{};       // in torchvision's order
  std::vector<float> jitter_magnitudes{};  // kLevels of each
  double greyscale = 0;
  double blur_probability = 0;
  std::vector<float> blur_radii{};  // kLevels, or none without blur
  std::vector<std::array<Step, 2>> policies{};
  int32_t num_ops = 0;        // of RandAugment or TrivialAugmentWide
  double op_probability = 1;  // of each of these
  Magnitudes magnitudes{};    // where there are no strengths
  std::vector<Strength> strengths{};
};

}  // namespace dali_dr::draw

#endif  // DALI_DR_CSRC_DRAW_OPERATIONS_H_
