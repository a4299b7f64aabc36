// See view_plans.h.
#include "image/view_plans.h"

#include <algorithm>

#include "image/step.h"
#include "view/parse.h"

namespace dali_dr::image {
namespace {

std::string Text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

bool IsViewSize(Size size) {
  return std::min(size.height, size.width) >= 1 && std::max(size.height, size.width) <= kMaxViewSize;
}

}  // namespace

std::string Shown::Resolve() {
  const std::string most = std::to_string(kMaxViewSize);
  if (!IsViewSize(out)) return "`size` is " + Text(out) + ": each side must be 1 to " + most + ".";
  if (stored.height == 0 && stored.width == 0) stored = out;
  if (!IsViewSize(stored))
    return "`stored_size` is " + Text(stored) + ": each side must be 1 to " + most +
           ", or the argument 0 for `size`.";
  if (resize_shorter == 0) return {};
  const int64_t scaled = RescaleShorter(resize_shorter, out, stored);
  if (resize_shorter < 0 || scaled < std::max(out.height, out.width) || scaled > kMaxViewSize) {
    const bool same = out.height == stored.height && out.width == stored.width;
    return "`resize_shorter` is " + std::to_string(resize_shorter) +
           (same ? "" : ", times `size` / `stored_size` " + std::to_string(scaled)) +
           ": pass at least `size`, at most " + most + ", or 0 for none.";
  }
  return {};
}

void ViewPlans::Begin(const Shown& shown, bool mixing) {
  shown_ = shown;
  mixing_ = mixing;
  first_.assign(1, 0);
  plans_.clear();
  mixes_.clear();
  partner_plans_.clear();
  repeats_.clear();
}

std::string ViewPlans::Add(std::span<const int32_t> params, int64_t views, Placed image, Placed partner,
                           int64_t* view) {
  const size_t length = views == 0 ? 0 : params.size() / static_cast<size_t>(views);
  std::span<const int32_t> before;
  for (*view = 0; *view < views; ++*view) {
    const auto words = params.subspan(static_cast<size_t>(*view) * length, length);
    std::string problem = AddView(words, before, image, partner);
    if (!problem.empty()) return problem;
    before = words;
  }
  first_.push_back(static_cast<int64_t>(plans_.size()));
  return {};
}

std::span<const MixPlan> ViewPlans::mixes(int64_t k) const {
  const auto at = static_cast<size_t>(k);
  if (repeats_[at]) return {};
  size_t end = at + 1;
  while (end < repeats_.size() && repeats_[end]) ++end;
  return std::span(mixes_).subspan(at, end - at);
}

std::string ViewPlans::PlanOf(std::span<const int32_t> words, const Placed& image, Plan* plan) const {
  View view;
  std::string problem = ParseView(words.data(), static_cast<int64_t>(words.size()), &view);
  if (!problem.empty()) return problem;
  return MakePlan(view, image.size, image.top, image.left, shown_.out, shown_.stored, shown_.resize_shorter,
                  plan);
}

std::string ViewPlans::AddView(std::span<const int32_t> words, std::span<const int32_t> before,
                               const Placed& image, const Placed& partner) {
  const bool mixed = IsMixedWords(words.size());
  if (!mixing_ && mixed)
    return std::to_string(words.size()) +
           " words are those of a mixed view: pass the partner images as third input";
  if (mixing_ && !mixed)
    return std::to_string(words.size()) + " words are not those of a mixed view, 2 * (10 + 2n) + " +
           std::to_string(kMixWords) + ": pass no partner images, or read with mixing=True";
  return mixed ? AddMixed(words, before, image, partner) : PlanOf(words, image, &plans_.emplace_back());
}

std::string ViewPlans::AddMixed(std::span<const int32_t> words, std::span<const int32_t> before,
                                const Placed& image, const Placed& partner) {
  const size_t half = (words.size() - kMixWords) / 2;
  const auto first = words.first(half), second = words.last(half);
  MixPlan& mix = mixes_.emplace_back();
  std::string problem = MakeMixPlan(words.data() + half, shown_.out, shown_.stored, &mix);
  if (!problem.empty()) return problem;
  if (!before.empty() && mix.partner != before[half])
    return "its partner is " + std::to_string(mix.partner) + ", that of the view before " +
           std::to_string(before[half]) +
           ": views of one image must share a partner; pass them as samples of their own";
  const bool repeats = !before.empty() && std::ranges::equal(first, before.first(half)) &&
                       std::ranges::equal(second, before.last(half));
  repeats_.push_back(repeats);
  Plan& plan = plans_.emplace_back();
  Plan& other = partner_plans_.emplace_back();
  if (repeats) {
    plan = plans_[plans_.size() - 2];
    other = partner_plans_[plans_.size() - 2];
    return {};
  }
  problem = PlanOf(first, image, &plan);
  if (!problem.empty() || mix.partner == kNoPartner) return problem;
  problem = PlanOf(second, mix.partner == kSelfPartner ? image : partner, &other);
  return problem.empty() ? problem : "the partner's view: " + problem;
}

}  // namespace dali_dr::image
