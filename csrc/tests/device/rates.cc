// See rates.h.
#include "tests/device/rates.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <stdexcept>

namespace dali_dr::image {
namespace {

constexpr Size kImage{375, 500};  // ImageNet's median
constexpr int64_t kImageBytes = int64_t{kImage.height} * kImage.width * 3;
constexpr int kRotated = 8;  // different batches in turn, at most
constexpr int kOutputs = 3;  // places for a batch's views in turn
constexpr int kRepeats = 8;  // of an operation in a view, so that its time stands out

std::mt19937 bits(1);
double Random() { return std::uniform_real_distribution<double>(0.0, 1.0)(bits); }
int Between(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(bits); }

Box Place(int height, int width) {
  return {Between(0, kImage.height - height), Between(0, kImage.width - width), height, width};
}

// torchvision's RandomResizedCrop(scale=(0.08, 1), ratio=(3/4, 4/3)) and RandomHorizontalFlip.
View DrawCrop() {
  View view{};
  view.crop = {0, 0, kImage.height, kImage.width};
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = kImage.height * kImage.width * (0.08 + 0.92 * Random());
    const double ratio = std::exp((2.0 * Random() - 1.0) * std::log(4.0 / 3.0));
    const int width = int(std::lround(std::sqrt(area * ratio))),
              height = int(std::lround(std::sqrt(area / ratio)));
    if (width < 1 || width > kImage.width || height < 1 || height > kImage.height) continue;
    view.crop = Place(height, width);
    break;
  }
  view.flip = Random() < 0.5;
  return view;
}

// The same, RandAugment(2, 9) and RandomErasing(0.25), at `out` pixels.
View DrawAugmented(Size out) {
  View view = DrawCrop();
  view.num_ops = 2;
  for (int k = 0; k < 2; ++k) {
    const int op = Between(0, kNumRandAugmentOps - 1);
    const bool negative = op >= kShearX && op <= kSharpness && Random() < 0.5;
    view.ops[k] = {op, (negative ? -1.0f : 1.0f) * Magnitude(op, 0.3f, out)};
  }
  if (Random() < 0.25) {
    const int height = Between(out.height / 10, out.height / 2),
              width = Between(out.width / 10, out.width / 2);
    view.erase = {Between(0, out.height - height), Between(0, out.width - width), height, width};
  }
  return view;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + int64_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

const char* Name(OutputType type) {
  switch (type) {
    case OutputType::kUint8:
      return "uint8";
    case OutputType::kFloat16:
      return "float16";
    case OutputType::kBfloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

Finish FinishOf(const Workload& w) {
  return w.type == OutputType::kUint8 ? Finish(w.type, w.channels_last, {}, {})
                                      : Finish(w.type, w.channels_last, kMean, kStd);
}

int Outputs(Mixing mixing) { return mixing == Mixing::kDouble ? 2 : 1; }

}  // namespace

// One batch of a workload on the machine.
struct Stopwatch::Prepared {
  Prepared(Machine& m, const Workload& w)
      : machine(m),
        finish(FinishOf(w)),
        batch(w.filter, finish, std::min<int64_t>(w.shared_limit, m.limits().shared_bytes)) {}
  ~Prepared() {
    machine.Free(data);
    machine.Free(scratch);
  }

  Machine& machine;
  Finish finish;
  Batch batch;
  uint8_t *pinned = nullptr, *data = nullptr, *scratch = nullptr;
  int64_t crop_bytes = 0;
};

Stopwatch::Stopwatch(Machine& machine, double seconds, bool small)
    : machine_(machine), seconds_(seconds), small_(small) {
  images_ = small ? 8 : std::max(512, int(4 * machine.cache_bytes() / kImageBytes));
  pool_ = machine.Allocate(size_t(images_) * kImageBytes);
  // Waves and a little noise: neighbours are near each other and all levels occur, as in photos.
  constexpr int kDifferent = 8;
  std::vector<uint8_t> image(kImageBytes);
  for (int n = 0; n < std::min(images_, kDifferent); ++n) {
    const double wave[3] = {0.005 + 0.05 * Random(), 0.005 + 0.05 * Random(), 6.0 * Random()};
    for (int64_t i = 0; i < kImageBytes; ++i) {
      const int64_t y = i / 3 / kImage.width, x = i / 3 % kImage.width;
      const double v =
          127 + 110 * std::sin(wave[0] * double(y) + wave[1] * double(x) + wave[2] * double(i % 3));
      image[size_t(i)] = uint8_t(std::clamp(v + double(bits() % 16) - 8.0, 0.0, 255.0));
    }
    for (int copy = n; copy < images_; copy += kDifferent)
      machine.Upload(pool_ + copy * kImageBytes, image.data(), size_t(kImageBytes));
    machine.Wait();
  }
}

Stopwatch::~Stopwatch() { machine_.Free(pool_); }

double Stopwatch::CopyBandwidth() {
  const size_t bytes = small_ ? size_t{1} << 24 : size_t{1} << 30;
  uint8_t* const from = machine_.Allocate(bytes);
  uint8_t* const to = machine_.Allocate(bytes);
  machine_.Fill(from, 1, bytes);
  std::vector<double> seconds;
  for (int i = 0; i < 8; ++i) {
    machine_.Mark(0);
    machine_.Copy(to, from, bytes);
    machine_.Mark(1);
    seconds.push_back(machine_.Seconds(0, 1));
  }
  machine_.Free(from);
  machine_.Free(to);
  return 2.0 * double(bytes) / Median(seconds);
}

std::unique_ptr<Stopwatch::Prepared> Stopwatch::Prepare(const Workload& w, int number, uint8_t* out) {
  auto prepared = std::make_unique<Prepared>(machine_, w);
  std::vector<Plan> plans(size_t(w.batch) * 2);
  std::vector<Task> tasks;
  // A pair's second output differs in who comes first.
  const MixPlan mixes[2] = {{0, 0, 0.7f, {60, 40, 90, 120}}, {0, 1, 0.7f, {60, 40, 90, 120}}};
  const int64_t view_bytes = 3 * int64_t{w.out.height} * w.out.width * prepared->finish.value_bytes();
  for (int i = 0; i < w.batch; ++i) {
    const auto image = [&](int k) {
      return Image{pool_ + int64_t{(number * w.batch + k) % images_} * kImageBytes, kImage};
    };
    const auto plan = [&](Plan* to) {
      const std::string problem = MakePlan(w.draw(), kImage, 0, 0, w.out, w.out, 0, to);
      CHECK(problem.empty(), "%s: %s", w.name.c_str(), problem.c_str());
      prepared->crop_bytes += 3 * int64_t{to->crop.height} * to->crop.width;
      return to;
    };
    tasks.push_back({plan(&plans[size_t(2 * i)]), image(i), out + i * view_bytes * Outputs(w.mixing)});
    if (w.mixing == Mixing::kNone) continue;
    tasks.back().partner_plan = plan(&plans[size_t(2 * i + 1)]);
    tasks.back().partner_image = image(i + w.batch / 2);
    tasks.back().mixes = std::span(mixes, size_t(Outputs(w.mixing)));
  }
  prepared->batch.Assign(w.out, tasks);
  prepared->pinned = machine_.AllocatePinned(prepared->batch.bytes());
  prepared->batch.Write(prepared->pinned);
  prepared->data = machine_.Allocate(prepared->batch.bytes());
  prepared->scratch = machine_.Allocate(size_t(machine_.ScratchBytes(prepared->batch)));
  return prepared;
}

Timing Stopwatch::Time(const Workload& given) {
  Workload w = given;
  if (small_) w.batch = std::min(w.batch, 2);
  const int views = w.batch * Outputs(w.mixing), rotated = small_ ? 2 : kRotated;
  const int64_t out_bytes = 3 * int64_t{w.out.height} * w.out.width * FinishOf(w).value_bytes() * views;
  uint8_t* const out = machine_.Allocate(size_t(out_bytes * kOutputs));
  std::vector<std::unique_ptr<Prepared>> batches;
  int64_t crop_bytes = 0;
  for (int n = 0; n < rotated; ++n) {
    batches.push_back(Prepare(w, n, out + n % kOutputs * out_bytes));
    crop_bytes += batches.back()->crop_bytes;
  }
  const auto run = [&](int n) {  // as the operator does it
    Prepared& p = *batches[size_t(n % rotated)];
    machine_.Upload(p.data, p.pinned, p.batch.bytes());
    machine_.Mark(2 * n);
    machine_.Launch(p.batch, p.data, p.scratch);
    machine_.Mark(2 * n + 1);
  };
  const int warm_up = small_ ? 1 : 5;
  for (int n = 0; n < warm_up; ++n) run(n);
  const double once = machine_.Seconds(2 * (warm_up - 1), 2 * (warm_up - 1) + 1);
  const int count = small_ ? 1 : int(std::clamp(seconds_ / std::max(once, 1e-6), 8.0, kMarks / 2.0 - 1));
  for (int n = 0; n < count; ++n) run(n);
  std::vector<double> kernels;
  for (int n = 0; n < count; ++n) kernels.push_back(machine_.Seconds(2 * n, 2 * n + 1));
  const Timing timing{Median(kernels), machine_.Seconds(0, 2 * count - 1) / count,
                      double(crop_bytes) / rotated / views + double(out_bytes) / views, w.batch, views};
  machine_.Free(out);
  return timing;
}

// ---- Tables

void ReportRates(Stopwatch& stopwatch, double copy_bandwidth, bool small, const std::string& only,
                 const TimeLeft& time_left, Report* report) {
  std::vector<Workload> workloads;
  const auto augmented = [](Size out) { return [out] { return DrawAugmented(out); }; };
  const auto add = [&](const std::string& name, std::function<View()> draw) -> Workload& {
    return workloads.emplace_back(Workload{name, std::move(draw)});
  };
  // The batches of what counts most come first.
  for (int batch : {256, 64, 512, 1}) add("rrc+ra+re", augmented({224, 224})).batch = batch;
  add("rrc", DrawCrop);
  add("rrc+ra+re mixed", augmented({224, 224})).mixing = Mixing::kPartner;
  add("rrc+ra+re double-mix", augmented({224, 224})).mixing = Mixing::kDouble;
  for (int side : {160, 288, 384}) add("rrc+ra+re", augmented({side, side})).out = {side, side};
  for (const char* name : {"rrc+ra+re", "rrc"}) {
    const bool plain = std::string(name) == "rrc";
    for (OutputType type :
         {OutputType::kFloat16, OutputType::kBfloat16, OutputType::kFloat32, OutputType::kUint8}) {
      for (bool last : {false, true}) {
        if (type == OutputType::kFloat16 && !last) continue;  // is above
        Workload& w = add(name, plain ? std::function<View()>(DrawCrop) : augmented({224, 224}));
        w.type = type;
        w.channels_last = last;
      }
    }
    add(name, plain ? std::function<View()>(DrawCrop) : augmented({224, 224})).filter = Filter::kBicubic;
  }
  add("rrc+ra+re planes in global memory", augmented({224, 224})).shared_limit = kNothing;
  bool found = false;
  for (Workload& w : workloads) {
    if (!time_left()) return;
    if (small && w.out.height > 224) continue;
    std::string name = w.name + " " + std::to_string(w.out.height) + " " + Name(w.type) +
                       (w.channels_last ? " HWC" : " CHW") + (w.filter == Filter::kBicubic ? " bicubic" : "");
    if (name.find(only) == std::string::npos) continue;
    found = true;
    const Timing t = stopwatch.Time(w);
    const double rate = t.views / t.kernel_seconds;
    report->Add(Row()
                    .Add("name", name)
                    .Add("batch", t.batch)
                    .Add("kernel_views_per_s", rate)
                    .Add("with_copy_views_per_s", t.views / t.batch_seconds)
                    .Add("kernel_us", 1e6 * t.kernel_seconds, 1)
                    .Add("bytes_per_view", t.bytes_per_view)
                    .Add("gb_per_s", rate * t.bytes_per_view / 1e9, 1)
                    .Add("share_of_copy", rate * t.bytes_per_view / copy_bandwidth, 4));
  }
  if (!found) throw std::runtime_error("no row's name contains \"" + only + "\"");
}

constexpr const char* kOperationNames[kWindowTop] = {
    "Identity",     "ShearX",   "ShearY",   "TranslateX",  "TranslateY", "Rotate",
    "Brightness",   "Color",    "Contrast", "Sharpness",   "Posterize",  "Solarize",
    "AutoContrast", "Equalize", "Hue",      "GaussianBlur"};

void ReportParts(Stopwatch& stopwatch, int multiprocessors, bool small, const TimeLeft& time_left,
                 Report* report) {
  // As many views for every block, so that the time of a batch is that of four views in one block.
  const int per_block = 4, views = per_block * multiprocessors;
  const auto block_us = [&](const Workload& w) { return 1e6 * stopwatch.Time(w).kernel_seconds / per_block; };
  const auto crop = [](int height, int width, std::vector<Op> ops = {}) {
    return [=] {
      View view{};
      view.crop = Place(height, width);
      view.num_ops = int32_t(ops.size());
      std::copy(ops.begin(), ops.end(), view.ops);
      return view;
    };
  };
  const auto workload = [&](std::function<View()> draw) {
    Workload w{"part", std::move(draw)};
    w.batch = small ? 2 : views;
    w.type = OutputType::kUint8;
    return w;
  };
  if (!time_left()) return;
  // A crop of the view's size, written as uint8: all that is below is what it costs beyond that.
  const double base = block_us(workload(crop(224, 224)));
  const auto add = [&](const std::string& name, const Workload& w, int times = 1) {
    if (!time_left()) return;
    const double us = block_us(w);
    report->Add(Row()
                    .Add("name", name)
                    .Add("us_in_a_block", (us - base) / times, 2)
                    .Add("batch_us", us * per_block, 1));
  };
  report->Add(Row()
                  .Add("name", "crop of 224x224, uint8 out")
                  .Add("us_in_a_block", base, 2)
                  .Add("batch_us", base * per_block, 1));
  add("resize horizontal first, 290x290", workload(crop(290, 290)));
  add("resize vertical first, 330x240", workload(crop(330, 240)));
  add("resize horizontal only, 224x290", workload(crop(224, 290)));
  add("resize vertical only, 290x224", workload(crop(290, 224)));
  add("resize enlarging, 112x112", workload(crop(112, 112)));
  add("resize of all, 375x500", workload(crop(375, 500)));
  Workload w = workload(crop(290, 290));
  w.filter = Filter::kBicubic;
  add("resize bicubic, 290x290", w);
  for (int32_t op = 0; op < kWindowTop; ++op) {
    std::vector<Op> ops;  // of both signs in turn, so that the view does not move out of sight
    for (int k = 0; k < kRepeats; ++k) {
      const float sign = ((op >= kShearX && op <= kSharpness) || op == kHue) && k % 2 ? -1.0f : 1.0f;
      ops.push_back({op, sign * Magnitude(op, 0.3f, {224, 224})});
    }
    add(kOperationNames[op], workload(crop(224, 224, ops)), kRepeats);
  }
  // Several operations whose tables a later one must apply.
  add("Sharpness after a table", workload(crop(224, 224, {{kSolarize, 178.5f}, {kSharpness, 0.27f}})));
  w = workload([] {
    View view{};
    view.crop = Place(224, 224);
    view.erase = {40, 50, 112, 112};
    return view;
  });
  add("erase of a quarter", w);
  for (OutputType type :
       {OutputType::kUint8, OutputType::kFloat16, OutputType::kBfloat16, OutputType::kFloat32}) {
    for (bool last : {false, true}) {
      if (type == OutputType::kUint8 && !last) continue;  // the base
      w = workload(crop(224, 224));
      w.type = type;
      w.channels_last = last;
      add(std::string("output ") + Name(type) + (last ? " HWC" : " CHW"), w);
    }
  }
  for (Mixing mixing : {Mixing::kPartner, Mixing::kDouble}) {
    w = workload(crop(224, 224));
    w.type = OutputType::kFloat16;
    w.mixing = mixing;
    add(mixing == Mixing::kPartner ? "a partner, float16" : "a pair of mixed views, float16", w);
  }
  w = workload(crop(290, 290));
  w.shared_limit = kNothing;
  add("resize horizontal first, global", w);
}

}  // namespace dali_dr::image
