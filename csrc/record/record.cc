// The parser of reinforcement records; see record.h for the interface and schemas/reinforcement-record.md for
// the layout.
#include "record/record.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <vector>

namespace dali_dr::record {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian and read by memcpy");

constexpr uint32_t kHeaderBytes = 52;
constexpr uint32_t kFlip = 1, kErase = 2, kWideClasses = 4, kMixing = 8, kWideWeights = 16, kDouble = 32,
                   kPartnerClasses = 64;
constexpr uint32_t kAllFlags = 127;
constexpr uint32_t kMaxViews = 65536, kMaxSide = 65535;
enum Encoding : uint8_t { kFloat32 = 0, kFloat16 = 1, kLogCode = 2 };
constexpr uint32_t kMaxCode = 255;  // stands for a weight of zero
constexpr int kRestBias =
    96;  // rest code r weighs exp(-step (r - 96)): the rest may outweigh the first class

template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void Fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw RecordError(message.str());
}

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// Element `index` of a column of unsigned integers of `bytes` = 1, 2 or 4.
uint32_t LoadUint(const uint8_t* column, uint32_t bytes, uint64_t index) {
  if (bytes == 1) return column[index];
  if (bytes == 2) return Load<uint16_t>(column + 2 * index);
  return Load<uint32_t>(column + 4 * index);
}

bool Bit(const uint8_t* column, uint64_t index) { return column[index / 8] >> (index % 8) & 1; }

/// `count` <= 31 bits from bit `first` on; touches only the bytes that hold them.
uint32_t LoadBits(const uint8_t* column, uint64_t first, uint32_t count) {
  const uint32_t shift = first % 8;
  const uint8_t* bytes = column + first / 8;
  uint64_t value = 0;
  for (uint32_t i = 0; i < (shift + count + 7) / 8; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return static_cast<uint32_t>(value >> shift) & ((uint32_t{1} << count) - 1);
}

uint32_t CountBits(const uint8_t* column, uint32_t bits) {
  uint32_t count = 0, byte = 0;
  for (; (byte + 8) * 8 <= bits; byte += 8) count += std::popcount(Load<uint64_t>(column + byte));
  for (; (byte + 1) * 8 <= bits; ++byte) count += std::popcount(column[byte]);
  if (bits % 8) count += std::popcount(static_cast<uint8_t>(column[byte] & ((1u << (bits % 8)) - 1)));
  return count;
}

uint64_t BoxCount(uint64_t length) { return length * (length + 1) / 2; }

/// Inverse of the schema's box number d(d+1)/2 + start, d = length - extent.
void DecodeBox(const char* axis, uint32_t row, uint64_t number, uint32_t length, int32_t* start,
               int32_t* extent) {
  if (number >= BoxCount(length))
    Fail("view ", row, ": ", axis, " crop number ", number, " is not below ", BoxCount(length),
         " (image side of ", length, " pixels)");
  // number < 2^31, so the square root is within one of the integer answer.
  auto d = static_cast<uint64_t>((std::sqrt(8.0 * static_cast<double>(number) + 1.0) - 1.0) / 2.0);
  while (BoxCount(d) > number) --d;
  while (BoxCount(d + 1) <= number) ++d;
  *start = static_cast<int32_t>(number - BoxCount(d));
  *extent = static_cast<int32_t>(length - d);
}

float HalfToFloat(uint16_t half) {
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  float value;
  if (exponent == 31) {
    value = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-24f;
  } else {
    value = std::bit_cast<float>((exponent + 112) << 23 | mantissa << 13);
  }
  return half >> 15 ? -value : value;
}

/// Weights of the logarithmic code for one step. A data set has one step, so each thread keeps the last
/// table.
struct LogWeights {
  float step = 0;
  std::array<double, kMaxCode + 1> code{}, rest{};

  static const LogWeights& For(float step) {
    thread_local LogWeights table;
    if (table.step != step) {
      const double delta = step;
      for (int c = 0; c < static_cast<int>(kMaxCode); ++c) {
        table.code[c] = std::exp(-delta * c);
        table.rest[c] = std::exp(-delta * (c - kRestBias));
      }
      table.step = step;  // code[255] and rest[255] stay 0
    }
    return table;
  }
};

void CheckRange(const char* name, uint32_t value, uint32_t low, uint32_t high) {
  if (value < low || value > high) Fail(name, " is ", value, ", want ", low, " to ", high);
}

/// Entry counts are 0 exactly when nothing refers to them.
void CheckTable(const char* entries_name, uint32_t entries, const char* users_name, uint32_t users) {
  if ((entries == 0) != (users == 0))
    Fail(entries_name, " is ", entries, " but ", users_name, " is ", users, ": both or neither must be 0");
}

/// Cuts columns off the start of `bytes`.
class Columns {
 public:
  Columns(const char* part, std::span<const uint8_t> bytes, uint64_t at)
      : part_(part), bytes_(bytes), at_(at) {}

  const uint8_t* Take(const char* name, uint64_t length) {
    if (length > bytes_.size() - at_)
      Fail("record ends inside the ", name, " column (", length, " bytes from offset ", at_, " of ", part_,
           ", which has ", bytes_.size(), ")");
    const uint8_t* begin = bytes_.data() + at_;
    at_ += length;
    return begin;
  }

  /// A column of `bits` bits; those that are left over must be zero.
  const uint8_t* TakeBits(const char* name, uint64_t bits) {
    const uint8_t* column = Take(name, (bits + 7) / 8);
    if (bits % 8 && column[bits / 8] >> (bits % 8))
      Fail("unused bits of the ", name, " column are not zero: last byte is ", unsigned{column[bits / 8]});
    return column;
  }

  size_t at() const { return at_; }

 private:
  const char* part_;
  std::span<const uint8_t> bytes_;
  uint64_t at_;  // cannot overflow: each column is below 2^35 bytes
};

}  // namespace

