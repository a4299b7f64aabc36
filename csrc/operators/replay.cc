// See replay.h.
#include "operators/replay.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "image/header.h"
#include "image/raw.h"
#include "jpeg/kind.h"
#include "operators/report.h"

#ifdef DALI_DR_CUDA
#include "dali/core/cuda_error.h"
#include "dali/core/device_guard.h"
#include "dali/kernels/dynamic_scratchpad.h"
#endif

namespace dali_dr {
namespace {

using dali::make_string;

struct TypePair {
  dali::DALIDataType dali;
  image::OutputType ours;
};
constexpr TypePair kTypes[] = {{DALI_UINT8, image::OutputType::kUint8},
                               {DALI_FLOAT16, image::OutputType::kFloat16},
                               {DALI_INT16, image::OutputType::kBfloat16},
                               {DALI_FLOAT, image::OutputType::kFloat32}};

// An int or (height, width) argument.
image::Size SizeArgument(const dali::OpSpec& spec, const std::string& name) {
  const auto v = spec.GetRepeatedArgument<int>(name);
  Require(v.size() == 1 || v.size() == 2, "`", name, "` has ", v.size(),
          " values: pass one int, or (height, width).");
  return {v[0], v.back()};
}

std::span<const uint8_t> Bytes(const dali::TensorList<dali::CPUBackend>& images, int i) {
  return {images.tensor<uint8_t>(i), static_cast<size_t>(images.tensor_shape_span(i)[0])};
}

[[noreturn]] void FailView(int place, std::string message) {
  throw BatchError({.fault = {.kind = Fault::Kind::kView, .message = std::move(message)}, .place = place});
}

}  // namespace

DALI_SCHEMA(dr__Replay)
    .DocStr(R"(Shows stored views of decoded images, bit for bit as torchvision's PIL transforms show them.

A view is replayed in this order: crop and resize, horizontal flip, operations, erase (to 0, before
normalisation), normalise, layout. Everything up to the erase works on uint8 pixels and equals ``resized_crop``,
``hflip``, ``RandAugment`` (nearest, black fill) and ``adjust_hue`` of torchvision on PIL images and Pillow's
``GaussianBlur`` in every byte. The reference is Pillow 13:
earlier versions always resized horizontally first, Pillow 13 resizes vertically first where that takes away more than
twice as many rows as columns, which moves some values by one.

Parameters of one view are ``10 + 2n`` int32 words: crop top, left, height, width in source pixels; flip (0 or 1); erase
top, left, height, width in output pixels of the size given by ``stored_size`` (height 0: no erase); the number of
operations ``n``, at most 16; then ``n`` times an operation (0 to 13 in the order of torchvision's RandAugment: Identity,
ShearX, ShearY, TranslateX, TranslateY, Rotate, Brightness, Color, Contrast, Sharpness, Posterize, Solarize, AutoContrast,
Equalize; 14 Hue, of a hue factor; 15 GaussianBlur, of a radius; 16 WindowTop and 17 WindowLeft, see ``resize_shorter``)
and the bits of its float32 magnitude (the final, signed physical value). ``fn.dr.read`` gives them.

Views can be shown at another size than the one at which they were stored. The crop box does not change then. The four
edges of an erase box (top, left, top + height, left + width; not its lengths) and the whole-pixel amounts of
translations are multiplied by size / stored_size and rounded half up, ``floor(x * size / stored_size + 0.5)``, each axis
by its own ratio. A translation keeps its sign. A stored magnitude is truncated to whole pixels before it is scaled. The
radius of a blur is multiplied and not rounded. ``resize_shorter`` is multiplied by the greater of both ratios and
rounded, WindowTop and WindowLeft each by its own, and they end where the view would leave the resized image.

With ``partner_images``, parameters of a view are ``2 * (10 + 2n) + 7`` words: the view; the partner's sample number (-1:
none, -2: the image itself); 1 if image and partner change places, else 0; the float32 bits of lam; CutMix top, left,
height, width, which scale as erase boxes do (all zero: none); the view of the partner. With a and b the finished
(normalised) values of the view and of the partner's, exchanged if so asked, the output is
``float32(lam) * a + float32(1 - lam) * b``, each operation rounded to float32, and b inside the CutMix box. With
``m`` views per image, all have one partner; views that differ only in who comes first are replayed once.

Images may be **encoded** JPEGs, on the CPU: then of each no more is decoded than its views show, by libjpeg-turbo as
Pillow has it, mostly straight into the resize. One that cannot be decoded raises RuntimeError.)")
    .NumInput(2, 5)
    .InputDox(
        0, "images", "TensorList of uint8, [bytes] or HWC",
        "Encoded JPEGs, on the CPU; or decoded RGB images, or the parts of them whose top-left pixels in the "
        "source are at ``origin``.")
    .InputDox(1, "params", "TensorList of int32, [P] or [m, P]",
              "The packed parameters of one view per image, or of ``m`` views; then the output has a leading "
              "dimension m.")
    .InputDevice(1, dali::InputDevice::CPU)
    .InputDox(
        2, "partner_images", "TensorList of uint8, [bytes] or HWC",
        "With it, views are mixed: one partner image per image, or the part of it at ``partner_origin``. "
        "Where a view has no partner, or is its own, any image will do. With ``pixels`` but no partners, "
        "this "
        "is what is said of input 3.")
    .InputDox(3, "pixels_of_images", "TensorList of uint8, HWC",
              "With ``pixels``: where an image is no JPEG, its pixels, or a part of them as ``origin`` says; "
              "else anything.")
    .InputDox(4, "pixels_of_partner_images", "TensorList of uint8, HWC",
              "With ``pixels``: the same of the partner images, with ``partner_origin``.")
    .NumOutput(1)
    .AddArg("size",
            "Output size in pixels: an int for square views, or (height, width). At most 8192 per side. As a "
            "tensor "
            "argument it must be (height, width), the same for all samples of a batch.",
            DALI_INT_VEC, true)
    .AddOptionalArg(
        "stored_size",
        "The view size at which erase boxes and translations were stored: an int or (height, width). 0 means "
        "``size``.",
        std::vector<int>{0})
    .AddOptionalArg(
        "resize_shorter",
        "Resize the crop box so that its shorter side has this length (at the stored size), keeping its "
        "aspect "
        "ratio, and show the part of that of size ``size`` that begins at (WindowTop, WindowLeft), two "
        "operations "
        "of the view, or, without these, its centre: torchvision's Resize(resize_shorter) and RandomCrop or "
        "CenterCrop(size) where the box is the whole image. Only the pixels that are shown are computed. 0: "
        "resize the box to ``size``.",
        0)
    .AddOptionalArg("interpolation", "``\"bilinear\"`` or ``\"bicubic\"``, both with Pillow's antialiasing.",
                    std::string("bilinear"))
    .AddOptionalArg(
        "origin",
        "(y, x) of the top-left pixel of ``images`` in the source image. Pass ``roi_start`` here when only "
        "that region was decoded.",
        std::vector<int>{0, 0}, true)
    .AddOptionalArg(
        "pixels",
        "Images that are no JPEG come decoded: behind the other inputs stand their pixels, and with partners "
        "those of the partner images.",
        false)
    .AddOptionalArg("partner_origin",
                    "(y, x) of the top-left pixel of ``partner_images`` in their source images.",
                    std::vector<int>{0, 0}, true)
    .AddOptionalArg(
        "mean",
        "Per-channel mean in units of 1 (as in torchvision, not 255). With ``std``, the output is "
        "``((v / 255) - mean) / std``, computed in float32 in this order.",
        std::vector<float>{})
    .AddOptionalArg("std", "Per-channel standard deviation in units of 1.", std::vector<float>{})
    .AddOptionalTypeArg("dtype",
                        "Output type: ``UINT8`` (without ``mean`` and ``std`` only), ``FLOAT16`` (the "
                        "float32 value rounded to "
                        "nearest even), ``INT16`` (the bits of bfloat16, likewise rounded: DALI has no "
                        "such type, so view the tensor as one) or ``FLOAT``. Without ``mean`` and ``std`` "
                        "values stay in 0..255.",
                        DALI_UINT8)
    .AddOptionalArg("output_layout", "``\"CHW\"`` or ``\"HWC\"``.", dali::TensorLayout("CHW"))
    .AddOptionalArg(
        "monitor",
        "Number of the monitor that times this pipeline's stages and keeps its first fault; -1: none.", -1);

