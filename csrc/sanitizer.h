// What MemorySanitizer has to be told; nothing in every other build.
#ifndef DALI_DR_CSRC_SANITIZER_H_
#define DALI_DR_CSRC_SANITIZER_H_

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define DALI_DR_MEMORY_SANITIZER 1
#endif
#endif

namespace dali_dr {

/// A library that is not instrumented (zstd) has written these bytes.
inline void WrittenElsewhere([[maybe_unused]] const void* bytes, [[maybe_unused]] size_t count) {
#ifdef DALI_DR_MEMORY_SANITIZER
  __msan_unpoison(bytes, count);
#endif
}

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_SANITIZER_H_