Record Record::Parse(std::span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes)
    Fail("record is ", bytes.size(), " bytes long, shorter than its header of ", kHeaderBytes);
  const uint8_t* head = bytes.data();
  if (std::memcmp(head, "drrc", 4) != 0) Fail("magic is not \"drrc\": this is not a reinforcement record");
  if (const auto version = Load<uint16_t>(head + 4); version != 1)
    Fail("record version is ", version, "; this reader knows version 1 only");
  if (const auto header_bytes = Load<uint16_t>(head + 6); header_bytes != kHeaderBytes)
    Fail("header_bytes is ", header_bytes, ", want ", kHeaderBytes);
  const auto flags = Load<uint32_t>(head + 12);
  if (flags & ~kAllFlags) Fail("flags are ", flags, ": unknown bits are set");
  if (flags & (kWideWeights | kDouble | kPartnerClasses) && !(flags & kMixing))
    Fail("flags are ", flags, ": bits 4 to 6 need MIXING");

  Record r;
  r.record_bytes_ = Load<uint32_t>(head + 8);
  r.views_ = Load<uint32_t>(head + 16);
  r.image_height_ = Load<uint32_t>(head + 20);
  r.image_width_ = Load<uint32_t>(head + 24);
  r.view_height_ = Load<uint16_t>(head + 28);
  r.view_width_ = Load<uint16_t>(head + 30);
  r.num_ops_ = Load<uint16_t>(head + 32);
  r.op_entries_ = Load<uint16_t>(head + 34);
  r.topk_ = Load<uint16_t>(head + 36);
  r.class_entries_ = Load<uint16_t>(head + 38);
  r.encoding_ = head[40];
  r.log_step_ = Load<float>(head + 44);
  CheckRange("views", r.views_, 1, kMaxViews);
  CheckRange("image_height", r.image_height_, 1, kMaxSide);
  CheckRange("image_width", r.image_width_, 1, kMaxSide);
  CheckRange("view_height", r.view_height_, 1, kMaxSide);
  CheckRange("view_width", r.view_width_, 1, kMaxSide);
  CheckRange("num_ops", r.num_ops_, 0, kMaxOps);
  CheckTable("op_entries", r.op_entries_, "num_ops", r.num_ops_);
  r.partner_classes_ = flags & kPartnerClasses;
  CheckTable("class_entries", r.class_entries_, "topk", r.topk_);
  if (r.class_entries_ < r.topk_)
    Fail("class_entries is ", r.class_entries_, ", fewer than topk = ", r.topk_);
  CheckRange("probability_encoding", r.encoding_, kFloat32, kLogCode);
  r.partner_entries_ = Load<uint16_t>(head + 42);
  if (head[41] != 0 || (!(flags & kMixing) && r.partner_entries_ != 0))
    Fail("reserved bytes 41 to 43 of the header are not zero");
  r.group_rows_ = Load<uint32_t>(head + 48);
  CheckRange("group_rows", r.group_rows_, 1, r.views_);
  r.flip_ = flags & kFlip;
  r.erase_ = flags & kErase;
  r.mixing_ = flags & kMixing;
  r.pairs_ = flags & kDouble;
  r.wide_weights_ = flags & kWideWeights;
  if (r.pairs_ && r.views_ % 2) Fail("views is ", r.views_, ", want an even number with DOUBLE");
  if (r.pairs_ && r.group_rows_ % 2)
    Fail("group_rows is ", r.group_rows_, ", want an even number with DOUBLE");
  if (r.encoding_ == kLogCode ? !(r.log_step_ > 0 && std::isfinite(r.log_step_)) : r.log_step_ != 0)
    Fail("log_step is ", r.log_step_, " with probability_encoding ", unsigned{r.encoding_},
         ": want finite and above 0 with encoding 2, else 0");

  r.class_bytes_ = flags & kWideClasses ? 4 : 2;
  r.op_index_bytes_ = r.op_entries_ > 256 ? 2 : 1;
  r.class_index_bytes_ = r.class_entries_ > 256 ? 2 : 1;
  r.erase_bytes_ = r.view_height_ > 255 || r.view_width_ > 255 ? 2 : 1;
  r.crop_bits_height_ = std::bit_width(BoxCount(r.image_height_) - 1);
  r.crop_bits_width_ = std::bit_width(BoxCount(r.image_width_) - 1);

  Columns columns("its head", bytes, kHeaderBytes);
  if (r.partner_classes_) {
    if (r.topk_ == 0) Fail("flags are ", flags, ": PARTNER_CLASSES needs predictions");
    r.class_counts_ = columns.Take("class counts", 2 * (uint64_t{r.partner_entries_} + 1));
    uint32_t total = 0, largest = 0;
    for (uint32_t group = 0; group <= r.partner_entries_; ++group) {
      const uint32_t count = LoadUint(r.class_counts_, 2, group);
      total += count;
      largest = std::max(largest, count);
    }
    if (total != r.class_entries_)
      Fail("class_entries is ", r.class_entries_, ", but the class counts add up to ", total);
    r.class_index_bytes_ = largest > 256 ? 2 : 1;
  }
  r.classes_ = columns.Take("classes", uint64_t{r.class_bytes_} * r.class_entries_);
  r.op_ids_ = columns.Take("op ids", r.op_entries_);
  r.op_magnitudes_ = columns.Take("op magnitudes", 4 * uint64_t{r.op_entries_});
  r.partner_table_ = columns.Take("partner table", 4 * uint64_t{r.partner_entries_});
  r.partner_index_bytes_ = r.partner_entries_ == 0 ? 0 : r.partner_entries_ > 256 ? 2 : 1;
  r.head_bytes_ = columns.at();
  r.groups_.resize((r.views_ + r.group_rows_ - 1) / r.group_rows_);
  return r;
}

