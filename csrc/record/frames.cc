// See frames.h.
#include "record/frames.h"

#include <zstd.h>

#include <bit>
#include <new>

#include "record/bytes.h"
#include "record/header.h"
#include "sanitizer.h"

namespace dali_dr::record {
namespace {

// RFC 8878, section 3.1.1.1.1: the frame header descriptor follows the magic number.
constexpr size_t kDescriptorAt = 4;
constexpr uint8_t kChecksumFlag = 4;

}  // namespace

struct Frames::Context {
  ZSTD_DCtx* zstd = ZSTD_createDCtx();
  Context() {
    if (!zstd) throw std::bad_alloc();  // coverage: no memory
  }
  ~Context() { ZSTD_freeDCtx(zstd); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

Frames::Frames() : context_(std::make_unique<Context>()) {}
Frames::~Frames() = default;
Frames::Frames(Frames&&) noexcept = default;
Frames& Frames::operator=(Frames&&) noexcept = default;

void Frames::Find(std::span<const uint8_t> member, size_t most) {
  frames_.clear();
  content_ = 0;
  have_checksums_ = true;
  auto rest = member;
  do {
    const unsigned long long size =  // NOLINT: zstd's type
        ZSTD_getFrameContentSize(rest.data(), rest.size());
    // The magic number is looked at here because zstd takes skippable frames for empty ones.
    if (size == ZSTD_CONTENTSIZE_ERROR || Load<uint32_t>(rest.data()) != ZSTD_MAGICNUMBER)
      Fail("not a zstd frame (", rest.size(), " bytes at offset ", member.size() - rest.size(), ")");
    if (size == ZSTD_CONTENTSIZE_UNKNOWN) Fail("zstd frame does not carry its content size");
    if (size > most - content_) Fail("zstd frames hold ", content_, " + ", size, " bytes, more than ", most);
    const size_t frame = ZSTD_findFrameCompressedSize(rest.data(), rest.size());
    if (ZSTD_isError(frame)) Fail("zstd frame of ", rest.size(), " bytes: ", ZSTD_getErrorName(frame));
    frames_.push_back({rest.first(frame), content_, static_cast<size_t>(size)});
    content_ += size;
    have_checksums_ &= (rest[kDescriptorAt] & kChecksumFlag) != 0;
    rest = rest.subspan(frame);
  } while (!rest.empty() && frames_.size() <= kMaxViews);
  if (!rest.empty()) Fail("the member has more than ", frames_.size(), " zstd frames");
  if (content_ > capacity_) {
    const size_t capacity = std::bit_ceil(content_);
    buffer_.reset(new uint8_t[capacity]);  // not make_unique: that would clear it
    capacity_ = capacity;
  }
}

std::span<const uint8_t> Frames::Content(size_t number) {
  const Frame& frame = frames_[number];
  uint8_t* content = buffer_.get() + frame.content_at;
  const size_t written = ZSTD_decompressDCtx(context_->zstd, content, frame.content_bytes, frame.bytes.data(),
                                             frame.bytes.size());
  if (ZSTD_isError(written))
    Fail("zstd frame of ", frame.bytes.size(), " bytes: ", ZSTD_getErrorName(written));
  if (written != frame.content_bytes)
    Fail("zstd frame holds ", written, " bytes, but its header says ", frame.content_bytes);
  WrittenElsewhere(content, written);
  return {content, written};
}

}  // namespace dali_dr::record
