// Any bytes in place of a published file: refused, or read as values, and these as views, label maps or JSON,
// which are refused, too, or inside their bounds.
//
// The input is a byte of settings, a byte that says what to put around the pickle (nothing, torch's archive,
// torch's older format; so its checksums are right), and the pickle.
#include <cmath>

#include "fuzz/fuzz.h"
#include "pickle/container.h"
#include "pickle/error.h"
#include "pickle/json.h"
#include "published/fkd.h"
#include "published/label_map.h"
#include "published/ml_dr.h"
#include "tests/make_pickle.h"

using namespace dali_dr;
using fuzz::Require;

namespace {

constexpr uint32_t kEdge = 224, kClasses = 20, kImages = 9;
constexpr published::Size kImage{300, 400};

std::string File(uint8_t form, std::span<const uint8_t> bytes) {
  using namespace testing::made;
  const Text pickle(bytes.begin(), bytes.end()), storage(64, '\0');
  if (form % 4 == 1) return Archive(pickle, {{"0", storage}}, {.zip64 = form % 8 == 1});
  if (form % 4 == 2) return Older(pickle, {{"0", 16, storage}});
  return pickle;
}

void RequireBox(const Box& box, uint32_t height, uint32_t width, bool or_none) {
  if (or_none && box.top == 0 && box.left == 0 && box.height == 0 && box.width == 0) return;
  Require(box.top >= 0 && box.left >= 0 && box.height >= 1 && box.width >= 1, "boxes have a pixel");
  Require(int64_t{box.top} + box.height <= height && int64_t{box.left} + box.width <= width,
          "boxes are inside");
}

void RequireColumns(const record::ViewColumns& columns, const record::Reinforcements& views,
                    published::Size image) {
  const size_t rows = views.size(), ops = rows * views.num_ops;
  Require(columns.crop.size() == rows && columns.flip.size() == rows && columns.erase.size() == rows,
          "as many rows");
  for (const Box& box : columns.crop) RequireBox(box, image.height, image.width, false);
  for (const Box& box : columns.erase) RequireBox(box, kEdge, kEdge, true);
  for (const uint8_t flip : columns.flip) Require(flip <= 1, "flips are 0 or 1");
  Require(columns.ops.size() == ops && columns.magnitudes.size() == ops, "as many operations");
  for (const uint8_t op : columns.ops) Require(op < kNumRandAugmentOps, "operations have a name");
  for (const float magnitude : columns.magnitudes)
    Require(std::fabs(magnitude) <= kMaxMagnitude, "magnitudes");
}

void RequireViews(const record::Reinforcements& views) {
  const size_t rows = views.size(), predictions = rows * views.topk;
  Require(rows >= 1 && views.topk >= 1, "there are views and predictions");
  RequireColumns(views.views, views, kImage);
  Require(views.ids.size() == predictions && views.probs.size() == predictions, "as many predictions");
  for (size_t i = 0; i < predictions; ++i) {
    Require(views.ids[i] >= 0 && uint32_t(views.ids[i]) < kClasses, "ids below the classes");
    Require(views.probs[i] >= 0 && views.probs[i] <= 1, "probabilities");
    for (size_t j = i - i % views.topk; j < i; ++j) Require(views.ids[j] != views.ids[i], "ids are distinct");
  }
  if (!views.mixing) return;
  RequireColumns(views.partner_views, views, {65535, 65535});
  Require(views.partner.size() == rows && views.lam.size() == rows && views.cut.size() == rows &&
              views.swapped.size() == rows,
          "as many mixes");
  for (size_t row = 0; row < rows; ++row) {
    Require(views.partner[row] == kNoPartner ||
                (views.partner[row] >= 0 && uint32_t(views.partner[row]) < kImages),
            "partners below the images");
    Require(views.lam[row] >= 0 && views.lam[row] <= 1, "weights");
    RequireBox(views.cut[row], kEdge, kEdge, true);
    const bool mixed = views.lam[row] != 1 || views.cut[row].height > 0;
    Require(mixed == (views.partner[row] != kNoPartner), "who is mixed has a partner");
  }
}

template <typename Call>
void Refusable(const Call& call) {
  try {
    call();
  } catch (const pickle::PickleError&) {
  } catch (const published::FormatError&) {
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input({data, size});
  const auto bits = input.Take<uint8_t>();
  const std::string text = File(input.Take<uint8_t>(), input.rest());
  const std::vector<uint8_t> file(text.begin(), text.end());
  static pickle::Reader reader;
  static pickle::Tree tree;
  bool read = false;
  Refusable([&] {
    pickle::ReadFile(file, &reader, &tree);
    read = true;
  });
  if (!read) return 0;
  Refusable([&] { Require(!pickle::Json(tree).empty(), "JSON is something"); });
  Refusable([&] {
    const published::LabelMap map = published::ReadLabelMap(tree);
    const size_t cells = size_t{map.depth} * map.height * map.width;
    Require(cells > 0 && map.scores.size() == cells && map.ids.size() == cells, "a map has all cells");
    for (const int32_t id : map.ids) Require(id >= 0, "class ids");
  });
  Refusable([&] {
    const auto form = static_cast<published::LabelForm>(bits % published::kLabelForms);
    RequireViews(published::ReadFkd(tree, {kClasses, form, kImage}));
  });
  Refusable([&] {
    published::MlDrSettings settings{.transforms = {},
                                     .view = kEdge,
                                     .num_classes = kClasses,
                                     .num_images = kImages,
                                     .number = 7,
                                     .image = kImage};
    for (uint32_t i = 0; i < published::kTransforms; ++i)
      if (bits >> i & 1) settings.transforms.push_back(static_cast<published::Transform>(i));
    if (settings.Has(published::Transform::kCrop)) settings.crop = 32;
    if (settings.Has(published::Transform::kRandAugment)) settings.num_ops = 2;
    published::CheckSettings(settings);
    record::Reinforcements views;
    published::AppendMlDr(tree, settings, &views);
    RequireViews(views);
  });
  return 0;
}
