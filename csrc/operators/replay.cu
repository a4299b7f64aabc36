// The device side of fn.dr.replay. So far it only proves that the shared arithmetic of csrc/image compiles
// for the device: one kernel that touches every function of pixel.h. The GPU operator replaces it.
#include "image/pixel.h"

namespace dali_dr {
namespace {

[[maybe_unused]] __global__ void UsePixelFunctions(image::Affine map, image::Filter filter, float* out) {
  using namespace image;
  const int x = int(threadIdx.x);
  const Axis axis = MakeAxis(x + 1, 224, filter);
  double raw[8];
  int32_t begin, weights[8];
  int32_t sum = FixedWeights(axis, x, raw, &begin, weights) + MaxTaps(axis) + VerticalFirst(x, x, 224, 224);
  sum +=
      RoundWeighted(weights[0]) + FixedX(map, x, x) + FixedY(map, x, x) + Blend(x, 3, 0.5f) + Grey(x, x, x);
  sum += ContrastMean(x, 5) + Smooth(x) + AutoContrast(x, 3, 200) + EqualizeStep(512, x) + Equalize(x, 2);
  out[x] = Normalise(sum, 0.5f, 0.25f) + HalfBits(float(sum));
}

}  // namespace
}  // namespace dali_dr