size_t Record::AddGroup(uint32_t group, std::span<const uint8_t> bytes) {
  if (group >= groups()) Fail("row group ", group, " does not exist: the record has ", groups());
  Group g;
  g.first = group * group_rows_;
  g.rows = std::min(group_rows_, views_ - g.first);
  g.first_drawn = pairs_ ? g.first / 2 : g.first;
  g.drawn = pairs_ ? g.rows / 2 : g.rows;
  const uint64_t n = g.drawn;
  Columns columns("a row group", bytes, 0);
  g.crops = columns.TakeBits("crops", n * (crop_bits_height_ + crop_bits_width_));
  if (flip_) g.flips = columns.TakeBits("flips", n);
  if (erase_) {
    g.erased = columns.TakeBits("erased", n);
    g.erase_boxes = columns.Take("erase boxes", 4 * uint64_t{erase_bytes_} * CountBits(g.erased, g.drawn));
  }
  g.ops = columns.Take("ops", n * num_ops_ * op_index_bytes_);
  g.class_indices = columns.Take("class indices", uint64_t{g.rows} * topk_ * class_index_bytes_);
  constexpr uint64_t kProbabilityBytes[] = {4, 2, 1};  // by encoding
  g.probabilities = columns.Take("probabilities", uint64_t{g.rows} * topk_ * kProbabilityBytes[encoding_]);
  if (mixing_) {
    g.partnered = columns.TakeBits("partnered", n);
    const uint32_t q = g.partners = CountBits(g.partnered, g.drawn);
    if (pairs_ && q != g.drawn)
      Fail("a double-mix has ", q, " partners for ", g.drawn, " pairs: each must have one");
    g.mixups = columns.TakeBits("mixups", q);
    g.cuts = columns.TakeBits("cutmixes", q);
    g.partner_flips = columns.TakeBits("partner flips", q);
    g.partner_erased = columns.TakeBits("partner erased", q);
    g.weights = columns.Take("mixup weights", uint64_t{wide_weights_ ? 4u : 2u} * CountBits(g.mixups, q));
    g.partner_crops_low = columns.Take("partner crops, low bytes", 4 * uint64_t{q});
    g.partner_indices = columns.Take("partners", uint64_t{q} * partner_index_bytes_);
    g.partner_crops_high = columns.Take("partner crops, high bytes", 4 * uint64_t{q});
    g.cut_count = CountBits(g.cuts, q);
    g.cut_boxes = columns.Take("cutmix boxes", 4 * uint64_t{erase_bytes_} * g.cut_count);
    g.partner_erase_boxes =
        columns.Take("partner erase boxes", 4 * uint64_t{erase_bytes_} * CountBits(g.partner_erased, q));
    g.partner_ops = columns.Take("partner ops", uint64_t{q} * num_ops_ * op_index_bytes_);
  }
  groups_[group] = g;
  return columns.at();
}

