// See replay.h.
#include "operators/replay.h"

#include <algorithm>

namespace dali_dr {
namespace {

using dali::make_string;

// An int or (height, width) argument.
image::Size SizeArgument(const dali::OpSpec& spec, const std::string& name) {
  const auto v = spec.GetRepeatedArgument<int>(name);
  DALI_ENFORCE(v.size() == 1 || v.size() == 2,
               make_string("`", name, "` has ", v.size(), " values: pass one int, or (height, width)."));
  return {v[0], v.back()};
}

}  // namespace

DALI_SCHEMA(dr__Replay)
    .DocStr(R"(Shows stored views of decoded images, bit for bit as torchvision's PIL transforms show them.

A view is replayed in this order: crop and resize, horizontal flip, RandAugment operations, erase (to 0, before
normalisation), normalise, layout. Everything up to the erase works on uint8 pixels and equals ``resized_crop``,
``hflip``, ``RandAugment`` (nearest, black fill) of torchvision on PIL images in every byte. The reference is Pillow 13:
earlier versions always resized horizontally first, Pillow 13 resizes vertically first where that takes away more than
twice as many rows as columns, which moves some values by one.

Parameters of one view are ``10 + 2n`` int32 words: crop top, left, height, width in source pixels; flip (0 or 1); erase
top, left, height, width in output pixels of the size given by ``stored_size`` (height 0: no erase); the number of
operations ``n``, at most 16; then ``n`` times an operation (0 to 13 in the order of torchvision's RandAugment: Identity,
ShearX, ShearY, TranslateX, TranslateY, Rotate, Brightness, Color, Contrast, Sharpness, Posterize, Solarize, AutoContrast,
Equalize) and the bits of its float32 magnitude (the final, signed physical value). ``fn.dr.read`` gives them.

Views can be shown at another size than the one at which they were stored. The crop box does not change then. The four
edges of an erase box (top, left, top + height, left + width; not its lengths) and the whole-pixel amounts of
translations are multiplied by size / stored_size and rounded half up, ``floor(x * size / stored_size + 0.5)``, each axis
by its own ratio. A translation keeps its sign. A stored magnitude is truncated to whole pixels before it is scaled.)")
    .NumInput(2)
    .InputDox(
        0, "images", "TensorList of uint8, HWC",
        "Decoded RGB images, or the parts of them whose top-left pixels in the source are at ``origin``.")
    .InputDox(1, "params", "TensorList of int32, [P] or [m, P]",
              "The packed parameters of one view per image, or of ``m`` views; then the output has a leading "
              "dimension m.")
    .InputDevice(1, dali::InputDevice::CPU)
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
        "Resize the crop box so that its shorter side has this length, keeping its aspect ratio, and show "
        "the "
        "centre of that of size ``size``: torchvision's Resize(resize_shorter) and CenterCrop(size) where "
        "the box is "
        "the whole image. Only the pixels that are shown are computed. 0: resize the box to ``size``.",
        0)
    .AddOptionalArg("interpolation", "``\"bilinear\"`` or ``\"bicubic\"``, both with Pillow's antialiasing.",
                    std::string("bilinear"))
    .AddOptionalArg(
        "origin",
        "(y, x) of the top-left pixel of ``images`` in the source image. Pass ``roi_start`` here when only "
        "that region was decoded.",
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
                        "nearest even) or ``FLOAT``. Without ``mean`` and ``std`` values stay in 0..255.",
                        DALI_UINT8)
    .AddOptionalArg("output_layout", "``\"CHW\"`` or ``\"HWC\"``.", dali::TensorLayout("CHW"))
    .AddOptionalArg("clock", "Number of the clock that times this pipeline's stages; -1: none.", -1);

