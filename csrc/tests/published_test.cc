// Tests of csrc/published: rows of every form, and that what does not fit its image, view or classes is
// refused with the view named (meant for a build with DALI_DR_SANITIZE=ON).
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "pickle/container.h"
#include "published/fkd.h"
#include "published/label_map.h"
#include "published/ml_dr.h"
#include "tests/check.h"
#include "tests/make_pickle.h"

namespace dali_dr::published {
namespace {

using namespace testing::made;
using testing::Check;
using Views = record::Reinforcements;

/// Hands the tree of a pickle on; returns what refuses it, or "".
std::string Refusal(const Text& file, const std::function<void(const pickle::Tree&)>& then) {
  const std::vector<uint8_t> own(file.begin(), file.end());
  pickle::Reader reader;
  pickle::Tree tree;
  try {
    pickle::ReadFile(own, &reader, &tree);
    then(tree);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

void CheckMessage(const std::string& message, const std::string& word, const std::string& what) {
  Check(word.empty() ? message.empty() : message.find(word) != std::string::npos,
        what + ": got \"" + message + "\"");
}

std::string Name(const Box& box) {
  std::string name;
  for (const int32_t edge : {box.top, box.left, box.height, box.width}) name += std::to_string(edge) + " ";
  return name;
}

void CheckBox(const Box& box, const std::string& want) {
  Check(Name(box) == want, "a box: " + Name(box) + "is not " + want);
}

// ml-dr

constexpr auto kRrc = Transform::kResizedCrop;

MlDrSettings Settings(std::vector<Transform> transforms) {
  MlDrSettings settings{.transforms = std::move(transforms),
                        .view = 224,
                        .num_classes = 1000,
                        .num_images = 50,
                        .number = 7,
                        .image = {300, 400}};
  if (settings.Has(Transform::kRandAugment)) settings.num_ops = 2;
  if (settings.Has(Transform::kCrop)) settings.crop = 32;
  return settings;
}

const Text kPrediction = Tuple({List({Float(0.25), Float(0.5)}), List({Int(999), Int(0)})});

Text Entry(const Text& params, const Text& prediction = kPrediction) {
  return Dict({{"params", params}, {"prob", prediction}});
}

std::string Read(const Text& entries, const MlDrSettings& settings, Views* views, int64_t number = 7) {
  return Refusal(Whole(Tuple({Int(number), "](" + entries + "e"}), 4), [&](const pickle::Tree& tree) {
    CheckSettings(settings);
    AppendMlDr(tree, settings, views);
  });
}

void CheckRefused(const Text& entry, const MlDrSettings& settings, const std::string& word) {
  Views views;
  CheckMessage(Read(entry, settings, &views), word, word);
}

Text Box4(int64_t a, int64_t b, int64_t c, int64_t d) { return Shape({a, b, c, d}); }

const Text kBox = Box4(10, 20, 100, 200);
const Text kOps = List({Tuple({Int(5), Float(-30)}), Tuple({Int(13), Float(0)})});

void TestPlain() {
  const auto settings = Settings({kRrc, Transform::kFlip});
  Views views;
  CheckMessage(
      Read(Entry(List({kBox, True()})) + Entry(List({Box4(0, 0, 300, 400), False()})), settings, &views), "",
      "crops and flips");
  CheckMessage(Read(Entry(Tuple({kBox, False()})), settings, &views), "", "another folder's file");
  Check(views.size() == 3 && views.topk == 2 && !views.mixing && views.num_ops == 0, "three views");
  CheckBox(views.views.crop[0], "10 20 100 200 ");
  CheckBox(views.views.crop[1], "0 0 300 400 ");
  Check(views.views.flip == std::vector<uint8_t>{1, 0, 0}, "flips");
  Check(views.probs == std::vector<float>{0.25, 0.5, 0.25, 0.5, 0.25, 0.5}, "probabilities, as they stand");
  Check(views.ids == std::vector<int32_t>{999, 0, 999, 0, 999, 0}, "class ids");
  CheckBox(views.views.erase[2], "0 0 0 0 ");
  CheckMessage(Read(Entry(List({kBox, True()})), settings, &views, 8), "of image 8, not of 7",
               "another image");
  const Text three = Tuple({List({Float(0.1), Float(0.2), Float(0.3)}), List({Int(1), Int(2), Int(3)})});
  CheckMessage(Read(Entry(List({kBox, True()}), three), settings, &views),
               "view 3: it has predictions of 3 classes", "another K in another folder");
}

void TestAugmented() {
  const auto settings =
      Settings({Transform::kResize, kRrc, Transform::kFlip, Transform::kRandAugment, Transform::kErase});
  Views views;
  const auto entry = [](const Text& ops, const Text& erase) {
    return Entry(List({Int(256), kBox, True(), ops, erase}));
  };
  CheckMessage(
      Read(entry(kOps, Box4(1, 2, 3, 4)) + entry(None(), None()) + entry(kOps, Box4(-1, -1, -1, -1)) +
               entry(kOps, Box4(5, 5, 0, 3)) + entry(kOps, Box4(0, 0, 224, 224)),
           settings, &views),
      "", "operations and erasing");
  Check(views.views.ops == std::vector<uint8_t>{5, 13, 0, 0, 5, 13, 5, 13, 5, 13}, "operations");
  Check(views.views.magnitudes[0] == -30 && views.views.magnitudes[2] == 0, "magnitudes");
  CheckBox(views.views.erase[0], "1 2 3 4 ");
  for (const size_t row : {1, 2, 3}) CheckBox(views.views.erase[row], "0 0 0 0 ");
  CheckBox(views.views.erase[4], "0 0 224 224 ");
  const auto ops = [&](const Text& ops, const std::string& word) {
    CheckRefused(entry(ops, None()), settings, word);
  };
  ops(List({Tuple({Int(5), Float(1)})}), "view 0: rand_augment is a list of 1, not a list of 2");
  ops(List({Int(5), Int(6)}), "an operation of rand_augment is 5");
  ops(List({Tuple({Int(14), Float(1)}), Tuple({Int(1), Float(1)})}), "operation 14");
  ops(List({Tuple({Int(-1), Float(1)}), Tuple({Int(1), Float(1)})}), "operation -1");
  ops(List({Tuple({String("Invert"), Float(1)}), Tuple({Int(1), Float(1)})}), "operation \"Invert\"");
  ops(List({Tuple({Int(1), Float(0.1)}), Tuple({Int(1), Float(1)})}), "not exactly a float32");
  ops(List({Tuple({Int(1), Float(NAN)}), Tuple({Int(1), Float(1)})}), "not exactly a float32");
  ops(List({Tuple({Int(1), Float(1e7)}), Tuple({Int(1), Float(1)})}), "not exactly a float32");
  const auto erase = [&](const Text& box, const std::string& word) {
    CheckRefused(entry(kOps, box), settings, word);
  };
  erase(Box4(220, 0, 5, 5),
        "view 0: the random_erase (top 220, left 0, height 5, width 5) is empty or outside of 224x224");
  erase(Box4(0, -2, 5, 5), "random_erase");
  erase(Shape({1, 2, 3}), "random_erase is a tuple of 3");
  erase(Tuple({Float(1), Int(1), Int(1), Int(1)}), "random_erase has 1, not a whole number");
}

void TestCrop() {
  auto settings = Settings({Transform::kCrop, Transform::kFlip});
  Views views;
  CheckMessage(Read(Entry(List({Shape({3, 4}), True()})), settings, &views), "", "random_crop");
  CheckBox(views.views.crop[0], "3 4 32 32 ");
  CheckRefused(Entry(List({Shape({269, 4}), True()})), settings, "view 0: the random_crop (top 269");
  CheckRefused(Entry(List({Shape({-1, 4}), True()})), settings, "random_crop");
  settings.crop = 0;
  CheckRefused(Entry(List({Shape({3, 4}), True()})), settings, "without its size");
}

void TestMixing() {
  const auto settings = Settings({kRrc, Transform::kFlip, Transform::kRandAugment, Transform::kErase,
                                  Transform::kMixUp, Transform::kCutMix});
  const Text crops = List({kBox, Box4(1, 2, 3, 4)}), flips = List({False(), True()}),
             ops = List({None(), kOps}), erases = List({Box4(1, 2, 3, 4), None()});
  const auto cut = [](int64_t top, int64_t left, int64_t bottom, int64_t right) {
    std::vector<Text> items{Float(0.3)};
    for (const int64_t edge : {top, left, bottom, right}) items.push_back(Scalar("i8", Little(edge)));
    return List(items);
  };
  const auto paired = [&](const Text& id2, const Text& mixup, const Text& cutmix) {
    return Entry(List({id2, crops, flips, ops, erases, mixup, cutmix}));
  };
  const Text alone = Entry(List({None(), kBox, True(), kOps, None(), None(), None()}));
  Views views;
  CheckMessage(Read(alone + paired(Int(7), Float(0.4), None()) + paired(Int(49), None(), cut(1, 2, 224, 4)) +
                        paired(Int(3), Float(1), cut(5, 5, 5, 9)) + paired(Int(3), Float(0), cut(5, 5, 6, 9)),
                    settings, &views),
               "", "mixing");
  Check(views.mixing, "it mixes");
  Check(views.partner == std::vector<int32_t>{kNoPartner, 7, 49, kNoPartner, 3}, "partners");
  Check(views.lam == std::vector<float>{1, 0.4f, 1, 1, 0}, "weights");
  CheckBox(views.cut[1], "0 0 0 0 ");
  CheckBox(views.cut[2], "1 2 223 2 ");
  CheckBox(views.partner_views.crop[0], "0 0 1 1 ");
  CheckBox(views.partner_views.crop[1], "1 2 3 4 ");
  CheckBox(views.views.crop[1], "10 20 100 200 ");
  Check(views.views.flip == std::vector<uint8_t>{1, 0, 0, 0, 0} &&
            views.partner_views.flip == std::vector<uint8_t>{0, 1, 1, 0, 1},
        "flips of both");
  Check(views.views.ops[2] == 0 && views.partner_views.ops[2] == 5 && views.partner_views.ops[0] == 0,
        "operations of both");
  Check(views.swapped == std::vector<uint8_t>(5, 0), "nobody changes places");
  const auto refused = [&](const Text& entry, const std::string& word) {
    CheckRefused(entry, settings, word);
  };
  refused(paired(Int(50), Float(0.4), None()), "id2 is 50, but images are 0 to 49");
  refused(paired(Int(-1), Float(0.4), None()), "id2 is -1");
  refused(paired(Float(1), Float(0.4), None()), "id2 has 1, not a whole number");
  refused(paired(Int(5), Float(1.5), None()), "mixup has the weight 1.5");
  refused(paired(Int(5), Float(NAN), None()), "mixup has the weight");
  refused(paired(Int(5), String("x"), None()), "mixup has \"x\"");
  refused(paired(Int(5), None(), cut(0, 0, 225, 9)), "the cutmix box from (0, 0) to (225, 9) is outside");
  refused(paired(Int(5), None(), cut(9, 0, 8, 9)), "the cutmix box");
  refused(paired(Int(5), None(), List({Int(1), Int(2)})), "cutmix is 2");
  refused(Entry(List({Int(5), kBox, True(), kOps, None(), Float(0.5), None()})),
          "random_resized_crop is a tuple of 4, not");
  refused(Entry(List({None(), kBox, True(), kOps, None(), Float(0.5), None()})), "id2 has None");
  refused(Entry(List({Int(5), None(), flips, ops, erases, Float(0.5), None()})),
          "random_resized_crop is None");
  // Crops of partners are held against the sizes of these, as far as they are known.
  std::vector<Size> sizes(50);
  sizes[49] = {4, 6};
  auto sized = settings;
  sized.sizes = sizes;
  Views more;
  CheckMessage(Read(paired(Int(7), Float(0.4), None()) + paired(Int(49), Float(0.4), None()), sized, &more),
               "", "partners of known and unknown sizes");
  sizes[49] = {4, 5};
  CheckRefused(paired(Int(49), Float(0.4), None()), sized, "is empty or outside of 4x5");
}

void TestUncompressed() {
  const auto settings = Settings({kRrc, Transform::kFlip, Transform::kRandAugment, Transform::kErase,
                                  Transform::kMixUp, Transform::kCutMix});
  const Text names = List({Tuple({String("Rotate"), Float(-30)}), Tuple({String("Equalize"), Float(0)})});
  const auto entry = [&](const Text& mixup, const Text& cutmix) {
    return Entry(Dict({{"uint8", Tuple({")", ")"})},
                       {"random_resized_crop", Tuple({kBox, Box4(1, 2, 3, 4)})},
                       {"random_horizontal_flip", Tuple({True(), False()})},
                       {"rand_augment", Tuple({names, None()})},
                       {"random_erase", Tuple({None(), Box4(5, 6, 7, 8)})},
                       {"mixup", mixup},
                       {"cutmix", cutmix},
                       {"id2", Int(9)}}));
  };
  Views views;
  CheckMessage(Read(entry(None(), None()) + entry(Float(0.5), None()) +
                        entry(None(), Tuple({Float(0.5), Box4(1, 2, 3, 4)})),
                    settings, &views),
               "", "dictionaries");
  Check(views.partner == std::vector<int32_t>{kNoPartner, 9, 9}, "partners");
  Check(views.views.ops == std::vector<uint8_t>{5, 13, 5, 13, 5, 13}, "operations by name");
  CheckBox(views.partner_views.erase[1], "5 6 7 8 ");
  CheckBox(views.cut[2], "1 2 2 2 ");
  const auto plain = Settings({Transform::kResize, kRrc, Transform::kFlip});
  Views pairs;
  CheckMessage(Read(Entry(Dict({{"random_resized_crop", List({kBox, kBox})},
                                {"random_horizontal_flip", List({True()})}})),
                    plain, &pairs),
               "", "pairs, or half of one");
  CheckRefused(Entry(Dict({{"random_resized_crop", kBox}, {"random_horizontal_flip", List({True()})}})),
               plain, "not the parameters of the image and of its partner");
  CheckRefused(Entry(Dict({{"random_horizontal_flip", List({True()})}})), plain,
               "random_resized_crop is None");
}

void TestRefused() {
  const auto settings = Settings({kRrc, Transform::kFlip});
  const auto refused = [&](const Text& entry, const std::string& word) {
    CheckRefused(entry, settings, word);
  };
  const Text params = List({kBox, True()});
  refused("", "no views");
  refused(Int(1), "view 0 is 1, not a dictionary");
  refused(Dict({{"params", params}}), "view 0 is a dictionary of 1");
  refused(Entry(Int(1)), "what \"params\" holds is 1, not a list of 2");
  refused(Entry(List({kBox, True(), True()})), "is a list of 3, not a list of 2");
  refused(Entry(List({Box4(201, 0, 100, 100), True()})),
          "view 0: the random_resized_crop (top 201, left 0, height 100, width 100) is empty or outside of "
          "300x400");
  refused(Entry(List({Box4(0, 0, 0, 100), True()})), "is empty or outside");
  refused(Entry(List({Box4(0, -1, 5, 100), True()})), "is empty or outside");
  refused(Entry(List({Box4(0, INT64_MAX, 5, INT64_MAX), True()})), "is empty or outside");
  refused(Entry(List({kBox, Int(2)})), "random_horizontal_flip has 2");
  refused(Entry(List({kBox, None()})), "random_horizontal_flip has None");
  const auto prob = [&](const std::vector<Text>& probs, const std::vector<Text>& ids,
                        const std::string& word) {
    refused(Entry(params, Tuple({List(probs), List(ids)})), word);
  };
  prob({Float(1.5)}, {Int(1)}, "probability 1.5 is not in 0 to 1");
  prob({Float(-0.1)}, {Int(1)}, "probability -0.1");
  prob({Float(NAN)}, {Int(1)}, "is not in 0 to 1");
  prob({None()}, {Int(1)}, "has None, not a whole number");
  prob({Float(0.1)}, {Int(1000)}, "class id 1000 is outside of 0 to 999");
  prob({Float(0.1)}, {Int(-1)}, "class id -1 is");
  prob({Float(0.1)}, {Float(1)}, "a class id has 1");
  prob({Float(0.1), Float(0.1)}, {Int(3), Int(3)}, "has the class id 3 twice");
  prob({Float(0.1)}, {Int(3), Int(4)}, "not as many probabilities as class ids");
  prob({}, {}, "not as many probabilities as class ids");
  refused(Entry(params, List({Int(1)})), "\"prob\" is a list of 1");
  std::vector<Text> probs(20, Float(0.01)), ids;
  for (int i = 0; i < 20; ++i) ids.push_back(Int(i % 19));
  prob(probs, ids, "has the class id 0 twice");
  refused(Entry(params) + Entry(params, Tuple({List({Float(1)}), List({Int(1)})})),
          "view 1: it has predictions of 1");
  Views views;
  for (const Text& root :
       {Int(1), Tuple({Int(7), Int(1)}), Tuple({String("7"), "]"}), Tuple({Int(7), "]", Int(1)})})
    CheckMessage(Refusal(Whole(root), [&](const auto& tree) { AppendMlDr(tree, settings, &views); }),
                 "the file holds", "another file");
  const auto wrong = [](MlDrSettings of, const std::string& word) {
    Views none;
    CheckMessage(Read(Entry(List({kBox, True()})), of, &none), word, word);
  };
  wrong(Settings({Transform::kFlip}), "none or both");
  wrong(Settings({Transform::kFlip, kRrc}), "not in the order");
  wrong(Settings({kRrc, static_cast<Transform>(8)}), "no name");
  auto of = settings;
  of.num_ops = 2;
  wrong(of, "rand_augment with 2");
  of = settings, of.view = 0;
  wrong(of, "views of 0 pixels");
  of = settings, of.num_classes = ~0u;
  wrong(of, "so many classes");
}

/// A value, and itself again so many times.
Text Again(const Text& value, size_t times) {
  Text all = value + Text("q\0", 2);
  for (size_t i = 0; i < times; ++i) all += Text("h\0", 2);
  return all;
}

void TestSmallFilesOfMuch() {
  const auto settings = Settings({kRrc, Transform::kFlip});
  std::vector<std::pair<Text, Text>> many = {{"params", List({kBox, True()})}, {"prob", kPrediction}};
  while (many.size() < 64) many.push_back({"more", None()});
  Views views;
  CheckMessage(Read(Dict(many), settings, &views), "", "a dictionary of 64");
  many.push_back({"more", None()});
  CheckRefused(Again(Dict(many), 9), settings, "view 0: has a dictionary of 65, larger than any");
  many = {{"random_resized_crop", Tuple({kBox})}, {"random_horizontal_flip", Tuple({True()})}};
  while (many.size() < 65) many.push_back({"more", None()});
  CheckRefused(Entry(Dict(many)), settings, "view 0: has a dictionary of 65, larger than any");
  std::vector<Text> probs(65, Float(0.01)), ids;
  for (int i = 0; i < 65; ++i) ids.push_back(Int(i));
  const Text entry = Entry(List({kBox, True()}), Tuple({List(probs), List(ids)}));
  views = {};
  CheckMessage(Read(Again(entry, 999), settings, &views), "", "1,000 views of 65 classes");
  CheckMessage(Read(Again(entry, (1 << 16) - 1001), settings, &views),
               "there are 65536 views with predictions of 65 classes", "too many in two files together");
  CheckRefused(Again(entry, (1 << 16) - 1), settings, "65536 views with predictions of 65 classes");
}

// FKD

std::string ReadFkdFile(const std::vector<Text>& parts, Views* views, LabelForm form = LabelForm::kAuto,
                        uint32_t classes = 1000) {
  return Refusal(Whole(List(parts)),
                 [&](const pickle::Tree& tree) { *views = ReadFkd(tree, {classes, form, {300, 400}}); });
}

Text Boxes(const std::vector<float>& fractions) {
  return NumpyArray("f4", {static_cast<int64_t>(fractions.size() / 4), 4}, testing::made::Array(fractions));
}

void TestFkd() {
  const Text boxes = Boxes({0, 0, 1, 1, 10 / 300.f, 20 / 400.f, 100 / 300.f, 200 / 400.f});
  const Text flips = NumpyArray("b1", {2}, Text("\0\1", 2));
  Views views;
  const auto read = [&](const Text& labels, LabelForm form = LabelForm::kAuto, uint32_t classes = 1000) {
    return ReadFkdFile({boxes, flips, labels}, &views, form, classes);
  };
  const Text marginal =
      NumpyArray("f4", {2, 2, 2}, testing::made::Array<float>({5, 999, 0.5, 0.25, 0, 1, 0.125, 0}));
  CheckMessage(read(marginal), "", "marginal");
  CheckBox(views.views.crop[0], "0 0 300 400 ");
  CheckBox(views.views.crop[1], "10 20 100 200 ");
  Check(views.views.flip == std::vector<uint8_t>{0, 1} && views.views.erase.size() == 2 && !views.mixing,
        "flips");
  Check(views.topk == 2 && views.ids == std::vector<int32_t>{5, 999, 0, 1} &&
            views.probs == std::vector<float>{0.5, 0.25, 0.125, 0},
        "marginal labels");
  const Text pairs = NumpyArray("f4", {2, 2}, testing::made::Array<float>({5, 0.5, 7, 1}));
  CheckMessage(read(pairs), "", "smoothing");
  Check(
      views.topk == 1 && views.ids == std::vector<int32_t>{5, 7} && views.probs == std::vector<float>{0.5, 1},
      "smoothing");
  CheckMessage(read(NumpyArray("i8", {2}, testing::made::Array<int64_t>({5, 7}))), "", "hard");
  Check(views.topk == 1 && views.ids == std::vector<int32_t>{5, 7} && views.probs == std::vector<float>{1, 1},
        "hard");
  const Text full = NumpyArray("f4", {2, 3}, testing::made::Array<float>({0.5, 0.5, 0, 0.25, 0.25, 0.5}));
  CheckMessage(read(full, LabelForm::kAuto, 3), "", "full");
  Check(views.topk == 3 && views.ids == std::vector<int32_t>{0, 1, 2, 0, 1, 2} && views.probs[5] == 0.5,
        "full");
  CheckMessage(
      read(NumpyArray("f4", {2, 2}, testing::made::Array<float>({0.5, 0.5, 0, 1})), LabelForm::kFull, 2), "",
      "two classes");
  Check(views.topk == 2 && views.probs == std::vector<float>{0.5, 0.5, 0, 1}, "full of two classes");
  for (const auto& [labels, form] : {std::pair{marginal, LabelForm::kHard},
                                     {pairs, LabelForm::kMarginal},
                                     {full, LabelForm::kFull},
                                     {full, LabelForm::kSmoothing},
                                     {NumpyArray("f4", {1, 2}, Text(8, 0)), LabelForm::kAuto},
                                     {NumpyArray("f4", {}, Text(4, 0)), LabelForm::kHard},
                                     {NumpyArray("f4", {2, 2, 0}, ""), LabelForm::kAuto}})
    CheckMessage(read(labels, form), "no form of labels", "another form");
  const auto odd = [&](std::vector<float> label, const std::string& word) {
    CheckMessage(read(NumpyArray("f4", {2, 2, 1}, testing::made::Array(label))), word, word);
  };
  odd({5, 0.5, 5.5, 0.5}, "view 1: the class id 5.5 is no whole number from 0 to 999");
  odd({1000, 0.5, 5, 0.5}, "view 0: the class id 1000");
  odd({NAN, 0.5, 5, 0.5}, "view 0: the class id");
  odd({5, 1.5, 5, 0.5}, "view 0: the probability 1.5");
  const Text twice =
      NumpyArray("f4", {2, 2, 2}, testing::made::Array<float>({5, 5, 0.5, 0.25, 0, 1, 0.125, 0}));
  CheckMessage(read(twice), "view 0 has the class id 5 twice", "twice");
}

void TestFkdBoxes() {
  Views views;
  const Text flip = NumpyArray("b1", {1}, Text(1, 0)), hard = NumpyArray("i8", {1}, Little(int64_t{1}));
  const auto read = [&](const Text& boxes) { return ReadFkdFile({boxes, flip, hard}, &views); };
  // Halves go to the even number, and the right edge is rounded as a sum: 300 * 0.125 = 37.5, 400 * 0.00625
  // = 2.5.
  CheckMessage(read(Boxes({0.125, 0.03125, 0.25, 0.25})), "", "halves");
  CheckBox(views.views.crop[0], "38 12 74 100 ");
  CheckMessage(read(NumpyArray("f8", {1, 4}, testing::made::Array<double>({0.125, 0, 1, 1}))),
               "is empty or outside of 300x400", "a box outside");
  CheckMessage(read(Boxes({0, 0, 0, 1})), "is empty", "an empty box");
  CheckMessage(read(Boxes({NAN, 0, 1, 1})), "has the edge", "a box of no numbers");
  CheckMessage(read(Boxes({1e30f, 0, 1, 1})), "has the edge", "a box far off");
  CheckMessage(read(NumpyArray("f2", {1, 4}, Text(8, 0))), "float16", "fractions in float16");
  CheckMessage(read(NumpyArray("f4", {4}, Text(16, 0))), "not fractions of shape", "another shape");
  CheckMessage(read(NumpyArray("f4", {0, 4}, "")), "holds 0 views", "no views");
  CheckMessage(read(Int(1)), "the boxes are 1, not an array", "no boxes");
  const Text box = Boxes({0, 0, 1, 1});
  CheckMessage(ReadFkdFile({box, NumpyArray("f4", {1}, Text(4, 0)), hard}, &views), "the flips are",
               "other flips");
  CheckMessage(ReadFkdFile({box, NumpyArray("u1", {1}, "\2"), hard}, &views), "the flip is 2", "a flip of 2");
  CheckMessage(ReadFkdFile({box, flip}, &views), "not a list of boxes, flips and labels", "two parts");
}

void TestLabelMap() {
  const auto read = [](const Text& root, LabelMap* map) {
    return Refusal(Whole(root), [&](const pickle::Tree& tree) { *map = ReadLabelMap(tree); });
  };
  LabelMap map;
  const Text good = NumpyArray("f4", {2, 1, 1, 2}, testing::made::Array<float>({1.5, -2, 7, 999}));
  CheckMessage(read(good, &map), "", "a map");
  Check(map.depth == 1 && map.height == 1 && map.width == 2, "its shape");
  Check(map.scores == std::vector<float>{1.5, -2} && map.ids == std::vector<int32_t>{7, 999}, "its numbers");
  for (const auto& [root, word] : std::vector<std::pair<Text, std::string>>{
           {Int(1), "holds 1, not a tensor"},
           {NumpyArray("i8", {2, 1, 1, 1}, Text(16, 0)), "not floats of shape"},
           {NumpyArray("f4", {1, 1, 1, 2}, Text(8, 0)), "not floats of shape"},
           {NumpyArray("f4", {2, 1, 1}, Text(8, 0)), "not floats of shape"},
           {NumpyArray("f4", {2, 0, 1, 1}, ""), "it is empty"},
           {NumpyArray("f4", {2, 0, 1, 1ll << 62}, ""), "it is empty"},
           {NumpyArray("f4", {2, 1, 1, 1}, testing::made::Array<float>({1, 0.5})),
            "class id of rank 0 at row 0, column 0 is 0.5"},
           {NumpyArray("f4", {2, 1, 1, 1}, testing::made::Array<float>({1, -1})),
            "is -1, not a whole number from 0"},
           {NumpyArray("f4", {2, 1, 1, 1}, testing::made::Array<float>({NAN, 1})), "no finite float32"},
           {NumpyArray("f8", {2, 1, 1, 1}, testing::made::Array<double>({1e300, 1})), "no finite float32"}})
    CheckMessage(read(root, &map), word, word);
}

}  // namespace
}  // namespace dali_dr::published

int main() {
  using namespace dali_dr::published;
  TestPlain();
  TestAugmented();
  TestCrop();
  TestMixing();
  TestUncompressed();
  TestRefused();
  TestSmallFilesOfMuch();
  TestFkd();
  TestFkdBoxes();
  TestLabelMap();
  return dali_dr::testing::Verdict("published");
}
