// A file of naver-ai/relabel_imagenet: a tensor (2, D, H, W), scores and class ids of the D best classes of
// each of H x W cells of an image.
#ifndef DALI_DR_CSRC_PUBLISHED_LABEL_MAP_H_
#define DALI_DR_CSRC_PUBLISHED_LABEL_MAP_H_

#include <cstdint>
#include <vector>

#include "pickle/tree.h"

namespace dali_dr::published {

inline constexpr uint64_t kMostMapCells = uint64_t{1} << 20;  ///< D * H * W

struct LabelMap {
  uint32_t depth = 0, height = 0, width = 0;
  std::vector<float> scores;  ///< depth * height * width, a plane of cells after another
  std::vector<int32_t> ids;
};

/// Throws FormatError.
LabelMap ReadLabelMap(const pickle::Tree& tree);

}  // namespace dali_dr::published

#endif  // DALI_DR_CSRC_PUBLISHED_LABEL_MAP_H_