void Record::ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids,
                      std::span<float> probs) const {
  if (row >= views_) Fail("view ", row, " does not exist: the record holds views 0 to ", views_ - 1);
  if (view.size() != static_cast<size_t>(view_words()) || ids.size() != topk_ || probs.size() != topk_)
    throw std::invalid_argument("Record::ReadView: output spans do not fit the record");
  const Group& group = groups_[group_of(row)];
  if (group.rows == 0) throw std::logic_error("Record::ReadView: the row's group was not added");
  const uint32_t line = row - group.first, at = pairs_ ? line / 2 : line;
  ReadCrop(group, at, &view[0]);
  view[4] = flip_ && Bit(group.flips, at);
  ReadErase(group, at, &view[5]);
  view[9] = num_ops();
  ReadOps(group.first_drawn + at, group.ops, group.drawn, at, &view[kViewHeaderWords]);
  if (mixing_) {
    const auto words = view.subspan(plain_words());
    ReadMix(group, at, words);
    words[1] = pairs_ && row % 2;
  }
  if (topk_ > 0) {
    ReadClasses(group, line, ids.data());
    ReadProbabilities(group, line, probs.data());
  }
}

void Record::ReadCrop(const Group& group, uint32_t at, int32_t* box) const {
  const uint64_t first = uint64_t{at} * (crop_bits_height_ + crop_bits_width_);
  const uint32_t row = group.first_drawn + at;
  DecodeBox("vertical", row, LoadBits(group.crops, first, crop_bits_height_), image_height_, &box[0],
            &box[2]);
  DecodeBox("horizontal", row, LoadBits(group.crops, first + crop_bits_height_, crop_bits_width_),
            image_width_, &box[1], &box[3]);
}

void Record::ReadErase(const Group& group, uint32_t at, int32_t* box) const {
  box[0] = box[1] = box[2] = box[3] = 0;
  if (!erase_ || !Bit(group.erased, at)) return;
  const uint64_t entry = CountBits(group.erased, at);
  uint32_t edge[4];
  for (int i = 0; i < 4; ++i) edge[i] = LoadUint(group.erase_boxes, erase_bytes_, 4 * entry + i);
  CheckBox("erase", group.first_drawn + at, edge, box);
}

