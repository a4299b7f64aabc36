// Files that hold a pickle: torch's archives, torch's older format, and a pickle as it is.
#ifndef DALI_DR_CSRC_PICKLE_CONTAINER_H_
#define DALI_DR_CSRC_PICKLE_CONTAINER_H_

#include <cstdint>
#include <span>

#include "pickle/reader.h"

namespace dali_dr::pickle {

/// Reads the file into the tree, which points into it. All of the tree's storages are found. Throws
/// PickleError.
void ReadFile(std::span<const uint8_t> file, Reader* reader, Tree* tree);

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_CONTAINER_H_
