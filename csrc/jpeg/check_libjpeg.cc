// Compiled by CMake, to see whether a library has what is needed and can be linked into a plugin.
// clang-format off: jpeglib.h needs FILE
#include <cstdio>
#include <jpeglib.h>
// clang-format on

#ifndef LIBJPEG_TURBO_VERSION
#error "this is another libjpeg"
#endif

extern "C" void Check(jpeg_decompress_struct* in, jpeg_compress_struct* out) {
  jpeg_create_decompress(in);
  jpeg_crop_scanline(in, nullptr, nullptr);
  jpeg_skip_scanlines(in, 1);
  jpeg_create_compress(out);
  jpeg_write_coefficients(out, jpeg_read_coefficients(in));
}
