// The packed views of a batch of images become plans: words in, what each block or thread does out.
#ifndef DALI_DR_CSRC_IMAGE_VIEW_PLANS_H_
#define DALI_DR_CSRC_IMAGE_VIEW_PLANS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "image/plan.h"

namespace dali_dr::image {

// Where given pixels lie in their source image: their size, and the place of their top-left pixel.
struct Placed {
  Size size;
  int32_t top, left;
};

// How all views are shown.
struct Shown {
  Size out;
  Size stored;                 // the view size that erase boxes and translations refer to; 0 x 0: `out`
  int32_t resize_shorter = 0;  // as MakePlan takes it

  // Whether the sizes are in range, and puts `out` in the place of a stored size of 0. Returns an empty
  // string, or what is wrong and what to do; arguments are named as those of fn.dr.replay.
  std::string Resolve();
};

// Several views of one image, one behind the other; what is equal in them is made once.
class ViewPlans {
 public:
  // Forgets all views. `mixing`: those that follow are mixed views. `shown` is resolved.
  void Begin(const Shown& shown, bool mixing);

  // Adds views of one image, `words` each. `partner` is the place of the partner's pixels; without mixing it
  // is ignored. All views of an image have one partner. Returns an empty string, or what is wrong, and in
  // `*view` which of them it is wrong in; the image is then only partly added.
  std::string Add(std::span<const int32_t> params, int64_t views, Placed image, Placed partner,
                  int64_t* view);

  int64_t images() const { return static_cast<int64_t>(first_.size()) - 1; }
  // Of image i are the views first(i) to first(i + 1), without that.
  int64_t first(int64_t image) const { return first_[static_cast<size_t>(image)]; }

  const Plan& plan(int64_t k) const { return plans_[static_cast<size_t>(k)]; }
  // Whether view k is mixed with another; the partner's plan is then for the partner's image, or for the
  // view's own image where IsSelf.
  bool IsMixed(int64_t k) const { return mixing_ && mixes_[static_cast<size_t>(k)].partner != kNoPartner; }
  bool IsSelf(int64_t k) const { return mixing_ && mixes_[static_cast<size_t>(k)].partner == kSelfPartner; }
  const Plan& partner_plan(int64_t k) const { return partner_plans_[static_cast<size_t>(k)]; }
  // Whether view k differs from the one before it in how it is mixed alone, and is among the mixes of that.
  bool IsRepeated(int64_t k) const { return mixing_ && repeats_[static_cast<size_t>(k)]; }
  // The ways to mix view k and its partner's: one, and those of the views behind it that differ in nothing
  // else (a double-mix pair), which need no replay of their own. Empty where view k is such a view itself.
  std::span<const MixPlan> mixes(int64_t k) const;

 private:
  std::string AddView(std::span<const int32_t> words, std::span<const int32_t> before, const Placed& image,
                      const Placed& partner);
  std::string AddMixed(std::span<const int32_t> words, std::span<const int32_t> before, const Placed& image,
                       const Placed& partner);
  std::string PlanOf(std::span<const int32_t> words, const Placed& image, Plan* plan) const;

  Shown shown_{};
  bool mixing_ = false;
  std::vector<int64_t> first_{0};
  std::vector<Plan> plans_;
  // With mixing, one per view:
  std::vector<MixPlan> mixes_;
  std::vector<Plan> partner_plans_;
  std::vector<uint8_t> repeats_;  // 1 where both plans are those of the view before
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_VIEW_PLANS_H_
