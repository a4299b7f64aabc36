// Runs a fuzz target without libFuzzer, with any compiler: every given file, every file of a given folder,
// and mutations of them that see nothing of what they reach.
//
//     fuzz_TARGET [--mutate COUNT] [--seed SEED] FILE|FOLDER ...
#include <dirent.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "fuzz/fuzz.h"

namespace {

using Bytes = std::vector<uint8_t>;
constexpr size_t kMost = 1 << 16;  // bytes of a mutated input

std::mt19937 bits;

void Run(const uint8_t* data, size_t size) {
  const std::unique_ptr<uint8_t[]> own(new uint8_t[size]);  // of this very size, so that an overrun is seen
  std::copy_n(data, size, own.get());
  LLVMFuzzerTestOneInput(own.get(), size);
}

// By the C library alone, all of which the sanitizers know, MemorySanitizer included.
Bytes Read(const std::string& path) {
  Bytes bytes;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) {
    std::fprintf(stderr, "%s cannot be read\n", path.c_str());
    std::exit(2);
  }
  for (int byte = std::fgetc(file); byte != EOF; byte = std::fgetc(file))
    bytes.push_back(static_cast<uint8_t>(byte));
  std::fclose(file);
  return bytes;
}

std::vector<Bytes> Inputs(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    DIR* folder = opendir(path.c_str());
    if (!folder) {
      files.push_back(path);
      continue;
    }
    while (const dirent* entry = readdir(folder))
      if (entry->d_name[0] != '.') files.push_back(path + "/" + entry->d_name);
    closedir(folder);
  }
  std::sort(files.begin(), files.end());  // the order of a folder is not that of another machine
  std::vector<Bytes> inputs;
  for (const std::string& path : files) inputs.push_back(Read(path));
  return inputs;
}

void Mutations(const std::vector<Bytes>& inputs, long count) {  // NOLINT: strtol's type
  Bytes bytes;
  for (long i = 0; i < count; ++i) {  // NOLINT: as above
    const Bytes& from = inputs[bits() % inputs.size()];
    bytes = from;
    bytes.resize(std::max(from.size() + 64, std::min(2 * from.size(), kMost)));
    size_t size = from.size();
    for (uint32_t changes = 1 + bits() % 4; changes > 0; --changes) {
      size = LLVMFuzzerCustomMutator && bits() % 4
                 ? LLVMFuzzerCustomMutator(bytes.data(), size, bytes.size(), static_cast<unsigned>(bits()))
                 : LLVMFuzzerMutate(bytes.data(), size, bytes.size());
    }
    Run(bytes.data(), size);
  }
}

}  // namespace

size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most) {
  if (size == 0) {
    if (most > 0) data[0] = static_cast<uint8_t>(bits());
    return std::min<size_t>(most, 1);
  }
  const size_t at = bits() % (bits() % 2 ? std::min<size_t>(size, 64) : size);
  switch (bits() % 8) {
    case 0:
      return std::max<size_t>(1, at);
    case 1:
      if (size == most) return size;
      std::memmove(data + at + 1, data + at, size - at);
      data[at] = static_cast<uint8_t>(bits());
      return size + 1;
    case 2:
      data[at] = bits() % 2 ? 0 : 255;
      return size;
    case 3:
      data[at] = static_cast<uint8_t>(bits());
      return size;
    case 4:
      data[at] = static_cast<uint8_t>(data[at] + (bits() % 2 ? 1 : -1));
      return size;
    default:
      data[at] ^= static_cast<uint8_t>(1 << bits() % 8);
      return size;
  }
}

int main(int argc, char** argv) {
  long count = 0, seed = 1;  // NOLINT: strtol's type
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if ((argument == "--mutate" || argument == "--seed") && i + 1 < argc)
      (argument == "--seed" ? seed : count) = std::strtol(argv[++i], nullptr, 10);
    else
      paths.emplace_back(argument);
  }
  bits.seed(static_cast<uint32_t>(seed));
  const auto inputs = Inputs(paths);
  if (inputs.empty()) {
    std::fprintf(stderr, "no inputs: name files or folders\n");
    return 2;
  }
  for (const Bytes& input : inputs) Run(input.data(), input.size());
  Mutations(inputs, count);
  std::printf("%zu inputs and %ld mutations kept the contract\n", inputs.size(), count);
  return 0;
}
