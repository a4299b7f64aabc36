// Tests of what csrc/shards reads through: open files and buffers.
#include "shards/files.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "make_shards.h"
#include "shard_faults.h"
#include "shards/buffers.h"

namespace dali_dr::shards {
namespace {

namespace fs = std::filesystem;
using namespace dali_dr::testing;

void TestBuffers() {
  Buffers buffers;
  const uint8_t* first;
  {
    const Buffer a = buffers.Take(100000), b = buffers.Take(1);
    first = a.get();
    Check(buffers.held() >= 100001 && buffers.held() <= 100000 * 5 / 4 + 16384 && buffers.waiting() == 0,
          "what is held");
  }
  Check(buffers.held() == 0 && buffers.waiting() >= 100001, "what is given back waits");
  Check(buffers.Take(60000).get() == first && buffers.Take(20000).get() != first,
        "and is taken again, unless it is far too large");
  {
    const Buffer large = buffers.Take(20 << 20);
  }
  Check(buffers.waiting() < 1 << 20, "a huge buffer does not wait");
  std::vector<Buffer> many;
  for (int i = 0; i < 100; ++i) many.push_back(buffers.Take(1 << 20));
  many.clear();
  Check(buffers.waiting() <= 32 << 20, "what waits is bounded");
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {  // the sanitizer sees a buffer that is too small
    const size_t size = 1 + random() % (1u << (4 + random() % 21));
    const Buffer buffer = buffers.Take(size);
    buffer[0] = buffer[static_cast<ptrdiff_t>(size - 1)] = 1;
    if (i % 3 == 0) many.push_back(buffer);
    if (many.size() > 8) many.erase(many.begin());
  }
  Buffer last;
  {
    Buffers gone;
    last = gone.Take(10);
  }
  last[9] = 1;  // it outlives its maker
}

void TestFiles() {
  const fs::path folder = fs::temp_directory_path() / ("dali_dr_files_test_" + std::to_string(getpid()));
  fs::create_directories(folder);
  std::vector<Files::File> table;
  for (int i = 0; i < 40; ++i) {
    table.push_back({(folder / ("f" + std::to_string(i))).string(), 2});
    Write(table.back().path, std::to_string(10 + i));
  }
  const Files files(table, 3);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (uint32_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 2000; ++i) {
        const uint32_t number = random() % 40;
        uint8_t text[2];
        const auto file = files.Open(number);
        if (random() % 10 == 0) files.Forget(number);
        wrong += !file->Read(0, 2, text).empty() || Text(text, text + 2) != std::to_string(10 + number);
        wrong += files.open_now() > 3;
      }
    });
  for (auto& thread : threads) thread.join();
  Check(wrong == 0, "many files through few descriptors");
  uint8_t byte = 0;
  Check(files.Open(0)->Read(1, 2, &byte) == "it ends at byte 2", "reading past the end");
  Check(files.Open(0)->Read(1, 0, &byte).empty(), "reading nothing");

  const auto open = [&](uint32_t number) { return [&files, number] { files.Open(number); }; };
  for (uint32_t i = 0; i < 40; ++i) files.Forget(i);
  Check(files.open_now() == 0, "all are forgotten");
  fs::remove(table[1].path);
  Fault fault = CheckRefused(open(1), "f1 cannot be opened (No such file", "a missing file");
  Check(fault.whole_file && fault.passing, "a missing file may come back");
  Check(mkfifo(table[1].path.c_str(), 0600) == 0, "mkfifo");
  fault = CheckRefused(open(1), "it is no regular file", "a FIFO");  // and does not hang
  Check(fault.whole_file && !fault.passing, "a FIFO stays one");
  Write(table[2].path, "three");
  fault = CheckRefused(open(2), "f2 has 5 bytes instead of 2", "a file of another size");
  Check(fault.whole_file && fault.passing, "a file of another size may be being copied");

  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const Files greedy(table);  // would keep more open than the process may
  std::vector<std::shared_ptr<const Descriptor>> held{greedy.Open(3), greedy.Open(4)};
  const int lowest = dup(0);  // the number of the next descriptor
  close(lowest);
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(lowest);
  Check(lowest > 0 && setrlimit(RLIMIT_NOFILE, &tight) == 0, "setrlimit");
  fault = CheckRefused([&] { greedy.Open(5); }, "Too many open files", "no descriptor left");
  Check(!fault.whole_file && fault.passing, "for want of descriptors nothing is condemned");
  Check(greedy.open_now() == 0, "what is open is given up");
  held.clear();
  greedy.Open(5);
  held.push_back(greedy.Open(6));
  held.clear();
  greedy.Open(7);  // in place of one that only the table held
  setrlimit(RLIMIT_NOFILE, &before);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace dali_dr::shards

int main() {
  dali_dr::shards::TestBuffers();
  dali_dr::shards::TestFiles();
  return dali_dr::testing::Verdict("files");
}
