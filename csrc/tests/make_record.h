// Random valid records and what a reader must get out of them, for tests, the fuzzer's seeds and the
// benchmark. Written from schemas/reinforcement-record.md alone, in the encoder's direction, so that it
// shares nothing with the parser.
#ifndef DALI_DR_CSRC_TESTS_MAKE_RECORD_H_
#define DALI_DR_CSRC_TESTS_MAKE_RECORD_H_

#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace dali_dr::testing {

using Bytes = std::vector<uint8_t>;

inline constexpr uint32_t kHeaderBytes = 52;

struct RecordShape {
  uint32_t views = 5;
  uint32_t image_height = 375, image_width = 500;
  uint32_t view_height = 224, view_width = 224;
  uint32_t num_ops = 2, op_entries = 37;
  uint32_t topk = 10, class_entries = 50;
  uint32_t encoding = 2;    // 0 float32, 1 float16, 2 logarithmic code, 3 root code
  uint32_t pair_rank = 0;   // with the root code: first rank of which two falls share a byte; 0: none
  uint32_t class_bits = 0;  // of packed class ids; 0: they are not packed
  bool flip = true, erase = true, wide_classes = false;
  float log_step = 0.15f, root_step = 0.0235f;
  // Mixing: entries of the partner table (0: the image itself), or -1 for none. Then also:
  int partners = -1;
  bool wide_weights = false, partner_classes = false, pairs = false, own_mixes = false;
  uint32_t version = 2;
  uint32_t group_rows = 0;                  // 0: one group
  std::vector<uint32_t> partner_numbers{};  // of the partner table; empty: drawn
};

struct ExpectedView {
  std::vector<int32_t> words;
  std::vector<int32_t> ids;
  std::vector<float> probs;
};

struct MadeRecord {
  Bytes bytes;
  std::vector<size_t> frames;  // how many of the bytes each zstd frame holds
  std::vector<ExpectedView> views;
};