template <typename Backend>
ReplayBase<Backend>::ReplayBase(const dali::OpSpec& spec)
    : dali::StatelessOperator<Backend>(spec),
      pixels_(spec.GetArgument<bool>("pixels")),
      mixing_(spec.NumRegularInput() == (pixels_ ? 5 : 3)),
      monitor_(Monitor::Get(spec.GetArgument<int>("monitor"))),
      origin_("origin", spec),
      partner_origin_("partner_origin", spec),
      size_("size", spec),
      stored_argument_(SizeArgument(spec, "stored_size")) {
  shown_.resize_shorter = spec.GetArgument<int>("resize_shorter");
  if (!size_.HasArgumentInput()) SetSize(SizeArgument(spec, "size"));
  const auto interpolation = spec.GetArgument<std::string>("interpolation");
  Require(interpolation == "bilinear" || interpolation == "bicubic", "`interpolation` is \"", interpolation,
          "\": pass \"bilinear\" or \"bicubic\".");
  filter_ = interpolation == "bilinear" ? image::Filter::kBilinear : image::Filter::kBicubic;
  ReadFinish(spec);
  const int inputs = spec.NumRegularInput();
  Require(!pixels_ || (kDecodes && (inputs == 3 || inputs == 5)), "`pixels` are given, but the inputs are ",
          inputs,
          ": pass on the CPU `pixels` behind `params`, or `partner_images`, `pixels` and `partner_pixels`.");
  Require(pixels_ || inputs <= 3, "The inputs are ", inputs, ": with more than three pass `pixels=True`.");
}

