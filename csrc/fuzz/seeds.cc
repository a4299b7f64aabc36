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

/// Zeros are a valid start of everything that is made of numbers; the mutators do the rest.
void Numbers() {
  for (const char* target : {"draw", "replay", "round_trip"}) {
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
  Images();
  JpegsToTile();
  Shards();
  Jpegs();
  Numbers();
  return 0;
}
