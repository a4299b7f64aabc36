// How the C++ tests say what is wrong: a failed check is printed, counted, and in the exit status.
#ifndef DALI_DR_CSRC_TESTS_CHECK_H_
#define DALI_DR_CSRC_TESTS_CHECK_H_

#include <cstdio>
#include <string>

namespace dali_dr::testing {

inline int failures = 0;

/// Counts a failure unless the condition is good; the first 20 are printed.
inline void Check(bool good, const std::string& what) {
  if (!good && ++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

/// Prints how the program `name` ended; its exit status.
inline int Verdict(const char* name) {
  if (failures) std::printf("%s: %d checks failed\n", name, failures);
  if (!failures) std::printf("%s: all checks passed\n", name);
  return failures != 0;
}

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_CHECK_H_