template <typename Backend>
void ReplayBase<Backend>::ReadFinish(const dali::OpSpec& spec) {
  const auto mean = spec.GetRepeatedArgument<float>("mean"), std = spec.GetRepeatedArgument<float>("std");
  Require(mean.size() == std.size() && (mean.empty() || mean.size() == 3), "`mean` has ", mean.size(),
          " values and `std` has ", std.size(), ": pass three of each (RGB, in units of 1), or neither.");
  for (size_t c = 0; c < std.size(); ++c)
    Require(std::isfinite(mean[c]) && std::isfinite(std[c]) && std[c] > 0.0f, "`mean` ", mean[c],
            " and `std` ", std[c], " must be finite, and `std` positive.");
  const auto dtype = spec.GetArgument<dali::DALIDataType>("dtype");
  const auto* const type = std::ranges::find(kTypes, dtype, &TypePair::dali);
  Require(type != std::end(kTypes), "`dtype` is ", dtype,
          ": pass UINT8, FLOAT16, INT16 (bits of bfloat16) or FLOAT.");
  Require(dtype != DALI_UINT8 || mean.empty(),
          "`mean` and `std` need `dtype` FLOAT16, INT16 or FLOAT: normalised values do not fit UINT8.");
  Require(dtype != DALI_UINT8 || !mixing_,
          "Mixed views (`partner_images`) need `dtype` FLOAT16, INT16 or FLOAT: mixed values are no whole "
          "numbers.");
  const auto layout = spec.GetArgument<dali::TensorLayout>("output_layout");
  Require(layout == "CHW" || layout == "HWC", "`output_layout` is \"", layout.str(),
          "\": pass \"CHW\" or \"HWC\".");
  finish_.emplace(type->ours, layout == "HWC", mean, std);
}

template <typename Backend>
void ReplayBase<Backend>::SetSize(image::Size size) {
  shown_.out = size;
  shown_.stored = stored_argument_;
  const std::string problem = shown_.Resolve();
  Require(problem.empty(), problem);
}

template <typename Backend>
void ReplayBase<Backend>::CheckImages(const dali::Workspace& ws, int input, const char* name) const {
  const auto& images = ws.Input<Backend>(input);
  const int dim = images.sample_dim();
  const bool encoded = kDecodes && dim == 1 && input <= 2 && !(pixels_ && input == PixelsInput(false));
  Require(images.type() == DALI_UINT8 && (dim == 3 || encoded), "`", name, "` are ", images.type(), " with ",
          dim, " dimensions: ", kDecodes ? "pass encoded JPEGs, or decode" : "decode", " to uint8 RGB, HWC.");
}

