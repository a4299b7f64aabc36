#include "image/kernels.h"
namespace dali_dr::image {
const Kernels* Avx2Kernels() { return nullptr; }
}  // namespace dali_dr::image
