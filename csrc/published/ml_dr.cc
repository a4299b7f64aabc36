// See ml_dr.h.
#include "published/ml_dr.h"

#include <cmath>
#include <string>
#include <string_view>

#include "record/header.h"

namespace dali_dr::published {
namespace {

using pickle::Kind;
using pickle::Tree;
using pickle::Value;
using record::ViewColumns;

constexpr const char* kNames[kTransforms] = {
    "resize", "random_crop", "random_resized_crop", "random_horizontal_flip", "rand_augment", "random_erase",
    "mixup",  "cutmix"};
constexpr std::string_view kOperations[kNumRandAugmentOps] = {
    "Identity", "ShearX",   "ShearY",    "TranslateX", "TranslateY", "Rotate",       "Brightness",
    "Color",    "Contrast", "Sharpness", "Posterize",  "Solarize",   "AutoContrast", "Equalize"};
constexpr uint32_t kMaxSide = record::kMaxSide;
constexpr size_t kMostKeys = 64;  // of a dictionary: those of ml-dr have 13 at most

const Value kNothing{};

/// Parameters of one view, wherever they stood; null: the transformation was left out.
struct Parameters {
  const Value* own[kTransforms] = {};
  const Value* partner[kTransforms] = {};
  const Value* id2 = &kNothing;
};

class Rows {
 public:
  Rows(const Tree& tree, const MlDrSettings& settings, record::Reinforcements* out)
      : tree_(tree), settings_(settings), out_(out) {}

  /// So many more rows.
  void Expect(size_t count) {
    const size_t rows = out_->size() + std::min<size_t>(count, record::kMaxViews);
    rows_ = rows;
    for (ViewColumns* columns : {&out_->views, &out_->partner_views}) {
      if (columns == &out_->partner_views && !out_->mixing) continue;
      columns->crop.reserve(rows);
      columns->flip.reserve(rows);
      columns->ops.reserve(rows * settings_.num_ops);
      columns->magnitudes.reserve(rows * settings_.num_ops);
      columns->erase.reserve(rows);
    }
  }

  void Add(const Value& entry) {
    row_ = out_->size();
    if (row_ == record::kMaxViews) Fail("there are more than ", record::kMaxViews, " views of one image");
    LimitKeys(entry);
    const Value* params = tree_.Find(entry, "params");
    const Value* predictions = tree_.Find(entry, "prob");
    if (!params || !predictions)
      Fail("view ", row_, " is ", tree_.Describe(entry), ", not a dictionary with \"params\" and \"prob\"");
    Parameters parameters;
    LimitKeys(*params);
    if (params->kind == Kind::kDict)
      FromDict(*params, &parameters);
    else
      FromList(*params, &parameters);
    AddView(parameters.own, settings_.image, &out_->views);
    if (out_->mixing) AddMix(parameters);
    AddPredictions(*predictions);
  }

 private:
  static size_t Place(Transform transform) { return static_cast<size_t>(transform); }
  static bool Mixes(Transform transform) { return transform >= Transform::kMixUp; }

  template <typename... Parts>
  [[noreturn]] void Refuse(const Parts&... parts) const {
    Fail("view ", row_, ": ", parts...);
  }

  /// A large dictionary that many views share would be looked through for each of them.
  void LimitKeys(const Value& value) const {
    if (value.kind == Kind::kDict && tree_.Items(value).size() > 2 * kMostKeys)
      Refuse("has ", tree_.Describe(value), ", larger than any that ml-dr writes");
  }

  std::span<const Value> Sequence(const Value& value, size_t count, const char* what) const {
    const auto items = tree_.Items(value);
    if (!tree_.IsSequence(value) || items.size() != count)
      Refuse(what, " is ", tree_.Describe(value), ", not a list of ", count);
    return items;
  }

  int64_t Whole(const Value& value, const char* what) const {
    if (value.kind != Kind::kInt) Refuse(what, " has ", tree_.Describe(value), ", not a whole number");
    return value.integer;
  }

  double Number(const Value& value, const char* what) const {
    if (value.kind == Kind::kFloat) return value.real;
    return static_cast<double>(Whole(value, what));
  }

