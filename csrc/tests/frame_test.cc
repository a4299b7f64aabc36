// Headers of JPEGs: what is read of those that libjpeg writes, and what is refused.
#include "jpeg/frame.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "make_jpeg.h"

namespace dali_dr::jpeg {
namespace {

using namespace dali_dr::testing;

/// ReadFrame of a copy of just this size, so that an overrun is seen.
bool Reads(std::span<const uint8_t> bytes, Frame* frame) {
  const std::vector<uint8_t> own(bytes.begin(), bytes.end());
  return ReadFrame(own, frame);
}

void TestShapes() {
  Frame frame;
  for (const auto& [h, v, grey] : kSamplings) {
    for (const int height : {1, 8, 17, 64, 129}) {
      for (const int width : {1, 7, 16, 33, 200}) {
        for (const int restart : {0, 1, 5, 65535}) {
          const JpegShape shape{
              .height = height, .width = width, .h = h, .v = v, .grey = grey, .restart = restart};
          const Bytes bytes = MakeJpeg(shape);
          const std::string name = shape.Name();
          Check(Reads(bytes, &frame), name + ": read");
          Check(frame.height == height && frame.width == width, name + ": size");
          Check(frame.mcu_height == shape.mcu_height() && frame.mcu_width == shape.mcu_width(),
                name + ": MCU");
          Check(frame.mcu_rows == shape.mcu_rows() && frame.mcus_per_row == shape.mcus_per_row(),
                name + ": MCUs");
          Check(frame.max_h == (grey ? 1 : h) && frame.max_v == (grey ? 1 : v), name + ": factors");
          Check(frame.restart_interval == restart, name + ": interval");
          Check(frame.scan == ScanOf(bytes), name + ": scan");
        }
      }
    }
  }
}

void TestEveryPartOfAHeader() {
  const Bytes bytes = MakeJpeg({.height = 40, .width = 50, .restart = 2});
  Frame frame;
  const size_t scan = ScanOf(bytes);
  for (size_t size = 0; size <= bytes.size(); ++size)
    Check(Reads({bytes.data(), size}, &frame) == (size >= scan),
          "the first " + std::to_string(size) + " bytes");
}

/// Where the segment of a marker begins; 0: there is none.
size_t Segment(const Bytes& bytes, uint8_t marker) {
  for (size_t at = 2; at + 4 <= bytes.size(); at += 2 + (size_t{bytes[at + 2]} << 8 | bytes[at + 3])) {
    if (bytes[at + 1] == marker) return at;
    if (bytes[at + 1] == 0xda) break;
  }
  return 0;
}

void Insert(Bytes* bytes, size_t at, std::initializer_list<uint8_t> what) {
  bytes->insert(bytes->begin() + static_cast<ptrdiff_t>(at), what);
}

void TestOtherKinds() {
  const Bytes sound = MakeJpeg({.height = 40, .width = 50, .restart = 2});
  const size_t sof = Segment(sound, 0xc0), sos = Segment(sound, 0xda), dri = Segment(sound, 0xdd);
  const auto set = [](size_t at, uint8_t value) { return [=](Bytes* bytes) { (*bytes)[at] = value; }; };
  const auto insert = [](size_t at, std::initializer_list<uint8_t> what) {
    return [=, kept = Bytes(what)](Bytes* bytes) {
      bytes->insert(bytes->begin() + static_cast<ptrdiff_t>(at), kept.begin(), kept.end());
    };
  };
  const struct {
    const char* what;
    std::function<void(Bytes*)> change;
    bool read;
  } cases[] = {
      {"as it is", [](Bytes*) {}, true},
      {"SOF1", set(sof + 1, 0xc1), true},
      {"a fill byte", insert(sof, {0xff}), true},
      {"three fill bytes", insert(sos, {0xff, 0xff, 0xff}), true},
      {"a comment", insert(sof, {0xff, 0xfe, 0, 4, 1, 2}), true},
      {"an empty comment", insert(sof, {0xff, 0xfe, 0, 2}), true},
      {"no SOI", set(1, 0xd9), false},
      {"no FF", set(0, 0xfe), false},
      {"progressive", set(sof + 1, 0xc2), false},
      {"lossless", set(sof + 1, 0xc3), false},
      {"arithmetic", set(sof + 1, 0xc9), false},
      {"12 bits", set(sof + 4, 12), false},
      {"no rows", [=](Bytes* b) { (*b)[sof + 5] = (*b)[sof + 6] = 0; }, false},
      {"no columns", [=](Bytes* b) { (*b)[sof + 7] = (*b)[sof + 8] = 0; }, false},
      {"two components", set(sof + 9, 2), false},
      {"four components", set(sof + 9, 4), false},
      {"one component in a segment of three", set(sof + 9, 1), false},
      {"a factor of 0", set(sof + 11, 0x02), false},
      {"another factor of 0", set(sof + 11, 0x20), false},
      {"a factor of 5", set(sof + 11, 0x52), false},
      {"another factor of 5", set(sof + 11, 0x25), false},
      {"a length of 1", [=](Bytes* b) { (*b)[sof + 2] = 0, (*b)[sof + 3] = 1; }, false},
      {"a length beyond the end", set(sof + 2, 0xff), false},
      {"junk before a segment", insert(sof, {0}), false},
      {"an interval of three bytes", [=](Bytes* b) { (*b)[dri + 3] = 5, Insert(b, dri + 4, {0}); }, false},
      {"a second frame", insert(sos, {0xff, 0xc0, 0, 11, 8, 0, 8, 0, 8, 1, 1, 0x11, 0}), false},
      {"a scan before the frame", insert(2, {0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0}), false},
      {"DNL", insert(sos, {0xff, 0xdc, 0, 4, 0, 8}), false},
      {"DAC", insert(sos, {0xff, 0xcc, 0, 4, 0, 8}), false},
      {"RST0 in the header", insert(sos, {0xff, 0xd0}), false},
      {"a second SOI", insert(2, {0xff, 0xd8}), false},
      {"an end in the header", insert(sos, {0xff, 0xd9}), false},
      {"a scan of one component", [=](Bytes* b) { (*b)[sos + 4] = 1; }, false},
      {"a scan in another order", [=](Bytes* b) { std::swap((*b)[sos + 5], (*b)[sos + 7]); }, false},
      {"a scan from the second coefficient on", set(sos + 11, 1), false},
      {"a scan of some coefficients", set(sos + 12, 5), false},
      {"a scan of high bits", set(sos + 13, 0x10), false},
      {"a scan of low bits", set(sos + 13, 1), false},
  };
  for (const auto& [what, change, read] : cases) {
    Bytes bytes = sound;
    change(&bytes);
    Frame frame;
    Check(Reads(bytes, &frame) == read, what);
  }
}

void TestTheLastIntervalCounts() {
  Bytes bytes = MakeJpeg({.height = 40, .width = 50, .restart = 2});
  Insert(&bytes, Segment(bytes, 0xda), {0xff, 0xdd, 0, 4, 1, 7});
  Frame frame;
  Check(Reads(bytes, &frame) && frame.restart_interval == 263, "the last of two intervals");
}

/// A copied header is one that libjpeg reads, of the other size, and without what no decoder needs.
void TestCopies() {
  for (const auto& [h, v, grey] : kSamplings) {
    const JpegShape shape{.height = 90, .width = 70, .h = h, .v = v, .grey = grey, .restart = 3};
    Bytes bytes = MakeJpeg(shape);
    const size_t sos = Segment(bytes, 0xda);
    Insert(&bytes, sos, {0xff, 0xfe, 0, 5, 'c', 'o', 'm'});
    Insert(&bytes, 2, {0xff, 0xe1, 0, 6, 'E', 'x', 'i', 'f'});
    Insert(&bytes, 2, {0xff, 0xee, 0, 14, 'A', 'd', 'o', 'b', 'e', 0, 0, 0, 0, 0, 0, uint8_t{!grey}});
    Frame frame;
    std::vector<uint8_t> header;
    Check(Reads(bytes, &frame), shape.Name() + ": read with more segments");
    CopyHeader(bytes, frame, 300, 517, &header);
    const std::string text(header.begin(), header.end());
    Check(text.find("com") == std::string::npos && text.find("Exif") == std::string::npos,
          shape.Name() + ": what is not needed is left out");
    Check(text.find("Adobe") != std::string::npos && (text.find("JFIF") != std::string::npos),
          shape.Name() + ": what says the colours is kept");
    Decompressor decompressor;
    Check(decompressor.Begin(header), shape.Name() + ": libjpeg reads the copy");
    const jpeg_decompress_struct& info = decompressor.info;
    Check(info.image_height == 300 && info.image_width == 517, shape.Name() + ": of that size");
    Check(info.restart_interval == 3 && info.num_components == (grey ? 1 : 3), shape.Name() + ": the rest");
    Check(info.saw_Adobe_marker, shape.Name() + ": with what Adobe says");
  }
}

}  // namespace
}  // namespace dali_dr::jpeg

int main() {
  dali_dr::jpeg::TestShapes();
  dali_dr::jpeg::TestEveryPartOfAHeader();
  dali_dr::jpeg::TestOtherKinds();
  dali_dr::jpeg::TestTheLastIntervalCounts();
  dali_dr::jpeg::TestCopies();
  return dali_dr::testing::Verdict("frame");
}
