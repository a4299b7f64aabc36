// See decode.h.
#include "jpeg/decode.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "jpeg/entropy.h"
#include "jpeg/library.h"
#include "jpeg/scan.h"
#include "jpeg/slice.h"

namespace dali_dr::jpeg {

// Functions with setjmp have nothing of their own that would need destruction: what they change is here.
struct Decoder::State {
  Errors errors;
  jpeg_decompress_struct info{};
  Frame frame{};
  Scan scan;
  McuLayout layout;
  std::vector<uint8_t> header;  // of the image that libjpeg is to see: of MCUs that are wanted alone
  bool fast = false;            // it gets them from `scan`
  Way way = Way::kWhole;
  std::span<const uint8_t> encoded;
  Region wanted{};    // of the image
  Region region{};    // the same in what libjpeg sees
  int32_t done = 0;   // rows of it that were given out
  size_t first = 0;   // bytes before the region in a decoded row
  size_t stride = 0;  // of the rows below
  std::vector<uint8_t> rows;
  JSAMPROW pointers[kMaxRows] = {};
  JBLOCK unwanted[D_MAX_BLOCKS_IN_MCU] = {};  // where libjpeg passes MCUs over, and gives no blocks

  State() {
    info.err = &errors;
    info.client_data = this;
  }
  ~State() { jpeg_destroy_decompress(&info); }

  bool ReadHeader(std::span<const uint8_t> bytes);
  bool Start();
  bool Crop();
  bool Skip(int32_t count);
  bool Rows(JDIMENSION count);
  bool BeginFast();
  std::string BeginSlow();
  void MakeHeader(const McuBox& box);
  void MakeRoom();
  static boolean DecodeMcu(j_decompress_ptr info, JBLOCKROW* blocks);
};

bool Decoder::State::ReadHeader(std::span<const uint8_t> bytes) {
  if (setjmp(errors.back)) return false;
  // A new one for each image: libjpeg keeps the tables of the last for those that an image lacks.
  jpeg_destroy_decompress(&info);
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), bytes.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  return true;
}

bool Decoder::State::Start() {
  if (setjmp(errors.back)) return false;
  jpeg_start_decompress(&info);
  return true;
}

// Leaves out what is left and right of the region; what upsampling needs of it comes along.
bool Decoder::State::Crop() {
  if (setjmp(errors.back)) return false;
  Frame whole{};
  whole.height = static_cast<int32_t>(info.output_height);
  whole.width = static_cast<int32_t>(info.output_width);
  whole.max_h = info.max_h_samp_factor;
  whole.max_v = info.max_v_samp_factor;
  const Region context = WithContext(whole, region);
  auto left = static_cast<JDIMENSION>(context.left), width = static_cast<JDIMENSION>(context.width);
  if (context.width < whole.width) jpeg_crop_scanline(&info, &left, &width);
  first = 3 * (static_cast<size_t>(region.left) - left);
  return true;
}

bool Decoder::State::Skip(int32_t count) {
  if (setjmp(errors.back)) return false;
  if (count > 0) jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(count));
  return true;
}

bool Decoder::State::Rows(JDIMENSION count) {
  if (setjmp(errors.back)) return false;
  JDIMENSION got = 0;
  while (got < count) {
    const JDIMENSION more = jpeg_read_scanlines(&info, pointers + got, count - got);
    if (more == 0) return false;
    got += more;
  }
  return true;
}

boolean Decoder::State::DecodeMcu(j_decompress_ptr info, JBLOCKROW* blocks) {
  State& s = *static_cast<State*>(info->client_data);
  int16_t* to[D_MAX_BLOCKS_IN_MCU];
  for (int32_t i = 0; i < s.layout.blocks; ++i) to[i] = blocks ? *blocks[i] : s.unwanted[i];
  if (!s.scan.Next(to)) std::longjmp(s.errors.back, 1);
  return TRUE;
}

// The header of an image of nothing but `box`.
void Decoder::State::MakeHeader(const McuBox& box) {
  const int32_t top = box.row * frame.mcu_height, left = box.column * frame.mcu_width;
  const int32_t height = std::min(frame.height, box.row_end * frame.mcu_height) - top;
  const int32_t width = std::min(frame.width, box.column_end * frame.mcu_width) - left;
  region = {wanted.top - top, wanted.left - left, wanted.height, wanted.width};
  CopyHeader(encoded, frame, height, width, &header);
}

