// See read.h.
#include "operators/read.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "image/raw.h"
#include "jpeg/kind.h"
#include "operators/draw_arguments.h"
#include "operators/read_options.h"
#include "operators/report.h"

namespace dali_dr {
namespace {

enum Output {
  kImage,
  kLabel,
  kRoiStart,
  kRoiShape,
  kParams,
  kSoftIds,
  kSoftProbs,
  kNumOutputs,
  kPartner = kNumOutputs,  // from here on with mixing only
  kPartnerRoiStart,
  kPartnerRoiShape,
  kMixLabel,
  kMixWeight,
  kNumMixingOutputs
};
constexpr int kPlainOutputs = kLabel + 1;  // without views

// Runs body(i, thread) for 0 <= i < count on all threads of the pool and waits. The threads take samples in
// order from one counter: cheaper than a job per sample, and reads are issued in the order in which they are
// waited for. `body` must not throw.
template <typename Body>
void ForEachSample(dali::ThreadPool& pool, int count, const Body& body) {
  std::atomic<int> next{0};
  for (int job = std::min(pool.NumThreads(), count); job > 0; --job)
    pool.AddWork([&](int thread) {
      for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i, thread);
    });
  pool.RunAll();
}

template <typename T>
void CopyTo(dali::TensorList<dali::CPUBackend>& output, int sample, const T* from, size_t count) {
  if (count > 0) std::memcpy(output.mutable_tensor<T>(sample), from, count * sizeof(T));
}

}  // namespace

