// A tree as JSON: for the few small files that Python is to see whole.
#ifndef DALI_DR_CSRC_PICKLE_JSON_H_
#define DALI_DR_CSRC_PICKLE_JSON_H_

#include <string>

#include "pickle/tree.h"

namespace dali_dr::pickle {

inline constexpr size_t kMostJsonBytes = size_t{16} << 20;
inline constexpr int kMostJsonDepth = 64;

/// The tree's root. Tuples become lists; numbers are exact, and as Python's json reads them (NaN, Infinity).
/// Throws PickleError: there are arrays or bytes in it, or it is too deep or too long, as what holds itself
/// is.
std::string Json(const Tree& tree);

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_JSON_H_