void Record::CheckBox(const char* name, uint32_t row, const uint32_t edge[4], int32_t* box) const {
  if (edge[2] < 1 || edge[3] < 1 || edge[0] + edge[2] > view_height_ || edge[1] + edge[3] > view_width_)
    Fail("view ", row, ": ", name, " box (top ", edge[0], ", left ", edge[1], ", height ", edge[2],
         ", width ", edge[3], ") is empty or outside the view of ", view_height_, "x", view_width_);
  for (int i = 0; i < 4; ++i) box[i] = static_cast<int32_t>(edge[i]);
}

uint32_t Record::PartnerEntry(const Group& group, uint32_t at, uint32_t entry) const {
  const uint32_t place = LoadUint(group.partner_indices, partner_index_bytes_, entry);
  if (place >= partner_entries_)
    Fail("view ", group.first_drawn + at, ": partner table entry ", place, " is not below ",
         partner_entries_);
  return place;
}

void Record::ReadMix(const Group& group, uint32_t at, std::span<int32_t> words) const {
  const uint32_t row = group.first_drawn + at;
  FillNoPartner(words);
  if (!Bit(group.partnered, at)) return;
  const uint32_t entry = CountBits(group.partnered, at);
  words[0] = kSelfPartner;
  if (partner_entries_ > 0) {
    const uint32_t place = PartnerEntry(group, at, entry);
    const uint32_t number = LoadUint(partner_table_, 4, place);
    if (number > static_cast<uint32_t>(std::numeric_limits<int32_t>::max()))
      Fail("view ", row, ": partner ", number, " does not fit int32");
    words[0] = static_cast<int32_t>(number);
  }
  if (Bit(group.mixups, entry)) {
    const uint64_t place = CountBits(group.mixups, entry);
    const float lam = wide_weights_
                          ? Load<float>(group.weights + 4 * place)
                          : static_cast<float>(Load<uint16_t>(group.weights + 2 * place)) / 65536.0f;
    if (!(lam >= 0 && lam < 1)) Fail("view ", row, ": mixup weight ", lam, " is not in 0 to 1");
    words[2] = std::bit_cast<int32_t>(lam);
  }
  uint32_t edge[4];
  if (Bit(group.cuts, entry)) {
    const uint64_t place = CountBits(group.cuts, entry);
    for (int i = 0; i < 4; ++i)
      edge[i] = LoadUint(group.cut_boxes, erase_bytes_, uint64_t{group.cut_count} * i + place);
    CheckBox("cutmix", row, edge, &words[3]);
  }

  int32_t* view = words.data() + kMixWords;
  for (int i = 0; i < 4; ++i) {
    const uint64_t place = uint64_t{group.partners} * i + entry;
    view[i] = group.partner_crops_low[place] | group.partner_crops_high[place] << 8;
  }
  const uint32_t height = partner_entries_ ? kMaxSide : image_height_,
                 width = partner_entries_ ? kMaxSide : image_width_;
  if (view[2] < 1 || view[3] < 1 || static_cast<uint32_t>(view[0] + view[2]) > height ||
      static_cast<uint32_t>(view[1] + view[3]) > width)
    Fail("view ", row, ": partner crop (top ", view[0], ", left ", view[1], ", height ", view[2], ", width ",
         view[3], ") is empty or outside ", height, "x", width);
  view[4] = Bit(group.partner_flips, entry);
  if (Bit(group.partner_erased, entry)) {
    const uint64_t place = CountBits(group.partner_erased, entry);
    for (int i = 0; i < 4; ++i) edge[i] = LoadUint(group.partner_erase_boxes, erase_bytes_, 4 * place + i);
    CheckBox("partner erase", row, edge, &view[5]);
  }
  ReadOps(row, group.partner_ops, group.partners, entry, &view[kViewHeaderWords]);
}

void Record::ReadOps(uint32_t row, const uint8_t* column, uint32_t rows, uint32_t at, int32_t* words) const {
  for (uint32_t slot = 0; slot < num_ops_; ++slot) {
    const uint32_t entry = LoadUint(column, op_index_bytes_, uint64_t{slot} * rows + at);
    if (entry >= op_entries_)
      Fail("view ", row, ": op entry ", entry, " in slot ", slot, " is not below op_entries = ", op_entries_);
    if (op_ids_[entry] >= kNumOpIds)
      Fail("op id ", unsigned{op_ids_[entry]}, " of table entry ", entry, " is not below ", int{kNumOpIds});
    const float magnitude = Load<float>(op_magnitudes_ + 4 * entry);
    if (!std::isfinite(magnitude)) Fail("op magnitude of table entry ", entry, " is not finite");
    words[2 * slot] = op_ids_[entry];
    words[2 * slot + 1] = std::bit_cast<int32_t>(magnitude);
  }
}

