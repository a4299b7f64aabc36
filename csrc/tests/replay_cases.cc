// See replay_cases.h.
#include "tests/replay_cases.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "image/block/block.h"

namespace dali_dr::image {

// ---- Loaded

uint8_t* Loaded::Bring(const uint8_t* from, size_t bytes) {
  uint8_t* const to = images_.emplace_back(machine_.Allocate(bytes));
  machine_.Upload(to, from, bytes);
  return to;
}

Loaded::Loaded(Machine& machine, const std::vector<Case>& cases, const Setting& setting)
    : machine_(machine),
      setting_(setting),
      plans_(cases.size()),
      partners_(cases.size()),
      batch_(setting.filter, setting.finish,
             std::min<int64_t>(setting.shared_limit, machine.limits().shared_bytes)) {
  const size_t guard = machine.guard_bytes();
  const auto plan = [&](const View& view, Size image, int32_t shorter, Plan* to) {
    const std::string problem = MakePlan(view, image, 0, 0, setting.out, setting.out, shorter, to);
    CHECK(problem.empty(), "%s: %s", setting.label.c_str(), problem.c_str());
  };
  const auto bytes = [](Size size) { return size_t(size.height) * size.width * 3; };
  std::vector<Task> tasks;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    plan(c.view, c.image, c.resize_shorter, &plans_[i]);
    // Where views of odd sizes follow each other in a batch, they begin at any value.
    const size_t begin = guard + i % 4 * setting.finish.value_bytes(),
                 length = c.outputs() * setting.view_bytes();
    outputs_.push_back({machine.Allocate(begin + length + guard), begin + length + guard, begin, length});
    const Image image{Bring(c.pixels.get(), bytes(c.image)), c.image};
    tasks.push_back({&plans_[i], image, outputs_.back().memory + begin});
    if (c.mixes.empty()) continue;
    const bool self = !c.partner_pixels;
    const Size size = self ? c.image : c.partner_image;
    plan(c.partner_view, size, 0, &partners_[i]);
    tasks.back().partner_plan = &partners_[i];
    tasks.back().partner_image = self ? image : Image{Bring(c.partner_pixels.get(), bytes(size)), size};
    tasks.back().mixes = c.mixes;
  }
  batch_.Assign(setting.out, tasks);
  host_.resize(batch_.bytes());
  batch_.Write(host_.data());
  Poison(0xa5);
}

Loaded::~Loaded() {
  for (uint8_t* image : images_) machine_.Free(image);
  for (const Output& output : outputs_) machine_.Free(output.memory);
}

void Loaded::Poison(uint8_t value, int stream) {
  poison_ = value;
  for (const Output& output : outputs_) machine_.Fill(output.memory, value, output.bytes, stream);
}

void Loaded::Launch(int stream) {
  const auto scratch_bytes = size_t(machine_.ScratchBytes(batch_));
  uint8_t* const data = machine_.Allocate(host_.size(), stream);
  uint8_t* const scratch = machine_.Allocate(scratch_bytes, stream);
  machine_.Fill(scratch, 0x5a, scratch_bytes, stream);
  machine_.Upload(data, host_.data(), host_.size(), stream);
  machine_.Launch(batch_, data, scratch, stream);
  machine_.Free(scratch, stream);
  machine_.Free(data, stream);
}

std::vector<std::vector<uint8_t>> Loaded::Download(int stream) {
  std::vector<std::vector<uint8_t>> all;
  std::vector<uint8_t> bytes;
  for (const Output& output : outputs_) {
    bytes.resize(output.bytes);
    machine_.Download(bytes.data(), output.memory, output.bytes, stream);
    const auto begin = bytes.begin() + int64_t(output.begin), end = begin + int64_t(output.length);
    const auto untouched = [&](uint8_t b) { return b == poison_; };
    CHECK(std::all_of(bytes.begin(), begin, untouched) && std::all_of(end, bytes.end(), untouched),
          "%s, case %zu: bytes beside the view were written", setting_.label.c_str(), all.size());
    all.emplace_back(begin, end);
  }
  return all;
}

// ---- Comparison

