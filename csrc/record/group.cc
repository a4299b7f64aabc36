// See group.h, and schemas/reinforcement-record.md for the columns.
#include "record/group.h"

#include <algorithm>

#include "record/bytes.h"
#include "record/root_probabilities.h"

namespace dali_dr::record {
namespace {

/// The columns of mixed views, the last of a group.
void FindMix(const Header& h, const Tables& t, Columns* columns, Group* group) {
  Group& g = *group;
  g.partnered = columns->TakeBits("partnered", g.drawn);
  const uint32_t q = g.partners = CountBits(g.partnered, g.drawn);
  if (h.pairs && q != g.drawn)
    Fail("a double-mix has ", q, " partners for ", g.drawn, " pairs: each must have one");
  const uint64_t box_bytes = 4 * uint64_t{h.erase_bytes};
  const uint32_t mixed = h.own_mixes ? g.rows : q;
  g.mixups = columns->TakeBits("mixups", mixed);
  g.cuts = columns->TakeBits("cutmixes", mixed);
  g.partner_flips = columns->TakeBits("partner flips", q);
  g.partner_erased = columns->TakeBits("partner erased", q);
  g.weights = columns->Take("mixup weights", uint64_t{h.wide_weights ? 4u : 2u} * CountBits(g.mixups, mixed));
  g.partner_crops_low = columns->Take("partner crops, low bytes", 4 * uint64_t{q});
  g.partner_indices = columns->Take("partners", uint64_t{q} * t.partner_index_bytes);
  g.partner_crops_high = columns->Take("partner crops, high bytes", 4 * uint64_t{q});
  g.cut_count = CountBits(g.cuts, mixed);
  g.cut_boxes = columns->Take("cutmix boxes", box_bytes * g.cut_count);
  g.partner_erase_boxes = columns->Take("partner erase boxes", box_bytes * CountBits(g.partner_erased, q));
  g.partner_ops = columns->Take("partner ops", uint64_t{q} * h.num_ops * h.op_index_bytes);
}

}  // namespace

Group FindGroup(const Header& h, const Tables& t, uint32_t number, std::span<const uint8_t> bytes,
                size_t* end) {
  Group g;
  g.first = number * h.group_rows;
  g.rows = std::min(h.group_rows, h.views - g.first);
  g.first_drawn = h.pairs ? g.first / 2 : g.first;
  g.drawn = h.pairs ? g.rows / 2 : g.rows;
  const uint64_t n = g.drawn;
  Columns columns("a row group", bytes, 0);
  g.crops = columns.TakeBits("crops", n * (h.crop_bits_height + h.crop_bits_width));
  if (h.flip) g.flips = columns.TakeBits("flips", n);
  if (h.erase) {
    g.erased = columns.TakeBits("erased", n);
    g.erase_boxes = columns.Take("erase boxes", 4 * uint64_t{h.erase_bytes} * CountBits(g.erased, g.drawn));
  }
  g.ops = columns.Take("ops", n * h.num_ops * h.op_index_bytes);
  const uint64_t predictions = uint64_t{g.rows} * h.topk;
  g.class_indices = columns.Take("class indices", predictions * t.class_index_bytes);
  constexpr uint64_t kProbabilityBytes[] = {4, 2, 1};  // by encoding
  g.probabilities = columns.Take("probabilities", h.encoding == kRootCode
                                                      ? uint64_t{g.rows} * RootColumns(h.topk, h.pair_rank)
                                                      : predictions * kProbabilityBytes[h.encoding]);
  if (h.mixing) FindMix(h, t, &columns, &g);
  *end = columns.at();
  return g;
}

}  // namespace dali_dr::record