template <typename Backend>
void ReplayBase<Backend>::CheckInputs(const dali::Workspace& ws) const {
  CheckImages(ws, 0, "images");
  const auto& params = ws.Input<dali::CPUBackend>(1);
  Require(params.type() == DALI_INT32, "`params` are ", params.type(), ": pass int32.");
  Require(params.sample_dim() == 1 || params.sample_dim() == 2, "`params` have ", params.sample_dim(),
          " dimensions: pass [P] for one view per image or [m, P] for m.");
  if (mixing_) CheckImages(ws, 2, "partner_images");
  if (pixels_) CheckImages(ws, PixelsInput(false), "pixels");
  if (pixels_ && mixing_) CheckImages(ws, PixelsInput(true), "partner_pixels");
}

template <typename Backend>
void ReplayBase<Backend>::AcquireArguments(const dali::Workspace& ws) {
  const int samples = ws.Input<Backend>(0).num_samples();
  origin_.Acquire(this->spec_, ws, samples, dali::TensorShape<1>{2});
  partner_origin_.Acquire(this->spec_, ws, samples, dali::TensorShape<1>{2});
  if (!size_.HasArgumentInput()) return;
  size_.Acquire(this->spec_, ws, samples, dali::TensorShape<1>{2});
  const image::Size size{size_[0].data[0], size_[0].data[1]};
  for (int i = 1; i < samples; ++i)
    Require(size_[i].data[0] == size.height && size_[i].data[1] == size.width, "Sample ", i,
            " of the batch: `size` is ", size_[i].data[0], "x", size_[i].data[1],
            ", but that of sample 0 is ", size.height, "x", size.width, ": a batch has one size.");
  SetSize(size);
}

template <typename Backend>
typename ReplayBase<Backend>::Given ReplayBase<Backend>::Find(const dali::Workspace& ws, bool partner,
                                                              int i) const {
  int input = partner ? 2 : 0;
  if constexpr (kDecodes) {
    const auto& images = ws.Input<Backend>(input);
    if (images.sample_dim() == 1) {
      Given given;
      if (jpeg::IsDecodable(Bytes(images, i))) {
        given.source.jpeg = Bytes(images, i);
        const std::string problem = image::ReadSize(given.source.jpeg, &given.placed.size);
        if (!problem.empty()) FailImage(i, partner, problem);
        given.source.pixels.size = given.placed.size;
        return given;
      }
      if (const auto raw = image::RawPixels(Bytes(images, i))) return {{.pixels = *raw}, {raw->size, 0, 0}};
      if (!pixels_) FailImage(i, partner, "it is no JPEG: pass it decoded, in `pixels`");
      input = PixelsInput(partner);
    }
  }
  const auto& pixels = ws.Input<Backend>(input);
  const auto shape = pixels.tensor_shape_span(i);
  if (shape[2] != 3 || std::min(shape[0], shape[1]) < 1 || std::max(shape[0], shape[1]) > kMaxCoordinate)
    FailView(i, make_string("Sample ", i, " of the batch: `", partner ? "partner_images" : "images",
                            "` has shape (", shape[0], ", ", shape[1], ", ", shape[2],
                            "): pass a non-empty RGB image (height, width, 3)."));
  const image::Size size{int32_t(shape[0]), int32_t(shape[1])};
  const auto& origin = partner ? partner_origin_ : origin_;
  return {{.pixels = {pixels.template tensor<uint8_t>(i), size}},
          {size, origin[i].data[0], origin[i].data[1]}};
}

template <typename Backend>
void ReplayBase<Backend>::MakePlans(const dali::Workspace& ws) {
  const auto& params = ws.Input<dali::CPUBackend>(1);
  views_.Begin(shown_, mixing_);
  given_.clear();
  for (int i = 0; i < params.num_samples(); ++i) {
    const Given image = Find(ws, false, i), partner = mixing_ ? Find(ws, true, i) : image;
    given_.push_back({image.source, partner.source});
    const auto shape = params.tensor_shape_span(i);
    const std::span words(params.tensor<int32_t>(i), static_cast<size_t>(volume(shape)));
    int64_t view = 0;
    const std::string problem =
        views_.Add(words, shape.size() == 2 ? shape[0] : 1, image.placed, partner.placed, &view);
    if (!problem.empty())
      FailView(i, make_string("Sample ", i, " of the batch, view ", view, ": ", problem, "."));
  }
}

