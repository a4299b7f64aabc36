// See reference.h.
#include "tests/reference.h"

#include <algorithm>
#include <cmath>

namespace dali_dr::testing {
namespace {

int Clip(double v) { return v <= 0 ? 0 : v >= 255 ? 255 : int(v); }

/// The filter's weight at a distance of `x` (in units of its own width).
double Kernel(double x, bool cubic) {
  x = std::fabs(x);
  if (!cubic) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/// The weights of the inputs of one output coordinate, in 22 bits behind the point, from input *first on.
std::vector<int> Weights(int in, int out, int x, bool cubic, int* first) {
  const double scale = double(in) / out, stretch = std::max(scale, 1.0);
  const double support = (cubic ? 2.0 : 1.0) * stretch, centre = (x + 0.5) * scale;
  *first = std::max(0, int(centre - support + 0.5));
  const int last = std::min(in, int(centre + support + 0.5));
  std::vector<double> weight;
  double sum = 0;
  for (int i = *first; i < last; ++i) {
    weight.push_back(Kernel((i - centre + 0.5) * (1.0 / stretch), cubic));
    sum += weight.back();
  }
  std::vector<int> fixed;
  for (double w : weight) {
    const double share = sum != 0 ? w / sum : w;
    fixed.push_back(int(share * (1 << 22) + (share < 0 ? -0.5 : 0.5)));
  }
  return fixed;
}

template <typename Value>
uint8_t Weighed(const std::vector<int>& weight, const Value& value) {
  int64_t sum = 1 << 21;
  for (size_t i = 0; i < weight.size(); ++i) sum += int64_t{weight[i]} * value(int(i));
  return uint8_t(std::clamp<int64_t>(sum >> 22, 0, 255));
}

Picture ResizeRows(const Picture& in, int width, bool cubic) {
  if (width == in.width) return in;
  Picture out(in.height, width);
  for (int x = 0; x < width; ++x) {
    int first;
    const auto weight = Weights(in.width, width, x, cubic, &first);
    for (int y = 0; y < in.height; ++y)
      for (int c = 0; c < 3; ++c)
        out.at(y, x, c) = Weighed(weight, [&](int i) { return in.at(y, first + i, c); });
  }
  return out;
}

Picture ResizeColumns(const Picture& in, int height, bool cubic) {
  if (height == in.height) return in;
  Picture out(height, in.width);
  for (int y = 0; y < height; ++y) {
    int first;
    const auto weight = Weights(in.height, height, y, cubic, &first);
    for (int x = 0; x < in.width; ++x)
      for (int c = 0; c < 3; ++c)
        out.at(y, x, c) = Weighed(weight, [&](int i) { return in.at(first + i, x, c); });
  }
  return out;
}

/// Each output pixel shows the input pixel in which from(x + 1/2, y + 1/2) lies; black outside.
template <typename From>
Picture Move(const Picture& in, const From& from) {
  Picture out(in.height, in.width);
  for (int y = 0; y < in.height; ++y) {
    for (int x = 0; x < in.width; ++x) {
      const auto [fx, fy] = from(x + 0.5, y + 0.5);
      const double sx = std::floor(fx), sy = std::floor(fy);
      if (sx < 0 || sy < 0 || sx >= in.width || sy >= in.height) continue;
      for (int c = 0; c < 3; ++c) out.at(y, x, c) = in.at(int(sy), int(sx), c);
    }
  }
  return out;
}

template <typename Value>
Picture Map(const Picture& in, const Value& map) {
  Picture out = in;
  for (size_t i = 0; i < in.pixels.size(); ++i) out.pixels[i] = uint8_t(map(in.pixels[i], int(i % 3)));
  return out;
}

int Grey(const Picture& in, int y, int x) {
  return (in.at(y, x, 0) * 19595 + in.at(y, x, 1) * 38470 + in.at(y, x, 2) * 7471 + 0x8000) >> 16;
}

/// PIL.Image.blend, in its float arithmetic.
int Blend(int degenerate, int value, float factor) {
  const float step = factor * float(value - degenerate);
  return Clip(float(degenerate) + step);
}

template <typename Degenerate>
Picture Enhance(const Picture& in, float factor, const Degenerate& degenerate) {
  Picture out = in;
  for (int y = 0; y < in.height; ++y)
    for (int x = 0; x < in.width; ++x)
      for (int c = 0; c < 3; ++c)
        out.at(y, x, c) = uint8_t(Blend(degenerate(y, x, c), in.at(y, x, c), factor));
  return out;
}

/// ImageFilter.SMOOTH: the pixel counts five times, its neighbours once; the border stays.
int Smooth(const Picture& in, int y, int x, int c) {
  if (y == 0 || x == 0 || y == in.height - 1 || x == in.width - 1) return in.at(y, x, c);
  int sum = 4 * in.at(y, x, c);
  for (int dy : {-1, 0, 1})
    for (int dx : {-1, 0, 1}) sum += in.at(y + dy, x + dx, c);
  return int(std::floor(sum / 13.0 + 0.5));
}

std::array<int, 256> Count(const Picture& in, int c) {
  std::array<int, 256> count{};
  for (size_t i = size_t(c); i < in.pixels.size(); i += 3) ++count[in.pixels[i]];
  return count;
}

Picture AutoContrast(const Picture& in) {
  return Map(in, [&, count = std::array{Count(in, 0), Count(in, 1), Count(in, 2)}](int v, int c) {
    int lo = 0, hi = 255;
    while (count[size_t(c)][size_t(lo)] == 0) ++lo;
    while (count[size_t(c)][size_t(hi)] == 0) --hi;
    if (hi <= lo) return v;
    const double scale = 255.0 / (hi - lo), offset = -lo * scale;
    return std::clamp(int(v * scale + offset), 0, 255);
  });
}

Picture Equalize(const Picture& in) {
  std::array<std::array<int, 256>, 3> maps;
  for (int c = 0; c < 3; ++c) {
    auto& map = maps[size_t(c)];
    const auto count = Count(in, c);
    std::vector<int> there;
    for (int n : count)
      if (n) there.push_back(n);
    const int step = (in.height * in.width - there.back()) / 255;
    int n = step / 2;
    for (size_t v = 0; v < 256; ++v) {
      map[v] = there.size() <= 1 || step == 0 ? int(v) : std::min(n / step, 255);
      n += count[v];
    }
  }
  return Map(in, [&](int v, int c) { return maps[size_t(c)][size_t(v)]; });
}

/// convert("HSV") of one pixel, libImaging's way.
std::array<int, 3> Hsv(int r, int g, int b) {
  const int high = std::max({r, g, b}), low = std::min({r, g, b});
  if (high == low) return {0, 0, high};
  const auto range = float(high - low);
  const auto away = [&](int v) { return float(high - v) / range; };
  float h;
  if (r == high)
    h = away(b) - away(g);
  else if (g == high)
    h = float(2.0 + double(away(r)) - double(away(b)));
  else
    h = float(4.0 + double(away(g)) - double(away(r)));
  h = float(std::fmod(double(h) / 6.0 + 1.0, 1.0));
  return {int(double(h) * 255.0), int(double(range / float(high)) * 255.0), high};
}

std::array<int, 3> Rgb(int h, int s, int v) {
  if (s == 0) return {v, v, v};
  const double sixths = h * 6.0 / 255.0;
  const int sector = int(std::floor(sixths));
  const auto f = float(sixths - sector), fs = float(s / 255.0);
  const volatile float product = fs * f;
  const int p = int(std::round(v * (1.0 - double(fs)))), q = int(std::round(v * (1.0 - double(product))));
  const int t = int(std::round(v * (1.0 - double(fs) * (1.0 - double(f)))));
  const std::array<int, 3> sectors[6] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
  return sectors[sector % 6];
}

Picture Hue(const Picture& in, double factor) {
  Picture out = in;
  const int shift = int(std::trunc(factor * 255));
  for (int y = 0; y < in.height; ++y) {
    for (int x = 0; x < in.width; ++x) {
      const auto [h, s, v] = Hsv(in.at(y, x, 0), in.at(y, x, 1), in.at(y, x, 2));
      const auto turned = Rgb((h + shift + 256) % 256, s, v);
      for (int c = 0; c < 3; ++c) out.at(y, x, c) = uint8_t(turned[size_t(c)]);
    }
  }
  return out;
}

/// How many of the places x - radius .. x + radius show pixel `at` of a line whose ends go on for ever.
int64_t Shown(int at, int last, int x, int radius) {
  const int from = at == 0 ? -radius : std::max(-radius, at - x);
  const int to = at == last ? radius : std::min(radius, at - x);
  return std::max(0, to - from + 1);
}

/// A box blur of a line of values, libImaging's way: whole pixels weigh `weight`, the two beyond them what is
/// left.
std::vector<int> BoxBlurred(const std::vector<int>& line, float radius) {
  const int whole = int(radius), last = int(line.size()) - 1;
  const auto weight = uint32_t(float(1 << 24) / (radius * 2 + 1));
  const uint32_t rest = ((1u << 24) - uint32_t(2 * whole + 1) * weight) / 2;
  const auto value = [&](int x) { return uint32_t(line[size_t(std::clamp(x, 0, last))]); };
  std::vector<int> out;
  for (int x = 0; x <= last; ++x) {
    uint32_t sum = 0;
    for (int at = 0; at <= last; ++at) sum += uint32_t(Shown(at, last, x, whole)) * value(at);
    const uint32_t ends = value(x - whole - 1) + value(x + whole + 1);
    out.push_back(int((sum * weight + ends * rest + (1u << 23)) >> 24));
  }
  return out;
}

/// The radius of a box that, passed three times, has the Gaussian's variance (Gwosdek et al., SSVM 2011).
float BoxOf(float radius) {
  const float variance = radius * radius / 3;
  const auto length = float(std::sqrt(12.0 * double(variance) + 1.0));
  const auto l = float(std::floor((double(length) - 1.0) / 2.0));
  const float part = (2 * l + 1) * (l * (l + 1) - 3 * variance) / (6 * (variance - (l + 1) * (l + 1)));
  return l + part;
}

}  // namespace

Picture Crop(const Picture& in, const Box& box) {
  Picture out(box.height, box.width);
  for (int y = 0; y < box.height; ++y)
    for (int x = 0; x < box.width; ++x)
      for (int c = 0; c < 3; ++c) out.at(y, x, c) = in.at(box.top + y, box.left + x, c);
  return out;
}

Picture Flip(const Picture& in) {
  Picture out = in;
  for (int y = 0; y < in.height; ++y)
    for (int x = 0; x < in.width; ++x)
      for (int c = 0; c < 3; ++c) out.at(y, x, c) = in.at(y, in.width - 1 - x, c);
  return out;
}

Picture Resize(const Picture& in, int height, int width, bool cubic) {
  const bool vertical_first = height < in.height && in.height - height > 2 * (in.width - width);
  return vertical_first ? ResizeRows(ResizeColumns(in, height, cubic), width, cubic)
                        : ResizeColumns(ResizeRows(in, width, cubic), height, cubic);
}

Picture Apply(const Picture& in, const Op& op) {
  const double m = op.magnitude, pixels = std::trunc(m), w = in.width / 2.0, h = in.height / 2.0;
  const auto factor = float(1.0 + m);
  switch (op.id) {
    case kShearX:
      return Move(in, [&](double x, double y) { return std::array{x + m * y, y}; });
    case kShearY:
      return Move(in, [&](double x, double y) { return std::array{x, y + m * x}; });
    case kTranslateX:
      return Move(in, [&](double x, double y) { return std::array{x - pixels, y}; });
    case kTranslateY:
      return Move(in, [&](double x, double y) { return std::array{x, y - pixels}; });
    case kRotate: {  // anticlockwise about the middle
      const double t = m * 3.141592653589793 / 180;
      return Move(in, [&](double x, double y) {
        return std::array{w + (x - w) * std::cos(t) - (y - h) * std::sin(t),
                          h + (x - w) * std::sin(t) + (y - h) * std::cos(t)};
      });
    }
    case kBrightness:
      return Enhance(in, factor, [](int, int, int) { return 0; });
    case kColor:
      return Enhance(in, factor, [&](int y, int x, int) { return Grey(in, y, x); });
    case kContrast: {
      int64_t sum = 0;
      for (int y = 0; y < in.height; ++y)
        for (int x = 0; x < in.width; ++x) sum += Grey(in, y, x);
      const int mean = int(double(sum) / (double(in.height) * in.width) + 0.5);
      return Enhance(in, factor, [&](int, int, int) { return mean; });
    }
    case kSharpness:
      return Enhance(in, factor, [&](int y, int x, int c) { return Smooth(in, y, x, c); });
    case kPosterize:
      return Map(in, [&](int v, int) { return v & (0xff << (8 - int(m))); });
    case kSolarize:
      return Map(in, [&](int v, int) { return v < m ? v : 255 - v; });
    case kAutoContrast:
      return AutoContrast(in);
    case kEqualize:
      return Equalize(in);
    case kHue:
      return Hue(in, m);
    case kGaussianBlur:
      return Blur(in, op.magnitude, op.magnitude);
    default:
      return in;
  }
}

Picture Blur(const Picture& in, float across, float down) {
  Picture out = in;
  const auto pass = [](int lines, int n, float radius, const auto& at) {
    const float box = BoxOf(radius);
    for (int i = 0; i < lines && box != 0; ++i) {
      std::vector<int> line;
      for (int k = 0; k < n; ++k) line.push_back(at(i, k));
      for (int times = 0; times < 3; ++times) line = BoxBlurred(line, box);
      for (int k = 0; k < n; ++k) at(i, k) = uint8_t(line[size_t(k)]);
    }
  };
  for (int c = 0; c < 3; ++c) {
    pass(in.height, in.width, across, [&](int y, int x) -> uint8_t& { return out.at(y, x, c); });
    pass(in.width, in.height, down, [&](int x, int y) -> uint8_t& { return out.at(y, x, c); });
  }
  return out;
}

Picture Erase(const Picture& in, const Box& box) {
  Picture out = in;
  for (int y = box.top; y < box.top + box.height; ++y)
    for (int x = box.left; x < box.left + box.width; ++x)
      for (int c = 0; c < 3; ++c) out.at(y, x, c) = 0;
  return out;
}

Picture Show(const Picture& image, const View& view, int height, int width, bool cubic) {
  Picture shown = Resize(Crop(image, view.crop), height, width, cubic);
  if (view.flip) shown = Flip(shown);
  for (int i = 0; i < view.num_ops; ++i) shown = Apply(shown, view.ops[i]);
  return Erase(shown, view.erase);
}

}  // namespace dali_dr::testing