std::vector<uint8_t> Expected(const Case& c, const Setting& setting) {
  static Scratch scratch, other;
  std::vector<uint8_t> want(c.outputs() * setting.view_bytes());
  const auto show = [&](const View& view, const Image& image, int32_t shorter, Scratch* to) {
    Plan plan;
    MakePlan(view, image.size, 0, 0, setting.out, setting.out, shorter, &plan);
    to->CropResizeFlip(plan, image, setting.filter);
    to->ApplySteps(plan);
    return plan;
  };
  const Image image{c.pixels.get(), c.image};
  const Plan plan = show(c.view, image, c.resize_shorter, &scratch);
  if (c.mixes.empty()) {
    scratch.Write(plan, setting.finish, want.data());
    return want;
  }
  scratch.Erase(plan);
  other.Erase(show(c.partner_view, c.partner_pixels ? Image{c.partner_pixels.get(), c.partner_image} : image,
                   0, &other));
  for (size_t k = 0; k < c.mixes.size(); ++k)
    scratch.WriteMixed(other, c.mixes[k], setting.out, setting.finish,
                       want.data() + k * setting.view_bytes());
  return want;
}

void Compare(Machine& machine, const std::vector<Case>& cases, const Setting& setting) {
  const char* const label = setting.label.c_str();
  Loaded loaded(machine, cases, setting);
  const Batch& batch = loaded.batch();
  CHECK(batch.num_jobs(0) + batch.num_jobs(1) == cases.size(), "%s: jobs lost", label);
  CHECK(batch.num_jobs(0) == 0 || batch.shared_bytes(0) <= setting.shared_limit, "%s: too much shared memory",
        label);
  CHECK(batch.shared_bytes(1) <= 48 << 10, "%s: more than every chip has", label);
  loaded.Launch();
  const auto got = loaded.Download();
  seen.views += uint32_t(cases.size());
  for (int part = 0; part < 2; ++part) seen.parts[part] += batch.num_jobs(part);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    const Plan& plan = loaded.plans()[i];
    if (batch.num_jobs(0) == 0 || batch.num_jobs(1) == 0)
      seen.mixed[batch.num_jobs(0) == 0] += uint32_t(c.mixes.size());
    if (plan.window_top > 0 || plan.window_left > 0) {
      const Passes passes = MakePasses(plan.crop.height, plan.crop.width, plan.resized);
      ++seen.windows[plan.resized.height > plan.crop.height][passes.horizontal && passes.vertical_first];
    }
    const auto want = Expected(c, setting);
    size_t wrong = 0;
    for (size_t k = 0; k < want.size(); ++k) wrong += got[i][k] != want[k];
    const Box& crop = c.view.crop;
    CHECK(wrong == 0,
          "%s, case %zu: %zu of %zu bytes differ: %dx%d of %dx%d -> %dx%d of shorter %d, %d steps, first %d",
          label, i, wrong, want.size(), crop.height, crop.width, c.image.height, c.image.width,
          setting.out.height, setting.out.width, c.resize_shorter, plan.num_steps,
          plan.num_steps ? int(plan.steps[0].kind) : -1);
  }
}

// ---- Makers

std::shared_ptr<uint8_t[]> Shared(std::unique_ptr<uint8_t[]> pixels) { return {std::move(pixels)}; }

Case WholeImage(Size size, std::vector<Op> ops) {
  Case c;
  c.image = size;
  c.pixels = Shared(RandomPixels(size));
  c.view.crop = {0, 0, size.height, size.width};
  c.view.num_ops = int32_t(ops.size());
  std::copy(ops.begin(), ops.end(), c.view.ops);
  return c;
}

// A length for the crop's shorter side: the least, the crop's own (that axis then keeps its size) or any; 0
// where the longer side would become more than a plan may have.
int32_t RandomShorter(const Box& crop, Size out) {
  const int32_t least = std::max(out.height, out.width), shorter = std::min(crop.height, crop.width);
  const int32_t most = std::min(4 * least, 65535 * shorter / std::max(crop.height, crop.width));
  if (most < least) return 0;
  const int kind = Uniform(0, 3);
  return kind == 0 ? least : kind == 1 ? std::clamp(shorter, least, most) : Uniform(least, most);
}