  /// Without partner the parameters stand there as they are, with one in pairs.
  void FromList(const Value& params, Parameters* parameters) const {
    const size_t count = settings_.transforms.size() + settings_.mixing();
    const auto items = tree_.Items(params);
    if (!tree_.IsSequence(params) || items.size() != count) {
      std::string wanted = settings_.mixing() ? "id2, " : "";
      for (const Transform transform : settings_.transforms)
        wanted +=
            std::string(kNames[Place(transform)]) + (transform == settings_.transforms.back() ? "" : ", ");
      Refuse("what \"params\" holds is ", tree_.Describe(params), ", not a list of ", count,
             ", which the configuration makes ", wanted);
    }
    auto item = items.begin();
    if (settings_.mixing()) parameters->id2 = &*item++;
    for (const Transform transform : settings_.transforms) {
      const Value& value = *item++;
      const size_t place = Place(transform);
      if (parameters->id2->none() || Mixes(transform) || value.none() || transform == Transform::kResize) {
        parameters->own[place] = &value;
      } else {
        const auto pair = Sequence(value, 2, kNames[place]);
        parameters->own[place] = &pair[0];
        parameters->partner[place] = &pair[1];
      }
    }
  }

  /// In pairs, whether there is a partner or not.
  void FromDict(const Value& params, Parameters* parameters) const {
    for (const Transform transform : settings_.transforms) {
      const size_t place = Place(transform);
      const Value* value = tree_.Find(params, kNames[place]);
      if (!value || Mixes(transform)) {
        parameters->own[place] = value;
        continue;
      }
      if (transform == Transform::kResize) continue;
      const auto pair = tree_.Items(*value);
      if (!tree_.IsSequence(*value) || pair.empty() || pair.size() > 2)
        Refuse(kNames[place], " is ", tree_.Describe(*value),
               ", not the parameters of the image and of its partner");
      parameters->own[place] = &pair[0];
      if (pair.size() == 2) parameters->partner[place] = &pair[1];
    }
    if (const Value* id2 = tree_.Find(params, "id2")) parameters->id2 = id2;
  }

  /// The parameters of one of the two images, as a row of the columns.
  void AddView(const Value* const (&values)[kTransforms], Size image, ViewColumns* columns) const {
    const auto get = [&](Transform transform) -> const Value& {
      const Value* value = values[Place(transform)];
      return value ? *value : kNothing;
    };
    columns->crop.push_back(Crop(get(settings_.crop ? Transform::kCrop : Transform::kResizedCrop), image));
    const Value& flip = get(Transform::kFlip);
    const bool flips = settings_.Has(Transform::kFlip);
    const bool fits = flip.kind == Kind::kBool || (flip.kind == Kind::kInt && (flip.integer | 1) == 1);
    if (flips && !fits) Refuse("random_horizontal_flip has ", tree_.Describe(flip), ", not True or False");
    columns->flip.push_back(flips && flip.integer != 0);
    AddOperations(get(Transform::kRandAugment), columns);
    columns->erase.push_back(Erase(get(Transform::kErase)));
  }

  Box Crop(const Value& value, Size image) const {
    if (settings_.crop) {
      const auto corner = Sequence(value, 2, "random_crop");
      return InsideBox(row_, "random_crop", Whole(corner[0], "random_crop"), Whole(corner[1], "random_crop"),
                       settings_.crop, settings_.crop, image);
    }
    const char* name = kNames[Place(Transform::kResizedCrop)];
    const auto box = Sequence(value, 4, name);
    return InsideBox(row_, name, Whole(box[0], name), Whole(box[1], name), Whole(box[2], name),
                     Whole(box[3], name), image);
  }

  void AddOperations(const Value& value, ViewColumns* columns) const {
    if (value.none()) {  // RandAugment was left out, by its probability
      columns->ops.resize(columns->ops.size() + settings_.num_ops, kIdentity);
      columns->magnitudes.resize(columns->magnitudes.size() + settings_.num_ops, 0.0f);
      return;
    }
    for (const Value& operation : Sequence(value, settings_.num_ops, "rand_augment")) {
      const auto pair = Sequence(operation, 2, "an operation of rand_augment");
      const double magnitude = Number(pair[1], "rand_augment");
      const auto single = static_cast<float>(std::fabs(magnitude) <= kMaxMagnitude ? magnitude : NAN);
      if (!(single == magnitude))
        Refuse("rand_augment has the magnitude ", magnitude,
               ", which is not exactly a float32, as ml-dr draws them, or above ", kMaxMagnitude);
      columns->ops.push_back(Operation(pair[0]));
      columns->magnitudes.push_back(single);
    }
  }