template <typename Backend>
ReplayBase<Backend>::ReplayBase(const dali::OpSpec& spec)
    : dali::StatelessOperator<Backend>(spec), origin_("origin", spec), size_("size", spec) {
  clock_ = Clock::Get(spec.GetArgument<int>("clock"));
  stored_argument_ = SizeArgument(spec, "stored_size");
  resize_shorter_ = spec.GetArgument<int>("resize_shorter");
  if (!size_.HasArgumentInput()) SetSize(SizeArgument(spec, "size"));

  const auto interpolation = spec.GetArgument<std::string>("interpolation");
  DALI_ENFORCE(interpolation == "bilinear" || interpolation == "bicubic",
               make_string("`interpolation` is \"", interpolation, "\": pass \"bilinear\" or \"bicubic\"."));
  filter_ = interpolation == "bilinear" ? image::Filter::kBilinear : image::Filter::kBicubic;

  const auto mean = spec.GetRepeatedArgument<float>("mean"), std = spec.GetRepeatedArgument<float>("std");
  DALI_ENFORCE(mean.size() == std.size() && (mean.empty() || mean.size() == 3),
               make_string("`mean` has ", mean.size(), " values and `std` has ", std.size(),
                           ": pass three of each (RGB, in units of 1), or neither."));
  for (size_t c = 0; c < std.size(); ++c) {
    DALI_ENFORCE(
        std::isfinite(mean[c]) && std::isfinite(std[c]) && std[c] > 0.0f,
        make_string("`mean` ", mean[c], " and `std` ", std[c], " must be finite, and `std` positive."));
  }
  const auto dtype = spec.GetArgument<dali::DALIDataType>("dtype");
  DALI_ENFORCE(dtype == DALI_UINT8 || dtype == DALI_FLOAT16 || dtype == DALI_FLOAT,
               make_string("`dtype` is ", dtype, ": pass UINT8, FLOAT16 or FLOAT."));
  DALI_ENFORCE(dtype != DALI_UINT8 || mean.empty(),
               "`mean` and `std` need `dtype` FLOAT16 or FLOAT: normalised values do not fit UINT8.");
  const auto layout = spec.GetArgument<dali::TensorLayout>("output_layout");
  DALI_ENFORCE(layout == "CHW" || layout == "HWC",
               make_string("`output_layout` is \"", layout.str(), "\": pass \"CHW\" or \"HWC\"."));
  finish_.emplace(dtype == DALI_UINT8     ? image::OutputType::kUint8
                  : dtype == DALI_FLOAT16 ? image::OutputType::kFloat16
                                          : image::OutputType::kFloat32,
                  layout == "HWC", mean, std);
}

template <typename Backend>
void ReplayBase<Backend>::SetSize(image::Size size) {
  out_ = size;
  stored_ = stored_argument_;
  DALI_ENFORCE(
      std::min(out_.height, out_.width) >= 1 && std::max(out_.height, out_.width) <= image::kMaxViewSize,
      make_string("`size` is ", out_.height, "x", out_.width, ": each side must be 1 to ",
                  image::kMaxViewSize, "."));
  if (stored_.height == 0 && stored_.width == 0) stored_ = out_;
  DALI_ENFORCE(
      std::min(stored_.height, stored_.width) >= 1 &&
          std::max(stored_.height, stored_.width) <= image::kMaxViewSize,
      make_string("`stored_size` is ", stored_.height, "x", stored_.width, ": each side must be 1 to ",
                  image::kMaxViewSize, ", or the argument 0 for `size`."));
  DALI_ENFORCE(resize_shorter_ == 0 || (resize_shorter_ >= std::max(out_.height, out_.width) &&
                                        resize_shorter_ <= image::kMaxViewSize),
               make_string("`resize_shorter` is ", resize_shorter_, ": pass at least `size`, at most ",
                           image::kMaxViewSize, ", or 0 for none."));
}

