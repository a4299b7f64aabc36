// Any words of views, images and sizes: refused, or replayed and mixed inside all buffers, by the AVX2
// kernels in the very bytes of the portable ones, and in those of the slow reference of tests/reference.h.
#include <memory>

#include "fuzz/replay_case.h"
#include "fuzz/replay_reference.h"
#include "image/batch.h"

using namespace dali_dr;
using namespace dali_dr::fuzz;

namespace {

struct Pixels {
  std::unique_ptr<uint8_t[]> bytes;  // of the exact size, so that an overrun is seen
  image::Image image;
};

/// Noise, few values, extremes or a narrow range.
Pixels Fill(image::Size size, uint16_t how) {
  const size_t count = size_t(size.height) * size.width * 3;
  Pixels pixels{std::unique_ptr<uint8_t[]>(new uint8_t[count]), {}};
  uint32_t state = how | 1;
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525 + 1013904223;
    const uint32_t value = state >> 24;
    pixels.bytes[i] = uint8_t(how % 4 == 0   ? value
                              : how % 4 == 1 ? value % 2 * 201
                              : how % 4 == 2 ? value % 2 * 255
                                             : how / 4 % 248 + value % 8);
  }
  pixels.image = {pixels.bytes.get(), size};
  return pixels;
}

using Output = std::vector<uint8_t>;

/// Made once, because its tables take longer than a view.
const image::Finish& FinishOf(const ReplayCase& c, image::OutputType type) {
  static std::optional<image::Finish> made[4][2][2];
  const bool normalise = c.normalise && type != image::OutputType::kUint8;
  auto& finish = made[static_cast<int>(type)][c.channels_last][normalise];
  using Three = std::span<const float>;
  if (!finish)
    finish.emplace(type, c.channels_last, normalise ? Three(kMean) : Three(),
                   normalise ? Three(kStd) : Three());
  return *finish;
}

Output Room(const ReplayCase& c, const image::Finish& finish) {
  return Output(size_t(c.shown.out.height) * c.shown.out.width * 3 * size_t(finish.value_bytes()));
}

/// View k of the case, as `type`, by these kernels.
Output ReplayPlain(const ReplayCase& c, const image::Plan& plan, const image::Image& image,
                   const image::Kernels& kernels, image::OutputType type) {
  const image::Finish& finish = FinishOf(c, type);
  Output out = Room(c, finish);
  image::Scratch scratch(kernels);
  image::Replay(plan, image, c.filter, finish, &scratch, out.data());
  return out;
}

Output ReplayMixed(const ReplayCase& c, const image::Plan plans[2], const image::Image images[2],
                   const image::MixPlan& mix, const image::Kernels& kernels, image::OutputType type) {
  const image::Finish& finish = FinishOf(c, type);
  Output out = Room(c, finish);
  image::Scratch scratch[2] = {image::Scratch(kernels), image::Scratch(kernels)};
  for (int i = 0; i < 2; ++i) {
    scratch[i].CropResizeFlip(plans[i], images[i], c.filter);
    scratch[i].ApplySteps(plans[i]);
    scratch[i].Erase(plans[i]);
  }
  scratch[0].WriteMixed(scratch[1], mix, c.shown.out, finish, out.data());
  return out;
}

/// By both sets of kernels, which must agree.
template <typename Make>
Output Both(const Make& make) {
  Output portable = make(image::kPortableKernels);
  if (const image::Kernels* fast = image::Avx2Kernels())
    Require(make(*fast) == portable, "the AVX2 kernels give the bytes of the portable ones");
  return portable;
}

