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

constexpr uint32_t kHeaderBytes = 48;
constexpr uint32_t kFlip = 1, kErase = 2, kWideClasses = 4, kMixing = 8, kWideWeights = 16, kDouble = 32,
                   kPartnerClasses = 64;
constexpr uint32_t kAllFlags = 127;
constexpr uint32_t kMaxViews = 65536, kMaxSide = 65535, kMaxOps = 16, kNumOperations = 14;
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

void RefuseUnusedBits(const char* name, const uint8_t* column, uint64_t bits) {
  if (bits % 8 && column[bits / 8] >> (bits % 8))
    Fail("unused bits of the ", name, " column are not zero: last byte is ", unsigned{column[bits / 8]});
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

}  // namespace

struct Decompressor::Context {
  ZSTD_DCtx* zstd = ZSTD_createDCtx();
  Context() {
    if (!zstd) throw std::bad_alloc();
  }
  ~Context() { ZSTD_freeDCtx(zstd); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

Decompressor::Decompressor() : context_(std::make_unique<Context>()) {}
Decompressor::~Decompressor() = default;
Decompressor::Decompressor(Decompressor&&) noexcept = default;
Decompressor& Decompressor::operator=(Decompressor&&) noexcept = default;

std::span<const uint8_t> Decompressor::Decompress(std::span<const uint8_t> frame) {
  const unsigned long long size =
      ZSTD_getFrameContentSize(frame.data(), frame.size());  // NOLINT: zstd's type
  if (size == ZSTD_CONTENTSIZE_ERROR) Fail("not a zstd frame (", frame.size(), " bytes)");
  if (size == ZSTD_CONTENTSIZE_UNKNOWN) Fail("zstd frame does not carry its content size");
  if (size > kMaxRecordBytes) Fail("zstd frame holds ", size, " bytes, more than ", kMaxRecordBytes);
  const size_t frame_size = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(frame_size))
    Fail("zstd frame of ", frame.size(), " bytes: ", ZSTD_getErrorName(frame_size));
  if (frame_size != frame.size())
    Fail("zstd frame is ", frame_size, " bytes long, but its member has ", frame.size());
  if (size > capacity_) {
    const size_t capacity = std::bit_ceil(static_cast<size_t>(size));
    buffer_.reset(new uint8_t[capacity]);  // not make_unique: that would clear it
    capacity_ = capacity;
  }
  const size_t written =
      ZSTD_decompressDCtx(context_->zstd, buffer_.get(), capacity_, frame.data(), frame.size());
  if (ZSTD_isError(written)) Fail("zstd frame of ", frame.size(), " bytes: ", ZSTD_getErrorName(written));
  if (written != size) Fail("zstd frame holds ", written, " bytes, but its header says ", size);
  return {buffer_.get(), written};
}

Record Record::Parse(std::span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes)
    Fail("record is ", bytes.size(), " bytes long, shorter than its header of ", kHeaderBytes);
  const uint8_t* head = bytes.data();
  if (std::memcmp(head, "drrc", 4) != 0) Fail("magic is not \"drrc\": this is not a reinforcement record");
  if (const auto version = Load<uint16_t>(head + 4); version != 1)
    Fail("record version is ", version, "; this reader knows version 1 only");
  if (const auto header_bytes = Load<uint16_t>(head + 6); header_bytes != kHeaderBytes)
    Fail("header_bytes is ", header_bytes, ", want ", kHeaderBytes);
  const auto record_bytes = Load<uint32_t>(head + 8);
  if (record_bytes != bytes.size())
    Fail("record_bytes is ", record_bytes, ", but the record is ", bytes.size(), " bytes long");
  const auto flags = Load<uint32_t>(head + 12);
  if (flags & ~kAllFlags) Fail("flags are ", flags, ": unknown bits are set");
  if (flags & (kWideWeights | kDouble | kPartnerClasses) && !(flags & kMixing))
    Fail("flags are ", flags, ": bits 4 to 6 need MIXING");

  Record r;
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
  if (flags & kDouble && r.views_ % 2) Fail("views is ", r.views_, ", want an even number with DOUBLE");
  r.drawn_ = flags & kDouble ? r.views_ / 2 : r.views_;
  r.wide_weights_ = flags & kWideWeights;
  if (r.encoding_ == kLogCode ? !(r.log_step_ > 0 && std::isfinite(r.log_step_)) : r.log_step_ != 0)
    Fail("log_step is ", r.log_step_, " with probability_encoding ", unsigned{r.encoding_},
         ": want finite and above 0 with encoding 2, else 0");

