// See write.h, and schemas/reinforcement-record.md for the bytes. Counterpart of dali_dr/record/encode.py.
#include "record/write.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "record/compress.h"
#include "record/crops.h"
#include "record/frames.h"
#include "record/write_check.h"
#include "record/write_group.h"
#include "record/write_probabilities.h"
#include "record/write_tables.h"

namespace dali_dr::record {
namespace {

constexpr uint32_t kMinGroupRows =
    100;                                // a record of unmixed views has as many groups as hold this many rows
constexpr size_t kFewClasses = 32;      // of a row, that are put in order by their ranks
constexpr double kSumTolerance = 1e-3;  // a row may sum to a little more than 1
constexpr uint32_t kClassBitsAt = 24;   // of the header's flags

/// What a thread keeps from record to record, so that it need not ask for memory each time.
struct Scratch {
  std::vector<float> probs;  // as given, classes by falling probability
  std::vector<int32_t> ids;
  std::vector<uint32_t> rows;
  std::vector<std::pair<float, int32_t>> row;
  std::vector<uint64_t> keys;
  OpTable ops;
  PartnerTable partners;
  ClassTable classes;
  ProbabilityColumn column;
  Part part;
};

/// Puts few classes in order of falling probability, equals in the order given: each goes where as many come
/// before it, without a branch, which could not be foreseen.
void RankClasses(std::span<float> probs, std::span<int32_t> ids) {
  uint32_t ranks[kFewClasses] = {};
  float given[kFewClasses];
  int32_t given_ids[kFewClasses];
  const size_t count = probs.size();
  std::copy_n(probs.begin(), count, given);
  std::copy_n(ids.begin(), count, given_ids);
  for (size_t k = 1; k < count; ++k) {
    uint32_t before = 0;
    for (size_t i = 0; i < k; ++i) {
      const uint32_t behind = given[i] < given[k];
      ranks[i] += behind;
      before += behind ^ 1;
    }
    ranks[k] = before;
  }
  for (size_t k = 0; k < count; ++k) {
    probs[ranks[k]] = given[k];
    ids[ranks[k]] = given_ids[k];
  }
}

/// Puts the classes of each row in order of falling probability; checks these.
void SortClasses(const Reinforcements& r, Scratch* scratch) {
  scratch->probs.assign(r.probs.begin(), r.probs.end());
  scratch->ids.assign(r.ids.begin(), r.ids.end());
  for (size_t row = 0; row < (r.topk ? r.size() : 0); ++row) {
    const auto probs = std::span(scratch->probs).subspan(row * r.topk, r.topk);
    const auto ids = std::span(scratch->ids).subspan(row * r.topk, r.topk);
    double sum = 0;
    bool falling = true, inside = true;
    for (size_t k = 0; k < r.topk; ++k) {
      inside &= probs[k] >= 0 && probs[k] <= 1;  // false for NaN, too
      falling &= k == 0 || probs[k] <= probs[k - 1];
      sum += probs[k];
    }
    if (!inside) Fail("view ", row, ": a probability is outside 0 to 1 or not finite");
    if (sum > 1 + kSumTolerance) Fail("view ", row, ": probabilities sum to ", sum, ", which is more than 1");
    if (falling) continue;
    if (r.topk <= kFewClasses) {
      RankClasses(probs, ids);
      continue;
    }
    auto& pairs = scratch->row;
    pairs.clear();
    for (size_t k = 0; k < r.topk; ++k) pairs.emplace_back(probs[k], ids[k]);
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    for (size_t k = 0; k < r.topk; ++k) std::tie(probs[k], ids[k]) = pairs[k];
  }
}

/// Whether rows in the order given may be those of a record, whose confidences were rounded after they were
/// put in order.
bool KeepsOrder(const Reinforcements& r, const WriteSettings& s, const ProbabilityColumn& column,
                bool double_mix, std::span<const float> probs) {
  if (!s.recode) return false;
  if (s.encoding == kRootCode || s.encoding == kLogCode) return column.recoded;
  if (s.encoding == kFloat32 || !double_mix) return false;  // rounding leaves the order as it is
  constexpr float kHalfErrors = 0x1p-10f;                   // of two sums of two
  for (size_t row = 2; row < r.size(); row += 2) {
    const float before = probs[(row - 2) * r.topk] + probs[(row - 1) * r.topk];
    if (probs[row * r.topk] + probs[(row + 1) * r.topk] > before + kHalfErrors) return false;
  }
  return true;
}

/// Rows by falling confidence, equals in the order given; pairs of a double-mix by the sum of both.
void OrderRows(const Reinforcements& r, bool double_mix, Scratch* scratch) {
  const size_t step = double_mix ? 2 : 1, count = r.size() / step;
  auto& keys = scratch->keys;
  keys.clear();
  for (size_t i = 0; i < count; ++i) {
    float confidence = scratch->probs[i * step * r.topk];
    if (double_mix) confidence += scratch->probs[(i * step + 1) * r.topk];
    const auto bits =
        std::bit_cast<uint32_t>(confidence + 0.0f);  // of a positive number: they order as it does
    keys.push_back(uint64_t{~bits} << 32 | i);
  }
  std::sort(keys.begin(), keys.end());
  for (size_t i = 0; i < count; ++i)
    for (size_t j = 0; j < step; ++j)
      scratch->rows[i * step + j] = static_cast<uint32_t>(static_cast<uint32_t>(keys[i]) * step + j);
}

bool Any(const std::vector<uint8_t>& bits) {
  return std::any_of(bits.begin(), bits.end(), [](uint8_t bit) { return bit != 0; });
}

Header MakeHeader(const Reinforcements& r, const WriteSettings& s, bool double_mix, float step,
                  const Scratch& scratch) {
  Header h;
  h.views = static_cast<uint32_t>(r.size());
  h.image_height = s.image_height, h.image_width = s.image_width;
  h.view_height = s.view_height, h.view_width = s.view_width;
  h.num_ops = static_cast<uint32_t>(r.num_ops);
  h.op_entries = static_cast<uint32_t>(scratch.ops.entries.size());
  h.topk = static_cast<uint32_t>(r.topk);
  h.class_entries = static_cast<uint32_t>(scratch.classes.entries.size());
  h.partner_entries = static_cast<uint32_t>(scratch.partners.numbers.size());
  h.encoding = s.encoding;
  h.pair_rank = scratch.column.pair_rank;
  h.log_step = step;
  h.group_rows = h.views;
  if (!r.mixing) {
    const uint32_t groups = std::max(h.views / kMinGroupRows, 1u);
    h.group_rows = (h.views + groups - 1) / groups;
  }
  h.flip = Any(r.views.flip);
  h.erase =
      std::any_of(r.views.erase.begin(), r.views.erase.end(), [](const Box& box) { return box.height > 0; });
  h.mixing = r.mixing;
  h.wide_weights = r.mixing && std::any_of(r.lam.begin(), r.lam.end(), [](float lam) {
                     return lam * 65536.0f != std::floor(lam * 65536.0f);
                   });
  h.pairs = double_mix;
  h.own_mixes = double_mix && HasOwnMixes(r);
  h.partner_classes = scratch.classes.by_partner;
  if (h.class_entries > 0 && !h.partner_classes) {
    const auto& ids = scratch.classes.entries;
    h.class_bits =
        std::max(static_cast<uint32_t>(std::bit_width(*std::max_element(ids.begin(), ids.end()))), 1u);
  }
  h.class_bytes = scratch.classes.wide && h.partner_classes ? 4 : 2;  // packed ids need none
  h.op_index_bytes = h.op_entries > 256 ? 2 : 1;
  h.erase_bytes = std::max(h.view_height, h.view_width) > 255 ? 2 : 1;
  h.crop_bits_height = BoxBits(h.image_height);
  h.crop_bits_width = BoxBits(h.image_width);
  return h;
}

template <typename T>
void Put(T value, Part* part) {
  std::memcpy(part->Add(sizeof value), &value, sizeof value);
}

void PutHeader(const Header& h, Part* part) {
  const uint32_t flags = (h.flip ? 1u : 0) | (h.erase ? 2u : 0) | (h.class_bytes == 4 ? 4u : 0) |
                         (h.mixing ? 8u : 0) | (h.wide_weights ? 16u : 0) | (h.pairs ? 32u : 0) |
                         (h.partner_classes ? 64u : 0) | (h.own_mixes ? 256u : 0) |
                         (h.class_bits ? 128u | h.class_bits << kClassBitsAt : 0);
  std::memcpy(part->Add(4), "drrc", 4);
  Put(static_cast<uint16_t>(kVersion), part);
  Put(static_cast<uint16_t>(kHeaderBytes), part);
  for (const uint32_t value : {h.record_bytes, flags, h.views, h.image_height, h.image_width})
    Put(value, part);
  for (const uint32_t value : {h.view_height, h.view_width, h.num_ops, h.op_entries, h.topk, h.class_entries})
    Put(static_cast<uint16_t>(value), part);
  Put(h.encoding, part);
  Put(static_cast<uint8_t>(h.pair_rank), part);
  Put(static_cast<uint16_t>(h.partner_entries), part);
  Put(h.log_step, part);
  Put(h.group_rows, part);
}

void PutClasses(const Header& h, const ClassTable& classes, Part* part) {
  if (h.partner_classes) {
    for (const uint32_t count : classes.counts) Put(static_cast<uint16_t>(count), part);
    for (uint32_t byte = 0; byte < h.class_bytes; ++byte)
      for (const uint32_t gap : classes.entries) Put(static_cast<uint8_t>(gap >> (8 * byte)), part);
    return;
  }
  BitWriter bits(part->Add((uint64_t{h.class_bits} * h.class_entries + 7) / 8));
  for (const uint32_t id : classes.entries) bits.Put(id, h.class_bits);
}

void PutHead(const Header& h, const Scratch& scratch, Part* part) {
  PutHeader(h, part);
  PutClasses(h, scratch.classes, part);
  for (const uint64_t entry : scratch.ops.entries) Put(static_cast<uint8_t>(entry >> 32), part);
  for (const uint64_t entry : scratch.ops.entries) Put(static_cast<uint32_t>(entry), part);
  part->Cut();
  for (const int32_t number : scratch.partners.numbers) Put(number, part);
  part->Cut();
}

/// The frames of a record whose header lacks its size.
std::vector<uint8_t> PutFrames(const Written& from, const Header& h, Scratch* scratch) {
  // All of it is made before it is compressed, as the header has its size.
  Part& part = scratch->part;
  part.Clear();
  PutHead(h, *scratch, &part);
  std::vector<std::pair<size_t, size_t>> ends{{part.bytes.size(), part.cuts.size()}};
  for (uint32_t first = 0; first < h.views; first += h.group_rows) {
    PutGroup(from, first, std::min(h.group_rows, h.views - first), &part);
    part.Cut();
    ends.emplace_back(part.bytes.size(), part.cuts.size());
  }
  if (part.bytes.size() > kMaxRecordBytes)
    Fail("record size is ", part.bytes.size(), " bytes; want at most ", kMaxRecordBytes,
         ": store fewer views");
  const auto record_bytes = static_cast<uint32_t>(part.bytes.size());
  std::memcpy(part.bytes.data() + 8, &record_bytes, sizeof record_bytes);
  const bool little = !h.mixing && h.encoding == kRootCode;
  const Effort effort = little ? Effort::kLittle : Effort::kUsual;
  std::vector<uint8_t> member;
  if (ends.size() == 2) {
    AppendFrame(part.bytes, part.cuts, effort, &member);
    return member;
  }
  const size_t whole_head[] = {ends[0].first};
  AppendFrame(std::span(part.bytes).first(ends[0].first), whole_head, Effort::kNone, &member);
  for (size_t group = 1; group < ends.size(); ++group) {
    const auto [start, first_cut] = ends[group - 1];
    const auto [end, last_cut] = ends[group];
    const auto cuts = std::span(part.cuts).subspan(first_cut, last_cut - first_cut);
    for (size_t& cut : cuts) cut -= start;
    AppendFrame(std::span(part.bytes).subspan(start, end - start), cuts, effort, &member);
  }
  return member;
}

}  // namespace

std::vector<uint8_t> Write(const Reinforcements& r, const WriteSettings& s) {
  thread_local Scratch scratch;
  CheckColumns(r, s);
  const bool double_mix = IsDouble(r);
  const auto topk = static_cast<uint32_t>(r.topk);
  SortClasses(r, &scratch);
  MakeOpTable(r, double_mix, &scratch.ops);
  MakePartnerTable(r, &scratch.partners);
  MakeClassTable(r, scratch.ids, scratch.partners, &scratch.classes);
  const float step = s.encoding == kRootCode ? RootStep(topk) : s.encoding == kLogCode ? s.log_step : 0;
  EncodeProbabilities(scratch.probs, topk, s.encoding, step, s.recode, &scratch.column);
  scratch.rows.resize(r.size());
  std::iota(scratch.rows.begin(), scratch.rows.end(), 0u);
  if (topk > 0 && !KeepsOrder(r, s, scratch.column, double_mix, scratch.probs))
    OrderRows(r, double_mix, &scratch);
  const Header header = MakeHeader(r, s, double_mix, step, scratch);
  const Written from{r, scratch.ops, scratch.partners, scratch.classes, scratch.column, scratch.rows, header};
  return PutFrames(from, header, &scratch);
}

}  // namespace dali_dr::record
