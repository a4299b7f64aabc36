// See plan.h.
#include "image/plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

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

// Where the view begins in the resized crop, in pixels of the stored view size, if a view says so.
struct Corner {
  bool given = false;
  int64_t top = 0, left = 0;
};

std::string FindCorner(const View& view, int32_t resize_shorter, Corner* corner) {
  for (int i = 0; i < view.num_ops; ++i) {
    const auto [id, magnitude] = view.ops[i];
    if (id != kWindowTop && id != kWindowLeft) continue;
    const std::string name = id == kWindowTop ? "WindowTop" : "WindowLeft";
    if (!(magnitude >= 0) || magnitude != std::floor(magnitude))
      return name + " is whole pixels from 0 on, not " + std::to_string(magnitude);
    if (resize_shorter == 0)
      return name +
             " says where the view begins in an image that is resized as a whole: pass the length to "
             "which its shorter side was resized when the views were drawn as `resize_shorter`";
    corner->given = true;
    (id == kWindowTop ? corner->top : corner->left) = int64_t(magnitude);
  }
  return {};
}

// torchvision's CenterCrop along one axis: round((resized - out) / 2), halves to even.
int32_t Centre(int32_t resized, int32_t out) {
  const int32_t gap = resized - out, half = gap / 2;
  return half + (gap % 2 != 0 && half % 2 != 0);
}

// Shows what begins at `at`. Where the axis keeps its size, the crop moves instead of the window.
void PlaceAxis(int32_t out, int32_t at, int32_t* resized, int32_t* window, int32_t* begin, int32_t* length) {
  *window = at;
  if (*resized != *length) return;
  *begin += *window;
  *length = *resized = out;
  *window = 0;
}

// The crop's shorter side resized to `shorter`, the longer in proportion, rounded down.
struct Resized {
  int64_t height, width;

  Resized(const Box& crop, int64_t shorter) {
    const bool upright = crop.height >= crop.width;
    const int64_t longer = shorter * std::max(crop.height, crop.width) / std::min(crop.height, crop.width);
    height = upright ? longer : shorter;
    width = upright ? shorter : longer;
  }
};

// Makes the view the part of the resized crop that begins at `corner`, or its centre.
std::string ShowPart(int32_t resize_shorter, const Corner& corner, Size stored, Plan* plan) {
  Box& crop = plan->crop;
  const Size out = plan->out;
  const Resized resized(crop, RescaleShorter(resize_shorter, out, stored));
  if (const int64_t length = std::max(resized.height, resized.width); length > kMaxResized) {
    return "its " + Text(Size{crop.height, crop.width}) + " pixels would be resized to " +
           std::to_string(length) + " on the longer side, more than " + std::to_string(kMaxResized) +
           ": pass a smaller `resize_shorter`, or leave the image out";
  }
  plan->resized = {int32_t(resized.height), int32_t(resized.width)};
  if (resized.height < out.height || resized.width < out.width) {
    return "the view of " + Text(out) + " does not fit into the image resized to " + Text(plan->resized) +
           ": pass a larger `resize_shorter`";
  }
  int32_t top = Centre(plan->resized.height, out.height), left = Centre(plan->resized.width, out.width);
  if (corner.given) {
    const Resized drawn(crop, resize_shorter);  // at the stored size
    if (corner.top + stored.height > drawn.height || corner.left + stored.width > drawn.width) {
      return "the stored view of " + Text(stored) + " at (" + std::to_string(corner.top) + ", " +
             std::to_string(corner.left) + ") is not inside the image resized to " +
             std::to_string(drawn.height) + "x" + std::to_string(drawn.width) +
             ": pass the length and the size of the view with which it was drawn as `resize_shorter` and "
             "`stored_size`";
    }
    top = std::min(Rescale(corner.top, out.height, stored.height), plan->resized.height - out.height);
    left = std::min(Rescale(corner.left, out.width, stored.width), plan->resized.width - out.width);
  }
  PlaceAxis(out.height, top, &plan->resized.height, &plan->window_top, &crop.top, &crop.height);
  PlaceAxis(out.width, left, &plan->resized.width, &plan->window_left, &crop.left, &crop.width);
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
  Corner corner;
  std::string error = FindCorner(view, resize_shorter, &corner);
  if (error.empty() && resize_shorter > 0) error = ShowPart(resize_shorter, corner, stored, plan);
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
