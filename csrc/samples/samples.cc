// See samples.h.
#include "samples/samples.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "escape.h"
#include "image/header.h"
#include "samples/check_image.h"

namespace dali_dr::samples {
namespace {

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

// All probability on the label, and the lowest other classes, so that ids are distinct as those of a record
// are. Nothing where predictions have no classes.
void HardTarget(int32_t label, std::span<int32_t> ids, std::span<float> probs) {
  if (ids.empty()) return;
  std::fill(probs.begin(), probs.end(), 0.0f);
  probs[0] = 1.0f;
  ids[0] = label;
  for (size_t i = 1; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(i) - (static_cast<int32_t>(i) <= label);
}

bool IsFresh(int32_t view) { return view < 0; }

// The fault of a sample's partner, saying whose.
Fault OfPartner(const shards::ShardSet& shards, const shards::Sample& sample, Fault fault) {
  fault.message = shards.Where(sample, sample.record) +
                  ": the partner of one of its views cannot be had: " + fault.message;
  return fault;
}

// One call of Source::Fill.
class Filling {
 public:
  Filling(const shards::ShardSet& shards, const Options& options, Readers* readers, Filled* filled)
      : shards_(shards), options_(options), readers_(*readers), filled_(*filled) {}

  void OpenRecord();  // or the label map, if it was read
  void OpenDrawer();  // for fresh views
  void MakeRoom(size_t views);
  void MakeView(size_t place, int32_t number);

 private:
  // Runs the body; what is wrong in it is wrong in the sample's record, or with its partner.
  template <typename Body>
  void InRecord(const Body& body) const;
  void CheckRecord() const;

  void TakeTarget(std::span<const int32_t> view, std::span<int32_t> ids, std::span<float> probs) const;
  void ReadStored(int32_t number, std::span<int32_t> view, std::span<int32_t> ids,
                  std::span<float> probs) const;
  void AddPartner(bool first, std::span<const int32_t> words) const;
  void WeighLabels(size_t place, std::span<const int32_t> words) const;

  const shards::ShardSet& shards_;
  const Options& options_;
  Readers& readers_;
  Filled& filled_;
  const record::Record* record_ = nullptr;
  const labels::LabelMap* map_ = nullptr;
  image::Size size_{};  // of the image, where fresh views are drawn
  std::optional<draw::Drawer> drawer_;
  size_t plain_ = 0;  // words of a view without its mix: the longest of those asked for
};

template <typename Body>
void Filling::InRecord(const Body& body) const {
  const shards::Sample& sample = filled_.sample;
  const auto fail = [&](const std::string& problem) {
    throw FaultError(shards_.At(sample, sample.record, Fault::Kind::kRecord,
                                shards_.Where(sample, sample.record) + ": " + problem));
  };
  try {
    body();
  } catch (const record::RecordError& error) {
    fail(error.what());
  } catch (const shards::ShardError& error) {
    if (error.fault().kind == Fault::Kind::kArgument)  // there is no such sample
      fail(std::string("the partner of one of its views cannot be had: ") + error.what());
    throw FaultError(OfPartner(shards_, sample, error.fault()));
  }
}

void Filling::OpenRecord() {
  filled_.topk = std::max<size_t>(options_.topk, 1);
  if (filled_.sample.record.size == 0) return;
  if (options_.label_maps)
    return InRecord([&] {
      map_ = &readers_.maps.Open(filled_.sample.record.bytes,
                                 shards_.num_outputs().value_or(shards_.num_classes()));
    });
  InRecord([&] {
    record_ = &readers_.records.Open(filled_.sample.record.bytes,
                                     shards_.num_outputs().value_or(record::kMaxClasses));
    filled_.topk = static_cast<size_t>(record_->topk());
    if (options_.topk != 0 && options_.topk != filled_.topk)
      throw record::RecordError("its predictions have " + std::to_string(filled_.topk) +
                                " classes, but `topk` is " + std::to_string(options_.topk) +
                                ": pass that number, or 0");
    CheckRecord();
  });
}

// That the record is of this image.
void Filling::CheckRecord() const {
  image::Size size{};
  if (!SizeOf(filled_.sample, &size)) return;
  const auto height = static_cast<uint32_t>(size.height), width = static_cast<uint32_t>(size.width);
  if (record_->image_height() == height && record_->image_width() == width) return;
  throw record::RecordError("it was made for an image " +
                            InWords(record_->image_height(), record_->image_width()) + ", but its image is " +
                            InWords(height, width) +
                            ": the shard was changed or damaged; `dali-dr verify` says what else is");
}

void Filling::OpenDrawer() {
  const shards::Sample& sample = filled_.sample;
  const auto fail = [&](Fault::Kind kind, const std::string& problem) {
    throw FaultError(
        shards_.At(sample, sample.image, kind, shards_.Where(sample, sample.image) + ": " + problem));
  };
  if (!options_.draw)
    fail(Fault::Kind::kArgument,
         "a negative view number asks for a fresh view, but none of the arguments `draw_...` is given");
  const std::string problem = image::ReadSize(sample.image.bytes, &size_);
  if (!problem.empty()) fail(Fault::Kind::kImage, problem);
  drawer_.emplace(*options_.draw, sample.key, size_);
}

void Filling::MakeRoom(size_t views) {
  // A stored and a fresh view may have different numbers of operations; words after the last are ignored.
  plain_ = std::max(record_ ? static_cast<size_t>(record_->plain_words()) : 0,
                    drawer_ ? draw::Drawer::words(*options_.draw) : 0);
  filled_.words = options_.mixing ? MixedWords(plain_) : plain_;
  filled_.region = filled_.partner_region = Region{};
  filled_.params.assign(views * filled_.words, 0);
  filled_.ids.resize(views * filled_.topk);
  filled_.probs.resize(views * filled_.topk);
  filled_.mix_labels.assign(options_.mixing ? views : 0, filled_.sample.label);
  filled_.mix_weights.assign(options_.mixing ? views : 0, 1.0f);
}

void Filling::MakeView(size_t place, int32_t number) {
  const std::span view = std::span(filled_.params).subspan(place * filled_.words, filled_.words);
  const std::span ids = std::span(filled_.ids).subspan(place * filled_.topk, filled_.topk);
  const std::span probs = std::span(filled_.probs).subspan(place * filled_.topk, filled_.topk);
  bool mixed = false;
  if (IsFresh(number)) {
    drawer_->Draw(-(int64_t{number} + 1), view.first(plain_));
    if (map_) {
      InRecord([&] { TakeTarget(view, ids, probs); });
    } else {
      HardTarget(filled_.sample.label, ids, probs);
    }
  } else {
    InRecord([&] { ReadStored(number, view, ids, probs); });
    mixed = record_->mixing();
  }
  filled_.region.Add(view);
  if (!options_.mixing) return;
  if (!mixed) FillNoPartner(view.subspan(plain_));
  InRecord([&] { AddPartner(place == 0, view.subspan(plain_)); });
  if (mixed) WeighLabels(place, view.subspan(plain_));
}

void Filling::TakeTarget(std::span<const int32_t> view, std::span<int32_t> ids,
                         std::span<float> probs) const {
  const labels::Crop crop{view[0], view[1], view[2], view[3], size_.height, size_.width};
  readers_.pooler.Target(*map_, crop, *options_.label_maps, ids, probs);
}

void Filling::ReadStored(int32_t number, std::span<int32_t> view, std::span<int32_t> ids,
                         std::span<float> probs) const {
  if (static_cast<uint32_t>(number) >= record_->views())
    throw record::RecordError("view " + std::to_string(number) +
                              " does not exist, the record holds views 0 to " +
                              std::to_string(record_->views() - 1) + "; ask for one of these");
  if (record_->mixing() && !options_.mixing)
    throw record::RecordError("its views are mixed with partner images; read them with mixing=True");
  if (record_->mixing() && plain_ != static_cast<size_t>(record_->plain_words()))
    throw record::RecordError(
        "its views are mixed, and the fresh ones asked for with them have more operations; "
        "draw fresh ones with as many or fewer");
  readers_.records.ReadView(static_cast<uint32_t>(number),
                            view.first(static_cast<size_t>(record_->view_words())), ids, probs);
}

// Notes the partner of one view; `words` are those after its own.
void Filling::AddPartner(bool first, std::span<const int32_t> words) const {
  const int32_t number = words[0];
  const auto crop = words.subspan(kMixWords);
  if (number == kNoPartner) return;
  if (number == kSelfPartner) return filled_.region.Add(crop);
  shards::Sample& partner = filled_.partner;
  if (partner.image.size == 0) {
    if (!first)
      throw record::RecordError(
          "views that are asked for together have different partners; ask for one view, or for "
          "the two of a double-mix pair");
    partner = shards_.Find(number, false);
    if (options_.partners) filled_.kept_partner = options_.partners->Find(number);
    if (!filled_.kept_partner) shards_.Prefetch(partner);
  } else if (partner.number != number) {
    throw record::RecordError("views that are asked for together have different partners (" +
                              std::to_string(number) + ", " + std::to_string(partner.number) +
                              "); ask for one view, or for the two of a double-mix pair");
  }
  filled_.partner_region.Add(crop);
}

// How much of one view is its own image: lam outside the CutMix box, nothing inside; the rest is the
// partner's, and where they change places it is the other way round. `words` are those after its own.
void Filling::WeighLabels(size_t place, std::span<const int32_t> words) const {
  const int32_t number = words[0];
  if (number == kNoPartner) return;
  const double view = static_cast<double>(record_->view_height()) * record_->view_width();
  const double first =
      double{std::bit_cast<float>(words[2])} * (1 - static_cast<double>(words[5]) * words[6] / view);
  const double own = words[1] ? 1 - first : first;
  if (own == 1) return;
  filled_.mix_weights[place] = static_cast<float>(own);
  if (number != kSelfPartner) filled_.mix_labels[place] = filled_.partner.label;
}

}  // namespace

void Region::Add(std::span<const int32_t> box) {
  for (int i = 0; i < 2; ++i) {
    const int32_t end = std::max(start[i] + shape[i], box[i] + box[2 + i]);
    start[i] = shape[i] == 0 ? box[i] : std::min(start[i], box[i]);
    shape[i] = end - start[i];
  }
}

std::span<const uint8_t> Filled::PartnerImage() const {
  if (partner.image.size == 0) return kOnePixel;
  return kept_partner ? kept_partner->bytes : partner.image.bytes;
}

shards::Buffer Filled::TakePartnerBuffer() {
  return std::move(kept_partner ? kept_partner->buffer : partner.image.buffer);
}

Region Filled::PartnerRegion() const {
  return partner.image.size == 0 ? Region{{0, 0}, {1, 1}} : partner_region;
}

Source::Source(std::shared_ptr<const shards::ShardSet> shards, Options options)
    : shards_(std::move(shards)), options_(std::move(options)) {
  if (options_.mixing && !options_.views)
    throw FaultError({.kind = Fault::Kind::kArgument,
                      .message = "`mixing` needs `views`: without them there is nothing that is mixed."});
  const uint64_t outputs = shards_->num_outputs().value_or(shards_->num_classes());
  if (options_.topk > outputs)
    throw FaultError({.kind = Fault::Kind::kArgument,
                      .message = "`topk` is " + std::to_string(options_.topk) + ": pass 1 to " +
                                 std::to_string(outputs) + ", the number of classes of " +
                                 Escaped(shards_->index_path()) + ", or 0 for that of the records."});
  if (options_.label_maps && (options_.topk == 0 || options_.mixing))
    throw FaultError({.kind = Fault::Kind::kArgument,
                      .message = "`label_maps` needs `topk`, the most classes that a map has (dataset.json "
                                 "says it), and goes without `mixing`."});
  if (options_.check_images && !shards_->has_image_crcs())
    throw FaultError(
        {.kind = Fault::Kind::kArgument,
         .message =
             "images cannot be held against their checksums: " + Escaped(shards_->index_path()) +
             " was made without image checksums, or rebuilt after damage; `dali-dr index --full DIR` adds "
             "them."});
}

bool Source::NeedsRecord(int64_t number, std::span<const int32_t> views) const {
  if (!std::all_of(views.begin(), views.end(), IsFresh)) return true;
  if (options_.label_maps) return options_.views;
  return options_.views && options_.topk == 0 && shards_->HasRecord(number);  // for its K
}

void Source::Find(int64_t number, std::span<const int32_t> views, Filled* filled) const {
  if (options_.label_maps && !std::all_of(views.begin(), views.end(), IsFresh))
    throw FaultError({.kind = Fault::Kind::kArgument,
                      .message =
                          "a view number from 0 on asks for a stored view, but samples have label maps "
                          "in place of records: ask for fresh views, by numbers below 0.",
                      .sample = number});
  filled->sample = shards_->Find(number, NeedsRecord(number, views));
  shards_->Prefetch(filled->sample);
}

void Source::Fill(std::span<const int32_t> views, Readers* readers, Filled* filled) const {
  filled->partner = shards::Sample{};
  filled->kept_partner.reset();
  Load(&filled->sample);
  if (!options_.views) return;
  Filling filling(*shards_, options_, readers, filled);
  filling.OpenRecord();
  if (std::any_of(views.begin(), views.end(), IsFresh)) filling.OpenDrawer();
  filling.MakeRoom(views.size());
  for (size_t i = 0; i < views.size(); ++i) filling.MakeView(i, views[i]);
}

void Source::LoadPartner(Readers* readers, Filled* filled) const {
  if (filled->partner.image.size == 0 || filled->kept_partner) return;
  try {
    Load(&filled->partner);
  } catch (const FaultError& error) {
    throw FaultError(OfPartner(*shards_, filled->sample, error.fault()));
  }
  if (!options_.partners) return;
  if (!readers->decoder) readers->decoder = std::make_unique<jpeg::Decoder>();
  const shards::Sample& partner = filled->partner;
  filled->kept_partner = options_.partners->Keep(partner.number, partner.image.bytes, readers->decoder.get());
}

void Source::Load(shards::Sample* sample) const {
  shards_->Load(sample);
  CheckImage(*shards_, *sample, options_.max_pixels, options_.check_images);
}

}  // namespace dali_dr::samples
