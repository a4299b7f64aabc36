// See write_group.h, and schemas/reinforcement-record.md for the columns.
#include "record/write_group.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "record/crops.h"
#include "view/layout.h"

namespace dali_dr::record {
namespace {

using Rows = std::span<const uint32_t>;

constexpr float kWeightSteps = 65536;

size_t BitBytes(size_t bits) { return (bits + 7) / 8; }

/// A bit for each row.
template <typename Bit>
void PutBits(Rows rows, Part* part, Bit bit) {
  BitWriter bits(part->Add(BitBytes(rows.size())));
  for (const uint32_t row : rows) bits.Put(bit(row) ? 1 : 0, 1);
}

uint64_t BoxNumber(int32_t start, int32_t extent, uint32_t length) {
  return BoxCount(length - static_cast<uint32_t>(extent)) + static_cast<uint32_t>(start);
}

void PutCrops(const Written& from, Rows rows, Part* part) {
  const Header& h = from.header;
  BitWriter bits(part->Add(BitBytes(rows.size() * (h.crop_bits_height + h.crop_bits_width))));
  for (const uint32_t row : rows) {
    const Box& crop = from.columns.views.crop[row];
    bits.Put(BoxNumber(crop.top, crop.height, h.image_height), h.crop_bits_height);
    bits.Put(BoxNumber(crop.left, crop.width, h.image_width), h.crop_bits_width);
  }
}

/// Numbers of 1 or 2 bytes.
class UintWriter {
 public:
  UintWriter(uint8_t* to, uint32_t bytes) : to_(to), bytes_(bytes) {}
  void Put(int32_t value) {
    const auto word = static_cast<uint16_t>(value);
    if (bytes_ == 1)
      *to_ = static_cast<uint8_t>(value);
    else
      std::memcpy(to_, &word, sizeof word);
    to_ += bytes_;
  }

