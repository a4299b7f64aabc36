// See decode.h.
#include "operators/decode.h"

#include <cstring>
#include <span>

#include "image/header.h"
#include "image/raw.h"
#include "jpeg/kind.h"
#include "operators/report.h"

namespace dali_dr {
namespace {

std::span<const uint8_t> Bytes(const dali::Workspace& ws, int i) {
  const auto& encoded = ws.Input<dali::CPUBackend>(0);
  return {encoded.tensor<uint8_t>(i), static_cast<size_t>(encoded.tensor_shape_span(i)[0])};
}

void CopyRegion(const image::Image& from, const jpeg::Region& region, uint8_t* to) {
  const size_t row = 3 * static_cast<size_t>(from.size.width), part = 3 * static_cast<size_t>(region.width);
  const uint8_t* source =
      from.data + static_cast<size_t>(region.top) * row + 3 * static_cast<size_t>(region.left);
  for (int32_t y = 0; y < region.height; ++y, source += row, to += part) std::memcpy(to, source, part);
}

}  // namespace

DALI_SCHEMA(dr__Decode)
    .DocStr(R"(Decodes JPEGs, or regions of them, on the CPU.

Pixels are those of Pillow's ``convert("RGB")``: libjpeg-turbo's defaults, EXIF orientation not applied. Of a tiled JPEG
(one whose restart markers divide its rows of MCUs) only the tiles that the region touches are decoded. The output is
uint8, HWC. An image that cannot be decoded raises RuntimeError.)")
    .NumInput(1, 4)
    .InputDox(0, "encoded", "TensorList of uint8, [bytes]",
              "JPEG files, or pixels that ``fn.dr.read`` kept, which are copied.")
    .InputDox(1, "start", "TensorList of int32, [2]", "(y, x) of the region in pixels of the image.")
    .InputDox(2, "shape", "TensorList of int32, [2]", "(height, width) of the region.")
    .InputDox(
        3, "pixels", "TensorList of uint8, HWC",
        "Where an image is no JPEG, the pixels to pass on in its place; else anything. Without regions it "
        "is input 1.")
    .NumOutput(1)
    .OutputLayout(0, "HWC")
    .AddOptionalArg("partner", "Whether errors call the images those of partners.", false)
    .AddOptionalArg(
        "monitor",
        "Number of the monitor that counts images and keeps this pipeline's first fault; -1: none.", -1);

Decode::Decode(const dali::OpSpec& spec)
    : StatelessOperator(spec),
      partner_(spec.GetArgument<bool>("partner")),
      with_region_(spec.NumRegularInput() > 2),
      pixels_(spec.NumRegularInput() % 2 == 0 ? spec.NumRegularInput() - 1 : -1),
      monitor_(Monitor::Get(spec.GetArgument<int>("monitor"))) {}

void Decode::Fail(int place, const std::string& problem) const { FailImage(place, partner_, problem); }

void Decode::CheckInputs(const dali::Workspace& ws) const {
  const auto& encoded = ws.Input<dali::CPUBackend>(0);
  Require(encoded.type() == DALI_UINT8 && encoded.sample_dim() == 1, "`encoded` is ", encoded.type(),
          " with ", encoded.sample_dim(), " dimensions: pass the bytes of JPEG files, uint8.");
  for (int input = 1; with_region_ && input <= 2; ++input) {
    const auto& numbers = ws.Input<dali::CPUBackend>(input);
    Require(numbers.type() == DALI_INT32 && numbers.sample_dim() == 1, "`start` and `shape` are ",
            numbers.type(), " with ", numbers.sample_dim(), " dimensions: pass int32, two of each.");
    for (int i = 0; i < numbers.num_samples(); ++i)
      Require(numbers.tensor_shape_span(i)[0] == 2, "Sample ", i, " of the batch: `start` or `shape` has ",
              numbers.tensor_shape_span(i)[0], " numbers: pass two of each.");
  }
  if (pixels_ < 0) return;
  const auto& pixels = ws.Input<dali::CPUBackend>(pixels_);
  Require(pixels.type() == DALI_UINT8 && pixels.sample_dim() == 3, "`pixels` are ", pixels.type(), " with ",
          pixels.sample_dim(), " dimensions: pass uint8, HWC.");
}

std::string Decode::Find(const dali::Workspace& ws, int i, jpeg::Region* region) const {
  image::Size size{};
  if (const auto raw = image::RawPixels(Bytes(ws, i))) {
    size = raw->size;
  } else if (std::string problem = image::ReadSize(Bytes(ws, i), &size); !problem.empty()) {
    return problem;
  }
  *region = {0, 0, size.height, size.width};
  if (!with_region_) return {};
  const auto* start = ws.Input<dali::CPUBackend>(1).tensor<int32_t>(i);
  const auto* shape = ws.Input<dali::CPUBackend>(2).tensor<int32_t>(i);
  *region = {start[0], start[1], shape[0], shape[1]};
  const bool inside = start[0] >= 0 && start[1] >= 0 && shape[0] >= 1 && shape[1] >= 1 &&
                      start[0] <= int64_t{size.height} - shape[0] &&
                      start[1] <= int64_t{size.width} - shape[1];
  return inside ? "" : "the region is not inside the image";
}

bool Decode::SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) {
  const int count = ws.Input<dali::CPUBackend>(0).num_samples();
  output_desc.resize(1);
  output_desc[0].type = DALI_UINT8;
  output_desc[0].shape.resize(count, 3);
  regions_.resize(static_cast<size_t>(count));
  Reporting(monitor_, [&] {
    CheckInputs(ws);
    for (int i = 0; i < count; ++i) {
      jpeg::Region& region = regions_[static_cast<size_t>(i)];
      region = {};
      if (pixels_ >= 0 && !jpeg::IsDecodable(Bytes(ws, i)) && !image::RawPixels(Bytes(ws, i))) {
        output_desc[0].shape.set_tensor_shape(i, ws.Input<dali::CPUBackend>(pixels_).tensor_shape(i));
        continue;
      }
      const std::string problem = Find(ws, i, &region);
      if (!problem.empty()) Fail(i, problem);
      output_desc[0].shape.set_tensor_shape(i, dali::TensorShape<>{region.height, region.width, 3});
    }
  });
  return true;
}

