// See plan.h.
#include "image/plan.h"

#include <algorithm>
#include <bit>

#include "image/step.h"

namespace dali_dr::image {
namespace {

std::string Text(const Box& b) {
  return "(top " + std::to_string(b.top) + ", left " + std::to_string(b.left) + ", height " +
         std::to_string(b.height) + ", width " + std::to_string(b.width) + ")";
}

// A box by its edges.
Box RescaleBox(const Box& box, Size out, Size stored) {
  const int32_t y0 = Rescale(box.top, out.height, stored.height);
  const int32_t x0 = Rescale(box.left, out.width, stored.width);
  const int32_t y1 = Rescale(box.top + box.height, out.height, stored.height);
  const int32_t x1 = Rescale(box.left + box.width, out.width, stored.width);
  return {y0, x0, y1 - y0, x1 - x0};
}

std::string Text(Size s) { return std::to_string(s.height) + "x" + std::to_string(s.width); }

// torchvision's CenterCrop along one axis: round((resized - out) / 2), halves to even. Where the axis keeps
// its size, the crop moves instead of the window.
void CentreAxis(int32_t out, int32_t* resized, int32_t* window, int32_t* begin, int32_t* length) {
  const int32_t gap = *resized - out, half = gap / 2;
  *window = half + (gap % 2 != 0 && half % 2 != 0);
  if (*resized != *length) return;
  *begin += *window;
  *length = *resized = out;
  *window = 0;
}

// Makes the view the centre of the crop resized to `shorter` on its shorter side.
std::string ShowCentre(int32_t shorter_side, Plan* plan) {
  Box& crop = plan->crop;
  const Size out = plan->out;
  const int64_t shorter = std::min(crop.height, crop.width), longer = std::max(crop.height, crop.width);
  const int64_t length = int64_t{shorter_side} * longer / shorter;  // of which only the centre is computed
  if (length > kMaxResized) {
    return "its " + Text(Size{crop.height, crop.width}) + " pixels would be resized to " +
           std::to_string(length) + " on the longer side, more than " + std::to_string(kMaxResized) +
           ": pass a smaller `resize_shorter`, or leave the image out";
  }
  const bool upright = crop.height >= crop.width;
  plan->resized = upright ? Size{int32_t(length), shorter_side} : Size{shorter_side, int32_t(length)};
  if (plan->resized.height < out.height || plan->resized.width < out.width) {
    return "the view of " + Text(out) + " does not fit into the image resized to " + Text(plan->resized) +
           ": pass a larger `resize_shorter`";
  }
  CentreAxis(out.height, &plan->resized.height, &plan->window_top, &crop.top, &crop.height);
  CentreAxis(out.width, &plan->resized.width, &plan->window_left, &crop.left, &crop.width);
  return {};
}

std::string OutsideStored(Size stored) {
  return " is not inside the stored view of " + Text(stored) +
         ": pass the size at which the views were drawn as `stored_size`";
}

}  // namespace

std::string MakePlan(const View& view, Size image, int64_t origin_top, int64_t origin_left, Size out,
                     Size stored, int32_t resize_shorter, Plan* plan) {
  const Box& crop = view.crop;
  const int64_t top = crop.top - origin_top, left = crop.left - origin_left;
  if (top < 0 || left < 0 || top + crop.height > image.height || left + crop.width > image.width) {
    return "crop box " + Text(crop) + " is not inside the given " + Text(image) +
           " pixels, whose top-left corner is at (" + std::to_string(origin_top) + ", " +
           std::to_string(origin_left) +
           ") of the source: pass the whole image, or a part that holds the box with its `origin`";
  }
  plan->crop = {int32_t(top), int32_t(left), crop.height, crop.width};
  plan->out = plan->resized = out;
  plan->window_top = plan->window_left = 0;
  plan->flip = view.flip;
  std::string error;
  if (resize_shorter > 0) error = ShowCentre(resize_shorter, plan);
  if (!error.empty()) return error;

  const Box& erase = view.erase;
  plan->erase = Box{};
  if (erase.height > 0 && erase.width > 0) {
    if (erase.top + erase.height > stored.height || erase.left + erase.width > stored.width)
      return "erase box " + Text(erase) + OutsideStored(stored);
    plan->erase = RescaleBox(erase, out, stored);
  }

  plan->num_steps = 0;
  for (int i = 0; i < view.num_ops; ++i) {
    if (MakeStep(view.ops[i], out, stored, &plan->steps[plan->num_steps], &error)) ++plan->num_steps;
    if (!error.empty()) return error;
  }
  return {};
}

std::string MakeMixPlan(const int32_t* words, Size out, Size stored, MixPlan* plan) {
  const Box cut{words[3], words[4], words[5], words[6]};
  *plan = {words[0], words[1], std::bit_cast<float>(words[2]), Box{}};
  if (plan->partner < kSelfPartner)
    return "partner " + std::to_string(plan->partner) + " is no sample number";
  if (plan->swapped != 0 && plan->swapped != 1)
    return "swapped is " + std::to_string(plan->swapped) + ", not 0 or 1";
  if (!(plan->lam >= 0.0f && plan->lam <= 1.0f))  // also refuses NaN
    return "mixup weight " + std::to_string(plan->lam) + " is not in 0 to 1";
  if (cut.height > 0 && cut.width > 0) {
    if (cut.top < 0 || cut.left < 0 || cut.height > stored.height || cut.width > stored.width ||
        cut.top > stored.height - cut.height || cut.left > stored.width - cut.width) {
      return "cutmix box " + Text(cut) + OutsideStored(stored);
    }
    plan->cut = RescaleBox(cut, out, stored);
  } else if (cut.top != 0 || cut.left != 0 || cut.height != 0 || cut.width != 0) {
    return "cutmix box " + Text(cut) + " is empty without being all zero";
  }
  if (plan->partner == kNoPartner && (plan->swapped != 0 || plan->lam != 1.0f || cut.height > 0))
    return "the view is mixed, but has no partner";
  return {};
}

}  // namespace dali_dr::image
