// See read.h.
#include "operators/read.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "dali/pipeline/operator/error_reporting.h"
#include "image/header.h"

namespace dali_dr {
namespace {

using dali::make_string;

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

// A grey JPEG of one pixel, in place of a partner where there is none.
constexpr uint8_t kOnePixel[] = {
    0xff, 0xd8, 0xff, 0xe0, 0x00, 0x10, 0x4a, 0x46, 0x49, 0x46, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01,
    0x00, 0x01, 0x00, 0x00, 0xff, 0xdb, 0x00, 0x43, 0x00, 0x10, 0x0b, 0x0c, 0x0e, 0x0c, 0x0a, 0x10,
    0x0e, 0x0d, 0x0e, 0x12, 0x11, 0x10, 0x13, 0x18, 0x28, 0x1a, 0x18, 0x16, 0x16, 0x18, 0x31, 0x23,
    0x25, 0x1d, 0x28, 0x3a, 0x33, 0x3d, 0x3c, 0x39, 0x33, 0x38, 0x37, 0x40, 0x48, 0x5c, 0x4e, 0x40,
    0x44, 0x57, 0x45, 0x37, 0x38, 0x50, 0x6d, 0x51, 0x57, 0x5f, 0x62, 0x67, 0x68, 0x67, 0x3e, 0x4d,
    0x71, 0x79, 0x70, 0x64, 0x78, 0x5c, 0x65, 0x67, 0x63, 0xff, 0xc0, 0x00, 0x0b, 0x08, 0x00, 0x01,
    0x00, 0x01, 0x01, 0x01, 0x11, 0x00, 0xff, 0xc4, 0x00, 0x14, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x07, 0xff, 0xc4, 0x00, 0x14,
    0x10, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0xff, 0xda, 0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x3f, 0x00, 0x3f, 0x7f, 0xff, 0xd9};

template <typename T>
void CopyTo(dali::TensorList<dali::CPUBackend>& output, int sample, const T* from, size_t count) {
  if (count > 0) std::memcpy(output.mutable_tensor<T>(sample), from, count * sizeof(T));
}

// All probability on the label, and the lowest other classes, so that ids are distinct as those of a record
// are.
void HardTarget(int32_t label, std::span<int32_t> ids, std::span<float> probs) {
  std::fill(probs.begin(), probs.end(), 0.0f);
  probs[0] = 1.0f;
  ids[0] = label;
  for (size_t i = 1; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(i) - (static_cast<int32_t>(i) <= label);
}

}  // namespace

DALI_SCHEMA(dr__Read)
    .DocStr(R"(Reads samples of a reinforced data set by number, each with the views that are asked for.

Shards are plain tars, mapped into memory when first used and accessed at random through the sample index
(``schemas/sample-index.md``). Of a sample's record only those groups of rows are decompressed
that the views asked for are in, each once.

With ``views``, the outputs are

0. the image file's bytes: uint8 ``[bytes]``, untouched and not copied: they lie in the mapped shard, and are read-only;
1. label: int64 scalar;
2. roi_start: int32 ``[2]``, (y, x) of the view's crop box in pixels of the image as stored, EXIF orientation not applied;
3. roi_shape: int32 ``[2]``, (height, width) of that box. With several views the box is the union of theirs;
4. params: int32 ``[10 + 2n]`` or ``[m, 10 + 2n]``, packed views as ``fn.dr.replay`` takes them;
5. soft_ids: int32 ``[K]`` or ``[m, K]``, the teacher's classes, most likely first;
6. soft_probs: float32 ``[K]`` or ``[m, K]``, their probabilities.

With ``mixing``, params are ``2 * (10 + 2n) + 7`` words per view, also where a record has no mixed views, and three
outputs follow:

7. the bytes of the partner's image file; of an image of one pixel where there is no partner or it is the sample itself;
8. roi_start of the partner's crop box, and 9. roi_shape, (0, 0) and (1, 1) where there is none. With several views all
   must have one partner. Where it is the sample itself, roi_start and roi_shape of the sample hold its crops too.

Without ``views``, only the first two; then samples need no records.

A negative number v asks for a **fresh** view, number -v - 1 of as many as one likes, instead of a stored one. It is
drawn from ``draw``, the sample's key and the number alone, exactly as ``dali_dr.augment.draw.draw`` draws it, and its
target is the label: soft_ids are the label and then the lowest other classes, soft_probs are 1, 0, …. Samples without
a record can be had that way too.

A sample that cannot be had (no such number or view, a missing or changed shard, a damaged record) raises RuntimeError,
which names its number, key, shard and offset.)")
    .NumInput(1, 2)
    .InputDox(0, "samples", "TensorList of int64, scalar", "Sample numbers, from 0.")
    .InputDox(1, "views", "TensorList of int32, scalar or [m]",
              "View numbers: rows of the sample's record, from 0, in order of falling confidence; v < 0 is "
              "the fresh "
              "view number -v - 1.")
    .OutputFn([](const dali::OpSpec& spec) {
      if (spec.NumRegularInput() != 2) return kPlainOutputs;
      return spec.GetArgument<bool>("mixing") ? int{kNumMixingOutputs} : int{kNumOutputs};
    })
    .AddOptionalArg("mixing",
                    "Whether to read mixed views with their partners. Records of mixed views need it.", false)
    .AddArg(
        "index",
        "Path of the data set's index.bin. Shards lie at the paths that it gives, relative to its folder.",
        DALI_STRING)
    .AddOptionalArg("clock", "Number of the clock that times this pipeline's stages; -1: none.", -1)
    .AddOptionalArg("draw",
                    "What fresh views are drawn from, as ``dali_dr.augment.fresh.draw_argument`` writes it; "
                    "``\"whole\"`` for the whole image, not augmented. Empty: there are no fresh views.",
                    std::string())
    .AddOptionalArg(
        "topk",
        "K of fresh views. 0: that of the sample's record, 1 for a sample without. If given, records must "
        "have this K, and are not read for fresh views.",
        0);

Read::Read(const dali::OpSpec& spec)
    : StatelessOperator(spec),
      shards_(std::make_shared<shards::ShardSet>(spec.GetArgument<std::string>("index"))),
      with_views_(spec.NumRegularInput() == 2),
      mixing_(spec.GetArgument<bool>("mixing")),
      clock_(Clock::Get(spec.GetArgument<int>("clock"))) {
  DALI_ENFORCE(with_views_ || !mixing_,
               "`mixing` needs `views`: without them there is nothing that is mixed.");
  const auto text = spec.GetArgument<std::string>("draw");
  if (!text.empty()) draw_ = draw::Spec::Parse(text);
  const int topk = spec.GetArgument<int>("topk");
  DALI_ENFORCE(
      topk >= 0 && static_cast<uint64_t>(topk) <= shards_->num_classes(),
      make_string("`topk` is ", topk, ": pass 1 to ", shards_->num_classes(), ", the number of classes of ",
                  shards_->index_path(), ", or 0 for that of the records."));
  topk_ = static_cast<size_t>(topk);
}

void Read::Region::Add(const int32_t* box) {
  for (int i = 0; i < 2; ++i) {
    const int32_t end = std::max(start[i] + shape[i], box[i] + box[2 + i]);
    start[i] = shape[i] == 0 ? box[i] : std::min(start[i], box[i]);
    shape[i] = end - start[i];
  }
}

void Read::AddPartner(Slot* slot, bool first, const int32_t* words) const {
  const int32_t number = words[0];
  const int32_t* crop = words + kMixWords;
  if (number == kNoPartner) return;
  if (number == kSelfPartner) return slot->roi.Add(crop);
  if (slot->partner.image.bytes.empty()) {
    if (!first)
      throw record::RecordError(
          "views that are asked for together have different partners; ask for one view, or for "
          "the two of a double-mix pair");
    slot->partner = shards_->Find(number, false);
    shards_->Prefetch(slot->partner);
  } else if (slot->partner.number != number) {
    throw record::RecordError(make_string("views that are asked for together have different partners (",
                                          number, ", ", slot->partner.number,
                                          "); ask for one view, or for the two of a double-mix pair"));
  }
  slot->partner_roi.Add(crop);
}

std::span<const int32_t> Read::Views(const dali::Workspace& ws, int i) const {
  if (!with_views_) return {};
  const auto& views = ws.Input<dali::CPUBackend>(1);
  return {views.tensor<int32_t>(i), static_cast<size_t>(volume(views.tensor_shape_span(i)))};
}

bool Read::NeedsRecord(int64_t sample, std::span<const int32_t> views) const {
  if (std::any_of(views.begin(), views.end(), [](int32_t v) { return v >= 0; })) return true;
  return with_views_ && topk_ == 0 && shards_->HasRecord(sample);  // for its K
}

void Read::Fill(Slot* slot, std::span<const int32_t> views, record::Reader* reader) const {
  const shards::Sample& sample = slot->sample;
  shards_->Load(sample);
  if (!with_views_) return;
  const record::Record* record = nullptr;
  size_t stored_words = 0;  // of a stored view without its partner
  const auto in_record = [&](const auto& body) {
    try {
      body();
    } catch (const record::RecordError& error) {
      throw record::RecordError(shards_->Where(sample, sample.record) + ": " + error.what());
    } catch (const shards::ShardError& error) {
      throw shards::ShardError(shards_->Where(sample, sample.record) +
                               ": the partner of one of its views cannot be had: " + error.what());
    }
  };
  slot->topk = std::max<size_t>(topk_, 1);
  if (!sample.record.bytes.empty())
    in_record([&] {
      record = &reader->Open(sample.record.bytes);
      stored_words = record->plain_words();
      slot->topk = record->topk();
      if (topk_ != 0 && topk_ != slot->topk)
        throw record::RecordError(make_string("its predictions have ", slot->topk, " classes, but `topk` is ",
                                              topk_, ": pass that number, or 0"));
    });
  std::optional<draw::Drawer> drawer;
  if (std::any_of(views.begin(), views.end(), [](int32_t v) { return v < 0; })) {
    image::Size size;
    std::string problem = image::ReadSize(sample.image.bytes, &size);
    if (!draw_)
      problem = "a negative view number asks for a fresh view, but the argument `draw` is not given";
    if (!problem.empty()) throw shards::ShardError(shards_->Where(sample, sample.image) + ": " + problem);
    drawer.emplace(*draw_, sample.key, size);
  }
  // A stored and a fresh view may have different numbers of operations; words after the last are ignored.
  const size_t plain = std::max(record ? stored_words : 0, drawer ? draw::Drawer::words(*draw_) : 0);
  slot->words = mixing_ ? 2 * plain + kMixWords : plain;
  slot->roi = slot->partner_roi = Region{};
  slot->partner = shards::Sample{};
  slot->params.assign(views.size() * slot->words, 0);
  slot->ids.resize(views.size() * slot->topk);
  slot->probs.resize(views.size() * slot->topk);
  for (size_t i = 0; i < views.size(); ++i) {
    const std::span<int32_t> view(slot->params.data() + i * slot->words, slot->words);
    const std::span<int32_t> ids(slot->ids.data() + i * slot->topk, slot->topk);
    const std::span<float> probs(slot->probs.data() + i * slot->topk, slot->topk);
    bool alone = mixing_;  // without a partner, where there might be one
    if (views[i] < 0) {
      drawer->Draw(-(int64_t{views[i]} + 1), view.first(plain));
      HardTarget(sample.label, ids, probs);
    } else {
      in_record([&] {
        if (static_cast<uint32_t>(views[i]) >= record->views())
          throw record::RecordError(make_string("view ", views[i],
                                                " does not exist, the record holds views 0 to ",
                                                record->views() - 1, "; ask for one of these"));
        if (record->mixing() && !mixing_)
          throw record::RecordError("its views are mixed with partner images; read them with mixing=True");
        if (record->mixing() && plain != stored_words)
          throw record::RecordError(
              "its views are mixed, and the fresh ones asked for with them have more operations; "
              "draw fresh ones with as many or fewer");
        reader->ReadView(views[i], view.first(record->view_words()), ids, probs);
        alone = mixing_ && !record->mixing();
      });
    }
    slot->roi.Add(view.data());
    if (alone) FillNoPartner(view.subspan(plain));
    if (mixing_) in_record([&] { AddPartner(slot, i == 0, view.data() + plain); });
  }
}

void Read::FillSlots(const dali::Workspace& ws, int count) {
  const auto& samples = ws.Input<dali::CPUBackend>(0);
  auto& pool = ws.GetThreadPool();
  if (slots_.size() < static_cast<size_t>(count)) slots_.resize(count);
  if (readers_.size() < static_cast<size_t>(pool.NumThreads())) readers_.resize(pool.NumThreads());
  // A failure is a value of its slot: an exception in a DALI thread would lose the others, and the order.
  const auto guarded = [&](int i, const auto& body) {
    try {
      body(slots_[i]);
    } catch (const std::exception& error) {
      slots_[i].error = error.what();
    }
  };
  // First tell the kernel about the whole batch, so that cold reads overlap; only then wait for any.
  ForEachSample(pool, count, [&](int i, int) {
    guarded(i, [&](Slot& slot) {
      slot.error.clear();
      const int64_t number = *samples.tensor<int64_t>(i);
      slot.sample = shards_->Find(number, NeedsRecord(number, Views(ws, i)));
      shards_->Prefetch(slot.sample);
    });
  });
  ForEachSample(pool, count, [&](int i, int thread) {
    if (!slots_[i].error.empty()) return;
    guarded(i, [&](Slot& slot) { Fill(&slot, Views(ws, i), &readers_[thread]); });
  });
  if (mixing_) {  // again one pass later, so that cold reads of partners overlap too
    ForEachSample(pool, count, [&](int i, int) {
      if (!slots_[i].error.empty() || slots_[i].partner.image.bytes.empty()) return;
      guarded(i, [&](Slot& slot) { shards_->Load(slot.partner); });
    });
  }
  for (int i = 0; i < count; ++i)
    if (!slots_[i].error.empty()) throw dali::DaliRuntimeError(slots_[i].error);
}

void Read::RunImpl(dali::Workspace& ws) {
  if (clock_) clock_->ReadBegins();
  Batch(ws);
  if (clock_) clock_->ReadEnds();
}

void Read::Batch(dali::Workspace& ws) {
  const auto& samples = ws.Input<dali::CPUBackend>(0);
  DALI_ENFORCE(samples.type() == DALI_INT64 && samples.sample_dim() == 0,
               make_string("`samples` are ", samples.type(), " with ", samples.sample_dim(),
                           " dimensions: pass one int64 scalar per sample."));
  const int count = samples.num_samples();
  int views_dim = 0;
  if (with_views_) {
    const auto& views = ws.Input<dali::CPUBackend>(1);
    views_dim = views.sample_dim();
    DALI_ENFORCE(views.type() == DALI_INT32 && views_dim <= 1,
                 make_string("`views` are ", views.type(), " with ", views_dim,
                             " dimensions: pass an int32 scalar, or int32 [m], per sample."));
    for (int i = 0; i < count; ++i)
      DALI_ENFORCE(volume(views.tensor_shape_span(i)) > 0,
                   make_string("Sample ", i, " of the batch: `views` is empty: ask for at least one view."));
  }
  FillSlots(ws, count);

  const auto output = [&](int i) -> auto& { return ws.Output<dali::CPUBackend>(i); };
  const auto share_images = [&](int number, const auto& bytes_of) {
    auto& images = output(number);
    images.Reset();
    images.SetContiguity(dali::BatchContiguity::Noncontiguous);
    images.set_pinned(false);
    images.set_type(DALI_UINT8);
    images.set_sample_dim(1);
    images.SetSize(count);
    for (int i = 0; i < count; ++i) {
      const std::span<const uint8_t> bytes = bytes_of(slots_[i]);
      // Shared, not copied. DALI's pointers are not const; no operator writes to its input, and the pages are
      // read-only.
      images.SetSample(i, std::shared_ptr<void>(shards_, const_cast<uint8_t*>(bytes.data())), bytes.size(),
                       false, dali::TensorShape<1>{static_cast<int64_t>(bytes.size())}, DALI_UINT8,
                       images.device_id(), images.order());
    }
  };
  share_images(kImage, [](const Slot& slot) { return slot.sample.image.bytes; });
  const auto resize = [&](int i, const dali::TensorListShape<>& shape, dali::DALIDataType type) {
    output(i).Resize(shape, type, dali::BatchContiguity::Contiguous);
  };
  resize(kLabel, dali::TensorListShape<>(count, 0), DALI_INT64);
  for (int i = 0; i < count; ++i) *output(kLabel).mutable_tensor<int64_t>(i) = slots_[i].sample.label;
  if (!with_views_) return;

  const auto put_regions = [&](int start, int shape, const auto& region_of) {
    resize(start, dali::uniform_list_shape(count, dali::TensorShape<1>{2}), DALI_INT32);
    resize(shape, dali::uniform_list_shape(count, dali::TensorShape<1>{2}), DALI_INT32);
    for (int i = 0; i < count; ++i) {
      const Region& region = region_of(slots_[i]);
      CopyTo(output(start), i, region.start, 2);
      CopyTo(output(shape), i, region.shape, 2);
    }
  };
  put_regions(kRoiStart, kRoiShape, [](const Slot& slot) -> auto& { return slot.roi; });
  if (mixing_) {
    static constexpr Region kWhole{{0, 0}, {1, 1}};  // of the one pixel
    const auto alone = [](const Slot& slot) { return slot.partner.image.bytes.empty(); };
    share_images(kPartner, [&](const Slot& slot) {
      return alone(slot) ? std::span<const uint8_t>(kOnePixel) : slot.partner.image.bytes;
    });
    put_regions(kPartnerRoiStart, kPartnerRoiShape,
                [&](const Slot& slot) -> auto& { return alone(slot) ? kWhole : slot.partner_roi; });
  }
  dali::TensorListShape<> params(count, views_dim + 1), predictions(count, views_dim + 1);
  for (int i = 0; i < count; ++i) {
    const auto views = ws.Input<dali::CPUBackend>(1).tensor_shape_span(i);
    std::copy(views.begin(), views.end(), params.tensor_shape_span(i).begin());
    std::copy(views.begin(), views.end(), predictions.tensor_shape_span(i).begin());
    params.tensor_shape_span(i)[views_dim] = static_cast<int64_t>(slots_[i].words);
    predictions.tensor_shape_span(i)[views_dim] = static_cast<int64_t>(slots_[i].topk);
  }
  resize(kParams, params, DALI_INT32);
  resize(kSoftIds, predictions, DALI_INT32);
  resize(kSoftProbs, predictions, DALI_FLOAT);
  for (int i = 0; i < count; ++i) {
    const Slot& slot = slots_[i];
    CopyTo(output(kParams), i, slot.params.data(), slot.params.size());
    CopyTo(output(kSoftIds), i, slot.ids.data(), slot.ids.size());
    CopyTo(output(kSoftProbs), i, slot.probs.data(), slot.probs.size());
  }
}

DALI_REGISTER_OPERATOR(dr__Read, Read, dali::CPU);

}  // namespace dali_dr
