// See replay.h.
#include "operators/replay.h"

#include <algorithm>

#ifdef DALI_DR_CUDA
#include "dali/core/cuda_error.h"
#include "dali/core/device_guard.h"
#include "dali/kernels/dynamic_scratchpad.h"
#endif

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
by its own ratio. A translation keeps its sign. A stored magnitude is truncated to whole pixels before it is scaled.

With ``partner_images``, parameters of a view are ``2 * (10 + 2n) + 7`` words: the view; the partner's sample number (-1:
none, -2: the image itself); 1 if image and partner change places, else 0; the float32 bits of lam; CutMix top, left,
height, width, which scale as erase boxes do (all zero: none); the view of the partner. With a and b the finished
(normalised) values of the view and of the partner's, exchanged if so asked, the output is
``float32(lam) * a + float32(1 - lam) * b``, each operation rounded to float32, and b inside the CutMix box. With
``m`` views per image, all have one partner; views that differ only in who comes first are replayed once.)")
    .NumInput(2, 3)
    .InputDox(
        0, "images", "TensorList of uint8, HWC",
        "Decoded RGB images, or the parts of them whose top-left pixels in the source are at ``origin``.")
    .InputDox(1, "params", "TensorList of int32, [P] or [m, P]",
              "The packed parameters of one view per image, or of ``m`` views; then the output has a leading "
              "dimension m.")
    .InputDevice(1, dali::InputDevice::CPU)
    .InputDox(
        2, "partner_images", "TensorList of uint8, HWC",
        "With it, views are mixed: one partner image per image, or the part of it at ``partner_origin``. "
        "Where a view has no partner, or is its own, any image will do.")
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
    .AddOptionalArg("clock", "Number of the clock that times this pipeline's stages; -1: none.", -1);