DALI_SCHEMA(dr__Read)
    .DocStr(R"(Reads samples of a reinforced data set by number, each with the views that are asked for.

Shards are plain tars, read at random through the sample index (``schemas/sample-index.md``). Of a sample's record only
those groups of rows are decompressed that the views asked for are in, each once.

With ``views``, the outputs are

0. the image file's bytes: uint8 ``[bytes]``, untouched;
1. label: int64 scalar;
2. roi_start: int32 ``[2]``, (y, x) of the view's crop box in pixels of the image as stored, EXIF orientation not applied;
3. roi_shape: int32 ``[2]``, (height, width) of that box. With several views the box is the union of theirs;
4. params: int32 ``[10 + 2n]`` or ``[m, 10 + 2n]``, packed views as ``fn.dr.replay`` takes them;
5. soft_ids: int32 ``[K]`` or ``[m, K]``, the teacher's classes, most likely first;
6. soft_probs: float32 ``[K]`` or ``[m, K]``, their probabilities.

With ``mixing``, params are ``2 * (10 + 2n) + 7`` words per view, also where a record has no mixed views, and five
outputs follow:

7. the bytes of the partner's image file; of an image of one pixel where there is no partner or it is the sample itself;
8. roi_start of the partner's crop box, and 9. roi_shape, (0, 0) and (1, 1) where there is none. With several views all
   must have one partner. Where it is the sample itself, roi_start and roi_shape of the sample hold its crops too;
10. mix_label: int64 scalar or ``[m]``, the label of the image that the view is mixed with;
11. mix_weight: float32 scalar or ``[m]``, the weight of the sample's own label, ``lam * (1 - box / view)`` by the areas of
    CutMix box and view at the stored size, or 1 less that where image and partner change places. The other label has
    the rest. Where nothing is mixed in they are the label and 1.

Without ``views``, only the first two; then samples need no records.

A negative number v asks for a **fresh** view, number -v - 1 of as many as one likes, instead of a stored one. It is
drawn from what ``draw_...`` say, the sample's key and the number alone, exactly as ``dali_dr.augment.draw.draw`` draws it, and its
target is the label: soft_ids are the label and then the lowest other classes, soft_probs are 1, 0, …. Samples without
a record can be had that way too.

With ``label_maps``, records are label maps (``schemas/label-map.md``) and all views are fresh. A view's target is that
of its crop box: the map pooled over it by RoIAlign, and a softmax over all classes. soft_ids are all classes of the map
and, up to ``topk``, the lowest others, in order of falling probability; each class that is not among them has an equal
part of what the soft_probs leave.

A sample that cannot be had (no such number or view, a missing or changed shard, a damaged record, an image of another
size than the index says) raises RuntimeError, which names its number, key, shard and offset. What may pass, a file that
is missing, of another size or not to be read, is tried again before, see ``retry_s``.)")
    .AddParent(kDrawArguments)
    .NumInput(1, 2)
    .InputDox(0, "samples", "TensorList of int64, scalar", "Sample numbers, from 0.")
    .InputDox(1, "views", "TensorList of int32, scalar or [m]",
              "View numbers: rows of the sample's record, from 0, in order of falling confidence; v < 0 is "
              "the fresh "
              "view number -v - 1.")
    .OutputFn([](const dali::OpSpec& spec) {
      const bool views = spec.NumRegularInput() == 2, mixing = views && spec.GetArgument<bool>("mixing");
      const int images = mixing ? 2 : 1;
      return (mixing  ? int{kNumMixingOutputs}
              : views ? int{kNumOutputs}
                      : kPlainOutputs) +
             (spec.GetArgument<bool>("slices") ? images : 0) +
             (spec.GetArgument<bool>("foreign") ? images : 0);
    })
    .AddOptionalArg("mixing",
                    "Whether to read mixed views with their partners. Records of mixed views need it.", false)
    .AddOptionalArg(
        "slices",
        "Whether to give, of an image that is a tiled JPEG (one whose restart markers divide its rows of "
        "MCUs), "
        "only the tiles that the region touches, as a JPEG of its own; roi_start is then relative to that. "
        "Behind the other outputs stands where the region begins in the source image, int32 ``[2]``, and "
        "with "
        "``mixing`` the same of the partner. Needs ``views``.",
        false)
    .AddOptionalArg("foreign",
                    "Whether to say, behind the other outputs, of each image whether it is no JPEG: bool "
                    "scalar, and with "
                    "``mixing`` the same of the partner.",
                    false)
    .AddArg(
        "index",
        "Path of the data set's index.bin. Shards lie at the paths that it gives, relative to its folder.",
        DALI_STRING)
    .AddOptionalArg<int64_t>("index_checksum",
                             "The checksum that the index must have, of version 2; -1: whatever it has.", -1)
    .AddOptionalArg(
        "max_pixels",
        "Images that have more pixels by their header are refused before they are decoded. 0: none are.", 0)
    .AddOptionalArg(
        "check_images",
        "Whether to hold the bytes of each image against the checksum in the index, which must have been "
        "made with them.",
        false)
    .AddOptionalArg(
        "retry_s",
        "Seconds for which a file that is missing, of another size or not to be read is tried again, with "
        "growing pauses, before that is an error; once for each file, then not for twenty times as long. 0: "
        "everything is tried once.",
        3.0f)
    .AddOptionalArg(
        "monitor",
        "Number of the monitor that times this pipeline's stages and keeps its first fault; -1: none.", -1)
    .AddOptionalArg(
        "partner_cache",
        "Number of the cache that keeps partners decoded, which outlives pipelines and serves one data set; "
        "-1: "
        "none. The partner's bytes are then, where it is kept, its pixels as ``fn.dr.decode`` and "
        "``fn.dr.replay`` take "
        "them in place of a file. Needs ``mixing`` and ``foreign``.",
        -1)
    .AddOptionalArg<int64_t>("partner_cache_bytes",
                             "Bytes of pixels that it may hold, as whoever asks for it first says.", 0)
    .AddOptionalArg(
        "label_maps",
        "Of a data set with label maps: which sides of a crop box lie along the columns and rows of a map, "
        "\"code\" (top and left, as ReLabel's code has them) or \"transposed\" (left and top); as "
        "dataset.json says. Needs ``topk``. \"\": there are records, or nothing.",
        std::string())
    .AddOptionalArg(
        "topk",
        "K of fresh views. 0: that of the sample's record, 1 for a sample without. If given, records must "
        "have this K, and are not read for fresh views.",
        0);

Read::Read(const dali::OpSpec& spec)
    : StatelessOperator(spec),
      source_(OpenSource(spec)),
      patience_(RetrySeconds(spec)),
      with_views_(source_.options().views),
      mixing_(source_.options().mixing),
      slices_(spec.GetArgument<bool>("slices")),
      foreign_(spec.GetArgument<bool>("foreign")),
      monitor_(Monitor::Get(spec.GetArgument<int>("monitor"))) {
  DALI_ENFORCE(with_views_ || !slices_, "`slices` needs `views`: without them there is no region.");
}

