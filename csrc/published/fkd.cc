// See fkd.h.
#include "published/fkd.h"

#include <cmath>

#include "record/header.h"

namespace dali_dr::published {
namespace {

using pickle::Array;
using pickle::Kind;
using pickle::Tree;
using pickle::Value;

const Array& RequireArray(const Tree& tree, const Value& value, const char* what) {
  if (value.kind != Kind::kArray) Fail("the ", what, " are ", tree.Describe(value), ", not an array");
  return tree.ArrayOf(value);
}

/// Python's round(): of two that are as near, the even one.
int64_t Rounded(size_t row, double edge) {
  if (!(std::fabs(edge) < kMaxCoordinate)) Fail("view ", row, ": a box has the edge ", edge);
  return static_cast<int64_t>(std::nearbyint(edge));
}

/// As torchvision's resized_crop and Pillow's crop have it, of fractions that are widened to doubles.
Box PixelBox(const Tree& tree, const Array& boxes, size_t row, Size image) {
  const double y = tree.At(boxes, row, 0) * image.height, x = tree.At(boxes, row, 1) * image.width,
               height = tree.At(boxes, row, 2) * image.height, width = tree.At(boxes, row, 3) * image.width;
  const int64_t top = Rounded(row, y), left = Rounded(row, x);
  return InsideBox(row, "box", top, left, Rounded(row, y + height) - top, Rounded(row, x + width) - left,
                   image);
}

LabelForm FormOf(const Tree& tree, const Value& labels, uint64_t rows, const FkdSettings& settings) {
  const Array& array = RequireArray(tree, labels, "labels");
  LabelForm form = settings.form;
  if (form == LabelForm::kAuto)
    form = array.dims == 3       ? LabelForm::kMarginal
           : array.dims == 1     ? LabelForm::kHard
           : array.shape[1] == 2 ? LabelForm::kSmoothing
                                 : LabelForm::kFull;
  const uint64_t classes = settings.num_classes;
  const bool fits = array.dims >= 1 && array.shape[0] == rows &&
                    ((form == LabelForm::kHard && array.dims == 1) ||
                     (form == LabelForm::kSmoothing && array.dims == 2 && array.shape[1] == 2) ||
                     (form == LabelForm::kFull && array.dims == 2 && array.shape[1] == classes) ||
                     (form == LabelForm::kMarginal && array.dims == 3 && array.shape[1] == 2 &&
                      array.shape[2] >= 1 && array.shape[2] <= classes));
  if (!fits)
    Fail("the labels are ", tree.Describe(labels), ", which is no form of labels for ", rows, " views and ",
         classes, " classes: hard (N,), smoothing (N, 2), marginal (N, 2, K), full (N, classes)");
  return form;
}

int32_t ClassId(size_t row, double id, uint32_t classes) {
  if (!(id >= 0 && id < classes) || id != std::floor(id))
    Fail("view ", row, ": the class id ", id, " is no whole number from 0 to ", int64_t{classes} - 1);
  return static_cast<int32_t>(id);
}

class Labels {
 public:
  Labels(const Tree& tree, const Array& labels, LabelForm form, uint32_t classes, record::Reinforcements* out)
      : tree_(tree), labels_(labels), form_(form), classes_(classes), out_(out) {
    out->topk = form == LabelForm::kMarginal ? labels.shape[2]
                : form == LabelForm::kFull   ? labels.shape[1]
                                             : 1;
    RequireFewPredictions(labels.shape[0], out->topk);
  }

  void Add(size_t row) {
    for (size_t k = 0; k < out_->topk; ++k) {
      double id = static_cast<double>(k), p = 1;
      if (form_ == LabelForm::kHard) id = tree_.At(labels_, row);
      if (form_ == LabelForm::kFull) p = tree_.At(labels_, row, k);
      if (form_ == LabelForm::kSmoothing) id = tree_.At(labels_, row, 0), p = tree_.At(labels_, row, 1);
      if (form_ == LabelForm::kMarginal) id = tree_.At(labels_, row, 0, k), p = tree_.At(labels_, row, 1, k);
      out_->ids.push_back(ClassId(row, id, classes_));
      out_->probs.push_back(Probability(row, p));
    }
    if (form_ == LabelForm::kMarginal) RequireDistinct(row, std::span(out_->ids).last(out_->topk), &sorted_);
  }

 private:
  const Tree& tree_;
  const Array& labels_;
  LabelForm form_;
  uint32_t classes_;
  record::Reinforcements* out_;
  std::vector<int32_t> sorted_;
};

}  // namespace

record::Reinforcements ReadFkd(const Tree& tree, const FkdSettings& settings) {
  const auto parts = tree.Items(tree.root);
  if (!tree.IsSequence(tree.root) || parts.size() != 3)
    Fail("the file holds ", tree.Describe(tree.root), ", not a list of boxes, flips and labels");
  const Array& boxes = RequireArray(tree, parts[0], "boxes");
  const Array& flips = RequireArray(tree, parts[1], "flips");
  const uint64_t rows = boxes.shape[0];
  if (boxes.dims != 2 || boxes.shape[1] != 4 || boxes.element.kind != 'f')
    Fail("the boxes are ", tree.Describe(parts[0]), ", not fractions of shape (N, 4)");
  if (boxes.element.size == 2)
    Fail("the boxes are fractions in float16, of which a fifth recover wrong boxes: they are not read");
  if (rows < 1 || rows > record::kMaxViews)
    Fail("the file holds ", rows, " views, not 1 to ", record::kMaxViews);
  if (flips.dims != 1 || flips.shape[0] != rows || flips.element.kind == 'f')
    Fail("the flips are ", tree.Describe(parts[1]), ", not one for each of ", rows, " views");
  const LabelForm form = FormOf(tree, parts[2], rows, settings);
  record::Reinforcements out;
  Labels labels(tree, tree.ArrayOf(parts[2]), form, settings.num_classes, &out);
  for (size_t row = 0; row < rows; ++row) {
    out.views.crop.push_back(PixelBox(tree, boxes, row, settings.image));
    const double flip = tree.At(flips, row);
    if (flip != 0 && flip != 1) Fail("view ", row, ": the flip is ", flip, ", not 0 or 1");
    out.views.flip.push_back(flip != 0);
    labels.Add(row);
  }
  out.views.erase.resize(rows);
  return out;
}

}  // namespace dali_dr::published
