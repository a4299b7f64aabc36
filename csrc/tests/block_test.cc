// The GPU's algorithm (image/block/) without a GPU: host threads stand for the threads of a block, and every
// view must equal the CPU path in every byte. test_block runs it under AddressSanitizer with memory of the
// exact size, test_block_threads under ThreadSanitizer, which sees a missing barrier as compute-sanitizer's
// racecheck would. device/device_test runs the same cases on a GPU.
//   test_block [ROUNDS]
#include "image/block/block.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "tests/host_machine.h"
#include "tests/replay_cases.h"

namespace dali_dr::image {
namespace {

// Against the machine's own division: every width that a view may have, numbers around multiples and at the
// end.
void TestDivisor() {
  for (int32_t by = 1; by <= kMaxViewSize; ++by) {
    const Divisor divisor(by);
    const auto check = [&](int64_t n) {
      if (n < 0 || n > INT32_MAX) return;
      int32_t rest;
      const int32_t quotient = divisor.Divide(int32_t(n), &rest);
      CHECK(quotient == n / by && rest == n % by, "%lld / %d is not %d, rest %d", (long long)n, by, quotient,
            rest);
    };
    for (int64_t n : {0, 1, by - 1, by, by + 1, INT32_MAX - 1, INT32_MAX}) check(n);
    const int64_t most = INT32_MAX / by * int64_t{by};
    for (int64_t n : {most - 1, most}) check(n);
    for (int i = 0; i < 20; ++i) {
      const int64_t multiple = int64_t{by} * Uniform(0, INT32_MAX / by);
      for (int64_t n : {multiple - 1, multiple, multiple + Uniform(0, by)}) check(n);
    }
  }
}

}  // namespace
}  // namespace dali_dr::image

int main(int argc, char** argv) {
  using namespace dali_dr::image;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 700;
  // One or two blocks of one to four threads, which take their shares forward or backward.
  std::optional<HostMachine> machine;
  const MachineOf any = [&](int round) -> Machine& {
    return machine.emplace(1 + round % 2, 1 + round % 4, round % 5 > 1);
  };
  const MachineOf two_threads = [&](int) -> Machine& { return machine.emplace(1, 2, false); };
  TestDivisor();
  TestRandomBatches(any, rounds, Kind::kPlain);
  TestRandomBatches(any, rounds * 2 / 3, Kind::kWindows);
  TestRandomBatches(any, rounds / 2, Kind::kMixed);
  TestOperations(two_threads);
  if (argc == 1) {
    TestRanges(two_threads, 7, {45, 67});
    TestSizes(two_threads);
    TestEvaluation(two_threads);
    TestMixed(two_threads);
    TestBatch(any, 3, {224, 224});
    CHECK(seen.mixed[0] > 100 && seen.mixed[1] > 100, "%u mixed in shared, %u in global memory",
          seen.mixed[0], seen.mixed[1]);
    for (int enlarged = 0; enlarged < 2; ++enlarged) {  // rows that become more are never resized first
      const uint32_t* windows = seen.windows[enlarged];
      CHECK(windows[0] > 100 && (enlarged ? windows[1] == 0 : windows[1] > 50),
            "enlarged %d: %u windows, %u vertical first", enlarged, windows[0], windows[1]);
    }
  }
  CHECK(seen.parts[0] > 100 && seen.parts[1] > 100, "%u views in shared, %u in global memory", seen.parts[0],
        seen.parts[1]);
  std::printf("block: %u views in shared memory, %u in global, %d failures\n", seen.parts[0], seen.parts[1],
              failures);
  return failures != 0;
}
