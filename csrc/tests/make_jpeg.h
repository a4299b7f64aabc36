// JPEGs of every shape, made by libjpeg's compressor from noise and gradients; and what libjpeg shows of a
// whole file, the reference for all that decodes parts of one.
#ifndef DALI_DR_CSRC_TESTS_MAKE_JPEG_H_
#define DALI_DR_CSRC_TESTS_MAKE_JPEG_H_

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "jpeg/frame.h"
#include "jpeg/library.h"

namespace dali_dr::testing {

using Bytes = std::vector<uint8_t>;

/// What a JPEG is to be like. `h` and `v` are the sampling factors of its first component, those of the
/// others are 1.
struct JpegShape {
  int height = 1, width = 1;
  int h = 2, v = 2;
  bool grey = false;
  int restart = 0;  ///< MCUs
  bool progressive = false, optimised = true;
  int quality = 80;
  uint32_t seed = 1;

  std::string Name() const {
    return std::to_string(height) + " x " + std::to_string(width) +
           (grey ? " grey" : ", factors " + std::to_string(h) + " x " + std::to_string(v)) + ", restart " +
           std::to_string(restart) + (progressive ? ", progressive" : "") +
           (optimised ? "" : ", standard tables");
  }
  int mcu_height() const { return grey ? 8 : 8 * v; }
  int mcu_width() const { return grey ? 8 : 8 * h; }
  int mcus_per_row() const { return (width + mcu_width() - 1) / mcu_width(); }
  int mcu_rows() const { return (height + mcu_height() - 1) / mcu_height(); }
};

/// An image, R, G, B; empty: libjpeg refuses the file.
struct Shown {
  int height = 0, width = 0;
  long warnings = 0;     // NOLINT: libjpeg's type
  bool cut_off = false;  // the file ended before the image: libjpeg made the rest up
  Bytes pixels;

  bool empty() const { return pixels.empty(); }
  const uint8_t* at(int y, int x) const {
    return pixels.data() + 3 * (static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x));
  }
  /// Whether rows of a region without padding are those of the image.
  bool Has(const jpeg::Region& region, const uint8_t* rows) const {
    const size_t bytes = 3 * static_cast<size_t>(region.width);
    for (int y = 0; y < region.height; ++y, rows += bytes)
      if (!std::equal(rows, rows + bytes, at(region.top + y, region.left))) return false;
    return true;
  }
};

/// Smooth colours, noise, and a flat part; one component where `grey`.
inline Bytes Picture(const JpegShape& shape) {
  Bytes pixels;
  uint32_t state = shape.seed;
  for (int y = 0; y < shape.height; ++y) {
    for (int x = 0; x < shape.width; ++x) {
      for (int c = 0; c < (shape.grey ? 1 : 3); ++c) {
        state = state * 1664525 + 1013904223;
        const uint32_t noise = (x / 16 + y / 16) % 3 == 0 ? state >> 25 : 0;
        const bool flat = (x / 24 + y / 24) % 4 == 3;
        pixels.push_back(flat ? static_cast<uint8_t>(40 * c + 60)
                              : static_cast<uint8_t>(3 * x + (c + 2) * y + 70 * c + static_cast<int>(noise)));
      }
    }
  }
  return pixels;
}

/// What libjpeg needs while it may jump; nothing here wants destruction before the end.
struct Compressor {
  jpeg::Errors errors;
  jpeg_compress_struct info{};
  unsigned char* bytes = nullptr;
  unsigned long size = 0;  // NOLINT: libjpeg's type

