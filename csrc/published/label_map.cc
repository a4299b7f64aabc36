// See label_map.h.
#include "published/label_map.h"

#include <cmath>
#include <limits>

#include "published/error.h"

namespace dali_dr::published {

LabelMap ReadLabelMap(const pickle::Tree& tree) {
  const pickle::Value& root = tree.root;
  if (root.kind != pickle::Kind::kArray) Fail("the file holds ", tree.Describe(root), ", not a tensor");
  const pickle::Array& array = tree.ArrayOf(root);
  if (array.dims != 4 || array.shape[0] != 2 || array.element.kind != 'f')
    Fail("the label map is ", tree.Describe(root), ", not floats of shape (2, classes, height, width)");
  const uint64_t depth = array.shape[1], height = array.shape[2], width = array.shape[3];
  uint64_t cells = 1;
  for (const uint64_t edge : {depth, height, width}) {
    if (edge < 1 || edge > kMostMapCells / cells)
      Fail("the label map is ", tree.Describe(root), ": it is empty, or larger than ", kMostMapCells,
           " numbers");
    cells *= edge;
  }
  LabelMap map{
      static_cast<uint32_t>(depth), static_cast<uint32_t>(height), static_cast<uint32_t>(width), {}, {}};
  map.scores.reserve(cells);
  map.ids.reserve(cells);
  for (uint64_t d = 0; d < depth; ++d) {
    for (uint64_t y = 0; y < height; ++y) {
      for (uint64_t x = 0; x < width; ++x) {
        const double score = tree.At(array, 0, d, y, x), id = tree.At(array, 1, d, y, x);
        if (!(std::fabs(score) <= std::numeric_limits<float>::max()))
          Fail("the score of rank ", d, " at row ", y, ", column ", x, " is ", score, ", no finite float32");
        if (!(id >= 0 && id <= std::numeric_limits<int32_t>::max()) || id != std::floor(id))
          Fail("the class id of rank ", d, " at row ", y, ", column ", x, " is ", id,
               ", not a whole number from 0");
        map.scores.push_back(static_cast<float>(score));
        map.ids.push_back(static_cast<int32_t>(id));
      }
    }
  }
  return map;
}

}  // namespace dali_dr::published
