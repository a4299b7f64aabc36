// The GPU's algorithm (image/block.h) without a GPU: host threads stand for the threads of a block, and every
// view must equal the CPU path in every byte. test_block runs it under AddressSanitizer with memory of the
// exact size, test_block_threads under ThreadSanitizer, which sees a missing barrier as compute-sanitizer's
// racecheck would.
//   test_block [ROUNDS]
#include "image/block.h"

#include <atomic>
#include <barrier>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "image/batch.h"
#include "image/plan.h"
#include "image/replay.h"
#include "tests/random_view.h"

namespace dali_dr::image {
namespace {

// One thread of an emulated block. `backward` runs a thread's share from its end, to show what depends on
// order.
class HostBlock {
 public:
  HostBlock(int thread, int threads, bool backward, std::barrier<>* barrier)
      : thread_(thread), threads_(threads), backward_(backward), barrier_(barrier) {}

  template <typename F>
  void ForEach(int32_t n, F f) {
    if (backward_) {
      const int32_t last = thread_ + (n - 1 - thread_) / threads_ * threads_;
      if (thread_ < n) {
        for (int32_t i = last; i >= 0; i -= threads_) f(i);
      }
    } else {
      for (int32_t i = thread_; i < n; i += threads_) f(i);
    }
  }
  void Sync() { barrier_->arrive_and_wait(); }
  bool Leader() const { return thread_ == 0; }
  int32_t Replica() const { return thread_; }
  void Count(uint32_t* p, uint32_t n) { std::atomic_ref(*p).fetch_add(n, std::memory_order_relaxed); }
  void Lower(int32_t* p, int32_t v) {
    int32_t old = std::atomic_ref(*p).load(std::memory_order_relaxed);
    while (v < old && !std::atomic_ref(*p).compare_exchange_weak(old, v, std::memory_order_relaxed)) {
    }
  }
  void Raise(int32_t* p, int32_t v) {
    int32_t old = std::atomic_ref(*p).load(std::memory_order_relaxed);
    while (v > old && !std::atomic_ref(*p).compare_exchange_weak(old, v, std::memory_order_relaxed)) {
    }
  }
  void Sum(uint64_t* p, uint32_t n) { std::atomic_ref(*p).fetch_add(n, std::memory_order_relaxed); }
  uint32_t Take(uint32_t* p) { return std::atomic_ref(*p).fetch_add(1, std::memory_order_relaxed); }

 private:
  int thread_, threads_;
  bool backward_;
  std::barrier<>* barrier_;
};

using Bytes = std::unique_ptr<uint8_t[]>;

Bytes Garbage(size_t n) {  // as shared memory is at the start
  Bytes bytes(new uint8_t[n]);
  std::memset(bytes.get(), 0xa5, n);
  return bytes;
}

// Runs a batch as Launch() of device.h does: `blocks` blocks of `threads` threads for each part.
void Emulate(const Batch& batch, int blocks, int threads, bool backward) {
  const Bytes data = Garbage(batch.bytes());
  batch.Write(data.get());
  for (int part = 0; part < 2; ++part) {
    if (batch.num_jobs(part) == 0) continue;
    const BlockBatch argument = batch.Argument(part, data.get());
    std::vector<Bytes> memory;
    std::vector<std::unique_ptr<std::barrier<>>> barriers;
    std::vector<std::thread> running;
    for (int b = 0; b < blocks; ++b) {
      uint8_t* const shared = memory.emplace_back(Garbage(batch.shared_bytes(part))).get();
      uint8_t* const slot = memory.emplace_back(Garbage(batch.slot_bytes(part))).get();
      std::barrier<>* barrier = barriers.emplace_back(std::make_unique<std::barrier<>>(threads)).get();
      for (int t = 0; t < threads; ++t) {
        running.emplace_back([=, &argument] {
          HostBlock block(t, threads, backward, barrier);
          const BlockLayout& layout = argument.layout;
          BlockReplay<HostBlock>(
              block, argument,
              part == 0 ? DivideShared(layout, shared, slot) : DivideGlobal(layout, shared, slot))
              .Run();
        });
      }
    }
    for (auto& thread : running) thread.join();
  }
}

struct Case {
  View view{};
  Size image{};
  std::unique_ptr<uint8_t[]> pixels;
  int32_t resize_shorter = 0;
  // Where there are ways to mix: the other view, of the same image or of another.
  std::vector<MixPlan> mixes;
  View partner_view{};
  Size partner_image{};
  std::unique_ptr<uint8_t[]> partner_pixels;