/// What the GPU's blocks are told: written inside its bytes, whatever the shared memory.
void PlanBatch(const ReplayCase& c, const image::ViewPlans& plans, const image::Image images[2]) {
  const image::Finish& finish = FinishOf(c, c.type);
  image::Batch batch(c.filter, finish, int64_t{c.shared} << 10);
  std::vector<image::Task> tasks;
  for (int64_t k = 0; k < plans.first(1); ++k) {
    image::Task task{&plans.plan(k), images[0], nullptr};
    if (plans.IsMixed(k) && plans.mixes(k).empty()) continue;
    if (plans.IsMixed(k)) {
      task.partner_plan = &plans.partner_plan(k);
      task.partner_image = images[plans.IsSelf(k) ? 0 : 1];
      task.mixes = plans.mixes(k);
    }
    tasks.push_back(task);
  }
  batch.Assign(c.shown.out, tasks);
  Require(batch.num_jobs(0) + batch.num_jobs(1) == tasks.size(), "a job for every view");
  Output bytes(batch.bytes());
  batch.Write(bytes.data());
  for (int part : {0, 1}) Require(batch.slot_bytes(part) >= 0 && batch.shared_bytes(part) >= 0, "sizes");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, size});
  ReplayCase c = TakeCase(&input);
  const std::vector<int32_t> words = TakeWords(&input, c);
  if (!c.shown.Resolve().empty()) return 0;
  image::ViewPlans plans;
  plans.Begin(c.shown, c.mixing);
  int64_t wrong = 0;
  if (!plans.Add(words, c.views, c.image, c.partner, &wrong).empty()) return 0;

  const Pixels pixels[2] = {Fill(c.image.size, c.pixels), Fill(c.partner.size, c.partner_pixels)};
  const image::Image images[2] = {pixels[0].image, pixels[1].image};
  PlanBatch(c, plans, images);
  int64_t last = 0;  // the last view with plans of its own
  for (int64_t k = 0; k < c.views; ++k) {
    const std::span<const int32_t> view = std::span(words).subspan(size_t(k) * c.words(), c.words());
    if (!plans.IsMixed(k)) {
      for (const image::OutputType type : {c.type, image::OutputType::kUint8}) {
        const Output got = Both([&](const image::Kernels& kernels) {
          return ReplayPlain(c, plans.plan(k), images[0], kernels, type);
        });
        if (type == image::OutputType::kUint8) RequireReference(c, view, images[0], got);
      }
      continue;
    }
    if (!plans.mixes(k).empty()) last = k;
    const int other = plans.IsSelf(k) ? 0 : 1;
    const image::Plan both[2] = {plans.plan(k), plans.partner_plan(k)};
    const image::Image shown[2] = {images[0], images[other]};
    const image::MixPlan mix = plans.mixes(last)[size_t(k - last)];
    for (const image::OutputType type : {c.type, image::OutputType::kFloat32}) {
      if (type == image::OutputType::kUint8) continue;
      const Output got = Both(
          [&](const image::Kernels& kernels) { return ReplayMixed(c, both, shown, mix, kernels, type); });
      if (type == image::OutputType::kFloat32) RequireMixedReference(c, view, shown, got);
    }
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, most);
  std::minstd_rand random(seed);
  if (random() % 4 == 0) return size;  // what is refused stays in view
  Input input({data, size});
  ReplayCase c = TakeCase(&input);
  const size_t head = size - input.rest().size();
  std::vector<int32_t> words = TakeWords(&input, c);
  if (!c.shown.Resolve().empty() || head + words.size() * sizeof(int32_t) > most) return size;
  Mender mender(&random, c.shown.resize_shorter > 0);
  const size_t plain = ViewWords(c.ops);
  for (int k = 0; k < c.views; ++k) {
    const auto view = std::span(words).subspan(size_t(k) * c.words(), c.words());
    if (!c.mixing) {
      mender.View(view, c.image, c.shown.stored);
      continue;
    }
    if (k > 0 && random() % 2) std::copy_n(words.begin(), c.words(), view.begin());  // as a double-mix pair
    if (k > 0) view[plain] = words[plain];                                           // one partner
    mender.Mix(view.subspan(plain, kMixWords), c.shown.stored);
    mender.View(view.first(plain), c.image, c.shown.stored);
    mender.View(view.last(plain), view[plain] == kSelfPartner ? c.image : c.partner, c.shown.stored);
  }
  std::memcpy(data + head, words.data(), words.size() * sizeof(int32_t));
  return std::max(size, head + words.size() * sizeof(int32_t));
}
