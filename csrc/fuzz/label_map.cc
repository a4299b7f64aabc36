// A crop and any bytes in place of a member with a label map: a target that is one, or a RecordError. Most
// mutations are of what the zstd frame holds, put into a whole frame again.
#include "labels/label_map.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "fuzz/frames.h"
#include "fuzz/fuzz.h"
#include "labels/pooling.h"
#include "record/error.h"

using namespace dali_dr;

namespace {

constexpr uint32_t kClasses = 300;
constexpr size_t kCropBytes = 15;  // before the member

void RequireTarget(std::span<const int32_t> ids, std::span<const float> probs) {
  std::vector<bool> named(kClasses);
  double sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    fuzz::Require(ids[i] >= 0 && ids[i] < int32_t{kClasses} && !named[static_cast<size_t>(ids[i])],
                  "ids are distinct classes");
    named[static_cast<size_t>(ids[i])] = true;
    fuzz::Require(probs[i] >= 0 && probs[i] <= 1, "a probability is from 0 to 1");
    fuzz::Require(i == 0 || probs[i] <= probs[i - 1], "probabilities fall");
    sum += static_cast<double>(probs[i]);
  }
  fuzz::Require(sum < 1 + 1e-5, "probabilities add up to 1 at most");
  fuzz::Require(ids.size() < kClasses || sum > 1 - 1e-5, "those of all classes add up to 1");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static labels::Reader reader;
  static labels::Pooler pooler;
  fuzz::Input input({data, size});
  labels::Crop crop{};
  crop.image_height = input.Range(1, 65535);
  crop.image_width = input.Range(1, 65535);
  crop.height = input.Range(1, crop.image_height);
  crop.width = input.Range(1, crop.image_width);
  crop.top = input.Range(0, crop.image_height - crop.height);
  crop.left = input.Range(0, crop.image_width - crop.width);
  const auto order = input.Take<uint8_t>() % 2 ? labels::Order::kCode : labels::Order::kTransposed;
  const auto topk = static_cast<size_t>(input.Range(1, kClasses));
  std::vector<int32_t> ids(topk);
  std::vector<float> probs(topk);
  try {
    pooler.Target(reader.Open(input.rest(), kClasses), crop, order, ids, probs);
    RequireTarget(ids, probs);
  } catch (const record::RecordError&) {
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  std::minstd_rand random(seed);
  if (size <= kCropBytes || random() % 8 == 0) return LLVMFuzzerMutate(data, size, most);
  auto contents = fuzz::Unpack({data + kCropBytes, size - kCropBytes});
  if (!contents || contents->size() != 1) return LLVMFuzzerMutate(data, size, most);
  fuzz::Bytes& content = contents->front();
  const size_t before = content.size();
  content.resize(std::max<size_t>(2 * before, 64));
  content.resize(LLVMFuzzerMutate(content.data(), before, content.size()));
  if (random() % 4 && content.size() >= 12) {  // a right length lets it past the first check
    const auto length = static_cast<uint32_t>(content.size());
    std::memcpy(&content[8], &length, sizeof length);
  }
  const fuzz::Bytes member = fuzz::Pack(*contents);
  if (member.empty() || kCropBytes + member.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::copy(member.begin(), member.end(), data + kCropBytes);
  return kCropBytes + member.size();
}