  uint8_t Operation(const Value& value) const {
    if (value.kind == Kind::kText) {
      const auto* name = std::find(std::begin(kOperations), std::end(kOperations), value.text());
      if (name != std::end(kOperations)) return static_cast<uint8_t>(name - kOperations);
    } else if (value.kind == Kind::kInt && value.integer >= 0 && value.integer < kNumRandAugmentOps) {
      return static_cast<uint8_t>(value.integer);
    }
    Refuse("rand_augment has the operation ", tree_.Describe(value), ", which torchvision's does not have");
  }

  Box Erase(const Value& value) const {
    if (value.none()) return {};
    const auto box = Sequence(value, 4, "random_erase");
    int64_t edges[4];
    for (size_t i = 0; i < 4; ++i) edges[i] = Whole(box[i], "random_erase");
    if (edges[0] == -1 || edges[2] == 0 || edges[3] == 0) return {};
    return InsideBox(row_, "random_erase", edges[0], edges[1], edges[2], edges[3],
                     {settings_.view, settings_.view});
  }

  /// How the view is mixed. A partner that adds nothing to it is none.
  void AddMix(const Parameters& parameters) {
    const Value* mixup = parameters.own[Place(Transform::kMixUp)];
    const Value* cutmix = parameters.own[Place(Transform::kCutMix)];
    float lam = 1;
    if (mixup && !mixup->none()) {
      const double weight = Number(*mixup, "mixup");
      if (!(weight >= 0 && weight <= 1)) Refuse("mixup has the weight ", weight, ", which is not in 0 to 1");
      lam = static_cast<float>(weight);
    }
    const Box cut = cutmix && !cutmix->none() ? Cut(*cutmix) : Box{};
    const bool mixed = lam != 1 || cut.height > 0;
    out_->lam.push_back(lam);
    out_->cut.push_back(cut);
    out_->swapped.push_back(0);
    out_->partner.push_back(mixed ? Partner(*parameters.id2) : kNoPartner);
    ViewColumns& columns = out_->partner_views;
    if (mixed) return AddView(parameters.partner, SizeOf(out_->partner.back()), &columns);
    columns.crop.push_back({0, 0, 1, 1});
    columns.flip.push_back(0);
    AddOperations(kNothing, &columns);
    columns.erase.push_back({});
  }

  /// The partner's number, even where it is the image itself: others of the record have other partners.
  int32_t Partner(const Value& id2) const {
    const int64_t number = Whole(id2, "id2");
    if (number < 0 || number >= settings_.num_images)
      Refuse("id2 is ", number, ", but images are 0 to ", int64_t{settings_.num_images} - 1);
    return static_cast<int32_t>(number);
  }

  /// The partner's pixels, as far as they are known.
  Size SizeOf(int32_t partner) const {
    const auto number = static_cast<size_t>(partner);
    const Size size = number < settings_.sizes.size() ? settings_.sizes[number] : Size{};
    return size.height > 0 ? size : Size{kMaxSide, kMaxSide};
  }

  /// [lam, top, left, bottom, right] or (lam, (top, left, bottom, right)); lam follows from the box.
  Box Cut(const Value& value) const {
    auto box = tree_.Items(value);
    if (tree_.IsSequence(value) && box.size() == 5)
      box = box.subspan(1);
    else
      box = Sequence(Sequence(value, 2, "cutmix")[1], 4, "cutmix");
    const int64_t top = Whole(box[0], "cutmix"), left = Whole(box[1], "cutmix"),
                  bottom = Whole(box[2], "cutmix"), right = Whole(box[3], "cutmix");
    const auto view = int64_t{settings_.view};
    if (top < 0 || left < 0 || bottom < top || right < left || bottom > view || right > view)
      Refuse("the cutmix box from (", top, ", ", left, ") to (", bottom, ", ", right,
             ") is outside of the view of ", view);
    if (bottom == top || right == left) return {};  // nothing is pasted
    return {static_cast<int32_t>(top), static_cast<int32_t>(left), static_cast<int32_t>(bottom - top),
            static_cast<int32_t>(right - left)};
  }

