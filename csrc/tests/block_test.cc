// The GPU's algorithm (image/block.h) without a GPU: host threads stand for the threads of a block, and every
// view must equal the CPU path in every byte. test_block runs it under AddressSanitizer with memory of the
// exact size, test_block_threads under ThreadSanitizer, which sees a missing barrier as compute-sanitizer's
// racecheck would. device/device_test runs the same cases on a GPU.
//   test_block [ROUNDS]
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "tests/host_machine.h"
#include "tests/replay_cases.h"

int main(int argc, char** argv) {
  using namespace dali_dr::image;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 700;
  // One or two blocks of one to four threads, which take their shares forward or backward.
  std::optional<HostMachine> machine;
  const MachineOf any = [&](int round) -> Machine& {
    return machine.emplace(1 + round % 2, 1 + round % 4, round % 5 > 1);
  };
  const MachineOf two_threads = [&](int) -> Machine& { return machine.emplace(1, 2, false); };
  TestRandomBatches(any, rounds, Kind::kPlain);
  TestRandomBatches(any, rounds / 2, Kind::kWindows);
  TestRandomBatches(any, rounds / 2, Kind::kMixed);
  TestOperations(two_threads);
  if (argc == 1) {
    TestRanges(two_threads, 7, {45, 67});
    TestSizes(two_threads);
    TestEvaluation(two_threads);
    TestMixed(two_threads);
    TestBatch(any, 3);
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
