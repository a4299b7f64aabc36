// Writes the inputs with which the corpora began, into FOLDER/TARGET/: valid ones of every kind, as small as
// they go. No photos.
//
//     fuzz_seeds FOLDER
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "fuzz/frames.h"
#include "tests/make_jpeg.h"
#include "tests/make_label_map.h"
#include "tests/make_pickle.h"
#include "tests/make_shards.h"
#include "tests/record_shapes.h"

namespace {

using dali_dr::fuzz::Bytes;
std::filesystem::path folder;

void Write(const std::string& target, const Bytes& bytes) {
  static std::map<std::string, int> count;
  std::filesystem::create_directories(folder / target);
  std::ofstream(folder / target / ("seed-" + std::to_string(count[target]++)), std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::ptrdiff_t(bytes.size()));
}

void Records() {
  using namespace dali_dr::testing;
  for (const RecordShape& shape : AllShapes()) {
    if (shape.views >= 100) continue;  // small inputs reach the same code sooner
    const MadeRecord made = MakeRecord(shape, 1);
    Write("record_content", made.bytes);
    std::vector<Bytes> contents;
    size_t at = 0;
    for (const size_t length : made.frames) {
      contents.emplace_back(made.bytes.begin() + std::ptrdiff_t(at),
                            made.bytes.begin() + std::ptrdiff_t(at + length));
      at += length;
    }
    Write("record_member", dali_dr::fuzz::Pack(contents));
  }
}

/// A crop, then a member.
void LabelMaps() {
  using namespace dali_dr::testing;
  const MadeMap shapes[] = {{.side = 3, .depth = 2, .num_classes = 300},
                            {.side = 4, .depth = 3, .num_classes = 300, .half = true},
                            {.side = 1, .depth = 1, .num_classes = 300}};
  uint8_t seed = 0;
  for (const MadeMap& shape : shapes) {
    Bytes bytes{200, 0, 100, 0, 50, seed, 20, 0, 10, 0, 30, 0, seed, 40, 0};
    const Bytes member = CompressMap(RandomMap(++seed, shape, 20).bytes);
    bytes.insert(bytes.end(), member.begin(), member.end());
    Write("label_map", bytes);
  }
}

void Images() {
  using namespace std::string_literals;
  const auto write = [](const std::string& text) { Write("image_header", {text.begin(), text.end()}); };
  write("\xff\xd8\xff\xe0\0\x10"s + std::string(14, '\xff') + "\xff\xff\xdb\0\x43"s +
        std::string(65, '\xc0') +
        "\xff\xc2\0\x11\x08\x01\x2c\0\xc8\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xda"s);
  write("\xff\xd8\xff\xc0\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0\xff\xda"s);
  write("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\xc8\0\0\x01\x2c\x08\x02"s);
  write("RIFF\0\1\0\0WEBPVP8 \0\1\0\0\x10\0\0\x9d\x01\x2a\xc8\x40\x2c\xc1"s);
  write("RIFF\0\1\0\0WEBPVP8L\0\1\0\0\x2f\xc7\xc0\x4a\x00"s);
  write("RIFF\0\1\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xc7\0\0\x2b\x01\0"s);
}

/// Of every kind of MCU, and of every coding that is transcoded.
void JpegsToTile() {
  using dali_dr::testing::JpegShape;
  for (const auto& [h, v, grey] : dali_dr::testing::kSamplings) {
    JpegShape shape{.height = 24, .width = 130, .h = h, .v = v, .grey = grey, .quality = 20};
    Write("jpeg_tile", MakeJpeg(shape));
    shape.restart = 1;
    Write("jpeg_tile", MakeJpeg(shape));
    shape.progressive = true;
    Write("jpeg_tile", MakeJpeg(shape));
  }
}

void Shards() {
  using namespace dali_dr::testing;
  std::vector<Item> items{
      {"a/b.jpg", "image"}, {"a/b.cls", "7"}, {"a/b.dr.zst", "record"}, {"c.jpg", Text(700, 'x')}};
  items.push_back({"c.dr.zst", "second", true});
  const Text tar = Tar(&items);
  const auto block = [&](size_t i) { return static_cast<uint32_t>(items[i].block); };
  std::vector<Row> rows{{"a/b", {0, block(0), 5, 0, block(2), 6, 7}},
                        {"c", {0, block(3), 700, 0, block(4), 6, 999}}};
  constexpr uint64_t kTarBytes = 8192;  // to which the target fills the tar up
  const auto write = [&](const Text& index) {
    Text all;
    AppendTo(&all, static_cast<uint16_t>(index.size()));
    all += index + tar;
    Write("shards", {all.begin(), all.end()});
    Write("index", {index.begin(), index.end()});
  };
  for (const IndexForm& form : {IndexForm{1}, IndexForm{2}, IndexForm{2, true}})
    write(IndexOf(rows, {{"x.tar", kTarBytes}}, form));
  rows[1].entry.image_file = 1;  // a sidecar set
  write(IndexOf(rows, {{"x.tar", kTarBytes}, {"x.tar", kTarBytes}}, IndexForm{2, true}));
  for (const Item& item : items) {
    Text header = tar.substr(512 * (item.block - 1), 512);
    AppendTo<uint64_t>(&header, item.data.size());
    header += item.name.substr(0, item.name.find('.'));
    Write("tar_header", {header.begin(), header.end()});
  }
}

/// A region's place and size, then a JPEG of a few MCUs.
void Jpegs() {
  using namespace dali_dr::testing;
  for (const auto& [h, v, grey] : kSamplings) {
    for (const int restart : {0, 1, 2, 3, 6}) {
      for (const bool progressive : {false, true}) {
        if (progressive && restart > 1) continue;
        const JpegShape shape{.height = 16 * v + 5,
                              .width = 24 * h + 3,
                              .h = h,
                              .v = v,
                              .grey = grey,
                              .restart = restart,
                              .progressive = progressive,
                              .quality = 40};
        Bytes bytes{7, 0, 9, 0, 8, 0, 20, 0, 3, 0};
        const Bytes jpeg = MakeJpeg(shape);
        bytes.insert(bytes.end(), jpeg.begin(), jpeg.end());
        Write("jpeg_decode", bytes);
        if (!progressive) Write("jpeg_slice", bytes);
      }
    }
  }
}

/// Settings, what to put around the pickle, and a pickle of each kind of file.
void Pickles() {
  namespace made = dali_dr::testing::made;
  using made::Float, made::Int, made::List, made::None, made::Tuple;
  const auto write = [](int bits, int form, const made::Text& pickle) {
    Bytes bytes{uint8_t(bits), uint8_t(form)};
    bytes.insert(bytes.end(), pickle.begin(), pickle.end());
    Write("pickle", bytes);
  };
  const auto box = made::Shape({10, 20, 100, 200}),
             ops = List({Tuple({Int(5), Float(-30)}), Tuple({Int(13), Float(0)})}),
             erase = made::Shape({1, 2, 3, 4}), yes = made::True(), no = made::False();
  const auto file = [&](const made::Text& params) {
    const auto prob = Tuple({List({Float(0.25), Float(0.5)}), List({Int(19), Int(0)})});
    return made::Whole(Tuple({Int(7), List({made::Dict({{"params", params}, {"prob", prob}})})}), 4);
  };
  const auto cut = List({Float(0.3), made::Scalar("i8", made::Little(int64_t{1})), Int(2), Int(224), Int(4)});
  for (const int form : {0, 1, 5}) {
    write(0b00001100, form, file(List({box, yes})));
    write(0b00001010, form, file(List({made::Shape({3, 4}), no})));
    write(0b00111100, form, file(List({box, yes, ops, erase})));
    write(0b00111101, form, file(List({Int(256), box, yes, None(), None()})));
    write(0b11111100, form, file(List({None(), box, yes, ops, erase, None(), None()})));
    write(0b11111100, form,
          file(List({Int(3), List({box, box}), List({yes, no}), List({ops, None()}), List({erase, None()}),
                     Float(0.5), cut})));
  }
  const auto names =
      List({Tuple({made::String("Rotate"), Float(-30)}), Tuple({made::String("Equalize"), Float(0)})});
  write(0b11111100, 0,
        file(made::Dict({{"random_resized_crop", Tuple({box, box})},
                         {"random_horizontal_flip", Tuple({yes, no})},
                         {"rand_augment", Tuple({names, None()})},
                         {"random_erase", Tuple({erase, None()})},
                         {"mixup", Float(0.5)},
                         {"cutmix", Tuple({Float(0.5), erase})},
                         {"id2", Int(3)}})));
  const auto boxes = made::NumpyArray("f4", {1, 4}, made::Array<float>({0, 0, 1, 1})),
             flips = made::NumpyArray("b1", {1}, "\1");
  write(0, 0,
        made::Whole(
            List({boxes, flips, made::NumpyArray("f4", {1, 2, 2}, made::Array<float>({5, 6, 0.5, 0.25}))})));
  write(0, 1,
        made::Whole(List({boxes, flips, made::NumpyArray("f4", {1, 2}, made::Array<float>({5, 0.5}))})));
  write(0, 0, made::Whole(List({boxes, flips, made::NumpyArray("i8", {1}, made::Little(int64_t{5}))})));
  write(1, 0, made::Whole(List({boxes, flips, made::NumpyArray("f4", {1, 20}, made::Text(80, 0), true)})));
  write(
      0, 1,
      made::Whole(made::Tensor(made::TorchStorage("FloatStorage", "0", 16), 0, {2, 2, 2, 2}, {8, 4, 2, 1})));
  write(0, 2,
        made::Whole(
            made::Tensor(made::TorchStorage("FloatStorage", "0", 16, true), 0, {2, 2, 2, 2}, {8, 4, 2, 1})));
  write(
      0, 1,
      made::Whole(made::Tensor(made::TorchStorage("HalfStorage", "0", 32), 16, {2, 1, 2, 2}, {8, 4, 1, 2})));
  const auto encode = made::Global("_codecs", "encode");
  write(0, 0,
        made::Whole(
            List({made::Call(encode, {made::String("a\xc3\xbf"), made::String("latin1")}),
                  "]\x94h" + made::Text(1, 0) + "a", made::Scalar("f2", "ab"), made::Scalar("u1", "a")})));
  write(0, 0, made::Archive(made::Whole(List({Int(1)}))));
  write(0, 0,
        made::Zip({{"5.pth/data.pkl", made::Whole(made::Dict({{"a", Float(0.1)}}))}}, {.zip64 = false}));
  write(0, 0, made::Older(made::Whole(Int(70000)), {}));
}

/// Zeros are a valid start of everything that is made of numbers; the mutators do the rest.
void Numbers() {
  for (const char* target : {"draw", "record_write", "replay", "round_trip"}) {
    for (int round = 0; round < 64; ++round) {
      Bytes bytes(64 + round * 8);
      uint32_t state = uint32_t(round);
      for (uint8_t& byte : bytes) {
        state = state * 1664525 + 1013904223;
        byte = round == 0 ? 0 : uint8_t(state >> 24);
      }
      Write(target, bytes);
    }
  }
  // torchvision's numbers, in thousandths
  Bytes spec{0};
  const auto put = [&](auto value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    spec.insert(spec.end(), bytes, bytes + sizeof value);
  };
  put(uint64_t{7});
  put(int32_t{224});
  put(int8_t{2});
  for (const int number : {80, 1000, 750, 1333, 20, 330, 300, 3300, 500, 250}) put(uint16_t(number));
  for (int i = 0; i < 14; ++i) put(uint8_t(i));
  put(uint32_t{375});
  put(uint32_t{500});
  put(uint64_t{1} << 40);
  put('k');
  Write("draw", spec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: fuzz_seeds FOLDER\n";
    return 2;
  }
  folder = argv[1];
  Records();
  LabelMaps();
  Images();
  JpegsToTile();
  Shards();
  Jpegs();
  Pickles();
  Numbers();
  return 0;
}
