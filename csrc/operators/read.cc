// See read.h.
#include "operators/read.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "dali/pipeline/operator/error_reporting.h"

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

}  // namespace

DALI_SCHEMA(dr__Read)
    .DocStr(R"(Reads samples of a reinforced data set by number, each with the views that are asked for.

Shards are plain tars, mapped into memory when first used and accessed at random through the sample index
(``schemas/sample-index.md``). One record is decompressed per sample, whatever the number of views.

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

A sample that cannot be had (no such number or view, a missing or changed shard, a damaged record) raises RuntimeError,
which names its number, key, shard and offset.)")
    .NumInput(1, 2)
    .InputDox(0, "samples", "TensorList of int64, scalar", "Sample numbers, from 0.")
    .InputDox(1, "views", "TensorList of int32, scalar or [m]",
              "View numbers: rows of the sample's record, from 0, in order of falling confidence.")
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
    .AddOptionalArg("clock", "Number of the clock that times this pipeline's stages; -1: none.", -1);

Read::Read(const dali::OpSpec& spec)
    : StatelessOperator(spec),
      shards_(std::make_shared<shards::ShardSet>(spec.GetArgument<std::string>("index"))),
      with_views_(spec.NumRegularInput() == 2),
      mixing_(spec.GetArgument<bool>("mixing")),
      clock_(Clock::Get(spec.GetArgument<int>("clock"))) {
  DALI_ENFORCE(with_views_ || !mixing_,
               "`mixing` needs `views`: without them there is nothing that is mixed.");
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
  const int32_t* crop = words + record::kMixWords;
  if (number == record::kNoPartner) return;
  if (number == record::kSelfPartner) return slot->roi.Add(crop);
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

void Read::Fill(Slot* slot, std::span<const int32_t> rows, record::Decompressor* decompressor) const {
  shards_->Load(slot->sample);
  if (!with_views_) return;
  try {
    const auto record = record::Record::Parse(decompressor->Decompress(slot->sample.record.bytes));
    if (record.mixing() && !mixing_)
      throw record::RecordError("its views are mixed with partner images; read them with mixing=True");
    const size_t plain = record.plain_words(), topk = record.topk();
    const size_t words = mixing_ ? 2 * plain + record::kMixWords : plain;
    slot->words = static_cast<int>(words);
    slot->topk = record.topk();
    slot->roi = slot->partner_roi = Region{};
    slot->partner = shards::Sample{};
    slot->params.resize(rows.size() * words);
    slot->ids.resize(rows.size() * topk);
    slot->probs.resize(rows.size() * topk);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0 || static_cast<uint32_t>(rows[i]) >= record.views())
        throw record::RecordError(make_string("view ", rows[i],
                                              " does not exist, the record holds views 0 to ",
                                              record.views() - 1, "; ask for one of these"));
      int32_t* view = slot->params.data() + i * words;
      record.ReadView(rows[i], {view, static_cast<size_t>(record.view_words())},
                      {slot->ids.data() + i * topk, topk}, {slot->probs.data() + i * topk, topk});
      slot->roi.Add(view);
      if (!mixing_) continue;
      if (!record.mixing()) record::FillNoPartner({view + plain, words - plain}, record.num_ops());
      AddPartner(slot, i == 0, view + plain);
    }
  } catch (const record::RecordError& error) {
    throw record::RecordError(shards_->Where(slot->sample, slot->sample.record) + ": " + error.what());
  } catch (const shards::ShardError& error) {
    throw shards::ShardError(shards_->Where(slot->sample, slot->sample.record) +
                             ": the partner of one of its views cannot be had: " + error.what());
  }
}

void Read::FillSlots(const dali::Workspace& ws, int count) {
  const auto& samples = ws.Input<dali::CPUBackend>(0);
  auto& pool = ws.GetThreadPool();
  if (slots_.size() < static_cast<size_t>(count)) slots_.resize(count);
  if (decompressors_.size() < static_cast<size_t>(pool.NumThreads()))
    decompressors_.resize(pool.NumThreads());
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
      slot.sample = shards_->Find(*samples.tensor<int64_t>(i), with_views_);
      shards_->Prefetch(slot.sample);
    });
  });
  ForEachSample(pool, count, [&](int i, int thread) {
    if (!slots_[i].error.empty()) return;
    guarded(i, [&](Slot& slot) {
      std::span<const int32_t> rows;
      if (with_views_) {
        const auto& views = ws.Input<dali::CPUBackend>(1);
        rows = {views.tensor<int32_t>(i), static_cast<size_t>(volume(views.tensor_shape_span(i)))};
      }
      Fill(&slot, rows, &decompressors_[thread]);
    });
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
    params.tensor_shape_span(i)[views_dim] = slots_[i].words;
    predictions.tensor_shape_span(i)[views_dim] = slots_[i].topk;
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