void Decode::RunImpl(dali::Workspace& ws) {
  auto& pool = ws.GetThreadPool();
  auto& output = ws.Output<dali::CPUBackend>(0);
  const int count = ws.Input<dali::CPUBackend>(0).num_samples();
  output.SetLayout("HWC");
  while (decoders_.size() < static_cast<size_t>(pool.NumThreads()))
    decoders_.push_back(std::make_unique<jpeg::Decoder>());
  problems_.assign(static_cast<size_t>(count), {});
  ways_.assign(static_cast<size_t>(count), std::nullopt);
  for (int i = 0; i < count; ++i) {
    const jpeg::Region& region = regions_[static_cast<size_t>(i)];
    const auto encoded = Bytes(ws, i);
    auto* const out = output.mutable_tensor<uint8_t>(i);
    if (region.height == 0) {  // what is no JPEG
      const auto& pixels = ws.Input<dali::CPUBackend>(pixels_);
      std::memcpy(out, pixels.tensor<uint8_t>(i), static_cast<size_t>(volume(pixels.tensor_shape_span(i))));
      continue;
    }
    if (const auto raw = image::RawPixels(encoded)) {
      CopyRegion(*raw, region, out);
      continue;
    }
    pool.AddWork(
        [=, this](int thread) {
          jpeg::Decoder* const decoder = decoders_[static_cast<size_t>(thread)].get();
          problems_[static_cast<size_t>(i)] =
              jpeg::Decode(encoded, regions_[static_cast<size_t>(i)], decoder, out);
          ways_[static_cast<size_t>(i)] = decoder->way();
        },
        static_cast<int64_t>(encoded.size()) + int64_t{region.height} * region.width);
  }
  pool.RunAll();
  Decoding decoding;  // its seconds are those between read and replay
  for (const auto& way : ways_)
    if (way) ++decoding.images[static_cast<size_t>(*way)];
  if (monitor_) monitor_->Decoded(decoding);
  Reporting(monitor_, [&] {
    for (int i = 0; i < count; ++i)
      if (!problems_[static_cast<size_t>(i)].empty()) Fail(i, problems_[static_cast<size_t>(i)]);
  });
}

DALI_REGISTER_OPERATOR(dr__Decode, Decode, dali::CPU);

DALI_SCHEMA(dr__Foreign)
    .DocStr(R"(Says of each image whether ``fn.dr.decode`` does not decode it: bool, scalar.

It is no JPEG then, or one that is not of 8-bit samples of one or three components, by its header.)")
    .NumInput(1)
    .InputDox(0, "encoded", "TensorList of uint8, [bytes]", "Image files.")
    .NumOutput(1);

bool Foreign::SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) {
  const auto& encoded = ws.Input<dali::CPUBackend>(0);
  Require(encoded.type() == DALI_UINT8 && encoded.sample_dim() == 1, "`encoded` is ", encoded.type(),
          " with ", encoded.sample_dim(), " dimensions: pass the bytes of image files, uint8.");
  output_desc.resize(1);
  output_desc[0] = {dali::TensorListShape<>(encoded.num_samples(), 0), DALI_BOOL};
  return true;
}

void Foreign::RunImpl(dali::Workspace& ws) {
  auto& output = ws.Output<dali::CPUBackend>(0);
  for (int i = 0; i < output.num_samples(); ++i)
    *output.mutable_tensor<bool>(i) = !jpeg::IsDecodable(Bytes(ws, i));
}

DALI_REGISTER_OPERATOR(dr__Foreign, Foreign, dali::CPU);

}  // namespace dali_dr
