// Tests of csrc/view and image/view_plans: which words are refused and why, which views share a replay, and
// what MakeMixPlan makes of words. That plans show the right pixels is for block_test and
// tests/test_replay.py.
#include "image/view_plans.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "tests/check.h"
#include "view/layout.h"
#include "view/parse.h"

namespace dali_dr::image {
namespace {

using dali_dr::testing::Check;

using Words = std::vector<int32_t>;

void CheckSays(const std::string& problem, const std::string& word) {
  Check(word.empty() ? problem.empty() : problem.find(word) != std::string::npos,
        "want \"" + word + "\", got \"" + problem + "\"");
}

int32_t Bits(float value) { return std::bit_cast<int32_t>(value); }

const Words kPlain{10, 20, 30, 40, 1, 0, 0, 0, 0, 1, kRotate, Bits(30.f)};

Words With(Words words, size_t at, int32_t value) {
  words[at] = value;
  return words;
}

// A view, how it is mixed, and the partner's view.
Words Mixed(const Words& view, const Words& mix, const Words& partner) {
  Words words = view;
  words.insert(words.end(), mix.begin(), mix.end());
  words.insert(words.end(), partner.begin(), partner.end());
  return words;
}

Words Mix(int32_t partner, int32_t swapped = 0, float lam = 0.25f) {
  return {partner, swapped, Bits(lam), 8, 16, 24, 32};
}

void TestParse() {
  View view;
  const auto parse = [&](const Words& words) {
    return ParseView(words.data(), static_cast<int64_t>(words.size()), &view);
  };
  Words padded = kPlain;
  padded.resize(20, -7);  // words after the last operation do not matter
  CheckSays(parse(padded), "");
  Check(view.crop.top == 10 && view.crop.left == 20 && view.crop.height == 30 && view.crop.width == 40 &&
            view.flip && view.erase.height == 0 && view.num_ops == 1 && view.ops[0].id == kRotate &&
            view.ops[0].magnitude == 30.f,
        "a parsed view");
  CheckSays(parse(Words(9)), "9 words, fewer than the 10");
  CheckSays(parse(With(kPlain, 1, -1)), "box coordinate -1");
  CheckSays(parse(With(kPlain, 8, kMaxCoordinate + 1)), "box coordinate 16777217");
  CheckSays(parse(With(kPlain, 2, 0)), "crop box is empty");
  CheckSays(parse(With(kPlain, 4, 2)), "flip is 2");
  CheckSays(parse(With(kPlain, 9, 2)), "number of operations 2 does not fit 12 words");
  CheckSays(parse(With(kPlain, 9, -1)), "number of operations -1");
  CheckSays(parse(With(kPlain, 10, kNumOpIds)), "operation 18 is unknown");
  CheckSays(parse(With(kPlain, 11, Bits(2e6f))), "of operation 5 is out of range");
  CheckSays(parse(With(kPlain, 11, Bits(std::nanf("")))), "is out of range");
}

void TestLayout() {
  Check(ViewWords(2) == 14 && MixedWords(14) == 35 && IsMixedWords(35) && !IsMixedWords(14) &&
            !IsMixedWords(25),
        "numbers of words");
  Words words(7 + 14, 99);
  FillNoPartner(words);
  Check(words == Words{-1, 0, Bits(1.f), 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0},
        "a view without partner");
}

void TestSizes() {
  const auto resolve = [](Size out, Size stored, int32_t shorter) {
    Shown shown{out, stored, shorter};
    return shown.Resolve();
  };
  Shown shown{{64, 48}, {0, 0}};
  CheckSays(shown.Resolve(), "");
  Check(shown.stored.height == 64 && shown.stored.width == 48, "a stored size of 0 is the size");
  CheckSays(resolve({0, 48}, {}, 0), "`size` is 0x48");
  CheckSays(resolve({64, 8193}, {}, 0), "`size` is 64x8193");
  CheckSays(resolve({64, 48}, {0, 5}, 0), "`stored_size` is 0x5");
  CheckSays(resolve({64, 48}, {}, 63), "`resize_shorter` is 63");
  CheckSays(resolve({64, 48}, {}, 8193), "`resize_shorter` is 8193");
  CheckSays(resolve({64, 48}, {}, 64), "");
}

void TestMixPlan() {
  MixPlan plan;
  const auto make = [&](const Words& words) {
    return MakeMixPlan(words.data(), {112, 448}, {224, 224}, &plan);
  };
  CheckSays(make({7, 1, Bits(0.25f), 9, 16, 24, 32}), "");
  Check(plan.partner == 7 && plan.swapped == 1 && plan.lam == 0.25f && plan.cut.top == 5 &&
            plan.cut.left == 32 && plan.cut.height == 12 && plan.cut.width == 64,
        "a plan, whose box is rescaled by its edges, halves up");
  CheckSays(make({7, 0, Bits(1.f), 0, 0, 0, 0}), "");
  Check(plan.cut.height == 0 && plan.cut.width == 0, "no box");
  CheckSays(make(Mix(-3)), "partner -3 is no sample number");
  CheckSays(make(Mix(1, 2)), "swapped is 2");
  CheckSays(make(Mix(1, 0, 1.5f)), "mixup weight 1.5");
  CheckSays(make(Mix(1, 0, -0.1f)), "mixup weight -0.1");
  CheckSays(make(Mix(1, 0, std::numeric_limits<float>::quiet_NaN())), "mixup weight nan");
  for (const Words& box : {Words{-1, 0, 5, 5}, Words{0, -1, 5, 5}, Words{220, 0, 5, 5}, Words{0, 220, 5, 5},
                           Words{0, 0, 225, 5}, Words{0, 0, 5, 225}})
    CheckSays(make({1, 0, Bits(1.f), box[0], box[1], box[2], box[3]}),
              "is not inside the stored view of 224x224");
  CheckSays(make({1, 0, Bits(1.f), 0, 0, 5, 0}), "is empty without being all zero");
  CheckSays(make({-1, 0, Bits(1.f), 0, 0, 0, 0}), "");
  CheckSays(make({-1, 1, Bits(1.f), 0, 0, 0, 0}), "mixed, but has no partner");
  CheckSays(make({-1, 0, Bits(.5f), 0, 0, 0, 0}), "mixed, but has no partner");
  CheckSays(make({-1, 0, Bits(1.f), 0, 0, 5, 5}), "mixed, but has no partner");
}

// Adds one image's views; returns what is wrong, after the place of the view that it is wrong in.
std::string Add(ViewPlans* plans, const std::vector<Words>& views, Placed image, Placed partner) {
  Words all;
  for (const Words& words : views) all.insert(all.end(), words.begin(), words.end());
  int64_t view = 0;
  const std::string problem = plans->Add(all, static_cast<int64_t>(views.size()), image, partner, &view);
  return problem.empty() ? problem : std::to_string(view) + ": " + problem;
}

constexpr Shown kShown{{112, 112}, {224, 224}};
constexpr Placed kWhole{{100, 100}, 0, 0}, kPart{{30, 40}, 10, 20};

void TestPlainViews() {
  ViewPlans plans;
  plans.Begin(kShown, false);
  CheckSays(Add(&plans, {kPlain, With(kPlain, 4, 0)}, kPart, kWhole), "");
  CheckSays(Add(&plans, {}, kWhole, kWhole), "");
  CheckSays(Add(&plans, {kPlain}, kWhole, kWhole), "");
  Check(plans.images() == 3 && plans.first(0) == 0 && plans.first(1) == 2 && plans.first(2) == 2 &&
            plans.first(3) == 3,
        "the views of each image");
  Check(plans.plan(0).flip == 1 && plans.plan(1).flip == 0 && plans.plan(0).crop.top == 0 &&
            plans.plan(2).crop.top == 10 && plans.plan(2).crop.left == 20,
        "crops are placed in the given pixels");
  Check(!plans.IsMixed(0) && !plans.IsSelf(0), "plain views are not mixed");
  CheckSays(Add(&plans, {kPlain, With(kPlain, 4, 3)}, kWhole, kWhole), "1: flip is 3");
  CheckSays(Add(&plans, {kPlain}, {{29, 40}, 10, 20}, kWhole), "0: crop box");
  CheckSays(Add(&plans, {Mixed(kPlain, Mix(1), kPlain)}, kWhole, kWhole),
            "31 words are those of a mixed view");
  plans.Begin(kShown, false);
  Check(plans.images() == 0, "Begin forgets");
}

void TestMixedViews() {
  ViewPlans plans;
  plans.Begin(kShown, true);
  const Words other = With(kPlain, 0, 0);
  const auto mixed = [&](const Words& mix) { return Mixed(kPlain, mix, other); };
  // A pair, another view with the same partner, and a pair of it.
  CheckSays(
      Add(&plans,
          {mixed(Mix(5)), mixed(Mix(5, 1)), Mixed(other, Mix(5), other), Mixed(other, Mix(5, 1), other)},
          kWhole, {{60, 60}, 0, 20}),
      "");
  Check(plans.mixes(0).size() == 2 && plans.mixes(0)[1].swapped == 1 && plans.mixes(1).empty() &&
            plans.mixes(2).size() == 2 && plans.mixes(3).empty(),
        "views that differ in the mix alone share a replay");
  Check(plans.IsMixed(0) && !plans.IsSelf(0) && plans.plan(0).crop.left == 20 &&
            plans.partner_plan(0).crop.left == 0 && plans.partner_plan(1).crop.left == 0 &&
            plans.plan(1).crop.top == 10,
        "the partner's crop is placed in the partner's pixels");
  // Its own partner: in its own pixels, which hold both crops. The given partner's would not hold it.
  CheckSays(Add(&plans, {mixed(Mix(-2))}, kWhole, {{1, 1}, 0, 0}), "");
  Check(plans.IsSelf(4) && plans.IsMixed(4) && plans.partner_plan(4).crop.left == 20 &&
            plans.mixes(4).size() == 1,
        "a view that is its own partner");
  const Words alone{-1, 0, Bits(1.f), 0, 0, 0, 0};
  CheckSays(Add(&plans, {mixed(alone), mixed(alone)}, kWhole, {{1, 1}, 0, 0}), "");
  Check(!plans.IsMixed(5) && !plans.IsMixed(6) && plans.plan(6).crop.top == 10, "views without a partner");
  CheckSays(Add(&plans, {mixed(Mix(5)), mixed(Mix(6))}, kWhole, kWhole),
            "1: its partner is 6, that of the view");
  CheckSays(Add(&plans, {mixed(Mix(5, 7))}, kWhole, kWhole), "0: swapped is 7");
  CheckSays(Add(&plans, {mixed(Mix(5))}, {{5, 5}, 0, 0}, kWhole), "0: crop box");
  CheckSays(Add(&plans, {mixed(Mix(5))}, kWhole, {{5, 5}, 0, 0}), "0: the partner's view: crop box");
  CheckSays(Add(&plans, {kPlain}, kWhole, kWhole), "12 words are not those of a mixed view");
  CheckSays(Add(&plans, {Words(25)}, kWhole, kWhole), "25 words are not those of a mixed view");
}

}  // namespace
}  // namespace dali_dr::image

int main() {
  using namespace dali_dr::image;
  TestParse();
  TestLayout();
  TestSizes();
  TestMixPlan();
  TestPlainViews();
  TestMixedViews();
  return dali_dr::testing::Verdict("view_plans");
}