 private:
  uint8_t* to_;
  const uint32_t bytes_;
};

bool IsThere(const Box& box) { return box.height > 0; }

/// The boxes of those rows that have one.
void PutBoxes(const std::vector<Box>& boxes, uint32_t bytes, Rows rows, Part* part) {
  const auto count =
      std::count_if(rows.begin(), rows.end(), [&](uint32_t row) { return IsThere(boxes[row]); });
  UintWriter to(part->Add(4 * bytes * static_cast<size_t>(count)), bytes);
  for (const uint32_t row : rows) {
    const Box& box = boxes[row];
    if (!IsThere(box)) continue;
    for (const int32_t edge : {box.top, box.left, box.height, box.width}) to.Put(edge);
  }
}

/// Places in a table: the first of all rows, then all second ones, ...
template <typename Narrow>
void PutPlacesAs(const std::vector<uint16_t>& places, size_t width, Rows rows, Part* part) {
  uint8_t* to = part->Add(width * rows.size() * sizeof(Narrow));
  for (size_t k = 0; k < width; ++k) {
    for (const uint32_t row : rows) {
      const auto place = static_cast<Narrow>(places[row * width + k]);
      std::memcpy(to, &place, sizeof place);
      to += sizeof place;
    }
  }
}

void PutPlaces(const std::vector<uint16_t>& places, size_t width, uint32_t bytes, Rows rows, Part* part) {
  if (bytes == 1)
    PutPlacesAs<uint8_t>(places, width, rows, part);
  else
    PutPlacesAs<uint16_t>(places, width, rows, part);
}

template <size_t kBytes>
void GatherElements(const ProbabilityColumn& from, size_t all, Rows rows, uint8_t* to) {
  for (uint32_t column = 0; column < from.columns; ++column) {
    const uint8_t* elements = from.values.data() + column * all * kBytes;
    for (const uint32_t row : rows) {
      std::memcpy(to, elements + row * kBytes, kBytes);
      to += kBytes;
    }
  }
}

/// The ranks with which a zstd block begins within the probabilities.
std::span<const uint32_t> BlockRanks(const Header& h) {
  static constexpr uint32_t kMixed[] = {1, 2, 4}, kRoot[] = {1}, kLog[] = {3};
  if (h.mixing) return kMixed;
  if (h.encoding == kRootCode) return kRoot;
  if (h.encoding == kLogCode) return kLog;
  return {};
}

void PutProbabilities(const Written& from, Rows rows, Part* part) {
  const ProbabilityColumn& column = from.probabilities;
  const size_t start = part->bytes.size(), rank = rows.size() * column.bytes, length = rank * column.columns;
  uint8_t* to = part->Add(length);
  if (column.bytes == 1) GatherElements<1>(column, from.columns.size(), rows, to);
  if (column.bytes == 2) GatherElements<2>(column, from.columns.size(), rows, to);
  if (column.bytes == 4) GatherElements<4>(column, from.columns.size(), rows, to);
  for (const uint32_t k : BlockRanks(from.header)) part->cuts.push_back(start + std::min(rank * k, length));
}

// ---- Mixed views; `rows` are those that have a partner.

void PutWeights(const Written& from, Rows rows, Part* part) {
  for (const uint32_t row : rows) {
    const float lam = from.columns.lam[row];
    if (!(lam < 1)) continue;
    const auto steps = static_cast<uint16_t>(lam * kWeightSteps);  // exact unless weights are wide
    if (from.header.wide_weights)
      std::memcpy(part->Add(sizeof lam), &lam, sizeof lam);
    else
      std::memcpy(part->Add(sizeof steps), &steps, sizeof steps);
  }
}

int32_t Edge(const Box& box, int edge) {
  return edge == 0 ? box.top : edge == 1 ? box.left : edge == 2 ? box.height : box.width;
}

/// One byte of all tops, then of all lefts, heights, widths.
void PutCropBytes(const Written& from, int shift, Rows rows, Part* part) {
  uint8_t* to = part->Add(4 * rows.size());
  for (int edge = 0; edge < 4; ++edge)
    for (const uint32_t row : rows)
      *to++ = static_cast<uint8_t>(Edge(from.columns.partner_views.crop[row], edge) >> shift);
}

void PutCuts(const Written& from, Rows rows, Part* part) {
  const auto& cut = from.columns.cut;
  const uint32_t bytes = from.header.erase_bytes;
  const auto count = std::count_if(rows.begin(), rows.end(), [&](uint32_t row) { return IsThere(cut[row]); });
  const size_t start = part->bytes.size(), length = 4 * bytes * static_cast<size_t>(count);
  UintWriter to(part->Add(length), bytes);
  for (int edge = 0; edge < 4; ++edge)
    for (const uint32_t row : rows)
      if (IsThere(cut[row])) to.Put(Edge(cut[row], edge));
  part->cuts.push_back(start + length / 2);
}

/// `views` are the group's rows of parameters, `all` its rows of predictions.
void PutMix(const Written& from, Rows views, Rows all, Part* part) {
  const Reinforcements& r = from.columns;
  const Header& h = from.header;
  PutBits(views, part, [&](uint32_t row) { return r.partner[row] != kNoPartner; });
  thread_local std::vector<uint32_t> partnered;
  partnered.clear();
  for (const uint32_t row : views)
    if (r.partner[row] != kNoPartner) partnered.push_back(row);
  const Rows rows = partnered;
  const Rows mixes = h.own_mixes ? all : rows;
  PutBits(mixes, part, [&](uint32_t row) { return r.lam[row] < 1; });
  PutBits(mixes, part, [&](uint32_t row) { return IsThere(r.cut[row]); });
  PutBits(rows, part, [&](uint32_t row) { return r.partner_views.flip[row] != 0; });
  PutBits(rows, part, [&](uint32_t row) { return IsThere(r.partner_views.erase[row]); });
  PutWeights(from, mixes, part);
  PutCropBytes(from, 0, rows, part);
  part->Cut();
  if (h.partner_entries > 0) PutPlaces(from.partners.places, 1, h.partner_entries > 256 ? 2 : 1, rows, part);
  part->Cut();
  PutCropBytes(from, 8, rows, part);
  part->Cut();
  PutCuts(from, mixes, part);
  part->Cut();
  PutBoxes(r.partner_views.erase, h.erase_bytes, rows, part);
  part->Cut();
  PutPlaces(from.ops.partner, h.num_ops, h.op_index_bytes, rows, part);
}

}  // namespace

void PutGroup(const Written& from, uint32_t first, uint32_t count, Part* part) {
  const Header& h = from.header;
  const Rows rows = from.rows.subspan(first, count);
  thread_local std::vector<uint32_t> first_of_pairs;
  Rows views = rows;
  if (h.pairs) {
    first_of_pairs.clear();
    for (size_t i = 0; i < rows.size(); i += 2) first_of_pairs.push_back(rows[i]);
    views = first_of_pairs;
  }
  const ViewColumns& own = from.columns.views;
  PutCrops(from, views, part);
  if (h.flip) PutBits(views, part, [&](uint32_t row) { return own.flip[row] != 0; });
  if (h.erase) {
    PutBits(views, part, [&](uint32_t row) { return IsThere(own.erase[row]); });
    PutBoxes(own.erase, h.erase_bytes, views, part);
  }
  part->Cut();
  PutPlaces(from.ops.own, h.num_ops, h.op_index_bytes, views, part);
  if (h.mixing) part->Cut();
  PutPlaces(from.classes.places, h.topk, from.classes.largest > 256 ? 2 : 1, rows, part);
  if (h.mixing || h.encoding < kLogCode) part->Cut();
  PutProbabilities(from, rows, part);
  if (!h.mixing) return;
  part->Cut();
  PutMix(from, views, rows, part);
}

}  // namespace dali_dr::record
