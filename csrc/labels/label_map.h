// Label maps (schemas/label-map.md): of each cell of a grid over an image, a teacher's scores of a few
// classes.
#ifndef DALI_DR_CSRC_LABELS_LABEL_MAP_H_
#define DALI_DR_CSRC_LABELS_LABEL_MAP_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "record/frames.h"

namespace dali_dr::labels {

inline constexpr uint32_t kMapHeaderBytes = 28, kMapVersion = 1;
inline constexpr uint32_t kMaxMapValues = 65536;  ///< scores of a map
inline constexpr size_t kMaxMapBytes = kMapHeaderBytes + (4 + 2 + 4) * size_t{kMaxMapValues};

/// A map as it is read. Value d of the cell in row y, column x is number (d * side + y) * side + x.
struct LabelMap {
  uint32_t side = 0, depth = 0;
  uint32_t num_classes = 0;
  std::vector<int32_t> classes;   ///< that occur, rising, below num_classes
  std::vector<uint16_t> entries;  ///< of each value, its class's place in `classes`
  std::vector<float> scores;      ///< finite; those of one class in one cell add up
};

/// Reads the maps of members KEY.dr.zst, one after another. One per thread.
class Reader {
 public:
  /// Reads the map in a member, which must be one zstd frame with a checksum and a map of `num_classes`
  /// classes. Valid until the next call. Throws record::RecordError.
  const LabelMap& Open(std::span<const uint8_t> member, uint32_t num_classes);

 private:
  record::Frames frames_;
  LabelMap map_;
};

}  // namespace dali_dr::labels

#endif  // DALI_DR_CSRC_LABELS_LABEL_MAP_H_
