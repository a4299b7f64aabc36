// See buffers.h.
#include "shards/buffers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace dali_dr::shards {
namespace {

// Sizes come in classes, four to each doubling, so that at most a fifth of a buffer lies idle and few sizes
// are kept apart.
constexpr size_t kSmallest = 16384, kLargest = size_t{16} << 20;  // larger ones are not kept
constexpr size_t kClasses = 4 * 10 + 1;
constexpr size_t kAlwaysKept = size_t{32} << 20;  // bytes that may wait however few are held
constexpr size_t kUpwards = 4;                    // a buffer of twice the size is taken before new memory is

constexpr size_t SizeOf(size_t size_class) {
  return (4 + size_class % 4) * (kSmallest / 4) << size_class / 4;
}
static_assert(SizeOf(0) == kSmallest && SizeOf(kClasses - 1) == kLargest);

// The smallest class that holds so many bytes, which are at most kLargest.
constexpr size_t ClassOf(size_t bytes) {
  if (bytes <= kSmallest) return 0;
  const size_t doublings = std::bit_width((bytes - 1) / kSmallest) - 1;
  const size_t quarter = kSmallest / 4 << doublings;
  return 4 * doublings + (bytes + quarter - 1) / quarter - 4;
}
static_assert(ClassOf(kSmallest + 1) == 1 && ClassOf(SizeOf(7)) == 7 && ClassOf(SizeOf(7) + 1) == 8);

}  // namespace

struct Buffers::Pool {
  using Memory = std::unique_ptr<uint8_t[]>;

  std::mutex mutex;
  std::array<std::vector<Memory>, kClasses> waiting;
  size_t bytes_held = 0, bytes_waiting = 0;
  size_t next_freed = 0;  // class

  Memory Take(size_t* bytes);
  void Return(Memory memory, size_t bytes);
};

// Memory of at least *bytes, which becomes its size.
Buffers::Pool::Memory Buffers::Pool::Take(size_t* bytes) {
  if (*bytes <= kLargest) {
    const size_t least = ClassOf(*bytes);
    const std::lock_guard lock(mutex);
    for (size_t c = least; c < std::min(least + kUpwards, kClasses); ++c) {
      if (waiting[c].empty()) continue;
      Memory memory = std::move(waiting[c].back());
      waiting[c].pop_back();
      *bytes = SizeOf(c);
      bytes_waiting -= *bytes;
      bytes_held += *bytes;
      return memory;
    }
    *bytes = SizeOf(least);
  }
  Memory memory = std::make_unique_for_overwrite<uint8_t[]>(*bytes);
  const std::lock_guard lock(mutex);
  bytes_held += *bytes;
  return memory;
}

void Buffers::Pool::Return(Memory memory, size_t bytes) {
  const std::lock_guard lock(mutex);  // released before `memory`, if that is freed
  bytes_held -= bytes;
  if (bytes > kLargest) return;
  waiting[ClassOf(bytes)].push_back(std::move(memory));
  bytes_waiting += bytes;
  // Batches of large images do not leave their memory behind for ever: what waits follows what is held, and
  // sizes that nobody takes any more go with the others.
  for (const size_t most = std::max(kAlwaysKept, bytes_held + bytes_held / 2); bytes_waiting > most;) {
    next_freed = (next_freed + 1) % kClasses;
    if (waiting[next_freed].empty()) continue;
    waiting[next_freed].pop_back();
    bytes_waiting -= SizeOf(next_freed);
  }
}

Buffers::Buffers() : pool_(std::make_shared<Pool>()) {}

Buffer Buffers::Take(size_t bytes) {
  Pool::Memory memory = pool_->Take(&bytes);
  // If the counter cannot be allocated, the deleter is called all the same.
  return {memory.release(),
          [pool = pool_, bytes](uint8_t* data) { pool->Return(Pool::Memory(data), bytes); }};
}

size_t Buffers::held() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->bytes_held;
}

size_t Buffers::waiting() const {
  const std::lock_guard lock(pool_->mutex);
  return pool_->bytes_waiting;
}

}  // namespace dali_dr::shards
