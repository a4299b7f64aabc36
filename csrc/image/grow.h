// Buffers that grow to the largest that was needed and then stay.
#ifndef DALI_DR_CSRC_IMAGE_GROW_H_
#define DALI_DR_CSRC_IMAGE_GROW_H_

#include <cstddef>
#include <vector>

namespace dali_dr::image {

template <typename T>
void Grow(std::vector<T>* v, size_t n) {
  if (v->size() < n) v->resize(n);
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_GROW_H_
