// Regions of an image for the tests of what decodes regions: at every edge, of every size.
#ifndef DALI_DR_CSRC_TESTS_REGIONS_H_
#define DALI_DR_CSRC_TESTS_REGIONS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "jpeg/frame.h"

namespace dali_dr::testing {

/// Begins and lengths of parts of an axis: all that begin at a multiple of `stride`, next to one or at the
/// end, and are one or two long, a multiple of `stride`, or reach to the end.
inline std::vector<std::pair<int, int>> Parts(int length, int stride) {
  std::vector<std::pair<int, int>> parts;
  for (int begin = 0; begin < length; ++begin) {
    if (begin % stride > 1 && begin != length - 1) continue;
    for (int size = 1; begin + size <= length; ++size)
      if (size <= 2 || size % stride == 0 || begin + size == length) parts.emplace_back(begin, size);
  }
  return parts;
}

/// Calls `visit` with every region of such parts, or of each `every`th.
template <typename Visit>
void ForRegions(int height, int width, int stride, size_t every, const Visit& visit) {
  size_t count = 0;
  for (const auto& [top, rows] : Parts(height, stride))
    for (const auto& [left, columns] : Parts(width, stride))
      if (count++ % every == 0) visit(jpeg::Region{top, left, rows, columns});
}

inline std::string Name(const jpeg::Region& region) {
  return std::to_string(region.height) + " x " + std::to_string(region.width) + " at " +
         std::to_string(region.top) + ", " + std::to_string(region.left);
}

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_REGIONS_H_
