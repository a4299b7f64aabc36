// Views made the slow way, pixel by pixel, from Pillow's and torchvision's descriptions of what they do: what
// csrc/image must give, in every byte. Shares nothing with it but the words of a view.
#ifndef DALI_DR_CSRC_TESTS_REFERENCE_H_
#define DALI_DR_CSRC_TESTS_REFERENCE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "view/parse.h"

namespace dali_dr::testing {

/// Interleaved RGB pixels.
struct Picture {
  int height = 0, width = 0;
  std::vector<uint8_t> pixels;

  Picture(int h, int w) : height(h), width(w), pixels(size_t(h) * w * 3) {}
  uint8_t& at(int y, int x, int c) { return pixels[(size_t(y) * width + x) * 3 + c]; }
  uint8_t at(int y, int x, int c) const { return pixels[(size_t(y) * width + x) * 3 + c]; }
};

Picture Crop(const Picture& in, const Box& box);
Picture Flip(const Picture& in);
/// PIL.Image.resize of Pillow 13, by a triangle or a cubic (a = -0.5).
Picture Resize(const Picture& in, int height, int width, bool cubic);
/// The operation as torchvision and Pillow do it on a PIL image; `magnitude` is the physical one of the view.
Picture Apply(const Picture& in, const Op& op);
/// ImageFilter.GaussianBlur of these radii along rows and columns.
Picture Blur(const Picture& in, float across, float down);
Picture Erase(const Picture& in, const Box& box);

/// Crop, resize, flip, operations, erase.
Picture Show(const Picture& image, const View& view, int height, int width, bool cubic);

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_REFERENCE_H_
