// The views of one image and a teacher's predictions on them, as columns in memory: what a record is written
// of. Counterpart of dali_dr/augment/views.py and record/labels.py. Knows neither bytes of records nor who
// fills it.
#ifndef DALI_DR_CSRC_RECORD_VIEWS_H_
#define DALI_DR_CSRC_RECORD_VIEWS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "view/layout.h"

namespace dali_dr::record {

/// Columns of N views, row after row. Sizes of the vectors are what their comments say.
struct ViewColumns {
  std::vector<Box> crop;          ///< N, in pixels of the source image
  std::vector<uint8_t> flip;      ///< N, 0 or 1
  std::vector<uint8_t> ops;       ///< N * num_ops, OpIds
  std::vector<float> magnitudes;  ///< N * num_ops
  std::vector<Box> erase;         ///< N, in pixels of the view; all zero: no erase
};

/// N views and their predictions. With `mixing`, also how they are mixed; else those columns are empty.
struct Reinforcements {
  size_t num_ops = 0;  ///< of each view
  size_t topk = 0;     ///< K
  ViewColumns views;
  std::vector<int32_t> ids;  ///< N * K, in any order within a row
  std::vector<float> probs;  ///< N * K
  bool mixing = false;
  std::vector<int32_t> partner;  ///< N: sample number, kNoPartner or kSelfPartner
  ViewColumns partner_views;     ///< N; of rows without partner as FillNoPartner: crop 0 0 1 1, all else zero
  std::vector<float> lam;        ///< N, the weight of the image itself; 1: no MixUp
  std::vector<Box> cut;          ///< N, the CutMix box in pixels of the view; all zero: none
  std::vector<uint8_t> swapped;  ///< N, 1: image and partner change places

  size_t size() const { return views.crop.size(); }
};

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_RECORD_VIEWS_H_