  Image image_of() const { return {pixels.get(), image}; }
  Image partner_of() const {
    return partner_pixels ? Image{partner_pixels.get(), partner_image} : image_of();
  }
};

uint32_t parts_seen[2], mixed_seen[2];
uint32_t windows_seen[2][2];  // views that are a part of the resized crop: [enlarged][vertical first]

// Replays the cases both ways and compares.
void Compare(const std::vector<Case>& cases, Size out, Filter filter, const Finish& finish,
             int64_t shared_limit, int blocks, int threads, bool backward, const std::string& label) {
  const size_t bytes = size_t(out.height) * out.width * 3 * finish.value_bytes();
  std::vector<Plan> plans(cases.size()), partners(cases.size());
  std::vector<Task> tasks;
  std::vector<std::unique_ptr<uint8_t[]>> got;
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string problem =
        MakePlan(cases[i].view, cases[i].image, 0, 0, out, out, cases[i].resize_shorter, &plans[i]);
    CHECK(problem.empty(), "%s", problem.c_str());
    const Plan& plan = plans[i];
    if (plan.window_top > 0 || plan.window_left > 0) {
      const Passes passes = MakePasses(plan.crop.height, plan.crop.width, plan.resized);
      ++windows_seen[plan.resized.height > plan.crop.height][passes.horizontal && passes.vertical_first];
    }
    const auto& mixes = cases[i].mixes;
    got.push_back(Garbage(bytes * std::max<size_t>(mixes.size(), 1)));
    tasks.push_back({&plans[i], cases[i].image_of(), got.back().get()});
    if (mixes.empty()) continue;
    const Image other = cases[i].partner_of();
    const std::string refusal = MakePlan(cases[i].partner_view, other.size, 0, 0, out, out, 0, &partners[i]);
    CHECK(refusal.empty(), "%s", refusal.c_str());
    tasks.back().partner_plan = &partners[i];
    tasks.back().partner_image = other;
    tasks.back().mixes = mixes;
  }
  Batch batch(filter, finish, shared_limit);
  batch.Assign(out, tasks);
  CHECK(batch.num_jobs(0) + batch.num_jobs(1) == cases.size(), "%s: jobs lost", label.c_str());
  for (int part = 0; part < 2; ++part) parts_seen[part] += batch.num_jobs(part);
  if (batch.num_jobs(0) == 0 || batch.num_jobs(1) == 0) {
    for (const Case& c : cases) mixed_seen[batch.num_jobs(0) == 0] += uint32_t(c.mixes.size());
  }
  CHECK(batch.num_jobs(0) == 0 || batch.shared_bytes(0) <= shared_limit, "%s: too much shared memory",
        label.c_str());
  CHECK(batch.shared_bytes(1) <= 48 << 10, "%s: more than every chip has", label.c_str());
  Emulate(batch, blocks, threads, backward);
  static Scratch scratch, other;
  for (size_t i = 0; i < cases.size(); ++i) {
    const auto& mixes = cases[i].mixes;
    const size_t length = bytes * std::max<size_t>(mixes.size(), 1);
    const auto want = Garbage(length);
    if (mixes.empty()) {
      Replay(plans[i], cases[i].image_of(), filter, finish, &scratch, want.get());
    } else {
      const auto show = [&](const Plan& plan, const Image& image, Scratch* to) {
        to->CropResizeFlip(plan, image, filter);
        to->ApplySteps(plan);
        to->Erase(plan);
      };
      show(plans[i], cases[i].image_of(), &scratch);
      show(partners[i], cases[i].partner_of(), &other);
      for (size_t k = 0; k < mixes.size(); ++k)
        scratch.WriteMixed(other, mixes[k], out, finish, want.get() + k * bytes);
    }
    size_t wrong = 0;
    for (size_t k = 0; k < length; ++k) wrong += got[i][k] != want[k];
    const Box& crop = cases[i].view.crop;
    CHECK(wrong == 0,
          "%s, case %zu: %zu of %zu bytes differ: %dx%d of %dx%d -> %dx%d of shorter %d, %d steps, first %d",
          label.c_str(), i, wrong, bytes, crop.height, crop.width, cases[i].image.height,
          cases[i].image.width, out.height, out.width, cases[i].resize_shorter, plans[i].num_steps,
          plans[i].num_steps ? int(plans[i].steps[0].kind) : -1);
  }
}

constexpr int64_t kHopper = 227 << 10, kAmpere = 163 << 10, kNothing = 0;

Case WholeImage(Size size, std::vector<Op> ops) {
  Case c;
  c.image = size;
  c.pixels = RandomPixels(size);
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

// Ways to mix a view with a partner's, in one of four cases with itself; MixUp, CutMix, both or neither.
void AddPartner(Size out, Case* c) {
  if (Uniform(0, 3)) {
    c->partner_image = {Uniform(1, 90), Uniform(1, 90)};
    c->partner_pixels = RandomPixels(c->partner_image);
  }
  c->partner_view = RandomView(c->partner_of().size, out);
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

enum class Kind { kPlain, kWindows, kMixed };

// kWindows: of views that are a part of the resized crop, as in evaluation. kMixed: three of four are mixed.
void TestRandomBatches(int rounds, Kind kind) {
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
      c.pixels = RandomPixels(c.image);
      c.view = RandomView(c.image, out);
      if (Uniform(0, 9) == 0) c.view.crop = {c.image.height - 1, c.image.width - 1, 1, 1};
      if (windows) c.resize_shorter = RandomShorter(c.view.crop, out);
      if (kind == Kind::kMixed && Uniform(0, 3)) AddPartner(out, &c);
    }
    const int64_t limit = round % 3 == 0 ? kHopper : round % 3 == 1 ? kNothing : Uniform(8 << 10, 64 << 10);
    Compare(cases, out, round % 2 ? Filter::kBilinear : Filter::kBicubic, finishes[round % finishes.size()],
            limit, 1 + round % 2, 1 + round % 4, round % 5 > 1, label[int(kind)] + std::to_string(round));
  }
}

// Every operation and pairs of them at the size that counts, on both chips' paths.
void TestOperations() {
  const Size out{224, 224};
  const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
  const float magnitude[kNumOpIds] = {0,     .3f, -.3f, 30.45f, -30.45f, 9, .27f,
                                      -.27f, .9f, .27f, 4,      178.5f,  0, 0};
  for (int64_t limit : {kHopper, kAmpere}) {
    std::vector<Case> cases;
    for (int32_t first = 0; first < kNumOpIds; ++first) {
      const int32_t second = Uniform(0, kNumOpIds - 1), third = Uniform(0, kNumOpIds - 1);
      cases.push_back(WholeImage({300, 260}, {{first, magnitude[first]}}));
      cases.push_back(WholeImage({160, 230}, {{second, magnitude[second]},
                                              {first, magnitude[first]},
                                              {third, magnitude[third]},
                                              {kSharpness, -2.0f}}));
    }
    const Finish finish(OutputType::kFloat16, limit == kAmpere, mean, std);
    Compare(cases, out, Filter::kBilinear, finish, limit, 1, 2, false, "operations");
  }
}

// Mixed views at the size that counts, on both chips' paths.
void TestMixed() {
  const Size out{224, 224};
  const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
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
    Compare(
        cases, out, Filter::kBicubic,
        Finish(limit == kAmpere ? OutputType::kFloat32 : OutputType::kFloat16, limit == kHopper, mean, std),
        limit, 1, 2, false, "mixed");
  }
}