void AddPartner(Size out, Case* c) {
  if (Uniform(0, 3)) {
    c->partner_image = {Uniform(1, 90), Uniform(1, 90)};
    c->partner_pixels = Shared(RandomPixels(c->partner_image));
  }
  c->partner_view = RandomView(c->partner_pixels ? c->partner_image : c->image, out);
  for (int k = Uniform(1, 3); k > 0; --k) {
    MixPlan mix{0, Uniform(0, 1), Uniform(0, 2) ? float(Uniform(0, 1 << 20)) / (1 << 20) : 1.0f, {}};
    if (Uniform(0, 1)) {
      mix.cut = {Uniform(0, out.height - 1), Uniform(0, out.width - 1), 0, 0};
      mix.cut.height = Uniform(1, out.height - mix.cut.top);
      mix.cut.width = Uniform(1, out.width - mix.cut.left);
    }
    c->mixes.push_back(mix);
  }
}

float Magnitude(int32_t op, float level, Size out) {
  switch (op) {
    case kShearX:
    case kShearY:
      return 0.3f * level;
    case kTranslateX:
      return 150.0f / 331.0f * float(out.width) * level;
    case kTranslateY:
      return 150.0f / 331.0f * float(out.height) * level;
    case kRotate:
      return 30.0f * level;
    case kBrightness:
    case kColor:
    case kContrast:
    case kSharpness:
      return 0.9f * level;
    case kPosterize:
      return 8.0f - std::round(4.0f * level);
    case kSolarize:
      return 255.0f * (1.0f - level);
    case kHue:
      return 0.5f * level;
    case kGaussianBlur:
      return 0.1f + 4.9f * level;
    default:
      return 0.0f;
  }
}

// ---- The cases

void TestRandomBatches(const MachineOf& machine, int rounds, Kind kind) {
  const bool windows = kind == Kind::kWindows;
  const char* const label[] = {"round ", "window round ", "mixed round "};
  std::vector<Finish> finishes = AllFinishes();
  if (kind == Kind::kMixed) std::erase_if(finishes, [](auto& f) { return f.type() == OutputType::kUint8; });
  for (int round = 0; round < rounds; ++round) {
    const Size out{Uniform(1, 70), Uniform(1, 70)};
    std::vector<Case> cases(Uniform(1, 12));
    for (Case& c : cases) {
      const int most = Uniform(0, windows ? 1 : 20) ? 90 : 600;
      c.image = {Uniform(1, most), Uniform(1, most)};
      c.pixels = Shared(RandomPixels(c.image));
      c.view = RandomView(c.image, out);
      if (Uniform(0, 9) == 0) c.view.crop = {c.image.height - 1, c.image.width - 1, 1, 1};
      if (windows) c.resize_shorter = RandomShorter(c.view.crop, out);
      if (c.resize_shorter > 0 && Uniform(0, 1)) AddCorner(c.resize_shorter, out, &c.view);
      if (kind == Kind::kMixed && Uniform(0, 3)) AddPartner(out, &c);
    }
    const int64_t limit = round % 3 == 0 ? kHopper : round % 3 == 1 ? kNothing : Uniform(8 << 10, 64 << 10);
    Compare(machine(round), cases,
            {out, round % 2 ? Filter::kBilinear : Filter::kBicubic, finishes[round % finishes.size()], limit,
             label[int(kind)] + std::to_string(round)});
  }
}

void TestOperations(const MachineOf& machine) {
  const float magnitude[kNumOpIds] = {0,   .3f,  -.3f, 30.45f, -30.45f, 9, .27f, -.27f,
                                      .9f, .27f, 4,    178.5f, 0,       0, -.1f, 2};
  for (int64_t limit : {kHopper, kAmpere}) {
    std::vector<Case> cases;
    for (int32_t first = 0; first < kWindowTop; ++first) {
      const int32_t second = Uniform(0, kWindowTop - 1), third = Uniform(0, kWindowTop - 1);
      cases.push_back(WholeImage({300, 260}, {{first, magnitude[first]}}));
      cases.push_back(WholeImage({160, 230}, {{second, magnitude[second]},
                                              {first, magnitude[first]},
                                              {third, magnitude[third]},
                                              {kSharpness, -2.0f}}));
    }
    Compare(machine(0), cases,
            {{224, 224},
             Filter::kBilinear,
             Finish(OutputType::kFloat16, limit == kAmpere, kMean, kStd),
             limit,
             "operations"});
  }
}

