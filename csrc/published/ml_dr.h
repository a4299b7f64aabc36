// A file of apple/ml-dr, ImageNet+ among others: (number, [{"params": …, "prob": (probabilities, ids)}, …]),
// with the parameters compressed (a list in the order of the transformations) or not (a dictionary by their
// names). The formats are those that its dr/transforms.py and reinforce.py write.
#ifndef DALI_DR_CSRC_PUBLISHED_ML_DR_H_
#define DALI_DR_CSRC_PUBLISHED_ML_DR_H_

#include <cstdint>
#include <span>
#include <vector>

#include "pickle/tree.h"
#include "published/checks.h"
#include "record/views.h"

namespace dali_dr::published {

/// Those that have parameters, in the order of ml-dr's code.
enum class Transform : uint32_t {
  kResize,
  kCrop,
  kResizedCrop,
  kFlip,
  kRandAugment,
  kErase,
  kMixUp,
  kCutMix
};
inline constexpr uint32_t kTransforms = 8;

struct MlDrSettings {
  std::vector<Transform> transforms;  ///< that are enabled, in their order
  uint32_t view = 0;                  ///< edge of a view, in pixels
  uint32_t crop = 0;                  ///< edge of kCrop's box, in pixels of the image; 0: there is none
  uint32_t num_ops = 0;               ///< operations of a view
  uint32_t num_classes = 0;           ///< class ids are below
  uint32_t num_images = 0;            ///< partners are below
  int64_t number = 0;                 ///< the file's
  Size image;
  std::span<const Size> sizes;  ///< of all images, in pixels, 0 where not known; empty: of none

  bool Has(Transform transform) const;
  bool mixing() const { return Has(Transform::kMixUp) || Has(Transform::kCutMix); }
};

/// Throws FormatError for settings that no set has.
void CheckSettings(const MlDrSettings& settings);

/// Appends the file's views to `out`, which is empty or holds those of another file with these settings.
/// Throws FormatError, which names the view.
void AppendMlDr(const pickle::Tree& tree, const MlDrSettings& settings, record::Reinforcements* out);

}  // namespace dali_dr::published

#endif  // DALI_DR_CSRC_PUBLISHED_ML_DR_H_
