// See row.h. In all functions `at` is a row of the group: of its parameters, but in ReadClasses and
// ReadProbabilities of predictions.
#include "record/row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "record/bytes.h"
#include "record/crops.h"
#include "record/log_probabilities.h"
#include "record/root_probabilities.h"
#include "view/layout.h"
#include "view/magnitude.h"

namespace dali_dr::record {
namespace {

constexpr uint32_t kMaxInt32 = std::numeric_limits<int32_t>::max();

void ReadCrop(const Source& from, uint32_t at, int32_t* box) {
  const Header& h = from.header;
  const uint64_t first = uint64_t{at} * (h.crop_bits_height + h.crop_bits_width);
  const uint32_t row = from.group.first_drawn + at;
  DecodeBox("vertical", row, LoadBits(from.group.crops, first, h.crop_bits_height), h.image_height, &box[0],
            &box[2]);
  DecodeBox("horizontal", row, LoadBits(from.group.crops, first + h.crop_bits_height, h.crop_bits_width),
            h.image_width, &box[1], &box[3]);
}

/// Of the stored view.
void CheckBox(const Header& h, const char* name, uint32_t row, const uint32_t edge[4], int32_t* box) {
  if (edge[2] < 1 || edge[3] < 1 || edge[0] + edge[2] > h.view_height || edge[1] + edge[3] > h.view_width)
    Fail("view ", row, ": ", name, " box (top ", edge[0], ", left ", edge[1], ", height ", edge[2],
         ", width ", edge[3], ") is empty or outside the view of ", h.view_height, "x", h.view_width);
  for (int i = 0; i < 4; ++i) box[i] = static_cast<int32_t>(edge[i]);
}

/// An erase box, if there is one: `erased` says which of `at` rows have one, `boxes` holds one after another.
void ReadErase(const Source& from, const char* name, const uint8_t* erased, const uint8_t* boxes, uint32_t at,
               uint32_t row, int32_t* box) {
  if (!Bit(erased, at)) return;
  const uint64_t entry = CountBits(erased, at);
  uint32_t edge[4];
  for (int i = 0; i < 4; ++i) edge[i] = LoadUint(boxes, from.header.erase_bytes, 4 * entry + i);
  CheckBox(from.header, name, row, edge, box);
}

/// Operations from a column of `rows` entries for each slot.
void ReadOps(const Source& from, uint32_t row, const uint8_t* column, uint32_t rows, uint32_t at,
             int32_t* words) {
  const Header& h = from.header;
  for (uint32_t slot = 0; slot < h.num_ops; ++slot) {
    const uint32_t entry = LoadUint(column, h.op_index_bytes, uint64_t{slot} * rows + at);
    if (entry >= h.op_entries)
      Fail("view ", row, ": op entry ", entry, " in slot ", slot,
           " is not below op_entries = ", h.op_entries);
    const uint8_t id = from.tables.op_ids[entry];
    if (id >= kNumOpIds)
      Fail("op id ", unsigned{id}, " of table entry ", entry, " is not below ", int{kNumOpIds});
    const float magnitude = Load<float>(from.tables.op_magnitudes + 4 * entry);
    if (!std::isfinite(magnitude)) Fail("op magnitude of table entry ", entry, " is not finite");
    if (!IsMagnitude(id, magnitude))
      Fail("op magnitude ", magnitude, " of table entry ", entry, " is none of operation ", unsigned{id});
    words[2 * slot] = id;
    words[2 * slot + 1] = std::bit_cast<int32_t>(magnitude);
  }
}

/// The place in the partner table of the `entry`-th view that has a partner.
uint32_t PartnerEntry(const Source& from, uint32_t at, uint32_t entry) {
  const uint32_t place = LoadUint(from.group.partner_indices, from.tables.partner_index_bytes, entry);
  if (place >= from.header.partner_entries)
    Fail("view ", from.group.first_drawn + at, ": partner table entry ", place, " is not below ",
         from.header.partner_entries);
  return place;
}

/// Sample number of the partner.
int32_t ReadPartner(const Source& from, uint32_t at, uint32_t entry) {
  if (from.header.partner_entries == 0) return kSelfPartner;
  const uint32_t number = LoadUint(from.tables.partners, 4, PartnerEntry(from, at, entry));
  if (number > kMaxInt32)
    Fail("view ", from.group.first_drawn + at, ": partner ", number, " does not fit int32");
  return static_cast<int32_t>(number);
}

float ReadWeight(const Source& from, uint32_t row, uint32_t entry) {
  const Group& g = from.group;
  const uint64_t place = CountBits(g.mixups, entry);
  const float lam = from.header.wide_weights
                        ? Load<float>(g.weights + 4 * place)
                        : static_cast<float>(Load<uint16_t>(g.weights + 2 * place)) / 65536.0f;
  if (!(lam >= 0 && lam < 1)) Fail("view ", row, ": mixup weight ", lam, " is not in 0 to 1");
  return lam;
}

void ReadCut(const Source& from, uint32_t row, uint32_t entry, int32_t* box) {
  const Group& g = from.group;
  const uint64_t place = CountBits(g.cuts, entry);
  uint32_t edge[4];
  for (int i = 0; i < 4; ++i)
    edge[i] = LoadUint(g.cut_boxes, from.header.erase_bytes, uint64_t{g.cut_count} * i + place);
  CheckBox(from.header, "cutmix", row, edge, box);
}

void ReadPartnerCrop(const Source& from, uint32_t row, uint32_t entry, int32_t* box) {
  const Group& g = from.group;
  const bool self = from.header.partner_entries == 0;  // else the image's size is not known here
  const uint32_t height = self ? from.header.image_height : kMaxSide,
                 width = self ? from.header.image_width : kMaxSide;
  for (int i = 0; i < 4; ++i) {
    const uint64_t place = uint64_t{g.partners} * i + entry;
    box[i] = g.partner_crops_low[place] | g.partner_crops_high[place] << 8;
  }
  if (box[2] < 1 || box[3] < 1 || static_cast<uint32_t>(box[0] + box[2]) > height ||
      static_cast<uint32_t>(box[1] + box[3]) > width)
    Fail("view ", row, ": partner crop (top ", box[0], ", left ", box[1], ", height ", box[2], ", width ",
         box[3], ") is empty or outside ", height, "x", width);
}

/// Everything behind the view itself: how it is mixed, and its partner's view. `line` is the row of
/// predictions.
void ReadMix(const Source& from, uint32_t at, uint32_t line, std::span<int32_t> words) {
  const Group& g = from.group;
  const uint32_t row = g.first_drawn + at;
  FillNoPartner(words);
  if (!Bit(g.partnered, at)) return;
  const uint32_t entry = CountBits(g.partnered, at);
  words[0] = ReadPartner(from, at, entry);
  const uint32_t mix = from.header.own_mixes ? line : entry;
  if (Bit(g.mixups, mix)) words[2] = std::bit_cast<int32_t>(ReadWeight(from, row, mix));
  if (Bit(g.cuts, mix)) ReadCut(from, row, mix, &words[3]);
  int32_t* view = words.data() + kMixWords;
  ReadPartnerCrop(from, row, entry, view);
  view[4] = Bit(g.partner_flips, entry);
  ReadErase(from, "partner erase", g.partner_erased, g.partner_erase_boxes, entry, row, &view[5]);
  ReadOps(from, row, g.partner_ops, g.partners, entry, &view[kViewHeaderWords]);
}

/// The class table of the views of one partner, the last of those without one. Valid until the next call in
/// this thread.
std::span<const uint32_t> PartnerClasses(const Source& from, uint32_t at, uint32_t row) {
  const Header& h = from.header;
  const Tables& t = from.tables;
  uint32_t number = h.partner_entries;
  const uint32_t drawn = h.pairs ? at / 2 : at;
  if (h.partner_entries > 0 && Bit(from.group.partnered, drawn))
    number = PartnerEntry(from, drawn, CountBits(from.group.partnered, drawn));
  uint32_t first = 0;
  for (uint32_t i = 0; i < number; ++i) first += LoadUint(t.class_counts, 2, i);
  const uint32_t entries = LoadUint(t.class_counts, 2, number);
  thread_local std::vector<uint32_t> table;
  table.resize(entries);
  uint64_t id = 0;
  for (uint32_t i = 0; i < entries; ++i) {
    uint32_t gap = 0;
    for (uint32_t byte = 0; byte < h.class_bytes; ++byte)
      gap |= uint32_t{t.classes[uint64_t{byte} * h.class_entries + first + i]} << (8 * byte);
    if (gap == 0 && i > 0) Fail("view ", row, ": class gap of table entry ", first + i, " is 0");
    id += gap;
    table[i] = static_cast<uint32_t>(std::min<uint64_t>(id, std::numeric_limits<uint32_t>::max()));
  }
  return table;
}

void ReadClasses(const Source& from, uint32_t at, uint32_t row, std::span<int32_t> ids) {
  const Header& h = from.header;
  std::span<const uint32_t> table;  // that serves this view, with partner_classes
  if (h.partner_classes) table = PartnerClasses(from, at, row);
  const auto entries = h.partner_classes ? static_cast<uint32_t>(table.size()) : h.class_entries;
  uint64_t seen[65536 / 64];  // one bit per table entry; only the words in use are cleared
  std::fill_n(seen, (entries + 63) / 64, 0);
  for (uint32_t k = 0; k < h.topk; ++k) {
    const uint64_t place = uint64_t{k} * from.group.rows + at;
    const uint32_t entry = LoadUint(from.group.class_indices, from.tables.class_index_bytes, place);
    if (entry >= entries)
      Fail("view ", row, ": class entry ", entry, " of rank ", k, " is not below class_entries = ", entries);
    uint64_t& word = seen[entry / 64];
    const uint64_t bit = uint64_t{1} << (entry % 64);
    if (word & bit) Fail("view ", row, ": class entry ", entry, " of rank ", k, " occurs twice");
    word |= bit;
    const uint32_t id = h.partner_classes ? table[entry]
                        : h.class_bits > 0
                            ? LoadBits(from.tables.classes, uint64_t{entry} * h.class_bits, h.class_bits)
                            : LoadUint(from.tables.classes, h.class_bytes, entry);
    if (id >= from.classes)
      Fail("view ", row, " has the class id ", id, ", but ids are below ", from.classes,
           ": the record is of another data set, or damaged");
    ids[k] = static_cast<int32_t>(id);
  }
}

void ReadProbabilities(const Source& from, uint32_t at, uint32_t row, std::span<float> probs) {
  const Header& h = from.header;
  const Group& g = from.group;
  if (h.encoding == kLogCode)
    return DecodeLogProbabilities(g.probabilities, g.rows, at, h.log_step, row, probs);
  if (h.encoding == kRootCode)
    return DecodeRootProbabilities(g.probabilities, g.rows, at, h.pair_rank, h.log_step, row, probs);
  float previous = 1;
  for (uint32_t k = 0; k < h.topk; ++k) {
    const uint64_t index = uint64_t{k} * g.rows + at;
    const float p = h.encoding == kFloat16 ? HalfToFloat(Load<uint16_t>(g.probabilities + 2 * index))
                                           : Load<float>(g.probabilities + 4 * index);
    if (!(p >= 0 && p <= previous))  // also refuses NaN
      Fail("view ", row, ": probability ", p, " of rank ", k, " is outside 0 to 1 or above the rank before (",
           previous, ")");
    probs[k] = p;
    previous = p;
  }
}

}  // namespace

void ReadRow(const Source& from, uint32_t row, std::span<int32_t> view, std::span<int32_t> ids,
             std::span<float> probs) {
  const Header& h = from.header;
  const Group& g = from.group;
  const uint32_t line = row - g.first, at = h.pairs ? line / 2 : line;
  ReadCrop(from, at, &view[0]);
  view[4] = h.flip && Bit(g.flips, at);
  view[5] = view[6] = view[7] = view[8] = 0;
  if (h.erase) ReadErase(from, "erase", g.erased, g.erase_boxes, at, g.first_drawn + at, &view[5]);
  view[9] = static_cast<int32_t>(h.num_ops);
  ReadOps(from, g.first_drawn + at, g.ops, g.drawn, at, &view[kViewHeaderWords]);
  if (h.mixing) {
    const auto words = view.subspan(ViewWords(static_cast<int>(h.num_ops)));
    ReadMix(from, at, line, words);
    words[1] = h.pairs && row % 2;
  }
  if (h.topk > 0) {
    ReadClasses(from, line, row, ids);
    ReadProbabilities(from, line, row, probs);
  }
}

}  // namespace dali_dr::record