template <typename Backend>
bool ReplayBase<Backend>::SetupImpl(std::vector<dali::OutputDesc>& output_desc, const dali::Workspace& ws) {
  if (clock_) clock_->ReplayBegins();
  const auto& images = ws.Input<Backend>(0);
  const auto& params = ws.Input<dali::CPUBackend>(1);
  const int samples = images.num_samples();
  DALI_ENFORCE(images.type() == DALI_UINT8,
               make_string("`images` are ", images.type(), ": decode to uint8 RGB."));
  DALI_ENFORCE(images.sample_dim() == 3,
               make_string("`images` have ", images.sample_dim(), " dimensions: pass HWC images."));
  DALI_ENFORCE(params.type() == DALI_INT32, make_string("`params` are ", params.type(), ": pass int32."));
  const int dim = params.sample_dim();
  DALI_ENFORCE(
      dim == 1 || dim == 2,
      make_string("`params` have ", dim, " dimensions: pass [P] for one view per image or [m, P] for m."));
  origin_.Acquire(this->spec_, ws, samples, dali::TensorShape<1>{2});
  if (size_.HasArgumentInput()) {
    size_.Acquire(this->spec_, ws, samples, dali::TensorShape<1>{2});
    const image::Size size{size_[0].data[0], size_[0].data[1]};
    for (int i = 1; i < samples; ++i)
      DALI_ENFORCE(
          size_[i].data[0] == size.height && size_[i].data[1] == size.width,
          make_string("Sample ", i, " of the batch: `size` is ", size_[i].data[0], "x", size_[i].data[1],
                      ", but that of sample 0 is ", size.height, "x", size.width, ": a batch has one size."));
    SetSize(size);
  }

  plans_.clear();
  first_.assign(1, 0);
  output_desc.resize(1);
  output_desc[0].type = finish_->type() == image::OutputType::kUint8     ? DALI_UINT8
                        : finish_->type() == image::OutputType::kFloat16 ? DALI_FLOAT16
                                                                         : DALI_FLOAT;
  auto& shape = output_desc[0].shape;
  shape.resize(samples, dim + 2);
  image::View view;
  for (int i = 0; i < samples; ++i) {
    const auto pixels = images.tensor_shape_span(i);
    DALI_ENFORCE(pixels[2] == 3 && pixels[0] >= 1 && pixels[1] >= 1 && pixels[0] <= image::kMaxCoordinate &&
                     pixels[1] <= image::kMaxCoordinate,
                 make_string("Sample ", i, " of the batch: `images` has shape (", pixels[0], ", ", pixels[1],
                             ", ", pixels[2], "): pass a non-empty RGB image (height, width, 3)."));
    const auto words = params.tensor_shape_span(i);
    const int64_t views = dim == 2 ? words[0] : 1, length = words[dim - 1];
    const image::Size size{int32_t(pixels[0]), int32_t(pixels[1])};
    for (int64_t v = 0; v < views; ++v) {
      std::string problem = image::ParseView(params.tensor<int32_t>(i) + v * length, length, &view);
      if (problem.empty()) {
        const int* origin = origin_[i].data;
        problem = image::MakePlan(view, size, origin[0], origin[1], out_, stored_, resize_shorter_,
                                  &plans_.emplace_back());
      }
      if (!problem.empty())
        DALI_FAIL(make_string("Sample ", i, " of the batch, view ", v, ": ", problem, "."));
    }
    first_.push_back(int64_t(plans_.size()));
    dali::TensorShape<> sample = finish_->channels_last() ? dali::TensorShape<>{out_.height, out_.width, 3}
                                                          : dali::TensorShape<>{3, out_.height, out_.width};
    if (dim == 2) sample.shape.insert(sample.shape.begin(), views);
    shape.set_tensor_shape(i, sample);
  }
  return true;
}

void ReplayCpu::RunImpl(dali::Workspace& ws) {
  const auto& images = ws.Input<dali::CPUBackend>(0);
  auto& output = ws.Output<dali::CPUBackend>(0);
  const char* layout = finish_->channels_last() ? "HWC" : "CHW";
  output.SetLayout(output.sample_dim() == 3 ? dali::TensorLayout(layout)
                                            : dali::TensorLayout(make_string("F", layout)));
  auto& pool = ws.GetThreadPool();
  scratch_.resize(std::max<size_t>(scratch_.size(), pool.NumThreads()));
  const int64_t view_bytes = 3 * int64_t{out_.height} * out_.width * finish_->value_bytes();
  for (int i = 0; i < images.num_samples(); ++i) {
    const auto pixels = images.tensor_shape_span(i);
    const image::Image source{images.tensor<uint8_t>(i), {int32_t(pixels[0]), int32_t(pixels[1])}};
    auto* out = static_cast<uint8_t*>(output.raw_mutable_tensor(i));
    for (int64_t k = first_[i]; k < first_[i + 1]; ++k, out += view_bytes) {
      const image::Plan& plan = plans_[k];
      // Largest first: the cost grows with the pixels that the horizontal pass reads.
      pool.AddWork(
          [=, this, &plan](int thread) { Replay(plan, source, filter_, *finish_, &scratch_[thread], out); },
          int64_t{plan.crop.height} * plan.crop.width);
    }
  }
  pool.RunAll();
  if (clock_) clock_->ReplayEnds();
}

template class ReplayBase<dali::CPUBackend>;
template class ReplayBase<dali::GPUBackend>;  // for replay.cu

DALI_REGISTER_OPERATOR(dr__Replay, ReplayCpu, dali::CPU);

}  // namespace dali_dr
