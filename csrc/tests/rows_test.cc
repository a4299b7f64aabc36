// Views made from no more of an image than they need, at once or row by row, are those made from all of it.
// What is given lies in heap blocks of the exact size, so that AddressSanitizer sees reads past it.
#include <cstring>
#include <memory>
#include <vector>

#include "image/replay.h"
#include "tests/random_view.h"

namespace dali_dr::image {
namespace {

// The rows of a box, each with its slack, which holds anything; valid until the next call.
class BoxRows : public RowSource {
 public:
  BoxRows(const uint8_t* pixels, Size size, const Box& box) : pixels_(pixels), size_(size), box_(box) {}

  bool Next(int32_t count, const uint8_t** rows) override {
    CHECK(count >= 1 && count <= kMostRows && given + count <= box_.height, "%d rows after %d of %d", count,
          given, box_.height);
    blocks_.clear();
    const size_t bytes = 3 * static_cast<size_t>(box_.width);
    for (int32_t i = 0; i < count; ++i, ++given) {
      blocks_.emplace_back(new uint8_t[bytes + kSlack]);
      const size_t at = static_cast<size_t>(box_.top + given) * static_cast<size_t>(size_.width);
      std::memcpy(blocks_.back().get(), pixels_ + 3 * (at + static_cast<size_t>(box_.left)), bytes);
      std::memset(blocks_.back().get() + bytes, Uniform(0, 255), kSlack);
      rows[i] = blocks_.back().get();
    }
    return given <= most;
  }

  int32_t given = 0, most = 1 << 30;  // it fails beyond `most` rows

 private:
  const uint8_t* pixels_;
  Size size_;
  Box box_;
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;
};

// A block with the pixels of the box alone.
std::unique_ptr<uint8_t[]> Cut(const uint8_t* pixels, Size size, const Box& box) {
  const size_t bytes = 3 * static_cast<size_t>(box.width);
  std::unique_ptr<uint8_t[]> out(new uint8_t[bytes * static_cast<size_t>(box.height)]);
  for (int32_t y = 0; y < box.height; ++y)
    std::memcpy(out.get() + static_cast<size_t>(y) * bytes,
                pixels + 3 * (static_cast<size_t>(box.top + y) * static_cast<size_t>(size.width) +
                              static_cast<size_t>(box.left)),
                bytes);
  return out;
}

void TestPartsAreEnough(const Kernels& kernels) {
  Scratch whole(kernels), part(kernels);
  int windowed = 0, streamed = 0;
  for (int round = 0; round < 6000; ++round) {
    const int most = round % 50 ? 120 : 900;
    const Size size{Uniform(1, most), Uniform(1, most)}, out{Uniform(1, 70), Uniform(1, 70)};
    const auto pixels = RandomPixels(size);
    const View view = RandomView(size, out);
    const int shorter = Uniform(0, 1) ? 0 : Uniform(std::max(out.height, out.width), 150);
    Plan plan;
    if (!MakePlan(view, size, 0, 0, out, out, shorter, &plan).empty()) continue;
    const Filter filter = round % 2 ? Filter::kBilinear : Filter::kBicubic;
    const Box box = Needed(plan, filter), crop = plan.crop;
    CHECK(box.top >= crop.top && box.left >= crop.left && box.height >= 1 && box.width >= 1 &&
              box.top + box.height <= crop.top + crop.height &&
              box.left + box.width <= crop.left + crop.width,
          "round %d: the box leaves the crop", round);
    windowed += box.height < crop.height || box.width < crop.width;
    whole.CropResizeFlip(plan, {pixels.get(), size}, filter);
    const auto same = [&](const char* how) {
      const size_t count = static_cast<size_t>(out.height) * static_cast<size_t>(out.width);
      for (int c = 0; c < 3; ++c)
        CHECK(std::memcmp(whole.plane(c), part.plane(c), count) == 0,
              "%s kernels, round %d, %s: %dx%d -> %dx%d", kernels.name, round, how, size.height, size.width,
              out.height, out.width);
    };
    const auto cut = Cut(pixels.get(), size, box);
    part.CropResizeFlip(plan, {cut.get(), {box.height, box.width}, box.top, box.left}, filter);
    same("part");
    if (!CanStream(plan)) continue;
    ++streamed;
    BoxRows rows(pixels.get(), size, box);
    CHECK(part.StreamResizeFlip(plan, &rows, filter), "round %d: rows were refused", round);
    same("rows");
    BoxRows cut_off(pixels.get(), size, box);
    cut_off.most = rows.given - 1;
    CHECK(!part.StreamResizeFlip(plan, &cut_off, filter), "round %d: missing rows were not", round);
  }
  CHECK(windowed > 300 && streamed > 1000, "%d windowed, %d streamed", windowed, streamed);
}

}  // namespace
}  // namespace dali_dr::image

int main() {
  using namespace dali_dr::image;
  TestPartsAreEnough(kPortableKernels);
  TestPartsAreEnough(BestKernels());
  std::printf("rows: %d failures\n", failures);
  return failures != 0;
}
