// See encoded_image.h.
#include "operators/encoded_image.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace dali_dr {
namespace {

constexpr int32_t kRows = jpeg::Decoder::kMaxRows;  // decoded at a time
static_assert(kRows % image::RowSource::kMostRows == 0);
static_assert(jpeg::Decoder::kSlack >= image::RowSource::kSlack);
constexpr size_t kKeptBytes = size_t{64} << 20;  // of a buffer, above which it is not kept for the next image

// Adds the time from here to the end of its life.
class Timed {
 public:
  explicit Timed(double* sum) : sum_(sum) {}
  ~Timed() { *sum_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double* sum_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace

jpeg::Region NeededBy(std::span<const image::Plan* const> plans, image::Filter filter) {
  Box all = image::Needed(*plans.front(), filter);
  int32_t bottom = all.top + all.height, right = all.left + all.width;
  for (const image::Plan* plan : plans.subspan(1)) {
    const Box box = image::Needed(*plan, filter);
    all.top = std::min(all.top, box.top);
    all.left = std::min(all.left, box.left);
    bottom = std::max(bottom, box.top + box.height);
    right = std::max(right, box.left + box.width);
  }
  return {all.top, all.left, bottom - all.top, right - all.left};
}

void EncodedImage::Begin(const PixelSource& source, std::span<const image::Plan* const> plans,
                         image::Filter filter) {
  source_ = source;
  filter_ = filter;
  decoded_ = false;
  problem_.clear();
  if (source.jpeg.empty() || plans.empty()) return;
  region_ = NeededBy(plans, filter);
  streams_ = plans.size() == 1 && image::CanStream(*plans.front());
}

std::string EncodedImage::Show(const image::Plan& plan, image::Scratch* scratch) {
  if (source_.jpeg.empty()) {
    scratch->CropResizeFlip(plan, source_.pixels, filter_);
    return {};
  }
  if (streams_) {
    problem_ = BeginDecoding();
    if (problem_.empty()) scratch->StreamResizeFlip(plan, this, filter_);
    return problem_;
  }
  if (!decoded_) problem_ = DecodeRegion();
  decoded_ = true;
  if (problem_.empty()) {
    const image::Size size{region_.height, region_.width};
    scratch->CropResizeFlip(plan, {buffer_.data(), size, region_.top, region_.left}, filter_);
  }
  return problem_;
}

Decoding EncodedImage::TakeDecoding() { return std::exchange(decoding_, {}); }

std::string EncodedImage::BeginDecoding() {
  const Timed timed(&decoding_.seconds);
  std::string problem = decoder_.Begin(source_.jpeg, region_);
  if (problem.empty()) ++decoding_.images[static_cast<size_t>(decoder_.way())];
  left_ = region_.height;
  given_ = have_ = 0;
  return problem;
}

bool EncodedImage::Next(int32_t count, const uint8_t** rows) {
  if (given_ == have_) {
    const Timed timed(&decoding_.seconds);
    given_ = 0;
    have_ = std::min(kRows, left_);
    left_ -= have_;
    problem_ = decoder_.Next(have_);
    if (!problem_.empty()) return false;
  }
  for (int32_t i = 0; i < count; ++i) rows[i] = decoder_.row(given_++);
  return true;
}

std::string EncodedImage::DecodeRegion() {
  const size_t bytes = 3 * static_cast<size_t>(region_.height) * static_cast<size_t>(region_.width);
  if (buffer_.size() < bytes || buffer_.size() > kKeptBytes) buffer_ = std::vector<uint8_t>(bytes);
  const Timed timed(&decoding_.seconds);
  std::string problem = jpeg::Decode(source_.jpeg, region_, &decoder_, buffer_.data());
  if (problem.empty()) ++decoding_.images[static_cast<size_t>(decoder_.way())];
  return problem;
}

}  // namespace dali_dr
