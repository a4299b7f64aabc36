// Whether this machine runs the AVX2 kernels.
#include "image/kernels.h"

#include "image/avx2/avx2.h"

#ifdef DR_HAS_AVX2
#include <cpuid.h>
#endif

namespace dali_dr::image {

#ifdef DR_HAS_AVX2
namespace {

constexpr Kernels kAvx2Kernels = {
    "AVX2",           avx2::Weigh,        avx2::SplitWeights, avx2::GroupWeights,
    avx2::ResizeRows, avx2::ResizeColumn, avx2::SplitRow,     avx2::Lut,
    avx2::Mask,       avx2::Solarize,     avx2::MinMax,       avx2::GreySum,
    avx2::Color,      avx2::Hue,          avx2::BlurRows,     avx2::BlurColumns,
    avx2::Sharpness,  avx2::General,      avx2::Join,         avx2::FinishFloat,
    avx2::FinishHalf, avx2::FinishBfloat, avx2::RoundHalf,    avx2::RoundBfloat,
};

// Asked of the processor, because __builtin_cpu_supports of clang before 19 does not know "f16c". That the
// system saves the registers is part of its answer to "avx2".
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

}  // namespace

const Kernels* Avx2Kernels() {
  __builtin_cpu_init();
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  return runs ? &kAvx2Kernels : nullptr;
}
#else
const Kernels* Avx2Kernels() { return nullptr; }
#endif

}  // namespace dali_dr::image
