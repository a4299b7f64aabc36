// Targets of crops from label maps: RoIAlign to one cell, as torchvision's CPU kernel does it, and a softmax
// over all classes.
#ifndef DALI_DR_CSRC_LABELS_POOLING_H_
#define DALI_DR_CSRC_LABELS_POOLING_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "labels/label_map.h"

namespace dali_dr::labels {

/// Which side of a crop lies along which axis of the map: RoIAlign is given a box (x1, y1, x2, y2), x along
/// the columns of the map.
enum class Order {
  kCode,       ///< x1, y1 = top, left: what ReLabel's published training code passes
  kTransposed  ///< x1, y1 = left, top
};

/// A crop, in pixels of its image.
struct Crop {
  int32_t top, left, height, width, image_height, image_width;
};

/// Makes targets; holds buffers for reuse. One per thread.
///
/// Relative corners are computed in double, as Python has them, and samples and their weights along each axis
/// in float32, operation by operation as torchvision does it. As samples lie on a grid, what a cell weighs is
/// the product of what its row and its column weigh: so each score is looked at once. These sums and products
/// and the softmax are taken in double, which is nearer to the exact target than any order in float32.
class Pooler {
 public:
  /// The target of a crop: ids.size() = probs.size() classes, likeliest first (of equals the lower id):
  /// those of the map, and the lowest others, all with their probabilities. Each class that is not among
  /// them has an equal part of what is left. Room for fewer than the map's classes is a RecordError.
  void Target(const LabelMap& map, const Crop& crop, Order order, std::span<int32_t> ids,
              std::span<float> probs);

 private:
  struct Likely {
    float prob;
    int32_t id;
  };

  void Pool(const LabelMap& map, const Crop& crop, Order order);

  std::vector<double> rows_, columns_;  // what the rows and columns of the map weigh
  std::vector<double> logits_;          // of the map's classes
  std::vector<Likely> likely_;
};

}  // namespace dali_dr::labels

#endif  // DALI_DR_CSRC_LABELS_POOLING_H_