void Read::RunImpl(dali::Workspace& ws) {
  if (monitor_) monitor_->ReadBegins();
  Reporting(monitor_, [&] {
    CheckInputs(ws);
    FillSlots(ws);
  });
  TakePictures(ws);
  PutImages(ws, kImage, &Slot::image);
  PutLabels(ws);
  if (with_views_) {
    PutRegions(ws, kRoiStart, kRoiShape, &Slot::image);
    PutViews(ws);
  }
  if (mixing_) {
    PutImages(ws, kPartner, &Slot::partner);
    PutRegions(ws, kPartnerRoiStart, kPartnerRoiShape, &Slot::partner);
    PutMixLabels(ws);
  }
  PutMore(ws, !with_views_ ? kPlainOutputs : mixing_ ? int{kNumMixingOutputs} : int{kNumOutputs});
  if (monitor_) monitor_->ReadEnds();
}

void Read::CheckInputs(const dali::Workspace& ws) const {
  const auto& samples = ws.Input<dali::CPUBackend>(0);
  Require(samples.type() == DALI_INT64 && samples.sample_dim() == 0, "`samples` are ", samples.type(),
          " with ", samples.sample_dim(), " dimensions: pass one int64 scalar per sample.");
  if (!with_views_) return;
  const auto& views = ws.Input<dali::CPUBackend>(1);
  Require(views.type() == DALI_INT32 && views.sample_dim() <= 1, "`views` are ", views.type(), " with ",
          views.sample_dim(), " dimensions: pass an int32 scalar, or int32 [m], per sample.");
  for (int i = 0; i < samples.num_samples(); ++i)
    Require(volume(views.tensor_shape_span(i)) > 0, "Sample ", i,
            " of the batch: `views` is empty: ask for at least one view.");
}

std::span<const int32_t> Read::Views(const dali::Workspace& ws, int i) const {
  if (!with_views_) return {};
  const auto& views = ws.Input<dali::CPUBackend>(1);
  return {views.tensor<int32_t>(i), static_cast<size_t>(volume(views.tensor_shape_span(i)))};
}

void Read::FillSlots(const dali::Workspace& ws) {
  const auto& samples = ws.Input<dali::CPUBackend>(0);
  const size_t count = static_cast<size_t>(samples.num_samples());
  if (slots_.size() < count) slots_.resize(count);
  const size_t threads = static_cast<size_t>(ws.GetThreadPool().NumThreads());
  if (readers_.size() < threads) readers_.resize(threads);
  for (Slot& slot : slots_) {
    slot.fault.reset();
    slot.done = false;
  }
  for (samples::Patience::Series series(patience_);;) {
    TryToFill(ws);
    if (!Reconsider(&series)) break;
  }
  ThrowFaults(samples);
}

void Read::TryToFill(const dali::Workspace& ws) {
  const auto& samples = ws.Input<dali::CPUBackend>(0);
  const int count = samples.num_samples();
  // A fault is a value of its slot: an exception in a DALI thread would lose the others, and the order.
  const auto pass = [&](const auto& body) {
    ForEachSample(ws.GetThreadPool(), count, [&](int i, int thread) {
      Slot& slot = slots_[static_cast<size_t>(i)];
      if (slot.done || slot.fault) return;
      try {
        body(i, thread, &slot.filled);
      } catch (const FaultError& error) {
        slot.fault = error.fault();
      } catch (const std::exception& error) {
        slot.fault = Fault{.message = error.what()};
      }
    });
  };
  // First tell the kernel about the whole batch, so that cold reads overlap; only then wait for any.
  pass([&](int i, int, samples::Filled* filled) {
    source_.Find(*samples.tensor<int64_t>(i), Views(ws, i), filled);
  });
  pass([&](int i, int thread, samples::Filled* filled) {
    source_.Fill(Views(ws, i), &readers_[static_cast<size_t>(thread)], filled);
  });
  if (mixing_)  // again one pass later, so that cold reads of partners overlap too
    pass([&](int, int thread, samples::Filled* filled) {
      source_.LoadPartner(&readers_[static_cast<size_t>(thread)], filled);
    });
}

bool Read::Reconsider(samples::Patience::Series* series) {
  std::vector<Slot*> worthwhile;
  for (Slot& slot : slots_) {
    slot.done = true;
    if (slot.fault && patience_.Has(*slot.fault)) worthwhile.push_back(&slot);
  }
  if (worthwhile.empty()) return false;
  const bool again = series->Wait();
  for (Slot* slot : worthwhile) {
    if (!again) {
      patience_.Lose(*slot->fault);
      continue;
    }
    slot->fault.reset();
    slot->done = false;
  }
  return again;
}

