// Times of label maps, in microseconds of one core: reading one, and a target of a crop of a third of the
// image and more.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "labels/label_map.h"
#include "labels/pooling.h"
#include "make_label_map.h"

namespace {

using namespace dali_dr;
constexpr int kRepeats = 40, kRounds = 100;

/// Of one round, the least of kRepeats.
template <typename Body>
double Microseconds(const Body& body) {
  double least = 1e9;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    for (int round = 0; round < kRounds; ++round) body();
    const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - begin;
    least = std::min(least, taken.count() / kRounds);
  }
  return least;
}

void Measure(uint32_t classes, bool half) {
  const auto made = testing::RandomMap(1, {.half = half}, classes);
  const auto member = testing::CompressMap(made.bytes);
  labels::Reader reader;
  labels::Pooler pooler;
  std::vector<int32_t> ids(classes);
  std::vector<float> probs(classes);
  std::mt19937 random(3);
  const double reading = Microseconds([&] { reader.Open(member, made.num_classes); });
  const labels::LabelMap& map = reader.Open(member, made.num_classes);
  const double pooling = Microseconds([&] {
    const auto height = static_cast<int32_t>(200 + random() % 176);
    const auto width = static_cast<int32_t>(300 + random() % 201);
    const auto top = static_cast<int32_t>(random() % static_cast<uint32_t>(376 - height));
    const auto left = static_cast<int32_t>(random() % static_cast<uint32_t>(501 - width));
    pooler.Target(map, {top, left, height, width, 375, 500}, labels::Order::kCode, ids, probs);
  });
  std::printf("%3u classes, float%d: %zu bytes, read in %.1f us, a target in %.1f us\n", classes,
              half ? 16 : 32, member.size(), reading, pooling);
}

}  // namespace

int main() {
  for (const uint32_t classes : {20u, 60u, 200u})
    for (const bool half : {false, true}) Measure(classes, half);
  return 0;
}