void Record::ReadClasses(const Group& group, uint32_t at, int32_t* ids) const {
  const uint32_t row = group.first + at;
  uint32_t first = 0, entries = class_entries_;  // the table that serves this view
  thread_local std::vector<uint32_t> table;      // its classes, with partner_classes_
  if (partner_classes_) {
    uint32_t number = partner_entries_;
    const uint32_t drawn = pairs_ ? at / 2 : at;
    if (partner_entries_ > 0 && Bit(group.partnered, drawn))
      number = PartnerEntry(group, drawn, CountBits(group.partnered, drawn));
    for (uint32_t i = 0; i < number; ++i) first += LoadUint(class_counts_, 2, i);
    entries = LoadUint(class_counts_, 2, number);
    table.resize(entries);
    uint64_t id = 0;
    for (uint32_t i = 0; i < entries; ++i) {
      uint32_t gap = 0;
      for (uint32_t byte = 0; byte < class_bytes_; ++byte)
        gap |= uint32_t{classes_[uint64_t{byte} * class_entries_ + first + i]} << (8 * byte);
      if (gap == 0 && i > 0) Fail("view ", row, ": class gap of table entry ", first + i, " is 0");
      id += gap;
      table[i] = static_cast<uint32_t>(std::min<uint64_t>(id, std::numeric_limits<uint32_t>::max()));
    }
  }
  uint64_t seen[65536 / 64];  // one bit per table entry; only the words in use are cleared
  std::fill_n(seen, (entries + 63) / 64, 0);
  for (uint32_t k = 0; k < topk_; ++k) {
    const uint32_t entry = LoadUint(group.class_indices, class_index_bytes_, uint64_t{k} * group.rows + at);
    if (entry >= entries)
      Fail("view ", row, ": class entry ", entry, " of rank ", k, " is not below class_entries = ", entries);
    uint64_t& word = seen[entry / 64];
    const uint64_t bit = uint64_t{1} << (entry % 64);
    if (word & bit) Fail("view ", row, ": class entry ", entry, " of rank ", k, " occurs twice");
    word |= bit;
    const uint32_t id = partner_classes_ ? table[entry] : LoadUint(classes_, class_bytes_, entry);
    if (id > static_cast<uint32_t>(std::numeric_limits<int32_t>::max()))
      Fail("class id ", id, " of table entry ", entry, " does not fit int32");
    ids[k] = static_cast<int32_t>(id);
  }
}

void Record::ReadProbabilities(const Group& group, uint32_t at, float* probs) const {
  const uint32_t row = group.first + at;
  if (encoding_ == kLogCode) {
    const LogWeights& weights = LogWeights::For(log_step_);
    double total = weights.rest[group.probabilities[at]];
    uint32_t code = 0;
    // Two passes over the codes: the weights are divided by a sum that is known only at the end, and a float
    // could not hold them in between.
    for (uint32_t k = 0; k < topk_; ++k) {
      if (k > 0) code += group.probabilities[uint64_t{k} * group.rows + at];
      if (code > kMaxCode)
        Fail("view ", row, ": probability code ", code, " of rank ", k, " is above ", kMaxCode);
      total += weights.code[code];
    }
    if (!std::isfinite(total)) Fail("view ", row, ": log_step ", log_step_, " makes the rest infinite");
    code = 0;
    for (uint32_t k = 0; k < topk_; ++k) {
      if (k > 0) code += group.probabilities[uint64_t{k} * group.rows + at];
      probs[k] = static_cast<float>(weights.code[code] / total);
    }
    return;
  }
  float previous = 1;
  for (uint32_t k = 0; k < topk_; ++k) {
    const uint64_t index = uint64_t{k} * group.rows + at;
    const float p = encoding_ == kFloat16 ? HalfToFloat(Load<uint16_t>(group.probabilities + 2 * index))
                                          : Load<float>(group.probabilities + 4 * index);
    if (!(p >= 0 && p <= previous))  // also refuses NaN
      Fail("view ", row, ": probability ", p, " of rank ", k, " is outside 0 to 1 or above the rank before (",
           previous, ")");
    probs[k] = p;
    previous = p;
  }
}