void Read::ThrowFaults(const dali::TensorList<dali::CPUBackend>& samples) const {
  BatchFault all;
  for (int i = 0; i < samples.num_samples(); ++i) {
    if (!slots_[i].fault) continue;
    if (all.failed.empty()) {
      all.fault = *slots_[i].fault;
      all.place = i;
    }
    all.failed.push_back(*samples.tensor<int64_t>(i));
  }
  if (!all.failed.empty()) throw BatchError(std::move(all));
}

Read::Picture Read::Taken(std::span<const uint8_t> bytes, shards::Buffer buffer,
                          const samples::Region& region, jpeg::Slicer* slicer) {
  Picture picture{bytes, std::move(buffer), region, region};
  if (!slices_) return picture;
  const auto& [start, shape] = region;
  jpeg::Frame frame;
  if (!jpeg::ReadFrame(bytes, &frame) || start[0] < 0 || start[1] < 0 || shape[0] < 1 || shape[1] < 1 ||
      start[0] > frame.height - shape[0] || start[1] > frame.width - shape[1] ||
      !slicer->Cut(bytes, frame, {start[0], start[1], shape[0], shape[1]}))
    return picture;
  const auto slice = slicer->bytes();
  picture.buffer = buffers_.Take(slice.size());
  std::memcpy(picture.buffer.get(), slice.data(), slice.size());
  picture.bytes = {picture.buffer.get(), slice.size()};
  picture.region.start[0] -= slicer->region().top;
  picture.region.start[1] -= slicer->region().left;
  return picture;
}

void Read::TakePictures(dali::Workspace& ws) {
  auto& pool = ws.GetThreadPool();
  if (slicers_.size() < static_cast<size_t>(pool.NumThreads()))
    slicers_.resize(static_cast<size_t>(pool.NumThreads()));
  const auto take = [&](int i, int thread) {
    Slot& slot = slots_[static_cast<size_t>(i)];
    samples::Filled& filled = slot.filled;
    jpeg::Slicer* const slicer = &slicers_[static_cast<size_t>(thread)];
    filled.sample.record = {};  // lies in the same buffer, mostly
    slot.image =
        Taken(filled.sample.image.bytes, std::move(filled.sample.image.buffer), filled.region, slicer);
    if (mixing_)
      slot.partner = Taken(filled.PartnerImage(), filled.TakePartnerBuffer(), filled.PartnerRegion(), slicer);
  };
  const int count = ws.GetInputBatchSize(0);
  if (slices_) return ForEachSample(pool, count, take);
  for (int i = 0; i < count; ++i) take(i, 0);
}

void Read::PutImages(dali::Workspace& ws, int output, Picture Slot::* picture) {
  auto& images = ws.Output<dali::CPUBackend>(output);
  const int count = ws.GetInputBatchSize(0);
  images.Reset();
  images.SetContiguity(dali::BatchContiguity::Noncontiguous);
  images.set_pinned(false);
  images.set_type(DALI_UINT8);
  images.set_sample_dim(1);
  images.SetSize(count);
  for (int i = 0; i < count; ++i) {
    const Picture& from = slots_[static_cast<size_t>(i)].*picture;
    // Shared, not copied: the buffer is free again when the last operator has let go of it. DALI's pointers
    // are not const; no operator writes to its input.
    images.SetSample(i, std::shared_ptr<void>(from.buffer, const_cast<uint8_t*>(from.bytes.data())),
                     from.bytes.size(), false, dali::TensorShape<1>{static_cast<int64_t>(from.bytes.size())},
                     DALI_UINT8, images.device_id(), images.order());
  }
}

void Read::PutLabels(dali::Workspace& ws) const {
  auto& labels = ws.Output<dali::CPUBackend>(kLabel);
  const int count = ws.GetInputBatchSize(0);
  labels.Resize(dali::TensorListShape<>(count, 0), DALI_INT64, dali::BatchContiguity::Contiguous);
  for (int i = 0; i < count; ++i) *labels.mutable_tensor<int64_t>(i) = slots_[i].filled.sample.label;
}