// Whether it is a file whose MCUs `scan` can give.
bool Decoder::State::BeginFast() {
  if (!ReadFrame(encoded, &frame) || !InstallWorks()) return false;
  if (wanted.top > frame.height - wanted.height || wanted.left > frame.width - wanted.width) return false;
  const McuBox box = BoxOf(frame, wanted);
  MakeHeader(box);
  if (!ReadHeader(header) || !Start() || !Describe(info, &scan, &layout)) return false;
  way = IsTiled(frame) ? Way::kTiles : Way::kWhole;
  scan.Begin(encoded, frame, layout, box);
  Install(&info, DecodeMcu);
  first = 3 * static_cast<size_t>(region.left);
  MakeRoom();
  return Skip(region.top);
}

// Begins by libjpeg alone, behind the rows that are done. Returns an empty string, or what is wrong.
std::string Decoder::State::BeginSlow() {
  fast = false;
  way = scan.misfit() ? Way::kMisfit : Way::kWhole;
  region = wanted;
  if (!ReadHeader(encoded)) return errors.Text();
  if (region.top > static_cast<int64_t>(info.image_height) - region.height ||
      region.left > static_cast<int64_t>(info.image_width) - region.width)
    return "the region is not inside the image";
  if (!Start() || !Crop() || !Skip(region.top + done)) return errors.Text();
  MakeRoom();
  return {};
}

void Decoder::State::MakeRoom() {
  stride = 3 * static_cast<size_t>(info.output_width) + kSlack;
  if (rows.size() < kMaxRows * stride) rows.resize(kMaxRows * stride);
  for (int32_t i = 0; i < kMaxRows; ++i) pointers[i] = rows.data() + static_cast<size_t>(i) * stride;
}

bool IsJpeg(std::span<const uint8_t> encoded) {
  return encoded.size() > 2 && encoded[0] == 0xff && encoded[1] == 0xd8 && encoded[2] == 0xff;
}

Decoder::Decoder() : state_(std::make_unique<State>()) {}

Decoder::~Decoder() = default;

Decoder::Way Decoder::way() const { return state_->way; }

const uint8_t* Decoder::row(int32_t i) const { return state_->pointers[i] + state_->first; }

std::string Decoder::Begin(std::span<const uint8_t> encoded, const Region& region) {
  State& s = *state_;
  if (!IsJpeg(encoded)) return "it is no JPEG";
  if (region.top < 0 || region.left < 0 || region.height < 1 || region.width < 1)
    return "the region is empty or begins outside the image";
  s.encoded = encoded;
  s.wanted = region;
  s.done = 0;
  s.scan.Forget();
  s.fast = s.BeginFast();
  return s.fast ? std::string() : s.BeginSlow();
}

std::string Decoder::Next(int32_t rows) {
  State& s = *state_;
  const auto count = static_cast<JDIMENSION>(std::min(rows, kMaxRows));
  bool good = s.Rows(count);
  if (!good && s.fast) {  // something is out of order, in which libjpeg finds its way
    std::string problem = s.BeginSlow();
    if (!problem.empty()) return problem;
    good = s.Rows(count);
  }
  if (!good) return s.errors.Text();
  // As DALI's decoder and Pillow have it: what is missing is not made up.
  if (!s.fast && s.errors.cut_off) return "Premature end of JPEG file";
  s.done += static_cast<int32_t>(count);
  return {};
}

std::string Decode(std::span<const uint8_t> encoded, const Region& region, Decoder* decoder, uint8_t* out) {
  std::string problem = decoder->Begin(encoded, region);
  const size_t bytes = 3 * static_cast<size_t>(std::max(region.width, 0));
  for (int32_t y = 0; y < region.height && problem.empty(); y += Decoder::kMaxRows) {
    const int32_t count = std::min(Decoder::kMaxRows, region.height - y);
    problem = decoder->Next(count);
    for (int32_t i = 0; i < count && problem.empty(); ++i, out += bytes)
      std::memcpy(out, decoder->row(i), bytes);
  }
  return problem;
}

}  // namespace dali_dr::jpeg
