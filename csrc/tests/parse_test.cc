// What nvImageCodec's parsers take, and what they stumble over (image/parse.h): small files of each
// container, at every length, and with every fault that has a name. tests/test_zoo.py compares with the
// parsers themselves.
#include "image/parse.h"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "tests/check.h"

using namespace dali_dr;
using image::Size;
using testing::Check;
using Text = std::string;

namespace {

Text Chars(std::initializer_list<int> codes) {
  Text text;
  for (int code : codes) text += static_cast<char>(code);
  return text;
}

Text Little(uint32_t value) {
  return Chars({int(value & 255), int(value >> 8 & 255), int(value >> 16 & 255), int(value >> 24)});
}
Text Big(uint32_t value) {
  const Text text = Little(value);
  return {text.rbegin(), text.rend()};
}

Text Segment(int marker, const Text& data, int length = -1) {
  const int given = length < 0 ? static_cast<int>(data.size()) + 2 : length;
  return Chars({0xff, marker, given >> 8, given & 255}) + data;
}
Text Frame(int colours) {
  Text data = Chars({8, 0, 200, 1, 44, colours});  // 200 high, 300 wide
  for (int c = 0; c < colours; ++c) data += Chars({c + 1, 0x11, 0});
  return Segment(0xc0, data);
}
const Text kExif("Exif\0\0", 6);
const Text kScan = Segment(0xda, Chars({1, 1, 0, 0, 63, 0}));
Text Jpeg(const Text& segments) { return Chars({0xff, 0xd8}) + segments; }

Text Chunk(const Text& kind, const Text& data) { return Big(uint32_t(data.size())) + kind + data + "CRC:"; }
Text Png(int depth, int colour, const Text& chunks) {
  return Text("\x89PNG\r\n\x1a\n") + Chunk("IHDR", Big(300) + Big(200) + Chars({depth, colour, 0, 0, 0})) +
         chunks;
}
const Text kEnd = Chunk("IEND", "");

Text Riff(const Text& kind, const Text& data, size_t length) {
  return kind + Little(uint32_t(length)) + data;
}
Text Webp(const Text& chunks) { return Text("RIFF") + Little(0) + "WEBP" + chunks; }
Text Extended(int flags, const Text& chunks) {
  return Webp(Riff("VP8X", Chars({flags, 0, 0, 0, 43, 1, 0, 199, 0, 0}), 10) + chunks);
}
const Text kLossy = Riff("VP8 ", Chars({0, 0, 0, 0x9d, 1, 0x2a, 44, 1, 200, 0}), 10);

std::string Problem(const Text& file, Size* size) {
  return image::Parse({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, size);
}

// `needless` bytes at the end of the file may be missing.
void Takes(const char* what, const Text& file, size_t needless = 0) {
  Size size{};
  const std::string problem = Problem(file, &size);
  Check(problem.empty() && size.height == 200 && size.width == 300, std::string(what) + ": " + problem);
  for (size_t length = 12; length + needless < file.size(); ++length)
    Check(!Problem(file.substr(0, length), &size).empty(),
          std::string(what) + " of " + std::to_string(length) + " bytes");
}

void Refuses(const char* what, const Text& file, const char* words) {
  Size size{};
  const std::string problem = Problem(file, &size);
  Check(problem.find(words) != std::string::npos, std::string(what) + ": " + problem);
}

void TestJpeg() {
  Takes("frame", Jpeg(Frame(3) + kScan), kScan.size() - 2);
  Takes("fill bytes", Jpeg(Chars({0xff, 0xff}) + Frame(1) + Chars({0xff}) + kScan), kScan.size() - 2);
  Takes("EXIF", Jpeg(Segment(0xe1, kExif + "II*") + Frame(4) + kScan), kScan.size() - 2);
  Takes("XMP", Jpeg(Segment(0xe1, "http://ns.adobe.com/") + Frame(3) + kScan), kScan.size() - 2);
  Takes("Adobe", Jpeg(Segment(0xee, "Adobe" + Text(7, 'a')) + Frame(3) + kScan), kScan.size() - 2);
  Refuses("junk", Jpeg(Segment(0xe0, "abc") + "ab" + Frame(3) + kScan), "belong to none, at 9");
  Refuses("stuffing", Jpeg(Segment(0xe0, "abc") + Chars({0xff, 0}) + Frame(3) + kScan), "belong to none");
  Refuses("length 1", Jpeg(Segment(0xfe, "", 1) + Frame(3) + kScan), "has length 1");
  Refuses("two colours", Jpeg(Frame(2) + kScan), "it has 2 colours");
  Refuses("short EXIF", Jpeg(Segment(0xe1, kExif, 7) + Frame(3) + kScan), "EXIF segment");
  Refuses("long EXIF", Jpeg(Segment(0xe1, kExif + "II", 2000) + Frame(3) + kScan), "EXIF segment");
  Refuses("no frame", Jpeg(Segment(0xe0, "abc") + kScan), "no SOF");
  Refuses("short frame", Jpeg(Segment(0xc0, Chars({8, 0, 200, 1, 44, 3}))), "cut off");
  Refuses("no scan", Jpeg(Frame(3)), "cut off before its pixels");
}

void TestPng() {
  for (const auto& [depth, colour] : {std::pair{1, 0}, {16, 0}, {8, 2}, {4, 3}, {8, 4}, {16, 6}})
    Takes("PNG", Png(depth, colour, Chunk("IDAT", "pixels") + kEnd), 4);
  for (const auto& [depth, colour] : {std::pair{3, 0}, {4, 2}, {16, 3}, {2, 4}, {1, 6}, {8, 1}, {8, 7}})
    Refuses("PNG", Png(depth, colour, kEnd), "does not exist");
  Refuses("no end", Png(8, 2, Chunk("IDAT", "pixels")), "no IEND");
  Refuses("huge chunk", Png(8, 2, Big(0xffffffff) + "IDAT" + Text(100, 'a')), "no IEND");
  Refuses("no header", Text("\x89PNG\r\n\x1a\n") + kEnd, "no IHDR");
}

void TestWebp() {
  Takes("lossy", Webp(kLossy));
  Takes("lossless", Webp(Riff("VP8L", Chars({0x2f}) + Little(299 | 199 << 14), 5)));
  Takes("extended", Extended(0, kLossy), kLossy.size());
  Takes("EXIF", Extended(8, kLossy + Riff("EXIF", "exif", 4)));
  Takes("odd EXIF", Extended(8, Riff("EXIF", "ex", 2) + kLossy), kLossy.size());
  Refuses("odd before EXIF",
          Extended(8, Riff("ICCP", Text("abc\0", 4), 3) + kLossy + Riff("EXIF", "exif", 4)), "odd length");
  Refuses("no EXIF", Extended(8, kLossy), "promises EXIF");
  Refuses("cut EXIF", Extended(8, Riff("EXIF", "exif", 40)), "EXIF chunk is cut off");
  Refuses("code", Webp(Riff("VP8 ", Text(10, 'a'), 10)), "start code");
  Refuses("signature", Webp(Riff("VP8L", Text(10, 'a'), 10)), "signature");
  Refuses("kind", Webp(Riff("VP9 ", Text(10, 'a'), 10)), "none of VP8");
}

// Other containers are others' business.
void TestOthers() {
  Size size{7, 9};
  for (const Text& file : {Text(), Text("GIF89a"), Text("RIFF1234WAVE"), Text("\xff\xd8")})
    Check(Problem(file, &size).empty() && size.height == 7 && size.width == 9, "nothing is said");
}

}  // namespace

int main() {
  TestJpeg();
  TestPng();
  TestWebp();
  TestOthers();
  return testing::Verdict("parse");
}