void Read::PutRegions(dali::Workspace& ws, int start, int shape, Picture Slot::* picture) const {
  const int count = ws.GetInputBatchSize(0);
  for (const int output : {start, shape})
    ws.Output<dali::CPUBackend>(output).Resize(dali::uniform_list_shape(count, dali::TensorShape<1>{2}),
                                               DALI_INT32, dali::BatchContiguity::Contiguous);
  for (int i = 0; i < count; ++i) {
    const samples::Region& region = (slots_[static_cast<size_t>(i)].*picture).region;
    CopyTo(ws.Output<dali::CPUBackend>(start), i, region.start, 2);
    CopyTo(ws.Output<dali::CPUBackend>(shape), i, region.shape, 2);
  }
}

// What `slices` and `foreign` ask for, from this output on.
void Read::PutMore(dali::Workspace& ws, int output) const {
  const int count = ws.GetInputBatchSize(0);
  std::vector<Picture Slot::*> pictures{&Slot::image};
  if (mixing_) pictures.push_back(&Slot::partner);
  for (Picture Slot::* picture : pictures) {
    if (!slices_) break;
    auto& origins = ws.Output<dali::CPUBackend>(output++);
    origins.Resize(dali::uniform_list_shape(count, dali::TensorShape<1>{2}), DALI_INT32,
                   dali::BatchContiguity::Contiguous);
    for (int i = 0; i < count; ++i)
      CopyTo(origins, i, (slots_[static_cast<size_t>(i)].*picture).source.start, 2);
  }
  for (Picture Slot::* picture : pictures) {
    if (!foreign_) break;
    auto& foreign = ws.Output<dali::CPUBackend>(output++);
    foreign.Resize(dali::TensorListShape<>(count, 0), DALI_BOOL, dali::BatchContiguity::Contiguous);
    for (int i = 0; i < count; ++i) {
      const auto bytes = (slots_[static_cast<size_t>(i)].*picture).bytes;
      *foreign.mutable_tensor<bool>(i) = !jpeg::IsDecodable(bytes) && !image::RawPixels(bytes);
    }
  }
}

void Read::PutViews(dali::Workspace& ws) const {
  const auto& views = ws.Input<dali::CPUBackend>(1);
  const int count = views.num_samples(), dim = views.sample_dim();
  dali::TensorListShape<> params(count, dim + 1), predictions(count, dim + 1);
  for (int i = 0; i < count; ++i) {
    const auto numbers = views.tensor_shape_span(i);
    std::copy(numbers.begin(), numbers.end(), params.tensor_shape_span(i).begin());
    std::copy(numbers.begin(), numbers.end(), predictions.tensor_shape_span(i).begin());
    params.tensor_shape_span(i)[dim] = static_cast<int64_t>(slots_[i].filled.words);
    predictions.tensor_shape_span(i)[dim] = static_cast<int64_t>(slots_[i].filled.topk);
  }
  const auto resized = [&](int output, const dali::TensorListShape<>& shape,
                           dali::DALIDataType type) -> auto& {
    auto& list = ws.Output<dali::CPUBackend>(output);
    list.Resize(shape, type, dali::BatchContiguity::Contiguous);
    return list;
  };
  auto& words = resized(kParams, params, DALI_INT32);
  auto& ids = resized(kSoftIds, predictions, DALI_INT32);
  auto& probs = resized(kSoftProbs, predictions, DALI_FLOAT);
  for (int i = 0; i < count; ++i) {
    const samples::Filled& filled = slots_[i].filled;
    CopyTo(words, i, filled.params.data(), filled.params.size());
    CopyTo(ids, i, filled.ids.data(), filled.ids.size());
    CopyTo(probs, i, filled.probs.data(), filled.probs.size());
  }
}

void Read::PutMixLabels(dali::Workspace& ws) const {
  const auto& views = ws.Input<dali::CPUBackend>(1);
  auto& labels = ws.Output<dali::CPUBackend>(kMixLabel);
  auto& weights = ws.Output<dali::CPUBackend>(kMixWeight);
  labels.Resize(views.shape(), DALI_INT64, dali::BatchContiguity::Contiguous);
  weights.Resize(views.shape(), DALI_FLOAT, dali::BatchContiguity::Contiguous);
  for (int i = 0; i < views.num_samples(); ++i) {
    const samples::Filled& filled = slots_[static_cast<size_t>(i)].filled;
    CopyTo(labels, i, filled.mix_labels.data(), filled.mix_labels.size());
    CopyTo(weights, i, filled.mix_weights.data(), filled.mix_weights.size());
  }
}

DALI_REGISTER_OPERATOR(dr__Read, Read, dali::CPU);

}  // namespace dali_dr
