// Memory that samples are read into, used again and again: fresh pages for each would cost as much as the
// copy.
#ifndef DALI_DR_CSRC_SHARDS_BUFFERS_H_
#define DALI_DR_CSRC_SHARDS_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace dali_dr::shards {

/// Bytes that live as long as somebody holds them.
using Buffer = std::shared_ptr<uint8_t[]>;

/// Hands out buffers, and gets them back by itself when nobody holds them any more; they may outlive it. All
/// functions may be called from several threads at once.
class Buffers {
 public:
  Buffers();

  /// A buffer of at least so many bytes, which hold anything. Throws std::bad_alloc.
  Buffer Take(size_t bytes);

  /// Bytes of all buffers that are held by somebody, and of those that wait to be taken again.
  size_t held() const;
  size_t waiting() const;

 private:
  struct Pool;
  std::shared_ptr<Pool> pool_;  // shared with the buffers
};

}  // namespace dali_dr::shards

#endif  // DALI_DR_CSRC_SHARDS_BUFFERS_H_
