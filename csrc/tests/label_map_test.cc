// Tests of csrc/labels: maps written here, from the schema, are read as they were written; damaged ones are
// refused; pooled targets are those of a dense RoIAlign in double, sample by sample.
#include "labels/label_map.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "check.h"
#include "labels/pooling.h"
#include "make_label_map.h"
#include "record/error.h"

namespace dali_dr::labels {
namespace {

using namespace dali_dr::testing;

void Refused(const std::vector<uint8_t>& member, const std::string& word, uint32_t num_classes = 1000) {
  Reader reader;
  try {
    reader.Open(member, num_classes);
    Check(false, "no error about \"" + word + "\"");
  } catch (const record::RecordError& error) {
    Check(std::string(error.what()).find(word) != std::string::npos,
          "want an error about \"" + word + "\", got \"" + error.what() + "\"");
  }
}

void TestReading() {
  Reader reader;
  const MadeMap shapes[] = {{},
                            {.half = true},
                            {.side = 1, .depth = 1},
                            {.side = 7, .depth = 2, .num_classes = 9},
                            {.num_classes = 70000},
                            {.side = 20, .half = true}};
  unsigned seed = 0;
  for (const MadeMap& shape : shapes) {
    ++seed;
    const MadeMap made = RandomMap(seed, shape, seed % 2 ? 40 : 400);
    const auto member = CompressMap(made.bytes);
    const LabelMap& map = reader.Open(member, made.num_classes);
    Check(map.side == made.side && map.depth == made.depth && map.num_classes == made.num_classes, "shape");
    Check(map.scores == made.scores, "scores of map " + std::to_string(seed));
    bool same = map.entries.size() == made.ids.size();
    for (size_t i = 0; same && i < made.ids.size(); ++i) same = map.classes[map.entries[i]] == made.ids[i];
    Check(same, "classes of map " + std::to_string(seed));
  }
}

void TestDamage() {
  const MadeMap good = RandomMap(3, {.half = true});
  const auto changed = [&](size_t at, std::initializer_list<uint8_t> bytes) {
    auto copy = good.bytes;
    std::copy(bytes.begin(), bytes.end(), copy.begin() + static_cast<ptrdiff_t>(at));
    return CompressMap(copy);
  };
  Refused({}, "not a zstd frame");
  Refused(CompressMap(good.bytes, false), "with a checksum");
  auto twice = CompressMap(good.bytes);
  twice.insert(twice.end(), twice.begin(), twice.begin() + static_cast<ptrdiff_t>(twice.size()));
  Refused(twice, "one zstd frame");
  Refused(CompressMap(std::vector<uint8_t>(kMaxMapBytes + 1)), "more than");
  Refused(CompressMap({1, 2, 3}), "fewer than its header");
  Refused(changed(0, {'D'}), "drlm");
  Refused(changed(4, {2}), "version 2");
  Refused(changed(6, {29}), "header_bytes");
  Refused(changed(8, {0}), "its header says");
  Refused(changed(12, {14}), "14 x 15 cells");
  Refused(changed(12, {0, 0, 0, 0}), "0 x 0 cells");
  Refused(changed(12, {0, 1, 0, 1}), "256 x 256 cells");
  Refused(changed(16, {0}), "0 classes in each");
  Refused(changed(16, {255, 255}), "65535 classes in each");
  Refused(changed(16, {6}), "describes");
  Refused(changed(18, {0, 0}), "class_entries");
  Refused(changed(18, {255, 255}), "class_entries");
  Refused(changed(24, {2}), "encoding");
  Refused(changed(24, {0}), "describes");
  Refused(changed(26, {1}), "bytes 25 to 27");
  Refused(changed(28, {255, 255}), "rising ids");
  Refused(CompressMap(good.bytes), "1000 classes, the data set of 999", 999);
  const size_t entries = 28 + 2 * 40, scores = entries + 1125;
  Refused(changed(entries, {40}), "entry 40");
  auto unused = good.bytes;
  for (size_t i = entries; i < scores; ++i) unused[i] = std::max<uint8_t>(unused[i], 1);
  Refused(CompressMap(unused), "is of no value");
  Refused(changed(scores + 1125, {0x7c}), "not finite");
  auto cut = good.bytes;
  cut.pop_back();
  Refused(CompressMap(cut), "its header says");
}

// All logits by the definition of RoIAlign: bilinear samples of the dense map in float32, averaged.
std::vector<double> Dense(const MadeMap& made, const float (&box)[4]) {
  const int side = static_cast<int>(made.side);
  const size_t cells = size_t{made.side} * made.side;
  std::vector<float> dense(made.num_classes * cells);
  std::vector<double> logits(made.num_classes);
  for (size_t i = 0; i < made.ids.size(); ++i)
    dense[static_cast<size_t>(made.ids[i]) * cells + i % cells] = made.scores[i];
  const float width = std::max(box[2] - box[0], 1.0f), height = std::max(box[3] - box[1], 1.0f);
  const int across = static_cast<int>(std::ceil(width)), down = static_cast<int>(std::ceil(height));
  for (int i = 0; i < down; ++i)
    for (int j = 0; j < across; ++j) {
      const float y =
          std::max(box[1] + (static_cast<float>(i) + 0.5f) * (height / static_cast<float>(down)), 0.0f);
      const float x =
          std::max(box[0] + (static_cast<float>(j) + 0.5f) * (width / static_cast<float>(across)), 0.0f);
      const int top = std::min(static_cast<int>(y), side - 1), left = std::min(static_cast<int>(x), side - 1);
      const int bottom = std::min(top + 1, side - 1), right = std::min(left + 1, side - 1);
      const float v = y - static_cast<float>(top), u = x - static_cast<float>(left);
      for (size_t c = 0; c < made.num_classes; ++c) {
        const float* map = &dense[c * cells];
        logits[c] += static_cast<double>(
            (1 - v) * (1 - u) * map[top * side + left] + (1 - v) * u * map[top * side + right] +
            v * (1 - u) * map[bottom * side + left] + v * u * map[bottom * side + right]);
      }
    }
  for (double& logit : logits) logit /= across * down;
  return logits;
}

void CheckTarget(const MadeMap& made, const Crop& crop, Order order, size_t topk) {
  Reader reader;
  Pooler pooler;
  const auto member = CompressMap(made.bytes);
  std::vector<int32_t> ids(topk);
  std::vector<float> probs(topk);
  pooler.Target(reader.Open(member, made.num_classes), crop, order, ids, probs);
  const double top = double(crop.top) / crop.image_height, left = double(crop.left) / crop.image_width;
  const double high = double(crop.height) / crop.image_height, wide = double(crop.width) / crop.image_width;
  const bool code = order == Order::kCode;
  const double corners[4] = {code ? top : left, code ? left : top, code ? top + high : left + wide,
                             code ? left + wide : top + high};
  float box[4];
  for (int i = 0; i < 4; ++i) box[i] = static_cast<float>(corners[i]) * static_cast<float>(made.side) - 0.5f;
  std::vector<double> want = Dense(made, box);
  const double highest = *std::max_element(want.begin(), want.end());
  double sum = 0;
  for (double& logit : want) sum += logit = std::exp(logit - highest);
  double left_over = 1;
  std::vector<bool> named(made.num_classes);
  for (size_t i = 0; i < topk; ++i) {
    const auto id = static_cast<size_t>(ids[i]);
    Check(id < made.num_classes && !named[id], "ids are distinct classes");
    named[id] = true;
    left_over -= static_cast<double>(probs[i]);
    Check(std::abs(static_cast<double>(probs[i]) - want[id] / sum) < 5e-7, "a probability");
    Check(i == 0 || probs[i - 1] > probs[i] || (probs[i - 1] == probs[i] && ids[i - 1] < ids[i]), "order");
  }
  for (size_t c = 0; c < made.num_classes; ++c)
    if (!named[c])
      Check(std::abs(want[c] / sum - left_over / static_cast<double>(made.num_classes - topk)) < 5e-7,
            "a class that is not among them has an equal part");
}

void TestPooling() {
  for (unsigned seed = 1; seed < 30; ++seed) {
    std::mt19937 random(seed);
    MadeMap shape;
    shape.num_classes = seed % 3 ? 200 : 33;
    shape.side = seed % 5 ? 15 : 4;
    const MadeMap made = RandomMap(seed, shape, 33);
    for (int repeat = 0; repeat < 6; ++repeat) {
      const auto size = [&](int most) { return static_cast<int32_t>(1 + random() % unsigned(most)); };
      const int32_t height = size(500), width = size(500);
      Crop crop{0, 0, size(height), size(width), height, width};
      crop.top = static_cast<int32_t>(random() % unsigned(height - crop.height + 1));
      crop.left = static_cast<int32_t>(random() % unsigned(width - crop.width + 1));
      if (repeat == 0) crop = {0, 0, height, width, height, width};
      if (repeat == 1) crop = {height - 1, width - 1, 1, 1, height, width};
      if (repeat == 2) crop = {0, 0, 1, 1, height, width};
      CheckTarget(made, crop, repeat % 2 ? Order::kCode : Order::kTransposed, 33);
    }
  }
}

// Several scores of one class in one cell add up; where K is too small for the map, it is refused.
void TestOdd() {
  MadeMap made{.side = 1, .depth = 3, .num_classes = 4, .ids = {2, 2, 1}, .scores = {0, 3, 1}};
  WriteMap(&made);
  Reader reader;
  Pooler pooler;
  const auto member = CompressMap(made.bytes);
  const LabelMap& map = reader.Open(member, 4);
  int32_t ids[3];
  float probs[3];
  pooler.Target(map, {0, 0, 9, 9, 9, 9}, Order::kCode, ids, probs);
  const double sum = std::exp(3.0) + std::exp(1.0) + 2;
  Check(ids[0] == 2 && ids[1] == 1 && ids[2] == 0, "the lowest absent class comes last");
  Check(std::abs(static_cast<double>(probs[0]) - std::exp(3.0) / sum) < 5e-7 &&
            std::abs(static_cast<double>(probs[2]) - 1 / sum) < 5e-7,
        "probabilities of few classes");
  try {
    pooler.Target(map, {0, 0, 9, 9, 9, 9}, Order::kCode, std::span(ids).first(1), std::span(probs).first(1));
    Check(false, "no error for a small K");
  } catch (const record::RecordError& error) {
    Check(std::string(error.what()).find("`topk` is 1") != std::string::npos, "the error for a small K");
  }
}

}  // namespace
}  // namespace dali_dr::labels

int main() {
  dali_dr::labels::TestReading();
  dali_dr::labels::TestDamage();
  dali_dr::labels::TestPooling();
  dali_dr::labels::TestOdd();
  return dali_dr::testing::Verdict("label_map");
}
