// Whether this machine runs the AVX2 kernels.
#include "image/kernels.h"

#include "image/avx2/avx2.h"

namespace dali_dr::image {

#ifdef DR_HAS_AVX2
namespace {

constexpr Kernels kAvx2Kernels = {
    "AVX2",          avx2::ResizeRows,  avx2::ResizeColumn, avx2::SplitRow,
    avx2::Lut,       avx2::Mask,        avx2::Solarize,     avx2::MinMax,
    avx2::GreySum,   avx2::Color,       avx2::Sharpness,    avx2::General,
    avx2::Join,      avx2::FinishFloat, avx2::FinishHalf,   avx2::FinishBfloat,
    avx2::RoundHalf, avx2::RoundBfloat,
};

}  // namespace

const Kernels* Avx2Kernels() {
  __builtin_cpu_init();
  const bool runs =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return runs ? &kAvx2Kernels : nullptr;
}
#else
const Kernels* Avx2Kernels() { return nullptr; }
#endif

}  // namespace dali_dr::image