struct Reader::Context {
  ZSTD_DCtx* zstd = ZSTD_createDCtx();
  Context() {
    if (!zstd) throw std::bad_alloc();
  }
  ~Context() { ZSTD_freeDCtx(zstd); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

Reader::Reader() : context_(std::make_unique<Context>()) {}
Reader::~Reader() = default;
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;

const Record& Reader::Open(std::span<const uint8_t> member) {
  record_.reset();
  FindFrames(member);
  const Frame& last = frames_.back();
  const std::span<const uint8_t> head = Content(frames_.front());
  Record record = Record::Parse(head);
  if (const size_t bytes = last.content_at + last.content_bytes; record.record_bytes() != bytes)
    Fail("record_bytes is ", record.record_bytes(), ", but the record is ", bytes, " bytes long");
  const uint32_t groups = record.groups();
  if (const size_t want = groups == 1 ? 1 : size_t{groups} + 1; frames_.size() != want)
    Fail("the member has ", frames_.size(), " zstd frames, but ", groups, " row groups need ", want);
  size_t end = record.head_bytes();
  if (groups == 1) end += record.AddGroup(0, head.subspan(end));
  if (end != head.size())
    Fail("record is ", head.size(), " bytes long, but header and columns need only ", end);
  return record_.emplace(std::move(record));
}

void Reader::ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids, std::span<float> probs) {
  if (!record_) throw std::logic_error("Reader::ReadView: no record is open");
  if (row < record_->views() && !record_->has_group(record_->group_of(row))) {
    const uint32_t group = record_->group_of(row);
    const std::span<const uint8_t> content = Content(frames_[group + 1]);
    const size_t used = record_->AddGroup(group, content);
    if (used != content.size())
      Fail("row group ", group, " is ", content.size(), " bytes long, but its columns need only ", used);
  }
  record_->ReadView(row, view, ids, probs);
}

void Reader::FindFrames(std::span<const uint8_t> member) {
  frames_.clear();
  size_t content = 0;
  auto rest = member;
  do {
    const unsigned long long size =  // NOLINT: zstd's type
        ZSTD_getFrameContentSize(rest.data(), rest.size());
    // The magic number is looked at here because zstd takes skippable frames for empty ones.
    if (size == ZSTD_CONTENTSIZE_ERROR || Load<uint32_t>(rest.data()) != ZSTD_MAGICNUMBER)
      Fail("not a zstd frame (", rest.size(), " bytes at offset ", member.size() - rest.size(), ")");
    if (size == ZSTD_CONTENTSIZE_UNKNOWN) Fail("zstd frame does not carry its content size");
    if (size > kMaxRecordBytes - content)
      Fail("zstd frames hold ", content, " + ", size, " bytes, more than ", kMaxRecordBytes);
    const size_t frame = ZSTD_findFrameCompressedSize(rest.data(), rest.size());
    if (ZSTD_isError(frame)) Fail("zstd frame of ", rest.size(), " bytes: ", ZSTD_getErrorName(frame));
    frames_.push_back({rest.first(frame), content, static_cast<size_t>(size)});
    content += size;
    rest = rest.subspan(frame);
  } while (!rest.empty() && frames_.size() <= kMaxViews);
  if (!rest.empty()) Fail("the member has more than ", frames_.size(), " zstd frames");
  if (content > capacity_) {
    const size_t capacity = std::bit_ceil(content);
    buffer_.reset(new uint8_t[capacity]);  // not make_unique: that would clear it
    capacity_ = capacity;
  }
}

std::span<const uint8_t> Reader::Content(const Frame& frame) {
  uint8_t* content = buffer_.get() + frame.content_at;
  const size_t written = ZSTD_decompressDCtx(context_->zstd, content, frame.content_bytes, frame.bytes.data(),
                                             frame.bytes.size());
  if (ZSTD_isError(written))
    Fail("zstd frame of ", frame.bytes.size(), " bytes: ", ZSTD_getErrorName(written));
  if (written != frame.content_bytes)
    Fail("zstd frame holds ", written, " bytes, but its header says ", frame.content_bytes);
  return {content, written};
}

}  // namespace dali_dr::record
