// The replay kernels on a GPU, without DALI and Python: every byte against the CPU path, repeated runs under
// load, and times. docs/gpu.md says what the sections show, kUsage what the options are. --device cpu runs
// few of all on host threads, to check this program where there is no GPU; --few compares as few bytes on a
// GPU, for slow tools such as compute-sanitizer. --seconds is a limit for the whole. Exits with 1 where a
// byte differs, with 4 where none does but something was left out for want of time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/device/cuda_machine.h"
#include "tests/device/rates.h"
#include "tests/host_machine.h"
#include "tests/machine.h"
#include "tests/replay_cases.h"

namespace dali_dr::image {
namespace {

constexpr char kUsage[] =
    "device_test [--device gpu|cpu] [--sections bytes repeats copy rates parts] [--only TEXT of a row of "
    "rates]\n"
    "            [--seconds S of all] [--row-seconds S of each row] [--json FILE] [--few]";

struct Options {
  std::vector<std::string> sections = {"bytes", "repeats", "copy", "rates", "parts"};
  std::string json, only;
  double seconds = 120, row_seconds = 0.2;
  bool cpu = false, few = false;
};

class TimeUp : public std::exception {};

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class Test {
 public:
  Test(const Options& options, Machine& machine)
      : options_(options), machine_(machine), report_(options.json), begin_(Clock::now()) {}

  int Run() {
    report_.Section("machine");
    report_.Add(machine_.Facts());
    for (const Row& row : machine_.Kernels()) report_.Add(row);
    Save();
    for (const std::string& name : options_.sections) {
      report_.Section(name);
      const auto begin = Clock::now();
      try {
        if (name == "bytes")
          Bytes();
        else if (name == "repeats")
          Repeats();
        else if (name == "copy")
          Copy();
        else if (name == "rates")
          ReportRates(stopwatch(), bandwidth_, options_.cpu, options_.only, Left(), &report_);
        else if (name == "parts")
          ReportParts(stopwatch(), machine_.limits().multiprocessors, options_.cpu, Left(), &report_);
        else
          throw std::runtime_error("there is no section " + name);
        if (Over()) throw TimeUp();
      } catch (const TimeUp&) {
        report_.Add(Row().Add("name", "the rest was left out: time is up"));
        complete_ = false;
      } catch (const std::runtime_error& error) {  // costs this section alone, unless the device is lost
        ++failures;
        report_.Add(Row().Add("name", std::string("broke off: ") + error.what()));
      }
      report_.Add(
          Row().Add("name", "seconds").Add("seconds", SecondsSince(begin), 1).Add("failures", failures));
      Save();
    }
    std::printf("\n%s: %d failures in %.1f s\n", failures ? "FAILED" : "passed", failures,
                SecondsSince(begin_));
    if (failures == 0 && !complete_) std::printf("but not everything was run: time was up\n");
    return failures ? 1 : complete_ ? 0 : kIncomplete;
  }

 private:
  static constexpr int kIncomplete = 4;

  bool Over() const { return SecondsSince(begin_) > options_.seconds; }
  TimeLeft Left() const {
    return [this] { return !Over(); };
  }
  void Save() {
    if (report_.Write()) return;
    std::fprintf(stderr, "%s cannot be written\n", options_.json.c_str());
    std::exit(2);
  }
  Stopwatch& stopwatch() {
    if (!stopwatch_) stopwatch_ = std::make_unique<Stopwatch>(machine_, options_.row_seconds, options_.cpu);
    return *stopwatch_;
  }

  void Bytes() {
    const MachineOf machine = [this](int) -> Machine& {
      if (Over()) throw TimeUp();
      return machine_;
    };
    const auto run = [&](const char* name, const std::function<void()>& test) {
      const auto begin = Clock::now();
      const uint32_t views = seen.views;
      const int before = failures;
      const auto add = [&] {
        report_.Add(Row()
                        .Add("name", name)
                        .Add("views", seen.views - views)
                        .Add("failures", failures - before)
                        .Add("seconds", SecondsSince(begin), 2));
      };
      try {
        test();
      } catch (...) {
        add();
        throw;
      }
      add();
    };
    const bool few = options_.cpu || options_.few;
    const int rounds = few ? 12 : 1600;  // of 6.5 views on average
    run("a batch of one view", [&] { TestBatch(machine, 1, {224, 224}); });
    run("operations and chains, 224", [&] { TestOperations(machine); });
    run("random chains", [&] { TestRandomBatches(machine, rounds, Kind::kPlain); });
    run("sizes and extreme crops", [&] { TestSizes(machine); });
    run("evaluation, 224 and 288", [&] { TestEvaluation(machine); });
    run("random windows", [&] { TestRandomBatches(machine, rounds / 2, Kind::kWindows); });
    run("random mixed views", [&] { TestRandomBatches(machine, rounds / 2, Kind::kMixed); });
    run("mixed views, 224", [&] { TestMixed(machine); });
    run("a batch of 512 views", [&] { TestBatch(machine, few ? 4 : 512, {224, 224}); });
    for (int side : {160, 288, 384})
      run(("all outputs, " + std::to_string(side)).c_str(),
          [&] { TestBatch(machine, few ? 1 : 16, {side, side}); });
    run("ranges of the operations, 224", [&] { TestRanges(machine, few ? 2 : 31, {224, 224}); });
    run("ranges of the operations, 45x67", [&] { TestRanges(machine, few ? 5 : 31, {45, 67}); });
    report_.Add(Row()
                    .Add("name", "all")
                    .Add("views", seen.views)
                    .Add("in_shared", seen.parts[0])
                    .Add("in_global", seen.parts[1])
                    .Add("failures", failures));
  }

  // The same batch again and again, while a second stream replays and copies, and while all memory that the
  // kernels use is given back and handed out again: every byte must be that of the CPU path every time.
  void Repeats() {
    const int times = options_.cpu ? 2 : 50, views = options_.cpu ? 2 : 256;
    const auto batch = [&](bool mixed) {
      std::vector<Case> cases;
      for (int i = 0; i < views; ++i) {
        Case c = i < 16 ? WholeImage({300 + 10 * i, 500 - 20 * i}, {}) : cases[size_t(i % 16)];
        c.view = RandomView(c.image, {224, 224});
        c.mixes.clear();
        if (mixed && i % 2) AddPartner({224, 224}, &c);
        cases.push_back(std::move(c));
      }
      return cases;
    };
    const Setting half{
        {224, 224}, Filter::kBilinear, Finish(OutputType::kFloat16, false, kMean, kStd), kHopper, "repeats"};
    const Setting single{{224, 224},
                         Filter::kBicubic,
                         Finish(OutputType::kFloat32, true, kMean, kStd),
                         kHopper,
                         "mixed repeats"};
    const size_t load_bytes = options_.cpu ? 1 << 16 : 256 << 20;
    uint8_t* const load = machine_.Allocate(2 * load_bytes);
    for (const Setting* setting : {&half, &single}) {
      const Setting& other_setting = setting == &half ? single : half;
      const std::vector<Case> cases = batch(setting == &single), others = batch(true);
      Loaded loaded(machine_, cases, *setting), other(machine_, others, other_setting);
      std::vector<std::vector<uint8_t>> want, other_want;
      for (const Case& c : cases) want.push_back(Expected(c, *setting));
      for (const Case& c : others) other_want.push_back(Expected(c, other_setting));
      machine_.Wait();
      int identical = 0, run = 0;
      for (; run < times && !Over(); ++run) {
        machine_.Copy(load, load + load_bytes, load_bytes, 1);
        other.Launch(1);
        loaded.Poison(run % 2 ? 0xff : 0x00);
        loaded.Launch();
        other.Launch(1);
        machine_.Copy(load + load_bytes, load, load_bytes, 1);
        loaded.Launch();  // once more, behind itself, before anything was waited for
        identical += loaded.Download() == want;
      }
      machine_.Wait();
      CHECK(run == 0 || other.Download(1) == other_want, "%s: the other stream's views differ",
            setting->label.c_str());
      CHECK(identical == run, "%s: %d of %d differ", setting->label.c_str(), run - identical, run);
      report_.Add(
          Row().Add("name", setting->label).Add("runs", run).Add("identical", identical).Add("views", views));
    }
    machine_.Free(load);
  }

  void Copy() {
    bandwidth_ = stopwatch().CopyBandwidth();
    report_.Add(
        Row().Add("name", "copy on the device, read and written").Add("gb_per_s", bandwidth_ / 1e9, 1));
  }

  const Options& options_;
  Machine& machine_;
  Report report_;
  Clock::time_point begin_;
  std::unique_ptr<Stopwatch> stopwatch_;
  double bandwidth_ = 0;
  bool complete_ = true;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw std::runtime_error(name + " needs a value");
      return argv[++i];
    };
    const auto number = [&] {
      const std::string text = value();
      char* end;
      const double v = std::strtod(text.c_str(), &end);
      if (*end || text.empty() || !(v >= 0))
        throw std::runtime_error(name + " " + text + " is no number of seconds");
      return v;
    };
    if (name == "--help" || name == "-h") {
      std::printf("%s\n", kUsage);
      std::exit(0);
    } else if (name == "--device") {
      const std::string device = value();
      if (device != "cpu" && device != "gpu")
        throw std::runtime_error("--device is cpu or gpu, not " + device);
      options.cpu = device == "cpu";
    } else if (name == "--sections") {
      options.sections.clear();
      for (; i + 1 < argc && argv[i + 1][0] != '-'; ++i) {
        const auto known = Options().sections;
        if (std::find(known.begin(), known.end(), argv[i + 1]) == known.end())
          throw std::runtime_error(std::string("there is no section ") + argv[i + 1]);
        options.sections.push_back(argv[i + 1]);
      }
      if (options.sections.empty()) throw std::runtime_error("--sections needs names");
    } else if (name == "--few") {
      options.few = true;
    } else if (name == "--only") {
      options.only = value();
    } else if (name == "--json") {
      options.json = value();
    } else if (name == "--seconds") {
      options.seconds = number();
    } else if (name == "--row-seconds") {
      options.row_seconds = number();
    } else {
      throw std::runtime_error("what is " + name + "? The options are\n" + kUsage);
    }
  }
  return options;
}

}  // namespace
}  // namespace dali_dr::image

int main(int argc, char** argv) {
  using namespace dali_dr::image;
  try {
    const Options options = Parse(argc, argv);
    const std::unique_ptr<Machine> machine =
        options.cpu ? std::make_unique<HostMachine>(2, 1, false) : OpenCudaMachine();
    return Test(options, *machine).Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_test: %s\n", error.what());
    return 2;
  }
}