  Compressor() {
    info.err = &errors;
    jpeg_create_compress(&info);
  }
  ~Compressor() {
    jpeg_destroy_compress(&info);
    std::free(bytes);
  }
  bool Run(const JpegShape& shape, uint8_t* pixels) {
    if (setjmp(errors.back)) return false;
    jpeg_mem_dest(&info, &bytes, &size);
    info.image_width = static_cast<JDIMENSION>(shape.width);
    info.image_height = static_cast<JDIMENSION>(shape.height);
    info.input_components = shape.grey ? 1 : 3;
    info.in_color_space = shape.grey ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, shape.quality, TRUE);
    if (!shape.grey) {
      info.comp_info[0].h_samp_factor = shape.h;
      info.comp_info[0].v_samp_factor = shape.v;
    }
    info.optimize_coding = shape.optimised;
    if (shape.progressive) jpeg_simple_progression(&info);
    info.restart_interval = static_cast<unsigned>(shape.restart);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
      JSAMPROW row =
          pixels + info.next_scanline * info.image_width * static_cast<unsigned>(info.input_components);
      jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    return true;
  }
};

inline Bytes MakeJpeg(const JpegShape& shape) {
  Bytes pixels = Picture(shape);
  Compressor compressor;
  if (!compressor.Run(shape, pixels.data())) return {};
  return {compressor.bytes, compressor.bytes + compressor.size};
}

struct Decompressor {
  jpeg::Errors errors;
  jpeg_decompress_struct info{};

  Decompressor() {
    info.err = &errors;
    jpeg_create_decompress(&info);
  }
  ~Decompressor() { jpeg_destroy_decompress(&info); }
  bool Begin(std::span<const uint8_t> bytes) {
    if (setjmp(errors.back)) return false;
    jpeg_mem_src(&info, bytes.data(), bytes.size());
    if (jpeg_read_header(&info, TRUE) != JPEG_HEADER_OK) return false;
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    return true;
  }
  bool Rows(uint8_t* pixels) {
    if (setjmp(errors.back)) return false;
    while (info.output_scanline < info.output_height) {
      JSAMPROW row = pixels + size_t{3} * info.output_scanline * info.output_width;
      jpeg_read_scanlines(&info, &row, 1);
    }
    return true;
  }
};

/// All rows, one after the other, as libjpeg gives them by default; nothing of an image of more pixels than
/// `most`.
inline Shown ShowWhole(std::span<const uint8_t> bytes, size_t most = size_t{1} << 24) {
  Decompressor decompressor;
  const jpeg_decompress_struct& info = decompressor.info;
  Shown shown;
  if (!decompressor.Begin(bytes) || size_t{info.output_height} * info.output_width > most) return shown;
  Bytes pixels(size_t{3} * info.output_height * info.output_width);
  if (!decompressor.Rows(pixels.data())) return shown;
  shown.height = static_cast<int>(info.output_height);
  shown.width = static_cast<int>(info.output_width);
  shown.warnings = info.err->num_warnings;
  shown.cut_off = decompressor.errors.cut_off;
  shown.pixels = std::move(pixels);
  return shown;
}

/// Where the data of the scan begin, found without jpeg/frame.h; 0: there is none.
inline size_t ScanOf(std::span<const uint8_t> bytes) {
  for (size_t at = 2; at + 4 <= bytes.size();) {
    const size_t end = at + 2 + (size_t{bytes[at + 2]} << 8 | bytes[at + 3]);
    if (bytes[at + 1] == 0xda) return end;
    at = end;
  }
  return 0;
}

/// Where restart markers stand, in order.
inline std::vector<size_t> RestartsOf(std::span<const uint8_t> bytes) {
  std::vector<size_t> places;
  for (size_t at = ScanOf(bytes); at + 1 < bytes.size(); ++at)
    if (bytes[at] == 0xff && bytes[at + 1] >= 0xd0 && bytes[at + 1] <= 0xd7) places.push_back(at);
  return places;
}

/// The sampling factors of all kinds of MCU that photos have: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1 and more.
constexpr struct {
  int h, v;
  bool grey;
} kSamplings[] = {{1, 1, false}, {2, 1, false}, {1, 2, false}, {2, 2, false},
                  {4, 1, false}, {1, 4, false}, {1, 1, true}};

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_MAKE_JPEG_H_
