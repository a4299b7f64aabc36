// Views to replay and what they must become: the cases of the block algorithm's tests, on whatever machine.
// The CPU path (image/replay.h), which tests/test_replay.py compares with Pillow, says what is right.
#ifndef DALI_DR_CSRC_TESTS_REPLAY_CASES_H_
#define DALI_DR_CSRC_TESTS_REPLAY_CASES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "image/batch.h"
#include "image/plan.h"
#include "image/replay.h"
#include "tests/machine.h"
#include "tests/random_view.h"

namespace dali_dr::image {

// One view of one image; where there are ways to mix, with the other view, of the same image or of another.
struct Case {
  View view{};
  Size image{};
  std::shared_ptr<uint8_t[]> pixels;
  int32_t resize_shorter = 0;
  std::vector<MixPlan> mixes;
  View partner_view{};
  Size partner_image{};
  std::shared_ptr<uint8_t[]> partner_pixels;  // none: the same image

  size_t outputs() const { return mixes.empty() ? 1 : mixes.size(); }
};

// What is common to the views of a batch.
struct Setting {
  Size out;
  Filter filter;
  Finish finish;
  int64_t shared_limit;  // bytes of shared memory that a block may have, at most those of the machine
  std::string label;     // for messages

  size_t view_bytes() const { return size_t(out.height) * out.width * 3 * finish.value_bytes(); }
};

// Shared memory of a block: of compute capability 9.0, of 8.0, and none, so that all lies in global memory.
constexpr int64_t kHopper = 227 << 10, kAmpere = 163 << 10, kNothing = 0;

constexpr float kMean[3] = {0.485f, 0.456f, 0.406f}, kStd[3] = {0.229f, 0.224f, 0.225f};

// A batch brought to a machine, to be run there any number of times. Outputs begin at odd places.
class Loaded {
 public:
  // The cases must live as long as this.
  Loaded(Machine& machine, const std::vector<Case>& cases, const Setting& setting);
  ~Loaded();
  Loaded(const Loaded&) = delete;

  void Launch(int stream = 0);
  // The outputs of each case, one behind the other; checks that nothing was written beside them.
  std::vector<std::vector<uint8_t>> Download(int stream = 0);
  void Poison(uint8_t value, int stream = 0);  // all outputs and what lies beside them
  const std::vector<Plan>& plans() const { return plans_; }
  const Batch& batch() const { return batch_; }

 private:
  struct Output {
    uint8_t* memory;
    size_t bytes, begin, length;  // the views' place in the memory
  };
  uint8_t* Bring(const uint8_t* from, size_t bytes);

  Machine& machine_;
  const Setting& setting_;
  std::vector<Plan> plans_, partners_;
  std::vector<uint8_t*> images_;
  std::vector<Output> outputs_;
  uint8_t poison_ = 0;
  Batch batch_;
  std::vector<uint8_t> host_;
};

// What the CPU path makes of a case.
std::vector<uint8_t> Expected(const Case& c, const Setting& setting);

// Runs the cases and counts as failures (random_view.h) those of which a byte differs.
void Compare(Machine& machine, const std::vector<Case>& cases, const Setting& setting);

// What Compare() has seen, so that a test can tell that it tested what it was meant to.
struct Seen {
  uint32_t views, parts[2], mixed[2];  // in shared, in global memory
  uint32_t windows[2][2];              // parts of a resized crop: [enlarged][vertical first]
};
inline Seen seen{};

// ---- The cases. `machine(round)` gives the machine for a batch.

using MachineOf = std::function<Machine&(int round)>;

enum class Kind { kPlain, kWindows, kMixed };
// kWindows: of views that are a part of the resized crop, as in evaluation. kMixed: three of four are mixed.
void TestRandomBatches(const MachineOf& machine, int rounds, Kind kind);
void TestOperations(const MachineOf& machine);  // each, and chains of four, at 224 pixels
// Each at `levels` magnitudes of torchvision's range (blurs: 0.1 to 5), of both signs.
void TestRanges(const MachineOf& machine, int levels, Size out);
void TestMixed(const MachineOf& machine);
void TestSizes(const MachineOf& machine);
void TestEvaluation(const MachineOf& machine);
// So many views in one batch, with every type and layout.
void TestBatch(const MachineOf& machine, int views, Size out);

// ---- Makers

std::shared_ptr<uint8_t[]> Shared(std::unique_ptr<uint8_t[]> pixels);
Case WholeImage(Size size, std::vector<Op> ops);
// Ways to mix a view with a partner's, in one of four cases with itself; MixUp, CutMix, both or neither.
void AddPartner(Size out, Case* c);
// torchvision's RandAugment magnitude of an operation at a level 0 … 1 of its range; hue factors up to 0.5,
// radii of blurs 0.1 to 5.
float Magnitude(int32_t op, float level, Size out);

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_REPLAY_CASES_H_
