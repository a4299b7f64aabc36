// Plans of views and of mixes: boxes by exact fractions, centres by Python's round, and everything that is
// refused.
#include "image/plan.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <string>

#include "tests/random_view.h"

namespace dali_dr::image {
namespace {

/// floor(x t / s + 1/2): the integer r with r - 1/2 <= x t / s < r + 1/2.
int32_t Scaled(int64_t x, int64_t t, int64_t s) {
  int64_t r = 0;
  while (2 * s * (r + 1) <= 2 * x * t + s) ++r;
  return int32_t(r);
}

bool IsScaled(const Box& got, const Box& box, Size out, Size stored) {
  return got.top == Scaled(box.top, out.height, stored.height) &&
         got.left == Scaled(box.left, out.width, stored.width) &&
         got.top + got.height == Scaled(box.top + box.height, out.height, stored.height) &&
         got.left + got.width == Scaled(box.left + box.width, out.width, stored.width);
}

Box RandomBox(Size size) {
  Box box{0, 0, Uniform(1, size.height), Uniform(1, size.width)};
  box.top = Uniform(0, size.height - box.height);
  box.left = Uniform(0, size.width - box.width);
  return box;
}

void CheckHas(const std::string& message, const std::string& words) {
  CHECK(!message.empty() && message.find(words) != std::string::npos, "want \"%s\", got \"%s\"",
        words.c_str(), message.c_str());
}

View WholeView(Size size) {
  View view{};
  view.crop = {0, 0, size.height, size.width};
  return view;
}

std::string Plan1(const View& view, Size image, Size out, Size stored, int32_t shorter, Plan* plan) {
  return MakePlan(view, image, 0, 0, out, stored, shorter, plan);
}

void TestBoxes() {
  for (int i = 0; i < 20000; ++i) {
    const Size image{Uniform(1, 400), Uniform(1, 400)}, out{Uniform(1, 300), Uniform(1, 300)},
        stored{Uniform(1, 300), Uniform(1, 300)};
    View view = WholeView(image);
    view.crop = RandomBox(image);
    view.flip = Uniform(0, 1);
    if (Uniform(0, 3)) view.erase = RandomBox(stored);
    // A part of the image that holds the crop is given, with its place.
    const int32_t top = Uniform(0, view.crop.top), left = Uniform(0, view.crop.left);
    Plan plan;
    const std::string problem =
        MakePlan(view, {image.height - top, image.width - left}, top, left, out, stored, 0, &plan);
    CHECK(problem.empty(), "%s", problem.c_str());
    CHECK(plan.crop.top == view.crop.top - top && plan.crop.left == view.crop.left - left &&
              plan.crop.height == view.crop.height && plan.crop.width == view.crop.width,
          "the crop moves with the part");
    CHECK(IsScaled(plan.erase, view.erase, out, stored), "erase box of %dx%d at %dx%d", stored.height,
          stored.width, out.height, out.width);
    CHECK(plan.flip == view.flip && plan.num_steps == 0 && plan.resized.height == out.height &&
              plan.resized.width == out.width && plan.window_top == 0 && plan.window_left == 0,
          "the whole crop is shown");
  }
}

/// torchvision's Resize(shorter) and CenterCrop(out): sizes truncated, offsets rounded half to even.
void TestCentres() {
  int shown = 0;
  for (int i = 0; i < 20000; ++i) {
    const Size image{Uniform(1, 500), Uniform(1, 500)}, out{Uniform(1, 200), Uniform(1, 200)};
    const int32_t shorter = i % 4 ? Uniform(1, 300) : std::min(image.height, image.width);
    Plan plan;
    const std::string problem = Plan1(WholeView(image), image, out, out, shorter, &plan);
    const bool upright = image.height >= image.width;
    const int64_t longer =
        int64_t{shorter} * std::max(image.height, image.width) / std::min(image.height, image.width);
    const int64_t height = upright ? longer : shorter, width = upright ? shorter : longer;
    if (height < out.height || width < out.width) {
      CheckHas(problem, "pass a larger `resize_shorter`");
    } else {
      ++shown;
      const auto offset = [](int64_t resized, int32_t size) {
        return int64_t(std::nearbyint(double(resized - size) / 2));
      };
      // Where an axis keeps its size, the crop is the part, otherwise the window.
      CHECK(plan.crop.top + plan.window_top == offset(height, out.height) &&
                plan.crop.left + plan.window_left == offset(width, out.width),
            "the view is the centre");
      CHECK(height == image.height ? plan.crop.height == out.height && plan.resized.height == out.height
                                   : plan.crop.height == image.height && plan.resized.height == height,
            "rows");
      CHECK(width == image.width ? plan.crop.width == out.width && plan.resized.width == out.width
                                 : plan.crop.width == image.width && plan.resized.width == width,
            "columns");
    }
  }
  CHECK(shown > 2000, "only %d centres", shown);
}

/// A view where it was in torchvision's Resize(shorter), at its own size and at others.
void TestWindows() {
  int shown = 0;
  for (int i = 0; i < 20000; ++i) {
    const Size image{Uniform(1, 300), Uniform(1, 300)}, stored{Uniform(1, 100), Uniform(1, 100)};
    const Size out = i % 2 ? stored : Size{Uniform(1, 100), Uniform(1, 100)};
    const int32_t shorter = i % 4 < 2 ? Uniform(1, 200) : std::min(image.height, image.width);
    const auto side = [&](int64_t length, int64_t of) {
      return of * length / std::min(image.height, image.width);
    };
    const int64_t rows = side(image.height, shorter) - stored.height,
                  columns = side(image.width, shorter) - stored.width;
    View view = WholeView(image);
    const int32_t top = Uniform(0, std::max<int>(0, int(rows)) + 1),
                  left = Uniform(0, std::max<int>(0, int(columns)) + 1);
    // In any order, between others; one that is not there is 0.
    view.ops[view.num_ops++] = {kWindowLeft, float(left)};
    if (Uniform(0, 1)) view.ops[view.num_ops++] = {kSolarize, 9};
    if (top > 0 || Uniform(0, 1)) view.ops[view.num_ops++] = {kWindowTop, float(top)};
    Plan plan;
    const std::string problem = Plan1(view, image, out, stored, shorter, &plan);
    const int64_t scaled =
        std::max(Scaled(shorter, out.height, stored.height), Scaled(shorter, out.width, stored.width));
    const int64_t height = side(image.height, scaled), width = side(image.width, scaled);
    if (height < out.height || width < out.width) {
      CheckHas(problem, "pass a larger `resize_shorter`");
    } else if (top > rows || left > columns) {
      CheckHas(problem, "is not inside the image resized to");
    } else {
      ++shown;
      CHECK(problem.empty(), "%s", problem.c_str());
      const int64_t y = std::min<int64_t>(Scaled(top, out.height, stored.height), height - out.height);
      const int64_t x = std::min<int64_t>(Scaled(left, out.width, stored.width), width - out.width);
      CHECK(plan.crop.top + plan.window_top == y && plan.crop.left + plan.window_left == x, "the part");
      CHECK(plan.crop.height == (height == image.height ? out.height : image.height) &&
                plan.crop.width == (width == image.width ? out.width : image.width),
            "what of the image is resized");
      CHECK(plan.num_steps == (view.ops[1].id == kSolarize), "windows are no steps");
    }
  }
  CHECK(shown > 2000, "only %d windows", shown);
}

/// The longest images that there are: the centre of what nobody could hold, up to a limit that is named.
void TestLongest() {
  constexpr int32_t kLongest = kMaxCoordinate;
  Plan plan;
  for (bool upright : {false, true}) {
    const auto image = [&](int32_t longer) { return upright ? Size{longer, 1} : Size{1, longer}; };
    for (const auto& [longer, shorter] :
         {std::pair{700, 256}, {65'500, 8192}, {kMaxAspect, 8192}, {kLongest, 32}}) {
      const Size size = image(longer), out{16, 9};
      CHECK(Plan1(WholeView(size), size, out, out, shorter, &plan).empty(), "%d to %d", longer, shorter);
      const int64_t length = int64_t{longer} * shorter, gap = length - (upright ? out.height : out.width);
      CHECK((upright ? plan.resized.height : plan.resized.width) == length, "the length is %lld",
            static_cast<long long>(length));
      CHECK((upright ? plan.window_top : plan.window_left) == std::llrint(double(gap) / 2),
            "the centre of %d", longer);
    }
    const Size size = image(kLongest);
    CheckHas(Plan1(WholeView(size), size, {1, 1}, {1, 1}, 33, &plan),
             "553648128 on the longer side, more than 536870912");
  }
}

void TestRefusals() {
  const Size size{20, 30};
  Plan plan;
  View view = WholeView(size);
  CheckHas(MakePlan(view, {20, 29}, 0, 0, size, size, 0, &plan), "is not inside the given 20x29 pixels");
  CheckHas(MakePlan(view, size, 1, 0, size, size, 0, &plan), "at (1, 0) of the source");
  CheckHas(MakePlan(view, size, 0, 1, size, size, 0, &plan), "crop box (top 0, left 0, height 20, width 30)");
  view.erase = {10, 0, 11, 30};
  CheckHas(Plan1(view, size, size, size, 0, &plan), "erase box (top 10, left 0, height 11, width 30)");
  view.erase = {0, 1, 20, 30};
  CheckHas(Plan1(view, size, size, size, 0, &plan), "pass the size at which the views were drawn");
  view = WholeView(size);
  view.num_ops = 1;
  for (const auto& [op, words] : std::initializer_list<std::pair<Op, const char*>>{
           {{kPosterize, 0.9f}, "Posterize keeps 1 to 8 bits, not 0.9"},
           {{kPosterize, 9.0f}, "Posterize keeps 1 to 8 bits, not 9"},
           {{kPosterize, -3.0f}, "Posterize"},
           {{kHue, 0.51f}, "Hue turns by -0.5 to 0.5, not 0.51"},
           {{kHue, -1.0f}, "Hue turns by"},
           {{kGaussianBlur, 0.0f}, "GaussianBlur has a radius above 0, not 0"},
           {{kGaussianBlur, -2.0f}, "GaussianBlur has a radius above 0, not -2"},
           {{kWindowTop, 0.0f}, "as `resize_shorter`"},
           {{kWindowLeft, 1.5f}, "WindowLeft is whole pixels from 0 on, not 1.5"},
           {{kWindowTop, -1.0f}, "WindowTop is whole pixels from 0 on, not -1"},
           {{kShearX, 1e6f}, "of operation 1 moves pixels further than 32767"},
           {{kShearY, -4e4f}, "of operation 2 moves pixels further"}}) {
    view.ops[0] = op;
    CheckHas(Plan1(view, size, size, size, 0, &plan), words);
  }
}

/// What changes nothing is no step.
void TestNoSteps() {
  const Size size{20, 30};
  View view = WholeView(size);
  for (const Op& op : std::initializer_list<Op>{{kIdentity, 3},
                                                {kShearX, 0},
                                                {kTranslateX, 0.9f},
                                                {kTranslateY, -0.5f},
                                                {kRotate, 0},
                                                {kRotate, -720},
                                                {kBrightness, 0},
                                                {kColor, 0},
                                                {kContrast, 0},
                                                {kSharpness, 0},
                                                {kPosterize, 8.5f},
                                                {kSolarize, 256},
                                                {kSolarize, 255.5f},
                                                {kGaussianBlur, 1e-30f}}) {
    view.num_ops = 1;
    view.ops[0] = op;
    Plan plan;
    CHECK(Plan1(view, size, size, size, 0, &plan).empty() && plan.num_steps == 0, "operation %d, %g", op.id,
          double(op.magnitude));
  }
  view.ops[0] = {kHue, 0};  // to HSV and back rounds
  Plan turned;
  CHECK(Plan1(view, size, size, size, 0, &turned).empty() && turned.num_steps == 1, "a hue that stays");
  view.ops[0] = {kSharpness, 0.5f};
  for (const Size out : {Size{2, 30}, Size{30, 2}, Size{3, 3}}) {
    Plan plan;
    CHECK(Plan1(view, size, out, out, 0, &plan).empty() && plan.num_steps == (out.width == out.height),
          "sharpness of %dx%d", out.height, out.width);
  }
}

void TestMixes() {
  for (int i = 0; i < 20000; ++i) {
    const Size out{Uniform(1, 300), Uniform(1, 300)}, stored{Uniform(1, 300), Uniform(1, 300)};
    const Box cut = Uniform(0, 2) ? RandomBox(stored) : Box{};
    const float lam = Uniform(0, 2) ? float(Uniform(0, 1000)) / 1000 : 1.0f;
    const int32_t partner = Uniform(0, 1) ? Uniform(0, INT32_MAX) : kSelfPartner, swapped = Uniform(0, 1);
    const int32_t words[kMixWords] = {partner,    swapped,  std::bit_cast<int32_t>(lam), cut.top, cut.left,
                                      cut.height, cut.width};
    MixPlan plan;
    const std::string problem = MakeMixPlan(words, out, stored, &plan);
    CHECK(problem.empty(), "%s", problem.c_str());
    CHECK(plan.partner == partner && plan.swapped == swapped && plan.lam == lam, "what is not a box");
    CHECK(IsScaled(plan.cut, cut, out, stored), "cutmix box of %dx%d at %dx%d", stored.height, stored.width,
          out.height, out.width);
  }
}

void TestMixRefusals() {
  const Size stored{20, 30};
  const int32_t one = std::bit_cast<int32_t>(1.0f);
  const auto refusal = [&](std::initializer_list<int32_t> words) {
    MixPlan plan;
    return MakeMixPlan(std::data(words), stored, stored, &plan);
  };
  CHECK(refusal({kNoPartner, 0, one, 0, 0, 0, 0}).empty(), "a view without partner");
  CHECK(refusal({0, 1, 0, 19, 29, 1, 1}).empty(), "the last pixel");
  CheckHas(refusal({-3, 0, one, 0, 0, 0, 0}), "partner -3 is no sample number");
  CheckHas(refusal({0, 2, one, 0, 0, 0, 0}), "swapped is 2");
  CheckHas(refusal({0, -1, one, 0, 0, 0, 0}), "swapped is -1");
  for (float lam : {-0.1f, 1.001f, std::nanf(""), INFINITY})
    CheckHas(refusal({0, 0, std::bit_cast<int32_t>(lam), 0, 0, 0, 0}), "mixup weight");
  for (const Box& cut :
       {Box{-1, 0, 2, 2}, Box{0, -1, 2, 2}, Box{0, 0, 21, 1}, Box{0, 0, 1, 31}, Box{19, 0, 2, 1},
        Box{0, 29, 1, 2}, Box{INT32_MAX, 0, 2, 2}, Box{0, INT32_MAX, 2, 2}})
    CheckHas(refusal({0, 0, one, cut.top, cut.left, cut.height, cut.width}), "is not inside the stored view");
  for (const Box& cut :
       {Box{1, 0, 0, 0}, Box{0, 1, 0, 0}, Box{0, 0, 1, 0}, Box{0, 0, 0, 1}, Box{0, 0, -1, 5}})
    CheckHas(refusal({0, 0, one, cut.top, cut.left, cut.height, cut.width}), "empty without being all zero");
  CheckHas(refusal({kNoPartner, 1, one, 0, 0, 0, 0}), "has no partner");
  CheckHas(refusal({kNoPartner, 0, 0, 0, 0, 0, 0}), "has no partner");
  CheckHas(refusal({kNoPartner, 0, one, 0, 0, 1, 1}), "has no partner");
}

}  // namespace
}  // namespace dali_dr::image

int main() {
  using namespace dali_dr::image;
  TestBoxes();
  TestCentres();
  TestWindows();
  TestLongest();
  TestRefusals();
  TestNoSteps();
  TestMixes();
  TestMixRefusals();
  std::printf("plan: %d failures\n", failures);
  return failures != 0;
}