template <typename Backend>
void ReplayBase<Backend>::Describe(const dali::Workspace& ws, dali::OutputDesc* output) const {
  output->type = std::ranges::find(kTypes, finish_->type(), &TypePair::ours)->dali;
  const int dim = ws.Input<dali::CPUBackend>(1).sample_dim();
  output->shape.resize(static_cast<int>(views_.images()), dim + 2);
  for (int i = 0; i < views_.images(); ++i) {
    const auto [height, width] = shown_.out;
    dali::TensorShape<> sample = finish_->channels_last() ? dali::TensorShape<>{height, width, 3}
                                                          : dali::TensorShape<>{3, height, width};
    if (dim == 2) sample.shape.insert(sample.shape.begin(), views_.first(i + 1) - views_.first(i));
    output->shape.set_tensor_shape(i, sample);
  }
}

template <typename Backend>
bool ReplayBase<Backend>::SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) {
  if (monitor_) monitor_->ReplayBegins();
  Reporting(monitor_, [&] {
    CheckInputs(ws);
    AcquireArguments(ws);
    MakePlans(ws);
  });
  output_desc.resize(1);
  Describe(ws, &output_desc[0]);
  return true;
}

template <typename Backend>
void ReplayBase<Backend>::SetLayout(dali::Workspace& ws) const {
  auto& output = ws.Output<Backend>(0);
  const char* layout = finish_->channels_last() ? "HWC" : "CHW";
  output.SetLayout(output.sample_dim() == 3 ? dali::TensorLayout(layout)
                                            : dali::TensorLayout(make_string("F", layout)));
}

template class ReplayBase<dali::CPUBackend>;

#ifdef DALI_DR_CUDA

ReplayGpu::ReplayGpu(const dali::OpSpec& spec) : ReplayBase(spec) {
  const dali::DeviceGuard guard(spec.GetArgument<int>("device_id"));
  const std::string problem = image::OpenDevice(&limits_);
  DALI_ENFORCE(problem.empty(), make_string("fn.dr.replay on the GPU: ", problem, "."));
  batch_.emplace(filter_, *finish_, limits_.shared_bytes);
}

void ReplayGpu::RunImpl(dali::Workspace& ws) {
  SetLayout(ws);
  auto& output = ws.Output<dali::GPUBackend>(0);
  const int64_t view_bytes = 3 * int64_t{shown_.out.height} * shown_.out.width * finish_->value_bytes();
  tasks_.clear();
  for (int i = 0; i < views_.images(); ++i) {
    const image::Image &source = given_[i][0].pixels, &other = given_[i][1].pixels;
    auto* out = static_cast<uint8_t*>(output.raw_mutable_tensor(i));
    for (int64_t k = views_.first(i); k < views_.first(i + 1); ++k, out += view_bytes) {
      if (views_.IsRepeated(k)) continue;
      tasks_.push_back({&views_.plan(k), source, out});
      if (!views_.IsMixed(k)) continue;
      tasks_.back().partner_plan = &views_.partner_plan(k);
      tasks_.back().partner_image = views_.IsSelf(k) ? source : other;
      tasks_.back().mixes = views_.mixes(k);
    }
  }
  batch_->Assign(shown_.out, tasks_);
  // Pinned memory is given back in the order of the stream, so nothing here waits for the GPU.
  dali::kernels::DynamicScratchpad scratchpad(dali::AccessOrder(ws.stream()));
  auto* host = scratchpad.AllocatePinned<uint8_t>(batch_->bytes(), 16);
  auto* data = scratchpad.AllocateGPU<uint8_t>(batch_->bytes(), 16);
  auto* slots = scratchpad.AllocateGPU<uint8_t>(ScratchBytes(*batch_, limits_), 256);
  batch_->Write(host);
  CUDA_CALL(cudaMemcpyAsync(data, host, batch_->bytes(), cudaMemcpyHostToDevice, ws.stream()));
  const std::string problem = Launch(*batch_, limits_, data, slots, ws.stream());
  DALI_ENFORCE(problem.empty(), make_string(problem, "."));
  if (monitor_) monitor_->ReplayEnds();  // the host's share: the kernels have only been started
}

template class ReplayBase<dali::GPUBackend>;

DALI_REGISTER_OPERATOR(dr__Replay, ReplayGpu, dali::GPU);

#endif  // DALI_DR_CUDA

}  // namespace dali_dr
