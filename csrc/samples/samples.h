// Fills samples: what is asked for by number becomes a sample's bytes, label and views, with the region to
// decode, the targets and the partner. From shards, records and drawing; knows neither DALI nor tensors.
//
// A batch is filled in three passes, Find, Fill and LoadPartner, each over all samples before the next, so
// that cold reads of different samples overlap. All are const and may run on several threads at once.
#ifndef DALI_DR_CSRC_SAMPLES_SAMPLES_H_
#define DALI_DR_CSRC_SAMPLES_SAMPLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "draw/draw.h"
#include "fault.h"
#include "labels/label_map.h"
#include "labels/pooling.h"
#include "record/reader.h"
#include "samples/partner_cache.h"
#include "shards/shards.h"
#include "view/layout.h"

namespace dali_dr::samples {

/// The smallest box that holds all boxes added: (y, x) and (height, width) in pixels of the source image.
struct Region {
  int32_t start[2] = {}, shape[2] = {};

  void Add(std::span<const int32_t> box);  ///< at least top, left, height, width
};

/// What is asked for of every sample.
struct Options {
  bool views = true;                 ///< false: images and labels only; then samples need no records
  bool mixing = false;               ///< views are mixed views, also where a record has none
  std::optional<draw::Spec> draw{};  ///< of fresh views; none: there are no fresh views
  size_t topk = 0;                   ///< K of fresh views and of records; 0: as in the record, 1 without one
  uint64_t max_pixels = 0;           ///< of an image, by its header; 0: any number
  bool check_images = false;         ///< hold each image's bytes against the CRC-32C in the index
  /// Samples have label maps in place of records, from which fresh views take their targets; there are no
  /// stored views. `topk` must be given.
  std::optional<labels::Order> label_maps{};
  std::shared_ptr<PartnerCache> partners{};  ///< keeps partners decoded; null: none are kept
};

/// What samples are read with. One per thread.
struct Readers {
  record::Reader records;
  labels::Reader maps;
  labels::Pooler pooler;
  std::unique_ptr<jpeg::Decoder> decoder;  ///< of partners that are kept; made when needed
};

/// One sample. Reuse it from batch to batch, for its buffers.
struct Filled {
  shards::Sample sample;
  shards::Sample partner;      // its image has size 0: there is none, or it is the sample itself
  size_t words = 0, topk = 0;  // of one packed view, of one prediction
  Region region;               // of the image, that its views show
  Region partner_region;
  std::vector<int32_t> params;  // one packed view after the other (view/layout.h)
  std::vector<int32_t> ids;     // topk class ids per view, most likely first
  std::vector<float> probs;     // and their probabilities
  // With mixing, per view: the label of what it is mixed with, and the weight of the sample's own label (the
  // other has the rest); the sample's label and 1 where nothing is mixed into it.
  std::vector<int64_t> mix_labels;
  std::vector<float> mix_weights;
  std::optional<KeptImage> kept_partner;  // decoded, in place of the bytes of `partner`

  /// The partner's image file and what to decode of it, or all of its pixels (image/raw.h); where there is
  /// none, an image of one pixel, which no buffer holds.
  std::span<const uint8_t> PartnerImage() const;
  shards::Buffer TakePartnerBuffer();
  Region PartnerRegion() const;
};

class Source {
 public:
  /// Throws FaultError if the options do not fit the data set.
  Source(std::shared_ptr<const shards::ShardSet> shards, Options options);

  const Options& options() const { return options_; }

  /// Finds sample `number`, with its record if these views need it, and tells the kernel to read it. View
  /// v >= 0 is row v of the record, v < 0 the fresh view number -v - 1. Throws FaultError.
  void Find(int64_t number, std::span<const int32_t> views, Filled* filled) const;

  /// Reads the sample's bytes, checks its image and makes its views; finds its partner. Throws FaultError.
  /// Views of one call share the image, so they must have one partner.
  void Fill(std::span<const int32_t> views, Readers* readers, Filled* filled) const;

  /// Reads the partner's bytes and checks its image, if there is a partner that is not kept decoded. Throws
  /// FaultError, whose fault is that of the partner.
  void LoadPartner(Readers* readers, Filled* filled) const;

 private:
  bool NeedsRecord(int64_t number, std::span<const int32_t> views) const;
  void Load(shards::Sample* sample) const;

  std::shared_ptr<const shards::ShardSet> shards_;
  Options options_;
};

}  // namespace dali_dr::samples

#endif  // DALI_DR_CSRC_SAMPLES_SAMPLES_H_
