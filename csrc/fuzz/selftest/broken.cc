// A contract that one input breaks: the tests see that such an input, where it is kept, fails them.
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dali_dr::fuzz::Require(size < 5 || std::memcmp(data, "wrong", 5) != 0, "never `wrong`");
  return 0;
}