// Sizes at the limits of the layouts: large crops need other memory for weights and rows, large views for
// planes.
void TestSizes() {
  const Finish finish(OutputType::kUint8, false, {}, {});
  const std::vector<Op> ops = {{kRotate, 33.0f}, {kEqualize, 0}};
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    for (int side : {160, 224, 288, 384}) {
      std::vector<Case> cases;
      for (Size size : {Size{1, 1}, Size{2000, 1999}, Size{2000, 3}, Size{2, 2000}, Size{900, 300},
                        Size{side, 700}, Size{700, side}, Size{side, side}}) {
        cases.push_back(WholeImage(size, ops));
      }
      Compare(cases, {side, side}, filter, finish, kHopper, 1, 2, false, "side " + std::to_string(side));
    }
    std::vector<Case> narrow;
    for (Size size : {Size{9000, 2}, Size{9000, 40}, Size{2, 9000}, Size{40, 9000}, Size{1500, 1500}})
      narrow.push_back(WholeImage(size, ops));
    for (int64_t limit : {kHopper, kNothing})
      Compare(narrow, {5, 3}, filter, finish, limit, 1, 3, true, "narrow");
  }
}

// Evaluation as it is used: whole images, of which the resized centre is shown.
void TestEvaluation() {
  const Finish finish(OutputType::kUint8, true, {}, {});
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    for (const auto& [shorter, out] :
         {std::pair{256, Size{224, 224}}, {232, {224, 224}}, {301, {288, 161}}}) {
      std::vector<Case> cases;
      for (Size size : {Size{375, 500}, Size{501, 333}, Size{1600, 1999}, Size{97, 80}, Size{256, 401},
                        Size{400, 232}, Size{2900, 301}, Size{40, 2000}, Size{1, 1}, Size{7, 900}}) {
        cases.push_back(WholeImage(size, {}));
        cases.back().resize_shorter = shorter;
      }
      for (int64_t limit : {kHopper, kAmpere})
        Compare(cases, out, filter, finish, limit, 1, 2, false, "evaluation " + std::to_string(shorter));
    }
  }
}

}  // namespace
}  // namespace dali_dr::image

int main(int argc, char** argv) {
  using namespace dali_dr::image;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 700;
  TestRandomBatches(rounds, Kind::kPlain);
  TestRandomBatches(rounds / 2, Kind::kWindows);
  TestRandomBatches(rounds / 2, Kind::kMixed);
  TestOperations();
  if (argc == 1) {
    TestSizes();
    TestEvaluation();
    TestMixed();
    CHECK(mixed_seen[0] > 100 && mixed_seen[1] > 100, "%u mixed in shared, %u in global memory",
          mixed_seen[0], mixed_seen[1]);
    for (int enlarged = 0; enlarged < 2; ++enlarged) {  // rows that become more are never resized first
      const uint32_t* seen = windows_seen[enlarged];
      CHECK(seen[0] > 100 && (enlarged ? seen[1] == 0 : seen[1] > 50),
            "enlarged %d: %u windows, %u vertical first", enlarged, seen[0], seen[1]);
    }
  }
  CHECK(parts_seen[0] > 100 && parts_seen[1] > 100, "%u views in shared, %u in global memory", parts_seen[0],
        parts_seen[1]);
  std::printf("block: %u views in shared memory, %u in global, %d failures\n", parts_seen[0], parts_seen[1],
              failures);
  return failures != 0;
}