  void AddPredictions(const Value& value) {
    const auto both = Sequence(value, 2, "\"prob\"");
    const auto probs = tree_.Items(both[0]), ids = tree_.Items(both[1]);
    if (!tree_.IsSequence(both[0]) || !tree_.IsSequence(both[1]) || probs.size() != ids.size() ||
        probs.empty())
      Refuse("\"prob\" holds ", tree_.Describe(both[0]), " and ", tree_.Describe(both[1]),
             ", not as many probabilities as class ids");
    if (row_ == 0) out_->topk = probs.size();
    if (probs.size() != out_->topk)
      Refuse("it has predictions of ", probs.size(), " classes, views before have ", out_->topk);
    RequireFewPredictions(rows_, out_->topk);
    const size_t first = row_ * out_->topk;
    out_->probs.resize(first + probs.size());
    out_->ids.resize(first + ids.size());
    for (size_t k = 0; k < probs.size(); ++k) {
      out_->probs[first + k] = Probability(row_, Number(probs[k], "\"prob\""));
      const int64_t id = Whole(ids[k], "a class id");
      if (id < 0 || id >= settings_.num_classes)
        Refuse("class id ", id, " is outside of 0 to ", int64_t{settings_.num_classes} - 1);
      out_->ids[first + k] = static_cast<int32_t>(id);
    }
    RequireDistinct(row_, std::span(out_->ids).last(ids.size()), &sorted_);
  }

  const Tree& tree_;
  const MlDrSettings& settings_;
  record::Reinforcements* out_;
  size_t row_ = 0, rows_ = 0;
  std::vector<int32_t> sorted_;
};

}  // namespace

bool MlDrSettings::Has(Transform transform) const {
  return std::find(transforms.begin(), transforms.end(), transform) != transforms.end();
}

void CheckSettings(const MlDrSettings& settings) {
  for (size_t i = 0; i < settings.transforms.size(); ++i) {
    if (static_cast<uint32_t>(settings.transforms[i]) >= kTransforms) Fail("a transformation has no name");
    if (i && settings.transforms[i] <= settings.transforms[i - 1])
      Fail("the transformations are not in the order of ml-dr's code");
  }
  if (settings.Has(Transform::kResizedCrop) == settings.Has(Transform::kCrop) ||
      settings.Has(Transform::kCrop) != (settings.crop > 0))
    Fail(
        "the configuration has none or both of random_resized_crop and random_crop, or random_crop without "
        "its size");
  if (settings.Has(Transform::kRandAugment) != (settings.num_ops > 0) || settings.num_ops > kMaxOps)
    Fail("the configuration has rand_augment with ", settings.num_ops, " operations");
  if (settings.view < 1 || settings.view > kMaxSide || settings.crop > kMaxSide)
    Fail("views of ", settings.view, " pixels are not stored");
  if (settings.num_classes > record::kMaxClasses - 1 || settings.num_images > record::kMaxClasses - 1)
    Fail("so many classes or images are not stored");
}

void AppendMlDr(const Tree& tree, const MlDrSettings& settings, record::Reinforcements* out) {
  const auto both = tree.Items(tree.root);
  if (!tree.IsSequence(tree.root) || both.size() != 2 || both[0].kind != Kind::kInt ||
      !tree.IsSequence(both[1]))
    Fail("the file holds ", tree.Describe(tree.root), ", not the number of an image and a list of its views");
  if (both[0].integer != settings.number)
    Fail("the file is of image ", both[0].integer, ", not of ", settings.number, " as its name says");
  const auto entries = tree.Items(both[1]);
  if (entries.empty()) Fail("the file holds no views");
  out->num_ops = settings.num_ops;
  out->mixing = settings.mixing();
  Rows rows(tree, settings, out);
  rows.Expect(entries.size());
  for (const Value& entry : entries) rows.Add(entry);
}

}  // namespace dali_dr::published