template <typename T>
void Append(Bytes& to, T value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

inline void AppendUint(Bytes& to, uint32_t value, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

/// A float16 of 0 ... 1 that is exact in float32: mantissa / 1024 * 2^exponent.
inline uint16_t MakeHalf(uint32_t exponent, uint32_t mantissa) {
  return static_cast<uint16_t>(exponent << 10 | mantissa);
}
inline float HalfValue(uint16_t half) {
  const int exponent = half >> 10;
  const float mantissa = static_cast<float>(half & 1023);
  return exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
}

/// Draws a record column by column, in the order of the schema.
class RecordMaker {
 public:
  RecordMaker(const RecordShape& shape, uint32_t seed)
      : s_(shape),
        random_(seed),
        box_bytes_(std::max(shape.view_height, shape.view_width) > 255 ? 2 : 1),
        tables_(shape.partner_classes ? static_cast<uint32_t>(shape.partners) + 1 : 1),
        table_size_(shape.class_entries / tables_),
        drawn_(shape.pairs ? shape.views / 2 : shape.views) {
    made_.views.resize(s_.views);
    for (auto& view : drawn_) view.words.assign(10 + 2 * s_.num_ops, 0);
  }

  MadeRecord Make() {
    PutTables();
    made_.frames.push_back(kHeaderBytes + columns_.size());
    const uint32_t group_rows = s_.group_rows ? s_.group_rows : s_.views;
    for (uint32_t first = 0; first < s_.views; first += group_rows) {
      const size_t before = columns_.size();
      PutGroup(first, std::min(first + group_rows, s_.views));
      if (group_rows < s_.views)
        made_.frames.push_back(columns_.size() - before);
      else
        made_.frames.back() += columns_.size() - before;
    }
    for (uint32_t row = 0; row < s_.views; ++row) {
      auto& words = made_.views[row].words;
      words = drawn_[s_.pairs ? row / 2 : row].words;
      if (!s_.pairs || s_.partners < 0) continue;
      const size_t mix = 10 + 2 * s_.num_ops;
      words[mix + 1] = row % 2;
      if (s_.own_mixes && row % 2)
        std::copy_n(second_[row / 2].begin(), 5, words.begin() + ptrdiff_t(mix) + 2);
    }
    PutHeader(group_rows);
    made_.bytes.insert(made_.bytes.end(), columns_.begin(), columns_.end());
    return std::move(made_);
  }

 private:
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  // ---- The head

  void PutTables() {
    s_.partner_classes ? PutClassGaps() : PutClasses();
    for (auto& id : op_ids_) columns_.push_back(id = static_cast<uint8_t>(Below(14)));
    for (auto& magnitude : op_magnitudes_)
      Append(columns_, magnitude = (static_cast<float>(Below(2001)) - 1000.f) / 10);
    for (size_t i = 0; i < numbers_.size(); ++i) {
      numbers_[i] = s_.partner_numbers.empty() ? Below(0x7fffffff) : s_.partner_numbers[i];
      AppendUint(columns_, numbers_[i], 4);
    }
    // Which partner each view has, before the class tables that may depend on it.
    if (s_.partners < 0) return;
    for (auto& partner : partner_)
      if (s_.pairs || Below(4)) partner = s_.partners > 0 ? static_cast<int>(Below(s_.partners)) : 0;
  }

  /// Every group has the same number of classes, rising.
  void PutClassGaps() {
    Bytes planes[4];
    for (uint32_t i = 0; i < tables_; ++i) AppendUint(columns_, table_size_, 2);
    for (uint32_t i = 0; i < s_.class_entries; ++i) {
      const uint32_t gap = 1 + static_cast<uint32_t>(random_() % (s_.wide_classes ? 70000 : 500));
      classes_[i] = gap + (i % table_size_ ? classes_[i - 1] : 0);
      for (int byte = 0; byte < 4; ++byte) planes[byte].push_back(static_cast<uint8_t>(gap >> (8 * byte)));
    }
    for (int byte = 0; byte < (s_.wide_classes ? 4 : 2); ++byte)
      columns_.insert(columns_.end(), planes[byte].begin(), planes[byte].end());
  }

  void PutClasses() {
    const uint32_t below = s_.class_bits ? 1u << s_.class_bits : 65536;
    const uint32_t spacing = s_.wide_classes ? 70000 : below / std::max(1u, s_.class_entries);
    for (uint32_t i = 0; i < s_.class_entries; ++i) {
      classes_[i] = (s_.class_entries - 1 - i) * spacing;
      if (s_.class_bits)
        PutBits(classes_[i], static_cast<int>(s_.class_bits));
      else
        AppendUint(columns_, classes_[i], s_.wide_classes ? 4 : 2);
    }
    FlushBits();
  }

  // ---- Columns of bits and of boxes

  void PutBits(uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bits_.push_back(value >> i & 1);
  }

  void FlushBits() {
    for (size_t i = 0; i < bits_.size(); i += 8) {
      uint8_t byte = 0;
      for (size_t j = i; j < std::min(i + 8, bits_.size()); ++j)
        byte |= static_cast<uint8_t>(bits_[j] << (j - i));
      columns_.push_back(byte);
    }
    bits_.clear();
  }

  void PutCropAxis(uint32_t length, int32_t* start, int32_t* extent) {
    const uint64_t d = Below(length);
    *extent = static_cast<int32_t>(length - d);
    *start = static_cast<int32_t>(Below(static_cast<uint32_t>(d) + 1));
    PutBits(d * (d + 1) / 2 + static_cast<uint64_t>(*start),
            std::bit_width(uint64_t{length} * (length + 1) / 2 - 1));
  }

  void DrawBox(uint32_t height, uint32_t width, int32_t* to) {
    to[2] = static_cast<int32_t>(1 + Below(height));
    to[3] = static_cast<int32_t>(1 + Below(width));
    to[0] = static_cast<int32_t>(Below(height - to[2] + 1));
    to[1] = static_cast<int32_t>(Below(width - to[3] + 1));
  }

  // ---- A group of rows

  void PutGroup(uint32_t first, uint32_t last) {
    const uint32_t begin = s_.pairs ? first / 2 : first, end = s_.pairs ? last / 2 : last;
    const std::span<ExpectedView> group(drawn_.data() + begin, end - begin);
    for (auto& view : group) {
      PutCropAxis(s_.image_height, &view.words[0], &view.words[2]);
      PutCropAxis(s_.image_width, &view.words[1], &view.words[3]);
    }
    FlushBits();
    if (s_.flip) {
      for (auto& view : group) bits_.push_back((view.words[4] = static_cast<int32_t>(Below(2))) != 0);
      FlushBits();
    }
    if (s_.erase) PutErase(group);
    std::vector<ExpectedView*> views;
    for (auto& view : group) {
      view.words[9] = static_cast<int32_t>(s_.num_ops);
      views.push_back(&view);
    }
    PutOps(views, 10);
    if (s_.topk > 0) {
      PutClassIndices(first, last);
      s_.encoding >= 2 ? PutCodes(first, last) : PutProbabilities(first, last);
    }
    if (s_.partners >= 0) PutMix(begin, end);
  }

  void PutErase(std::span<ExpectedView> group) {
    Bytes boxes;
    for (auto& view : group) {
      bits_.push_back(Below(4) == 0);
      if (!bits_.back()) continue;
      const uint32_t h = 1 + Below(s_.view_height), w = 1 + Below(s_.view_width);
      const uint32_t box[4] = {Below(s_.view_height - h + 1), Below(s_.view_width - w + 1), h, w};
      for (int i = 0; i < 4; ++i) {
        AppendUint(boxes, box[i], box_bytes_);
        view.words[5 + i] = static_cast<int32_t>(box[i]);
      }
    }
    FlushBits();
    columns_.insert(columns_.end(), boxes.begin(), boxes.end());
  }

  /// Slot after slot; `at` is the word of the first operation.
  void PutOps(const std::vector<ExpectedView*>& views, size_t at) {
    for (uint32_t slot = 0; slot < s_.num_ops; ++slot) {
      for (auto* view : views) {
        const uint32_t entry = Below(s_.op_entries);
        AppendUint(columns_, entry, s_.op_entries > 256 ? 2 : 1);
        view->words[at + 2 * slot] = op_ids_[entry];
        view->words[at + 1 + 2 * slot] = std::bit_cast<int32_t>(op_magnitudes_[entry]);
      }
    }
  }

  void PutClassIndices(uint32_t first, uint32_t last) {
    std::vector<std::vector<uint32_t>> entries(s_.views);
    for (uint32_t row = first; row < last; ++row) {
      // Low entries come early more often, as the most frequent classes stand first in real records.
      std::vector<std::pair<uint32_t, uint32_t>> order(table_size_);
      for (uint32_t i = 0; i < table_size_; ++i) order[i] = {Below(10 + i), i};
      std::sort(order.begin(), order.end());
      for (uint32_t k = 0; k < s_.topk; ++k) entries[row].push_back(order[k].second);
      const int own = partner_[s_.pairs ? row / 2 : row];
      const uint32_t table = !s_.partner_classes ? 0 : own >= 0 && s_.partners > 0 ? own : tables_ - 1;
      for (uint32_t entry : entries[row])
        made_.views[row].ids.push_back(static_cast<int32_t>(classes_[table * table_size_ + entry]));
    }
    for (uint32_t k = 0; k < s_.topk; ++k)
      for (uint32_t row = first; row < last; ++row)
        AppendUint(columns_, entries[row][k], table_size_ > 256 ? 2 : 1);
  }

  /// Codes of one row, and in `probs` what they stand for.
  std::vector<uint8_t> DrawCodes(std::vector<float>* probs) {
    std::vector<uint8_t> code(s_.topk);
    code[0] = static_cast<uint8_t>(Below(8) ? 96 + Below(60) : 255);
    uint32_t sum = 0;
    for (uint32_t k = 1; k < s_.topk; ++k) {
      const uint32_t step = std::min(k == 1 ? Below(40) : Below(8), 255 - sum);
      code[k] = static_cast<uint8_t>(k + 1 == s_.topk && Below(4) == 0 ? 255 - sum : step);
      sum += code[k];
    }
    const double delta = s_.log_step;
    const auto weight = [&](uint32_t c, int bias) {
      return c == 255 ? 0. : std::exp(-delta * (static_cast<int>(c) - bias));
    };
    double total = weight(code[0], 96);
    sum = 0;
    std::vector<double> weights;
    for (uint32_t k = 0; k < s_.topk; ++k) {
      sum += k ? code[k] : 0;
      weights.push_back(weight(sum, 0));
      total += weights.back();
    }
    for (double w : weights) probs->push_back(static_cast<float>(w / total));
    return code;
  }

  /// Rest code, first code, falls or pairs of falls of one row, and in `probs` what they stand for.
  std::vector<uint8_t> DrawRootCodes(std::vector<float>* probs) {
    const double delta = s_.root_step;
    const auto weight = [&](uint32_t c) {
      const double root = c == 0 ? 0.3 * delta : c * delta;
      return root * root;
    };
    uint32_t c = Below(8) ? 5 + Below(40) : Below(256);
    std::vector<uint8_t> bytes = {static_cast<uint8_t>(Below(3) ? Below(20) : Below(256)),
                                  static_cast<uint8_t>(c)};
    std::vector<double> weights = {weight(c)};
    double total = weight(bytes[0]) + weights[0];
    for (uint32_t k = 1; k < s_.topk; ++k) {
      const bool paired = s_.pair_rank > 0 && k >= s_.pair_rank;
      const uint32_t fall = std::min({Below(4) ? Below(6) : Below(256), c, paired ? 15u : 255u});
      c -= fall;
      weights.push_back(weight(c));
      total += weights.back();
      if (paired && (k - s_.pair_rank) % 2)
        bytes.back() = static_cast<uint8_t>(bytes.back() | fall << 4);
      else
        bytes.push_back(static_cast<uint8_t>(fall));
    }
    for (double w : weights) probs->push_back(static_cast<float>(w / total));
    return bytes;
  }

  void PutCodes(uint32_t first, uint32_t last) {
    std::vector<std::vector<uint8_t>> codes;
    for (uint32_t row = first; row < last; ++row) {
      auto* probs = &made_.views[row].probs;
      codes.push_back(s_.encoding == 3 ? DrawRootCodes(probs) : DrawCodes(probs));
    }
    for (size_t column = 0; column < codes[0].size(); ++column)
      for (const auto& code : codes) columns_.push_back(code[column]);
  }

  void PutProbabilities(uint32_t first, uint32_t last) {
    std::vector<float> p(s_.views);
    std::vector<uint16_t> half(s_.views);
    for (uint32_t k = 0; k < s_.topk; ++k) {
      for (uint32_t row = first; row < last; ++row) {
        if (s_.encoding == 1) {  // a non-negative half grows with its bits: 0x3c00 is 1
          half[row] = static_cast<uint16_t>(k == 0 ? Below(0x3c01) : Below(half[row] + 1u));
          Append(columns_, half[row]);
          made_.views[row].probs.push_back(HalfValue(half[row]));
        } else {
          p[row] = (k == 0 ? 1 : p[row]) * (static_cast<float>(Below(1001)) / 1000);
          Append(columns_, p[row]);
          made_.views[row].probs.push_back(p[row]);
        }
      }
    }
  }

  // ---- Mixed views

  void PutMix(uint32_t begin, uint32_t end) {
    std::vector<ExpectedView*> mixed;
    std::vector<int> of;
    std::vector<int32_t*> mixes;  // lam and CutMix box of each entry of mixups and cutmixes
    for (uint32_t row = begin; row < end; ++row) {
      auto& words = drawn_[row].words;
      words.insert(words.end(), {-1, 0, std::bit_cast<int32_t>(1.0f), 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0,
                                 static_cast<int32_t>(s_.num_ops)});
      words.resize(words.size() + 2 * s_.num_ops, 0);
      bits_.push_back(partner_[row] >= 0);
      if (partner_[row] < 0) continue;
      mixed.push_back(&drawn_[row]);
      of.push_back(partner_[row]);
      mixes.push_back(&words[10 + 2 * s_.num_ops + 2]);
      if (s_.own_mixes) mixes.push_back(second_[row].data());
    }
    FlushBits();
    const size_t mix = 10 + 2 * s_.num_ops, other = mix + 7;
    std::vector<bool> mixups, cuts, flips, erased;
    for (auto* column : {&mixups, &cuts, &flips, &erased}) {
      const size_t entries = column == &mixups || column == &cuts ? mixes.size() : mixed.size();
      for (size_t i = 0; i < entries; ++i) column->push_back(Below(2));
      bits_ = *column;
      FlushBits();
    }
    for (size_t i = 0; i < mixed.size(); ++i) {
      mixed[i]->words[mix] = s_.partners > 0 ? static_cast<int32_t>(numbers_[of[i]]) : -2;
      mixed[i]->words[other + 4] = flips[i];
    }
    for (size_t i = 0; i < mixes.size(); ++i)
      if (mixups[i]) PutWeight(mixes[i]);
    PutPartnerCrops(mixed, of, other);
    PutCuts(mixes, cuts);
    for (size_t i = 0; i < mixed.size(); ++i) {
      if (!erased[i]) continue;
      int32_t* box = &mixed[i]->words[other + 5];
      DrawBox(s_.view_height, s_.view_width, box);
      for (int edge = 0; edge < 4; ++edge) AppendUint(columns_, box[edge], box_bytes_);
    }
    PutOps(mixed, other + 10);
  }

  void PutWeight(int32_t* word) {
    const uint32_t weight = Below(65536);
    const float lam = static_cast<float>(weight) / (s_.wide_weights ? 70000.f : 65536.f);
    *word = std::bit_cast<int32_t>(lam);
    s_.wide_weights ? Append(columns_, lam) : AppendUint(columns_, weight, 2);
  }

  void PutPartnerCrops(const std::vector<ExpectedView*>& mixed, const std::vector<int>& of, size_t at) {
    for (auto* view : mixed)
      s_.partners > 0 ? DrawBox(65535, 65535, &view->words[at])
                      : DrawBox(s_.image_height, s_.image_width, &view->words[at]);
    for (int high = 0; high < 2; ++high) {
      for (int edge = 0; edge < 4; ++edge)
        for (auto* view : mixed) AppendUint(columns_, view->words[at + edge] >> (8 * high) & 255, 1);
      if (high == 0 && s_.partners > 0)
        for (int partner : of) AppendUint(columns_, partner, s_.partners > 256 ? 2 : 1);
    }
  }

  void PutCuts(const std::vector<int32_t*>& mixes, const std::vector<bool>& cuts) {
    for (size_t i = 0; i < mixes.size(); ++i)
      if (cuts[i]) DrawBox(s_.view_height, s_.view_width, mixes[i] + 1);
    for (int edge = 0; edge < 4; ++edge)
      for (size_t i = 0; i < mixes.size(); ++i)
        if (cuts[i]) AppendUint(columns_, mixes[i][1 + edge], box_bytes_);
  }

  void PutHeader(uint32_t group_rows) {
    Bytes& out = made_.bytes;
    for (char c : {'d', 'r', 'r', 'c'}) out.push_back(static_cast<uint8_t>(c));
    AppendUint(out, s_.version, 2);
    AppendUint(out, kHeaderBytes, 2);
    AppendUint(out, static_cast<uint32_t>(kHeaderBytes + columns_.size()), 4);
    AppendUint(out,
               (s_.flip ? 1 : 0) | (s_.erase ? 2 : 0) | (s_.wide_classes ? 4 : 0) |
                   (s_.partners >= 0 ? 8 : 0) | (s_.wide_weights ? 16 : 0) | (s_.pairs ? 32 : 0) |
                   (s_.partner_classes ? 64 : 0) | (s_.own_mixes ? 256 : 0) |
                   (s_.class_bits ? 128 | s_.class_bits << 24 : 0),
               4);
    for (uint32_t value : {s_.views, s_.image_height, s_.image_width}) AppendUint(out, value, 4);
    for (uint32_t value :
         {s_.view_height, s_.view_width, s_.num_ops, s_.op_entries, s_.topk, s_.class_entries})
      AppendUint(out, value, 2);
    AppendUint(out, s_.encoding, 1);
    AppendUint(out, s_.pair_rank, 1);
    AppendUint(out, std::max(s_.partners, 0), 2);
    Append(out, s_.encoding == 3 ? s_.root_step : s_.encoding == 2 ? s_.log_step : 0.f);
    AppendUint(out, group_rows, 4);
  }

  const RecordShape s_;
  std::mt19937 random_;
  const uint32_t box_bytes_;
  const uint32_t tables_, table_size_;  // class tables, and entries of each
  std::vector<ExpectedView> drawn_;     // rows of parameters; spread over the rows of predictions at the end
  std::vector<std::array<int32_t, 5>> second_ =  // lam and CutMix box of a pair's second row
      std::vector<std::array<int32_t, 5>>(drawn_.size(), {std::bit_cast<int32_t>(1.0f), 0, 0, 0, 0});
  std::vector<uint32_t> classes_ = std::vector<uint32_t>(s_.class_entries);
  std::vector<uint8_t> op_ids_ = std::vector<uint8_t>(s_.op_entries);
  std::vector<float> op_magnitudes_ = std::vector<float>(s_.op_entries);
  std::vector<uint32_t> numbers_ = std::vector<uint32_t>(std::max(s_.partners, 0));
  std::vector<int> partner_ = std::vector<int>(drawn_.size(), -1);  // entry of the partner table, -1: none
  std::vector<bool> bits_;                                          // of the column that is being written
  Bytes columns_;
  MadeRecord made_;
};

inline MadeRecord MakeRecord(const RecordShape& shape, uint32_t seed) {
  return RecordMaker(shape, seed).Make();
}

/// One zstd frame, with a checksum (records of version 2 have one, of version 1 need none).
inline Bytes Compress(const Bytes& content, int level = 3, bool checksum = true) {
  Bytes frame(ZSTD_compressBound(content.size()) + 4);
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum);
  const size_t size = ZSTD_compress2(context, frame.data(), frame.size(), content.data(), content.size());
  ZSTD_freeCCtx(context);
  if (ZSTD_isError(size)) throw std::runtime_error("ZSTD_compress failed");
  frame.resize(size);
  return frame;
}

/// The member of a shard: a zstd frame for each of these lengths of the content, and one for what is left
/// over.
inline Bytes CompressFrames(const Bytes& content, const std::vector<size_t>& lengths, bool checksums = true) {
  Bytes member;
  size_t at = 0;
  const auto add = [&](size_t end) {
    const Bytes frame = Compress(Bytes(content.begin() + static_cast<std::ptrdiff_t>(at),
                                       content.begin() + static_cast<std::ptrdiff_t>(end)),
                                 1, checksums);
    member.insert(member.end(), frame.begin(), frame.end());
    at = end;
  };
  for (size_t length : lengths) add(std::min(at + length, content.size()));
  if (at < content.size()) add(content.size());
  return member;
}
inline Bytes CompressFrames(const MadeRecord& made) {
  return CompressFrames(made.bytes, made.frames, made.bytes[4] > 1);  // by version
}

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_MAKE_RECORD_H_