  r.class_bytes_ = flags & kWideClasses ? 4 : 2;
  r.op_index_bytes_ = r.op_entries_ > 256 ? 2 : 1;
  r.class_index_bytes_ = r.class_entries_ > 256 ? 2 : 1;
  r.erase_bytes_ = r.view_height_ > 255 || r.view_width_ > 255 ? 2 : 1;
  r.crop_bits_height_ = std::bit_width(BoxCount(r.image_height_) - 1);
  r.crop_bits_width_ = std::bit_width(BoxCount(r.image_width_) - 1);

  uint64_t at = kHeaderBytes;  // cannot overflow: each column is below 2^35 bytes
  const auto column = [&](const char* name, uint64_t length) {
    const uint8_t* begin = head + at;
    if (length > bytes.size() - at)
      Fail("record of ", bytes.size(), " bytes ends inside the ", name, " column (", length,
           " bytes from offset ", at, ")");
    at += length;
    return begin;
  };
  const auto bit_bytes = [](uint64_t bits) { return (bits + 7) / 8; };
  const uint64_t n = r.drawn_, bit_column = bit_bytes(n);
  const uint64_t crop_bits = n * (r.crop_bits_height_ + r.crop_bits_width_);
  if (r.partner_classes_) {
    if (r.topk_ == 0) Fail("flags are ", flags, ": PARTNER_CLASSES needs predictions");
    r.class_counts_ = column("class counts", 2 * (uint64_t{r.partner_entries_} + 1));
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
  r.classes_ = column("classes", uint64_t{r.class_bytes_} * r.class_entries_);
  r.op_ids_ = column("op ids", r.op_entries_);
  r.op_magnitudes_ = column("op magnitudes", 4 * uint64_t{r.op_entries_});
  r.ops_ = column("ops", n * r.num_ops_ * r.op_index_bytes_);
  r.crops_ = column("crops", (crop_bits + 7) / 8);
  if (flags & kFlip) r.flips_ = column("flips", bit_column);
  if (flags & kErase) {
    r.erased_ = column("erased", bit_column);
    r.erase_boxes_ = column("erase boxes", 4 * uint64_t{r.erase_bytes_} * CountBits(r.erased_, r.drawn_));
  }
  r.class_indices_ = column("class indices", uint64_t{r.views_} * r.topk_ * r.class_index_bytes_);
  constexpr uint64_t kProbabilityBytes[] = {4, 2, 1};  // by encoding
  r.probabilities_ = column("probabilities", uint64_t{r.views_} * r.topk_ * kProbabilityBytes[r.encoding_]);
  if (flags & kMixing) {
    r.partner_table_ = column("partner table", 4 * uint64_t{r.partner_entries_});
    r.partnered_ = column("partnered", bit_column);
    const uint32_t q = r.partners_ = CountBits(r.partnered_, r.drawn_);
    r.mixups_ = column("mixups", bit_bytes(q));
    r.cuts_ = column("cutmixes", bit_bytes(q));
    r.partner_flips_ = column("partner flips", bit_bytes(q));
    r.partner_erased_ = column("partner erased", bit_bytes(q));
    r.weights_ = column("mixup weights", uint64_t{r.wide_weights_ ? 4u : 2u} * CountBits(r.mixups_, q));
    r.partner_crops_low_ = column("partner crops, low bytes", 4 * uint64_t{q});
    r.partner_index_bytes_ = r.partner_entries_ == 0 ? 0 : r.partner_entries_ > 256 ? 2 : 1;
    r.partner_indices_ = column("partners", uint64_t{q} * r.partner_index_bytes_);
    r.partner_crops_high_ = column("partner crops, high bytes", 4 * uint64_t{q});
    r.cut_count_ = CountBits(r.cuts_, q);
    r.cut_boxes_ = column("cutmix boxes", 4 * uint64_t{r.erase_bytes_} * r.cut_count_);
    r.partner_erase_boxes_ =
        column("partner erase boxes", 4 * uint64_t{r.erase_bytes_} * CountBits(r.partner_erased_, q));
    r.partner_ops_ = column("partner ops", uint64_t{q} * r.num_ops_ * r.op_index_bytes_);
  }
  if (at != bytes.size())
    Fail("record is ", bytes.size(), " bytes long, but header and columns need only ", at);
  // After the lengths, so that a wrong length is not reported as stray bits.
  RefuseUnusedBits("crops", r.crops_, crop_bits);
  if (r.flips_) RefuseUnusedBits("flips", r.flips_, n);
  if (r.erased_) RefuseUnusedBits("erased", r.erased_, n);
  if (r.mixing()) {
    const uint64_t q = r.partners_;
    RefuseUnusedBits("partnered", r.partnered_, n);
    RefuseUnusedBits("mixups", r.mixups_, q);
    RefuseUnusedBits("cutmixes", r.cuts_, q);
    RefuseUnusedBits("partner flips", r.partner_flips_, q);
    RefuseUnusedBits("partner erased", r.partner_erased_, q);
    if (flags & kDouble && r.partners_ != r.drawn_)
      Fail("a double-mix has ", r.partners_, " partners for ", r.drawn_, " pairs: each must have one");
  }
  return r;
}

void Record::ReadView(uint32_t row, std::span<int32_t> view, std::span<int32_t> ids,
                      std::span<float> probs) const {
  if (row >= views_) Fail("view ", row, " does not exist: the record holds views 0 to ", views_ - 1);
  if (view.size() != static_cast<size_t>(view_words()) || ids.size() != topk_ || probs.size() != topk_)
    throw std::invalid_argument("Record::ReadView: output spans do not fit the record");
  const uint32_t drawn = drawn_ < views_ ? row / 2 : row;
  ReadCrop(drawn, &view[0]);
  view[4] = flips_ && Bit(flips_, drawn);
  ReadErase(drawn, &view[5]);
  view[9] = num_ops();
  ReadOps(ops_, drawn_, drawn, &view[kViewWords]);
  if (mixing()) {
    const auto words = view.subspan(plain_words());
    ReadMix(drawn, words);
    words[1] = drawn_ < views_ && row % 2;
  }
  if (topk_ > 0) {
    ReadClasses(row, ids.data());
    ReadProbabilities(row, probs.data());
  }
}

void Record::ReadCrop(uint32_t row, int32_t* box) const {
  const uint64_t first = uint64_t{row} * (crop_bits_height_ + crop_bits_width_);
  DecodeBox("vertical", row, LoadBits(crops_, first, crop_bits_height_), image_height_, &box[0], &box[2]);
  DecodeBox("horizontal", row, LoadBits(crops_, first + crop_bits_height_, crop_bits_width_), image_width_,
            &box[1], &box[3]);
}

void Record::ReadErase(uint32_t row, int32_t* box) const {
  box[0] = box[1] = box[2] = box[3] = 0;
  if (!erased_ || !Bit(erased_, row)) return;
  const uint64_t entry = CountBits(erased_, row);
  uint32_t edge[4];
  for (int i = 0; i < 4; ++i) edge[i] = LoadUint(erase_boxes_, erase_bytes_, 4 * entry + i);
  CheckBox("erase", row, edge, box);
}

void Record::CheckBox(const char* name, uint32_t row, const uint32_t edge[4], int32_t* box) const {
  if (edge[2] < 1 || edge[3] < 1 || edge[0] + edge[2] > view_height_ || edge[1] + edge[3] > view_width_)
    Fail("view ", row, ": ", name, " box (top ", edge[0], ", left ", edge[1], ", height ", edge[2],
         ", width ", edge[3], ") is empty or outside the view of ", view_height_, "x", view_width_);
  for (int i = 0; i < 4; ++i) box[i] = static_cast<int32_t>(edge[i]);
}

void FillNoPartner(std::span<int32_t> words, int num_ops) {
  std::fill(words.begin(), words.end(), 0);
  words[0] = kNoPartner;
  words[2] = std::bit_cast<int32_t>(1.0f);
  int32_t* view = words.data() + kMixWords;
  view[2] = view[3] = 1;
  view[9] = num_ops;
}

uint32_t Record::PartnerEntry(uint32_t row, uint32_t entry) const {
  const uint32_t place = LoadUint(partner_indices_, partner_index_bytes_, entry);
  if (place >= partner_entries_)
    Fail("view ", row, ": partner table entry ", place, " is not below ", partner_entries_);
  return place;
}

void Record::ReadMix(uint32_t row, std::span<int32_t> words) const {
  FillNoPartner(words, num_ops());
  if (!Bit(partnered_, row)) return;
  const uint32_t entry = CountBits(partnered_, row);
  words[0] = kSelfPartner;
  if (partner_entries_ > 0) {
    const uint32_t place = PartnerEntry(row, entry);
    const uint32_t number = LoadUint(partner_table_, 4, place);
    if (number > static_cast<uint32_t>(std::numeric_limits<int32_t>::max()))
      Fail("view ", row, ": partner ", number, " does not fit int32");
    words[0] = static_cast<int32_t>(number);
  }
  if (Bit(mixups_, entry)) {
    const uint64_t at = CountBits(mixups_, entry);
    const float lam = wide_weights_ ? Load<float>(weights_ + 4 * at)
                                    : static_cast<float>(Load<uint16_t>(weights_ + 2 * at)) / 65536.0f;
    if (!(lam >= 0 && lam < 1)) Fail("view ", row, ": mixup weight ", lam, " is not in 0 to 1");
    words[2] = std::bit_cast<int32_t>(lam);
  }
  uint32_t edge[4];
  if (Bit(cuts_, entry)) {
    const uint64_t at = CountBits(cuts_, entry);
    for (int i = 0; i < 4; ++i) edge[i] = LoadUint(cut_boxes_, erase_bytes_, uint64_t{cut_count_} * i + at);
    CheckBox("cutmix", row, edge, &words[3]);
  }

  int32_t* view = words.data() + kMixWords;
  for (int i = 0; i < 4; ++i) {
    const uint64_t at = uint64_t{partners_} * i + entry;
    view[i] = partner_crops_low_[at] | partner_crops_high_[at] << 8;
  }
  const uint32_t height = partner_entries_ ? kMaxSide : image_height_,
                 width = partner_entries_ ? kMaxSide : image_width_;
  if (view[2] < 1 || view[3] < 1 || static_cast<uint32_t>(view[0] + view[2]) > height ||
      static_cast<uint32_t>(view[1] + view[3]) > width)
    Fail("view ", row, ": partner crop (top ", view[0], ", left ", view[1], ", height ", view[2], ", width ",
         view[3], ") is empty or outside ", height, "x", width);
  view[4] = Bit(partner_flips_, entry);
  if (Bit(partner_erased_, entry)) {
    const uint64_t at = CountBits(partner_erased_, entry);
    for (int i = 0; i < 4; ++i) edge[i] = LoadUint(partner_erase_boxes_, erase_bytes_, 4 * at + i);
    CheckBox("partner erase", row, edge, &view[5]);
  }
  ReadOps(partner_ops_, partners_, entry, &view[kViewWords]);
}

void Record::ReadOps(const uint8_t* column, uint32_t rows, uint32_t row, int32_t* words) const {
  for (uint32_t slot = 0; slot < num_ops_; ++slot) {
    const uint32_t entry = LoadUint(column, op_index_bytes_, uint64_t{slot} * rows + row);
    if (entry >= op_entries_)
      Fail("view ", row, ": op entry ", entry, " in slot ", slot, " is not below op_entries = ", op_entries_);
    if (op_ids_[entry] >= kNumOperations)
      Fail("op id ", unsigned{op_ids_[entry]}, " of table entry ", entry, " is not below ", kNumOperations);
    const float magnitude = Load<float>(op_magnitudes_ + 4 * entry);
    if (!std::isfinite(magnitude)) Fail("op magnitude of table entry ", entry, " is not finite");
    words[2 * slot] = op_ids_[entry];
    words[2 * slot + 1] = std::bit_cast<int32_t>(magnitude);
  }
}

void Record::ReadClasses(uint32_t row, int32_t* ids) const {
  uint32_t first = 0, entries = class_entries_;  // the table that serves this view
  thread_local std::vector<uint32_t> table;      // its classes, with partner_classes_
  if (partner_classes_) {
    uint32_t group = partner_entries_;
    const uint32_t drawn = drawn_ < views_ ? row / 2 : row;
    if (partner_entries_ > 0 && Bit(partnered_, drawn))
      group = PartnerEntry(drawn, CountBits(partnered_, drawn));
    for (uint32_t g = 0; g < group; ++g) first += LoadUint(class_counts_, 2, g);
    entries = LoadUint(class_counts_, 2, group);
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
    const uint32_t entry = LoadUint(class_indices_, class_index_bytes_, uint64_t{k} * views_ + row);
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

void Record::ReadProbabilities(uint32_t row, float* probs) const {
  if (encoding_ == kLogCode) {
    const LogWeights& weights = LogWeights::For(log_step_);
    double total = weights.rest[probabilities_[row]];
    uint32_t code = 0;
    // Two passes over the codes: the weights are divided by a sum that is known only at the end, and a float
    // could not hold them in between.
    for (uint32_t k = 0; k < topk_; ++k) {
      if (k > 0) code += probabilities_[uint64_t{k} * views_ + row];
      if (code > kMaxCode)
        Fail("view ", row, ": probability code ", code, " of rank ", k, " is above ", kMaxCode);
      total += weights.code[code];
    }
    if (!std::isfinite(total)) Fail("view ", row, ": log_step ", log_step_, " makes the rest infinite");
    code = 0;
    for (uint32_t k = 0; k < topk_; ++k) {
      if (k > 0) code += probabilities_[uint64_t{k} * views_ + row];
      probs[k] = static_cast<float>(weights.code[code] / total);
    }
    return;
  }
  float previous = 1;
  for (uint32_t k = 0; k < topk_; ++k) {
    const uint64_t index = uint64_t{k} * views_ + row;
    const float p = encoding_ == kFloat16 ? HalfToFloat(Load<uint16_t>(probabilities_ + 2 * index))
                                          : Load<float>(probabilities_ + 4 * index);
    if (!(p >= 0 && p <= previous))  // also refuses NaN
      Fail("view ", row, ": probability ", p, " of rank ", k, " is outside 0 to 1 or above the rank before (",
           previous, ")");
    probs[k] = p;
    previous = p;
  }
}

}  // namespace dali_dr::record
