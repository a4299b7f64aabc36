// libjpeg-turbo, with errors that come back. Include this in place of jpeglib.h.
#ifndef DALI_DR_CSRC_JPEG_LIBRARY_H_
#define DALI_DR_CSRC_JPEG_LIBRARY_H_

#include <csetjmp>
#include <string>

// clang-format off: jpeglib.h needs FILE and size_t
#include <cstddef>
#include <cstdio>
#include <jpeglib.h>
// clang-format on

namespace dali_dr::jpeg {

/// An error manager that neither prints nor exits: an error goes to the last setjmp(`back`), which must be in
/// a function that is still running and has no objects between it and libjpeg that need destruction; warnings
/// are counted (`num_warnings`).
struct Errors : jpeg_error_mgr {
  Errors();
  Errors(const Errors&) = delete;
  Errors& operator=(const Errors&) = delete;

  /// What libjpeg says of the last error or warning.
  std::string Text();

  std::jmp_buf back;
  bool cut_off = false;  ///< the file ended before the image did; libjpeg goes on with pixels of its own
};

}  // namespace dali_dr::jpeg

#endif  // DALI_DR_CSRC_JPEG_LIBRARY_H_