void TestRanges(const MachineOf& machine, int levels, Size out) {
  for (int32_t op = 0; op < kWindowTop; ++op) {
    std::vector<Case> cases;
    const bool is_signed = (op >= kShearX && op <= kSharpness) || op == kHue;
    for (int level = 0; level < levels; ++level) {
      const float magnitude = Magnitude(op, float(level) / float(std::max(levels - 1, 1)), out);
      for (float sign : {1.0f, -1.0f}) {
        if (sign < 0 && !is_signed) continue;
        cases.push_back(WholeImage({out.height + 7, out.width + 40}, {{op, sign * magnitude}}));
      }
    }
    Compare(machine(op), cases,
            {out, Filter::kBilinear, Finish(OutputType::kUint8, false, {}, {}), kHopper,
             "range of operation " + std::to_string(op)});
  }
}

void TestMixed(const MachineOf& machine) {
  const Size out{224, 224};
  for (int64_t limit : {kHopper, kAmpere}) {
    std::vector<Case> cases;
    for (int i = 0; i < 6; ++i) {
      cases.push_back(WholeImage({300 - 20 * i, 260}, {{kEqualize, 0}}));
      AddPartner(out, &cases.back());
    }
    // The partner's crop decides where the memory of the job must lie.
    cases.push_back(WholeImage({30, 40}, {}));
    AddPartner(out, &cases.back());
    Case large = WholeImage({2400, 2000}, {{kRotate, 9.0f}});
    cases.back().partner_image = large.image;
    cases.back().partner_pixels = std::move(large.pixels);
    cases.back().partner_view = large.view;
    Compare(machine(0), cases,
            {out, Filter::kBicubic,
             Finish(limit == kAmpere ? OutputType::kFloat32 : OutputType::kFloat16, limit == kHopper, kMean,
                    kStd),
             limit, "mixed"});
  }
}

// Sizes at the limits of the layouts: large crops need other memory for weights and rows, large views for
// planes.
void TestSizes(const MachineOf& machine) {
  const Finish finish(OutputType::kUint8, false, {}, {});
  const std::vector<Op> ops = {{kRotate, 33.0f}, {kEqualize, 0}};
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    for (int side : {160, 224, 288, 384}) {
      std::vector<Case> cases;
      for (Size size : {Size{1, 1}, Size{2000, 1999}, Size{2000, 3}, Size{2, 2000}, Size{900, 300},
                        Size{side, 700}, Size{700, side}, Size{side, side}}) {
        cases.push_back(WholeImage(size, ops));
      }
      Compare(machine(0), cases, {{side, side}, filter, finish, kHopper, "side " + std::to_string(side)});
    }
    std::vector<Case> narrow;
    for (Size size : {Size{9000, 2}, Size{9000, 40}, Size{2, 9000}, Size{40, 9000}, Size{1500, 1500}})
      narrow.push_back(WholeImage(size, ops));
    for (int64_t limit : {kHopper, kNothing})
      Compare(machine(2), narrow, {{5, 3}, filter, finish, limit, "narrow"});
  }
}

// Evaluation as it is used: whole images, of which the resized centre is shown.
void TestEvaluation(const MachineOf& machine) {
  const Finish finish(OutputType::kUint8, true, {}, {});
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    for (const auto& [shorter, out] :
         {std::pair{256, Size{224, 224}}, {232, {224, 224}}, {301, {288, 161}}}) {
      std::vector<Case> cases;
      for (Size size : {Size{375, 500}, Size{501, 333}, Size{1600, 1999}, Size{97, 80}, Size{256, 401},
                        Size{400, 232}, Size{2900, 301}, Size{40, 2000}, Size{1, 1}, Size{7, 900},
                        Size{700, 1}, Size{1, 700}, Size{3, 65'500}}) {
        cases.push_back(WholeImage(size, {}));
        cases.back().resize_shorter = shorter;
      }
      for (int64_t limit : {kHopper, kAmpere})
        Compare(machine(0), cases, {out, filter, finish, limit, "evaluation " + std::to_string(shorter)});
    }
  }
}

void TestBatch(const MachineOf& machine, int views, Size out) {
  std::vector<Case> cases;
  for (int i = 0; i < views; ++i) {  // images are shared, as views of one image in a batch may be
    Case c = i < 16 ? WholeImage({300 + 10 * i, 500 - 20 * i}, {}) : cases[i % 16];
    c.view = RandomView(c.image, out);
    cases.push_back(std::move(c));
  }
  int round = 0;
  for (const Finish& finish : AllFinishes())
    Compare(machine(round++), cases,
            {out, Filter::kBilinear, finish, kHopper,
             "a batch of " + std::to_string(views) + " of " + std::to_string(out.height)});
}

}  // namespace dali_dr::image
