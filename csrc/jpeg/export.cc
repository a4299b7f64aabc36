// What dali_dr/images calls through ctypes: tile.h (tiles.py) and decode.h (ours.py) as C functions.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "jpeg/decode.h"
#include "jpeg/kind.h"
#include "jpeg/tile.h"

extern "C" {

/// The tiled file, or why there is none; belongs to whoever asked, until dali_dr_tiled_delete.
struct DaliDrTiled {
  const uint8_t* data;
  uint64_t size;
  const char* reason;  // empty: there is a file
  double steps[4];     // seconds: TileSteps
};
}

namespace {

struct Held : DaliDrTiled {
  std::vector<uint8_t> file;
  std::string why;
};

// glibc gives memory back to the system as soon as more lies free than twice the largest block that was ever
// mapped and freed; each image then takes a tenth of its time for new pages. A block of this size has it keep
// what an image needs.
constexpr size_t kKept = 8 << 20;

bool KeepMemory() {
  void* volatile block = std::malloc(kKept);
  std::free(block);
  return block != nullptr;
}

}  // namespace

extern "C" {

// nullptr where there is no memory.
__attribute__((visibility("default"))) DaliDrTiled* dali_dr_tiled_new(const uint8_t* data, uint64_t size) {
  try {
    [[maybe_unused]] static const bool kept = KeepMemory();  // once a process
    auto held = std::make_unique<Held>();
    dali_dr::jpeg::TileSteps steps;
    held->why = dali_dr::jpeg::Tile({data, size}, &held->file, &steps);
    held->data = held->file.data();
    held->size = held->file.size();
    held->reason = held->why.c_str();
    const double seconds[] = {steps.read, steps.write, steps.compare, steps.slices};
    static_assert(sizeof seconds == sizeof held->steps);
    std::memcpy(held->steps, seconds, sizeof seconds);
    return held.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

__attribute__((visibility("default"))) void dali_dr_tiled_delete(DaliDrTiled* tiled) {
  delete static_cast<Held*>(tiled);
}

// Decodes the region (top, left, height, width), 3 * height * width bytes, as training does: 0; or 1 and in
// `reason`, of `capacity` bytes, why it cannot; or 2: it is none that is decoded here.
__attribute__((visibility("default"))) int dali_dr_jpeg_decode(const uint8_t* data, uint64_t size,
                                                               const int32_t region[4], uint8_t* out,
                                                               char* reason, uint64_t capacity) {
  try {
    const std::span encoded(data, size);
    if (!dali_dr::jpeg::IsDecodable(encoded)) return 2;
    dali_dr::jpeg::Decoder decoder;
    const std::string problem =
        dali_dr::jpeg::Decode(encoded, {region[0], region[1], region[2], region[3]}, &decoder, out);
    if (problem.empty()) return 0;
    const size_t length = std::min<size_t>(problem.size(), capacity - 1);
    std::memcpy(reason, problem.data(), length);
    reason[length] = 0;
  } catch (const std::bad_alloc&) {
    std::strncpy(reason, "there is not enough memory for it", capacity - 1);
  }
  return 1;
}
}
