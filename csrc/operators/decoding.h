// What decoding took, and how images were decoded. Knows neither DALI nor a decoder.
#ifndef DALI_DR_CSRC_OPERATORS_DECODING_H_
#define DALI_DR_CSRC_OPERATORS_DECODING_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace dali_dr {

struct Decoding {
  double seconds = 0;
  std::array<int64_t, 3> images{};  // by jpeg::Decoder::Way

  void Add(const Decoding& other) {
    seconds += other.seconds;
    for (size_t i = 0; i < images.size(); ++i) images[i] += other.images[i];
  }
};

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_DECODING_H_