template <typename Backend>
ReplayBase<Backend>::ReplayBase(const dali::OpSpec& spec)
    : dali::StatelessOperator<Backend>(spec),
      mixing_(spec.NumRegularInput() == 3),
      origin_("origin", spec),
      partner_origin_("partner_origin", spec),
      size_("size", spec) {
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
  DALI_ENFORCE(
      dtype == DALI_UINT8 || dtype == DALI_FLOAT16 || dtype == DALI_INT16 || dtype == DALI_FLOAT,
      make_string("`dtype` is ", dtype, ": pass UINT8, FLOAT16, INT16 (bits of bfloat16) or FLOAT."));
  DALI_ENFORCE(dtype != DALI_UINT8 || mean.empty(),
               "`mean` and `std` need `dtype` FLOAT16, INT16 or FLOAT: normalised values do not fit UINT8.");
  DALI_ENFORCE(dtype != DALI_UINT8 || !mixing_,
               "Mixed views (`partner_images`) need `dtype` FLOAT16, INT16 or FLOAT: mixed values are no "
               "whole numbers.");
  const auto layout = spec.GetArgument<dali::TensorLayout>("output_layout");
  DALI_ENFORCE(layout == "CHW" || layout == "HWC",
               make_string("`output_layout` is \"", layout.str(), "\": pass \"CHW\" or \"HWC\"."));
  finish_.emplace(dtype == DALI_UINT8     ? image::OutputType::kUint8
                  : dtype == DALI_FLOAT16 ? image::OutputType::kFloat16
                  : dtype == DALI_INT16   ? image::OutputType::kBfloat16
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
std::string ReplayBase<Backend>::AddView(std::span<const int32_t> words, std::span<const int32_t> before,
                                         int i, image::Size image, image::Size partner) {
  View view;
  const auto plan = [&](std::span<const int32_t> own, image::Size size, const int* origin, image::Plan* to) {
    std::string problem = ParseView(own.data(), int64_t(own.size()), &view);
    if (!problem.empty()) return problem;
    return image::MakePlan(view, size, origin[0], origin[1], out_, stored_, resize_shorter_, to);
  };
  if (!mixing_) {
    if (words.size() % 2 != 0 && words.size() >= kMixWords + 2 * kViewHeaderWords)
      return make_string(words.size(),
                         " words are those of a mixed view: pass the partner images as third input");
    return plan(words, image, origin_[i].data, &plans_.emplace_back());
  }
  if (words.size() % 2 == 0 || words.size() < kMixWords + 2 * kViewHeaderWords)
    return make_string(words.size(), " words are not those of a mixed view, 2 * (10 + 2n) + ", kMixWords,
                       ": pass no partner images, or read with mixing=True");
  const size_t half = (words.size() - kMixWords) / 2;
  const auto first = words.first(half), second = words.last(half);
  auto& mix = mixes_.emplace_back();
  std::string problem = image::MakeMixPlan(words.data() + half, out_, stored_, &mix);
  if (!problem.empty()) return problem;
  if (!before.empty() && mix.partner != before[half])
    return make_string("its partner is ", mix.partner, ", that of the view before ", before[half],
                       ": views of one image must share a partner; pass them as samples of their own");
  const bool repeats = !before.empty() && std::ranges::equal(first, before.first(half)) &&
                       std::ranges::equal(second, before.last(half));
  repeats_.push_back(repeats);
  plans_.emplace_back();
  partner_plans_.emplace_back();
  if (repeats) {
    plans_.back() = plans_[plans_.size() - 2];
    partner_plans_.back() = partner_plans_[plans_.size() - 2];
    return {};
  }
  problem = plan(first, image, origin_[i].data, &plans_.back());
  if (!problem.empty() || mix.partner == kNoPartner) return problem;
  const bool self = mix.partner == kSelfPartner;
  problem = plan(second, self ? image : partner, self ? origin_[i].data : partner_origin_[i].data,
                 &partner_plans_.back());
  return problem.empty() ? problem : "the partner's view: " + problem;
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
  partner_origin_.Acquire(this->spec_, ws, samples, dali::TensorShape<1>{2});
  if (mixing_) {
    const auto& partners = ws.Input<Backend>(2);
    DALI_ENFORCE(partners.type() == DALI_UINT8 && partners.sample_dim() == 3,
                 make_string("`partner_images` are ", partners.type(), " with ", partners.sample_dim(),
                             " dimensions: decode to uint8 RGB, HWC."));
  }

  mixes_.clear();
  partner_plans_.clear();
  repeats_.clear();
  plans_.clear();
  first_.assign(1, 0);
  output_desc.resize(1);
  output_desc[0].type = finish_->type() == image::OutputType::kUint8      ? DALI_UINT8
                        : finish_->type() == image::OutputType::kFloat16  ? DALI_FLOAT16
                        : finish_->type() == image::OutputType::kBfloat16 ? DALI_INT16
                                                                          : DALI_FLOAT;
  auto& shape = output_desc[0].shape;
  shape.resize(samples, dim + 2);
  const auto size_of = [&](int input, const char* name, int i) {
    const auto pixels = ws.Input<Backend>(input).tensor_shape_span(i);
    DALI_ENFORCE(
        pixels[2] == 3 && pixels[0] >= 1 && pixels[1] >= 1 && pixels[0] <= kMaxCoordinate &&
            pixels[1] <= kMaxCoordinate,
        make_string("Sample ", i, " of the batch: `", name, "` has shape (", pixels[0], ", ", pixels[1], ", ",
                    pixels[2], "): pass a non-empty RGB image (height, width, 3)."));
    return image::Size{int32_t(pixels[0]), int32_t(pixels[1])};
  };
  for (int i = 0; i < samples; ++i) {
    const image::Size size = size_of(0, "images", i),
                      partner = mixing_ ? size_of(2, "partner_images", i) : size;
    const auto words = params.tensor_shape_span(i);
    const int64_t views = dim == 2 ? words[0] : 1, length = words[dim - 1];
    std::span<const int32_t> before;
    for (int64_t v = 0; v < views; ++v) {
      const std::span own(params.tensor<int32_t>(i) + v * length, size_t(length));
      const std::string problem = AddView(own, before, i, size, partner);
      before = own;
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

template <typename Backend>
template <typename Make>
void ReplayBase<Backend>::ForEachView(dali::Workspace& ws, Make make) {
  auto& output = ws.Output<Backend>(0);
  const char* layout = finish_->channels_last() ? "HWC" : "CHW";
  output.SetLayout(output.sample_dim() == 3 ? dali::TensorLayout(layout)
                                            : dali::TensorLayout(make_string("F", layout)));
  const int64_t view_bytes = 3 * int64_t{out_.height} * out_.width * finish_->value_bytes();
  const auto image_of = [&](int input, int i) {
    const auto& images = ws.Input<Backend>(input);
    const auto pixels = images.tensor_shape_span(i);
    return image::Image{images.template tensor<uint8_t>(i), {int32_t(pixels[0]), int32_t(pixels[1])}};
  };
  const int samples = ws.Input<Backend>(0).num_samples();
  for (int i = 0; i < samples; ++i) {
    const image::Image source = image_of(0, i), other = mixing_ ? image_of(2, i) : source;
    auto* out = static_cast<uint8_t*>(output.raw_mutable_tensor(i));
    for (int64_t k = first_[i]; k < first_[i + 1]; ++k, out += view_bytes) {
      const bool self = mixing_ && mixes_[k].partner == kSelfPartner;
      make(k, first_[i + 1], source, self ? source : other, out);
    }
  }
}

void ReplayCpu::ReplayMixed(int64_t k, int64_t end, const image::Image& source, const image::Image& partner,
                            image::Scratch* scratch, uint8_t* out) const {
  const auto replay = [&](const image::Plan& plan, const image::Image& image, image::Scratch* to) {
    to->CropResizeFlip(plan, image, filter_);
    to->ApplySteps(plan);
    to->Erase(plan);
  };
  replay(plans_[k], source, &scratch[0]);
  replay(partner_plans_[k], partner, &scratch[1]);
  const int64_t view_bytes = 3 * int64_t{out_.height} * out_.width * finish_->value_bytes();
  do {
    scratch[0].WriteMixed(scratch[1], mixes_[k], out_, *finish_, out);
    out += view_bytes;
  } while (++k < end && repeats_[k]);
}

void ReplayCpu::RunImpl(dali::Workspace& ws) {
  auto& pool = ws.GetThreadPool();
  scratch_.resize(std::max<size_t>(scratch_.size(), 2 * pool.NumThreads()));
  const auto area = [](const image::Plan& plan) { return int64_t{plan.crop.height} * plan.crop.width; };
  ForEachView(ws, [&](int64_t k, int64_t end, const image::Image& source, const image::Image& partner,
                      uint8_t* out) {
    const image::Plan& plan = plans_[k];
    // Largest first: the cost grows with the pixels that the horizontal pass reads.
    if (!mixing_ || mixes_[k].partner == kNoPartner) {
      pool.AddWork([=, this, &plan](
                       int thread) { Replay(plan, source, filter_, *finish_, &scratch_[2 * thread], out); },
                   area(plan));
    } else if (!repeats_[k]) {
      pool.AddWork(
          [=, this](int thread) { ReplayMixed(k, end, source, partner, &scratch_[2 * thread], out); },
          area(plan) + area(partner_plans_[k]));
    }
  });
  pool.RunAll();
  if (clock_) clock_->ReplayEnds();
}

template class ReplayBase<dali::CPUBackend>;

DALI_REGISTER_OPERATOR(dr__Replay, ReplayCpu, dali::CPU);

#ifdef DALI_DR_CUDA

ReplayGpu::ReplayGpu(const dali::OpSpec& spec) : ReplayBase(spec) {
  const dali::DeviceGuard guard(spec.GetArgument<int>("device_id"));
  const std::string problem = image::OpenDevice(&limits_);
  DALI_ENFORCE(problem.empty(), make_string("fn.dr.replay on the GPU: ", problem, "."));
  batch_.emplace(filter_, *finish_, limits_.shared_bytes);
}

void ReplayGpu::RunImpl(dali::Workspace& ws) {
  tasks_.clear();
  ForEachView(ws, [&](int64_t k, int64_t end, const image::Image& source, const image::Image& partner,
                      uint8_t* out) {
    if (!mixing_ || mixes_[k].partner == kNoPartner) {
      tasks_.push_back({&plans_[k], source, out});
    } else if (!repeats_[k]) {
      int64_t count = 1;
      while (k + count < end && repeats_[k + count]) ++count;
      tasks_.push_back({&plans_[k], source, out, &partner_plans_[k], partner, std::span(&mixes_[k], count)});
    }
  });
  batch_->Assign(out_, tasks_);
  // Pinned memory is given back in the order of the stream, so nothing here waits for the GPU.
  dali::kernels::DynamicScratchpad scratchpad(dali::AccessOrder(ws.stream()));
  auto* host = scratchpad.AllocatePinned<uint8_t>(batch_->bytes(), 16);
  auto* data = scratchpad.AllocateGPU<uint8_t>(batch_->bytes(), 16);
  auto* slots = scratchpad.AllocateGPU<uint8_t>(ScratchBytes(*batch_, limits_), 256);
  batch_->Write(host);
  CUDA_CALL(cudaMemcpyAsync(data, host, batch_->bytes(), cudaMemcpyHostToDevice, ws.stream()));
  const std::string problem = Launch(*batch_, limits_, data, slots, ws.stream());
  DALI_ENFORCE(problem.empty(), make_string(problem, "."));
  if (clock_) clock_->ReplayEnds();  // the host's share: the kernels have only been started
}

template class ReplayBase<dali::GPUBackend>;

DALI_REGISTER_OPERATOR(dr__Replay, ReplayGpu, dali::GPU);

#endif  // DALI_DR_CUDA

}  // namespace dali_dr
