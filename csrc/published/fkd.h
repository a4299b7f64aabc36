// A file of szq0214/FKD: [boxes (N, 4), flips (N,), labels], NumPy's or torch's arrays. Boxes are fractions
// of the image; labels have one of four forms. The formats are those that its FKD_SLG/generate_soft_label.py
// writes.
#ifndef DALI_DR_CSRC_PUBLISHED_FKD_H_
#define DALI_DR_CSRC_PUBLISHED_FKD_H_

#include <cstdint>

#include "pickle/tree.h"
#include "published/checks.h"
#include "record/views.h"

namespace dali_dr::published {

enum class LabelForm : uint32_t {
  kAuto,       ///< by the shape
  kFull,       ///< (N, C): probabilities of all classes
  kHard,       ///< (N,): class ids
  kSmoothing,  ///< (N, 2): class id and its probability
  kMarginal,   ///< (N, 2, K): class ids, then their probabilities
};
inline constexpr uint32_t kLabelForms = 5;

struct FkdSettings {
  uint32_t num_classes = 0;  ///< class ids are below
  LabelForm form = LabelForm::kAuto;
  Size image;
};

/// Throws FormatError, which names the view.
record::Reinforcements ReadFkd(const pickle::Tree& tree, const FkdSettings& settings);

}  // namespace dali_dr::published

#endif  // DALI_DR_CSRC_PUBLISHED_FKD_H_
