// See write_check.h.
#include "record/write_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "record/log_codes.h"
#include "view/layout.h"
#include "view/magnitude.h"

namespace dali_dr::record {
namespace {

constexpr uint32_t kMaxTopk = 0xffff;

void CheckRange(const char* name, uint64_t value, uint64_t low, uint64_t high) {
  if (value < low || value > high) Fail(name, " is ", value, "; a record holds ", low, " to ", high);
}

void CheckLength(const char* column, size_t have, size_t want) {
  if (have != want) Fail("column ", column, " has ", have, " elements; want ", want);
}

void CheckLengths(const ViewColumns& views, size_t rows, size_t num_ops) {
  CheckLength("crop", views.crop.size(), rows);
  CheckLength("flip", views.flip.size(), rows);
  CheckLength("ops", views.ops.size(), rows * num_ops);
  CheckLength("magnitudes", views.magnitudes.size(), rows * num_ops);
  CheckLength("erase", views.erase.size(), rows);
}

void CheckSettings(const Reinforcements& r, const WriteSettings& s) {
  CheckRange("encoding of probabilities", s.encoding, kFloat32, kRootCode);
  CheckRange("number of views", r.size(), 1, kMaxViews);
  CheckRange("image height", s.image_height, 1, kMaxSide);
  CheckRange("image width", s.image_width, 1, kMaxSide);
  CheckRange("view height", s.view_height, 1, kMaxSide);
  CheckRange("view width", s.view_width, 1, kMaxSide);
  CheckRange("number of operations per view", r.num_ops, 0, kMaxOps);
  CheckRange("number of classes per view", r.topk, 0, kMaxTopk);
  if (s.encoding == kLogCode && !(s.log_step >= kMinLogStep && s.log_step <= kMaxLogStep))
    Fail("log_step is ", s.log_step, "; want ", kMinLogStep, " to ", kMaxLogStep, " nats");
}

bool Inside(const Box& box, int64_t height, int64_t width, int32_t least) {
  return box.top >= 0 && box.left >= 0 && box.height >= least && box.width >= least &&
         int64_t{box.top} + box.height <= height && int64_t{box.left} + box.width <= width;
}

bool IsNone(const Box& box) { return (box.top | box.left | box.height | box.width) == 0; }

[[noreturn, gnu::cold, gnu::noinline]] void FailBox(const char* whose, const char* name, size_t row,
                                                    const Box& box, uint32_t height, uint32_t width) {
  Fail("view ", row, ": ", whose, name, " (top ", box.top, ", left ", box.left, ", height ", box.height,
       ", width ", box.width, ") is empty or outside ", height, "x", width);
}

/// A box of the view, all zero where there is none.
void CheckViewBox(const char* whose, const char* name, size_t row, const Box& box, const WriteSettings& s) {
  if (!IsNone(box) && !Inside(box, s.view_height, s.view_width, 1))
    FailBox(whose, name, row, box, s.view_height, s.view_width);
}

/// Row `row` of `views`, of an image of `height` x `width`. `whose` they are is for the message.
void CheckView(const char* whose, const ViewColumns& views, size_t num_ops, size_t row, uint32_t height,
               uint32_t width, const WriteSettings& s) {
  if (!Inside(views.crop[row], height, width, 1)) FailBox(whose, "crop", row, views.crop[row], height, width);
  if (views.flip[row] > 1)
    Fail("view ", row, ": ", whose, "flip is ", unsigned{views.flip[row]}, "; want 0 or 1");
  for (size_t i = row * num_ops; i < (row + 1) * num_ops; ++i) {
    if (views.ops[i] >= kNumOpIds)
      Fail("view ", row, ": ", whose, "operation is ", unsigned{views.ops[i]}, "; want below ",
           int{kNumOpIds});
    if (!std::isfinite(views.magnitudes[i])) Fail("view ", row, ": ", whose, "magnitude is not finite");
    if (!IsMagnitude(views.ops[i], views.magnitudes[i]))
      Fail("view ", row, ": ", whose, "magnitude ", views.magnitudes[i], " is none of operation ",
           unsigned{views.ops[i]});
  }
  CheckViewBox(whose, "erase box", row, views.erase[row], s);
}

/// That a view without partner has nothing of one.
void CheckAlone(const Reinforcements& r, size_t row) {
  const ViewColumns& views = r.partner_views;
  const Box& crop = views.crop[row];
  if (r.lam[row] != 1 || !IsNone(r.cut[row]) || r.swapped[row])
    Fail("view ", row, ": is mixed, but has no partner");
  bool none = crop.top == 0 && crop.left == 0 && crop.height == 1 && crop.width == 1 && !views.flip[row] &&
              IsNone(views.erase[row]);
  for (size_t i = row * r.num_ops; i < (row + 1) * r.num_ops; ++i)
    none &= views.ops[i] == 0 && std::bit_cast<uint32_t>(views.magnitudes[i]) == 0;
  if (!none) Fail("view ", row, ": has no partner, but parameters of a partner's view");
}

void CheckMix(const Reinforcements& r, const WriteSettings& s) {
  size_t own = 0, others = 0;
  for (size_t row = 0; row < r.size(); ++row) {
    const int32_t partner = r.partner[row];
    if (partner < kSelfPartner) Fail("view ", row, ": partner ", partner, " is no sample number");
    if (!(r.lam[row] >= 0 && r.lam[row] <= 1))
      Fail("view ", row, ": mixup weight ", r.lam[row], " is outside 0 to 1");
    CheckViewBox("", "cutmix box", row, r.cut[row], s);
    const bool self = partner == kSelfPartner;
    const uint32_t height = self ? s.image_height : kMaxSide, width = self ? s.image_width : kMaxSide;
    CheckView("partner's ", r.partner_views, r.num_ops, row, height, width, s);
    if (partner == kNoPartner) CheckAlone(r, row);
    own += self;
    others += partner >= 0;
  }
  if (own && others) Fail("partner is the image itself in some views; want it in all mixed views or in none");
}

template <typename T>
bool SameElements(const std::vector<T>& column, size_t first, size_t second, size_t width = 1) {
  return width == 0 || std::memcmp(&column[first * width], &column[second * width], width * sizeof(T)) == 0;
}

bool SameViews(const ViewColumns& views, size_t num_ops, size_t first, size_t second) {
  return SameElements(views.crop, first, second) && SameElements(views.flip, first, second) &&
         SameElements(views.ops, first, second, num_ops) &&
         SameElements(views.magnitudes, first, second, num_ops) && SameElements(views.erase, first, second);
}

void CheckPairs(const Reinforcements& r) {
  bool paired = r.size() % 2 == 0;
  for (size_t row = 0; paired && row < r.size(); row += 2)
    paired = !r.swapped[row] && r.swapped[row + 1] && SameViews(r.views, r.num_ops, row, row + 1) &&
             SameViews(r.partner_views, r.num_ops, row, row + 1) && SameElements(r.partner, row, row + 1);
  if (!paired)
    Fail(
        "a double-mix is not in pairs; want rows 2i and 2i + 1 alike but for lam and CutMix box, the second "
        "swapped");
}

}  // namespace

void CheckColumns(const Reinforcements& r, const WriteSettings& s) {
  CheckSettings(r, s);
  const size_t rows = r.size();
  CheckLengths(r.views, rows, r.num_ops);
  CheckLength("ids", r.ids.size(), rows * r.topk);
  CheckLength("probs", r.probs.size(), rows * r.topk);
  for (size_t row = 0; row < rows; ++row)
    CheckView("", r.views, r.num_ops, row, s.image_height, s.image_width, s);
  const uint32_t limit = s.num_outputs ? std::min(s.num_outputs, kMaxClasses) : kMaxClasses;
  for (size_t i = 0; i < r.ids.size(); ++i)
    if (static_cast<uint32_t>(r.ids[i]) >= limit)
      Fail("view ", i / r.topk, ": class id ", r.ids[i], " is not in 0 to ", limit - 1);
  if (!r.mixing) return;
  CheckLengths(r.partner_views, rows, r.num_ops);
  CheckLength("partner", r.partner.size(), rows);
  CheckLength("lam", r.lam.size(), rows);
  CheckLength("cut", r.cut.size(), rows);
  CheckLength("swapped", r.swapped.size(), rows);
  CheckMix(r, s);
  if (IsDouble(r)) CheckPairs(r);
}

bool IsDouble(const Reinforcements& r) {
  return r.mixing &&
         std::any_of(r.swapped.begin(), r.swapped.end(), [](uint8_t swapped) { return swapped != 0; });
}

bool HasOwnMixes(const Reinforcements& r) {
  if (!IsDouble(r)) return false;
  for (size_t row = 0; row < r.size(); row += 2)
    if (!SameElements(r.lam, row, row + 1) || !SameElements(r.cut, row, row + 1)) return true;
  return false;
}

}  // namespace dali_dr::record
