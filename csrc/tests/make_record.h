// Random valid records and what a reader must get out of them, for tests, the fuzzer's seeds and the
// benchmark. Written from schemas/reinforcement-record.md alone, in the encoder's direction, so that it
// shares nothing with the parser.
#pragma once

#include <zstd.h>

#include <algorithm>
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
  uint32_t encoding = 2;  // 0 float32, 1 float16, 2 logarithmic code
  bool flip = true, erase = true, wide_classes = false;
  float log_step = 0.15f;
  // Mixing: entries of the partner table (0: the image itself), or -1 for none. Then also:
  int partners = -1;
  bool wide_weights = false, pairs = false, partner_classes = false;
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

inline MadeRecord MakeRecord(const RecordShape& s, uint32_t seed) {
  const uint32_t drawn = s.pairs ? s.views / 2 : s.views;  // rows of parameters
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  MadeRecord made;
  made.views.resize(s.views);
  Bytes columns;

  // With partner_classes every group has the same number of classes, rising.
  const uint32_t tables = s.partner_classes ? static_cast<uint32_t>(s.partners) + 1 : 1;
  const uint32_t table_size = s.class_entries / tables;
  std::vector<uint32_t> classes(s.class_entries);
  if (s.partner_classes) {
    Bytes planes[4];
    for (uint32_t i = 0; i < tables; ++i) AppendUint(columns, table_size, 2);
    for (uint32_t i = 0; i < s.class_entries; ++i) {
      const uint32_t gap = 1 + static_cast<uint32_t>(random() % (s.wide_classes ? 70000 : 500));
      classes[i] = gap + (i % table_size ? classes[i - 1] : 0);
      for (int byte = 0; byte < 4; ++byte) planes[byte].push_back(static_cast<uint8_t>(gap >> (8 * byte)));
    }
    for (int byte = 0; byte < (s.wide_classes ? 4 : 2); ++byte)
      columns.insert(columns.end(), planes[byte].begin(), planes[byte].end());
  }
  const uint32_t spacing = s.wide_classes ? 70000 : 65536 / std::max(1u, s.class_entries);
  for (uint32_t i = 0; i < s.class_entries && !s.partner_classes; ++i) {
    classes[i] = s.class_entries - 1 - i;
    classes[i] *= spacing;
    AppendUint(columns, classes[i], s.wide_classes ? 4 : 2);
  }
  std::vector<uint8_t> op_ids(s.op_entries);
  std::vector<float> op_magnitudes(s.op_entries);
  for (auto& id : op_ids) columns.push_back(id = static_cast<uint8_t>(below(14)));
  for (auto& magnitude : op_magnitudes)
    Append(columns, magnitude = (static_cast<float>(below(2001)) - 1000.f) / 10);

  std::vector<uint32_t> numbers(std::max(s.partners, 0));
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = s.partner_numbers.empty() ? below(0x7fffffff) : s.partner_numbers[i];
    AppendUint(columns, numbers[i], 4);
  }

  std::vector<ExpectedView> views(drawn);  // parameters only; spread over the rows below
  for (auto& view : views) view.words.assign(10 + 2 * s.num_ops, 0);
  // Which partner each view has, before the class tables that may depend on it.
  std::vector<int> partner(drawn, -1);
  if (s.partners >= 0)
    for (auto& p : partner)
      if (s.pairs || below(4)) p = s.partners > 0 ? static_cast<int>(below(s.partners)) : 0;

  std::vector<bool> bits;
  const auto put_bits = [&](uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bits.push_back(value >> i & 1);
  };
  const auto flush_bits = [&] {
    for (size_t i = 0; i < bits.size(); i += 8) {
      uint8_t byte = 0;
      for (size_t j = i; j < std::min(i + 8, bits.size()); ++j)
        byte |= static_cast<uint8_t>(bits[j] << (j - i));
      columns.push_back(byte);
    }
    bits.clear();
  };
  const auto put_box = [&](uint32_t length, int32_t* start, int32_t* extent) {
    const uint64_t d = below(length);
    *extent = static_cast<int32_t>(length - d);
    *start = static_cast<int32_t>(below(static_cast<uint32_t>(d) + 1));
    put_bits(d * (d + 1) / 2 + static_cast<uint64_t>(*start),
             std::bit_width(uint64_t{length} * (length + 1) / 2 - 1));
  };
  made.frames.push_back(kHeaderBytes + columns.size());
  const uint32_t group_rows = s.group_rows ? s.group_rows : s.views;
  for (uint32_t first = 0; first < s.views; first += group_rows) {
    const uint32_t last = std::min(first + group_rows, s.views);
    const uint32_t first_drawn = s.pairs ? first / 2 : first, last_drawn = s.pairs ? last / 2 : last;
    const std::span<ExpectedView> group(views.data() + first_drawn, last_drawn - first_drawn);
    const size_t before = columns.size();
    for (auto& view : group) {
      put_box(s.image_height, &view.words[0], &view.words[2]);
      put_box(s.image_width, &view.words[1], &view.words[3]);
    }
    flush_bits();
    if (s.flip) {
      for (auto& view : group) bits.push_back((view.words[4] = static_cast<int32_t>(below(2))) != 0);
      flush_bits();
    }
    if (s.erase) {
      Bytes boxes;
      const uint32_t width = std::max(s.view_height, s.view_width) > 255 ? 2 : 1;
      for (auto& view : group) {
        bits.push_back(below(4) == 0);
        if (!bits.back()) continue;
        const uint32_t h = 1 + below(s.view_height), w = 1 + below(s.view_width);
        const uint32_t box[4] = {below(s.view_height - h + 1), below(s.view_width - w + 1), h, w};
        for (int i = 0; i < 4; ++i) {
          AppendUint(boxes, box[i], width);
          view.words[5 + i] = static_cast<int32_t>(box[i]);
        }
      }
      flush_bits();
      columns.insert(columns.end(), boxes.begin(), boxes.end());
    }

    for (auto& view : group) view.words[9] = static_cast<int32_t>(s.num_ops);
    for (uint32_t slot = 0; slot < s.num_ops; ++slot) {
      for (auto& view : group) {
        const uint32_t entry = below(s.op_entries);
        AppendUint(columns, entry, s.op_entries > 256 ? 2 : 1);
        view.words[10 + 2 * slot] = op_ids[entry];
        view.words[11 + 2 * slot] = std::bit_cast<int32_t>(op_magnitudes[entry]);
      }
    }

    std::vector<std::vector<uint32_t>> entries(s.views);
    for (uint32_t row = first; row < last && s.topk > 0; ++row) {
      // Low entries come early more often, as the most frequent classes stand first in real records.
      std::vector<std::pair<uint32_t, uint32_t>> order(table_size);
      for (uint32_t i = 0; i < table_size; ++i) order[i] = {below(10 + i), i};
      std::sort(order.begin(), order.end());
      for (uint32_t k = 0; k < s.topk; ++k) entries[row].push_back(order[k].second);
      const int own = partner[s.pairs ? row / 2 : row];
      const uint32_t table = !s.partner_classes ? 0 : own >= 0 && s.partners > 0 ? own : tables - 1;
      for (uint32_t entry : entries[row])
        made.views[row].ids.push_back(static_cast<int32_t>(classes[table * table_size + entry]));
    }
    for (uint32_t k = 0; k < s.topk; ++k)
      for (uint32_t row = first; row < last; ++row)
        AppendUint(columns, entries[row][k], table_size > 256 ? 2 : 1);

    if (s.topk > 0 && s.encoding == 2) {
      std::vector<std::vector<uint8_t>> codes(s.views, std::vector<uint8_t>(s.topk));
      for (uint32_t row = first; row < last; ++row) {
        auto& code = codes[row];
        code[0] = static_cast<uint8_t>(below(8) ? 96 + below(60) : 255);
        uint32_t sum = 0;
        for (uint32_t k = 1; k < s.topk; ++k) {
          const uint32_t step = std::min(k == 1 ? below(40) : below(8), 255 - sum);
          code[k] = static_cast<uint8_t>(k + 1 == s.topk && below(4) == 0 ? 255 - sum : step);
          sum += code[k];
        }
        const double delta = s.log_step;
        const auto weight = [&](uint32_t c, int bias) {
          return c == 255 ? 0. : std::exp(-delta * (static_cast<int>(c) - bias));
        };
        double total = weight(code[0], 96);
        sum = 0;
        std::vector<double> weights;
        for (uint32_t k = 0; k < s.topk; ++k) {
          sum += k ? code[k] : 0;
          weights.push_back(weight(sum, 0));
          total += weights.back();
        }
        for (double w : weights) made.views[row].probs.push_back(static_cast<float>(w / total));
      }
      for (uint32_t k = 0; k < s.topk; ++k)
        for (uint32_t row = first; row < last; ++row) columns.push_back(codes[row][k]);
    } else if (s.topk > 0) {
      std::vector<float> p(s.views);
      std::vector<uint16_t> half(s.views);
      for (uint32_t k = 0; k < s.topk; ++k) {
        for (uint32_t row = first; row < last; ++row) {
          if (s.encoding == 1) {
            // A non-negative half grows with its bits: 0x3c00 is 1.
            half[row] =
                k == 0 ? static_cast<uint16_t>(below(0x3c01)) : static_cast<uint16_t>(below(half[row] + 1u));
            Append(columns, half[row]);
            made.views[row].probs.push_back(HalfValue(half[row]));
          } else {
            p[row] = k == 0 ? static_cast<float>(below(1001)) / 1000
                            : p[row] * (static_cast<float>(below(1001)) / 1000);
            Append(columns, p[row]);
            made.views[row].probs.push_back(p[row]);
          }
        }
      }
    }

    if (s.partners >= 0) {
      std::vector<ExpectedView*> mixed;
      std::vector<int> of;
      for (uint32_t row = first_drawn; row < last_drawn; ++row) {
        auto& words = views[row].words;
        words.insert(words.end(), {-1, 0, std::bit_cast<int32_t>(1.0f), 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0,
                                   static_cast<int32_t>(s.num_ops)});
        words.resize(words.size() + 2 * s.num_ops, 0);
        bits.push_back(partner[row] >= 0);
        if (partner[row] < 0) continue;
        mixed.push_back(&views[row]);
        of.push_back(partner[row]);
      }
      flush_bits();
      const size_t mix = 10 + 2 * s.num_ops, other = mix + 7;
      std::vector<bool> flags[4];
      for (auto& column : flags) {
        for (size_t i = 0; i < mixed.size(); ++i) column.push_back(below(2));
        bits = column;
        flush_bits();
      }
      for (size_t i = 0; i < mixed.size(); ++i) {
        mixed[i]->words[mix] = s.partners > 0 ? static_cast<int32_t>(numbers[of[i]]) : -2;
        mixed[i]->words[other + 4] = flags[2][i];
        if (!flags[0][i]) continue;
        const uint32_t weight = below(65536);
        const float lam =
            s.wide_weights ? static_cast<float>(weight) / 70000.f : static_cast<float>(weight) / 65536.f;
        mixed[i]->words[mix + 2] = std::bit_cast<int32_t>(lam);
        s.wide_weights ? Append(columns, lam) : AppendUint(columns, weight, 2);
      }
      const auto box = [&](uint32_t height, uint32_t width, int32_t* to) {
        to[2] = static_cast<int32_t>(1 + below(height)), to[3] = static_cast<int32_t>(1 + below(width));
        to[0] = static_cast<int32_t>(below(height - to[2] + 1)),
        to[1] = static_cast<int32_t>(below(width - to[3] + 1));
      };
      for (auto* view : mixed)
        s.partners > 0 ? box(65535, 65535, &view->words[other])
                       : box(s.image_height, s.image_width, &view->words[other]);
      for (int high = 0; high < 2; ++high) {
        for (int edge = 0; edge < 4; ++edge)
          for (auto* view : mixed) AppendUint(columns, view->words[other + edge] >> (8 * high) & 255, 1);
        if (high == 0 && s.partners > 0)
          for (int p : of) AppendUint(columns, p, s.partners > 256 ? 2 : 1);
      }
      const uint32_t width = std::max(s.view_height, s.view_width) > 255 ? 2 : 1;
      for (size_t i = 0; i < mixed.size(); ++i)
        if (flags[1][i]) box(s.view_height, s.view_width, &mixed[i]->words[mix + 3]);
      for (int edge = 0; edge < 4; ++edge)
        for (size_t i = 0; i < mixed.size(); ++i)
          if (flags[1][i]) AppendUint(columns, mixed[i]->words[mix + 3 + edge], width);
      for (size_t i = 0; i < mixed.size(); ++i) {
        if (!flags[3][i]) continue;
        box(s.view_height, s.view_width, &mixed[i]->words[other + 5]);
        for (int edge = 0; edge < 4; ++edge) AppendUint(columns, mixed[i]->words[other + 5 + edge], width);
      }
      for (uint32_t slot = 0; slot < s.num_ops; ++slot) {
        for (auto* view : mixed) {
          const uint32_t entry = below(s.op_entries);
          AppendUint(columns, entry, s.op_entries > 256 ? 2 : 1);
          view->words[other + 10 + 2 * slot] = op_ids[entry];
          view->words[other + 11 + 2 * slot] = std::bit_cast<int32_t>(op_magnitudes[entry]);
        }
      }
    }
    if (group_rows < s.views)
      made.frames.push_back(columns.size() - before);
    else
      made.frames.back() += columns.size() - before;
  }
  for (uint32_t row = 0; row < s.views; ++row) {
    auto& words = made.views[row].words;
    words = views[s.pairs ? row / 2 : row].words;
    if (s.pairs && s.partners >= 0) words[10 + 2 * s.num_ops + 1] = row % 2;
  }

  Bytes& out = made.bytes;
  for (char c : {'d', 'r', 'r', 'c'}) out.push_back(static_cast<uint8_t>(c));
  AppendUint(out, 1, 2);
  AppendUint(out, kHeaderBytes, 2);
  AppendUint(out, static_cast<uint32_t>(kHeaderBytes + columns.size()), 4);
  AppendUint(out,
             (s.flip ? 1 : 0) | (s.erase ? 2 : 0) | (s.wide_classes ? 4 : 0) | (s.partners >= 0 ? 8 : 0) |
                 (s.wide_weights ? 16 : 0) | (s.pairs ? 32 : 0) | (s.partner_classes ? 64 : 0),
             4);
  AppendUint(out, s.views, 4);
  AppendUint(out, s.image_height, 4);
  AppendUint(out, s.image_width, 4);
  AppendUint(out, s.view_height, 2);
  AppendUint(out, s.view_width, 2);
  AppendUint(out, s.num_ops, 2);
  AppendUint(out, s.op_entries, 2);
  AppendUint(out, s.topk, 2);
  AppendUint(out, s.class_entries, 2);
  AppendUint(out, s.encoding, 1);
  AppendUint(out, 0, 1);
  AppendUint(out, std::max(s.partners, 0), 2);
  Append(out, s.encoding == 2 ? s.log_step : 0.f);
  AppendUint(out, group_rows, 4);
  out.insert(out.end(), columns.begin(), columns.end());
  return made;
}

inline Bytes Compress(const Bytes& content, int level = 3) {
  Bytes frame(ZSTD_compressBound(content.size()));
  const size_t size = ZSTD_compress(frame.data(), frame.size(), content.data(), content.size(), level);
  if (ZSTD_isError(size)) throw std::runtime_error("ZSTD_compress failed");
  frame.resize(size);
  return frame;
}

/// The member of a shard: a zstd frame for each of these lengths of the content, and one for what is left
/// over.
inline Bytes CompressFrames(const Bytes& content, const std::vector<size_t>& lengths) {
  Bytes member;
  size_t at = 0;
  const auto add = [&](size_t end) {
    const Bytes frame = Compress(Bytes(content.begin() + static_cast<std::ptrdiff_t>(at),
                                       content.begin() + static_cast<std::ptrdiff_t>(end)),
                                 1);
    member.insert(member.end(), frame.begin(), frame.end());
    at = end;
  };
  for (size_t length : lengths) add(std::min(at + length, content.size()));
  if (at < content.size()) add(content.size());
  return member;
}
inline Bytes CompressFrames(const MadeRecord& made) { return CompressFrames(made.bytes, made.frames); }

/// Shapes that together use every branch of the layout.
inline std::vector<RecordShape> AllShapes() {
  std::vector<RecordShape> shapes;
  RecordShape base;
  shapes.push_back(base);
  for (uint32_t encoding : {0u, 1u, 2u}) {
    RecordShape s = base;
    s.encoding = encoding;
    s.wide_classes = encoding == 1;
    s.views = 17;
    shapes.push_back(s);
  }
  RecordShape s = base;  // nothing but crops
  s.num_ops = s.op_entries = s.topk = s.class_entries = 0, s.flip = s.erase = false, s.encoding = 0;
  shapes.push_back(s);
  s = base;  // u16 tables everywhere, large images and views
  s.views = 400, s.group_rows = 134, s.op_entries = 300, s.class_entries = 301, s.view_height = 256,
  s.image_height = s.image_width = 65535;
  shapes.push_back(s);
  s = base;  // the smallest image, one view, one class, sixteen operations
  s.views = 1, s.image_height = s.image_width = s.view_height = s.view_width = 1, s.num_ops = 16,
  s.op_entries = 1, s.topk = s.class_entries = 1;
  shapes.push_back(s);
  for (uint32_t group_rows : {1u, 2u, 8u, 16u}) {
    s = base;
    s.views = 17, s.group_rows = group_rows, s.encoding = group_rows % 3;
    shapes.push_back(s);
  }
  s.num_ops = s.op_entries = s.topk = s.class_entries = 0, s.flip = s.erase = false, s.encoding = 0;
  s.image_height = s.image_width = 1;  // groups of no bytes
  shapes.push_back(s);
  s = base;  // a dense row
  s.views = 9, s.topk = 300, s.class_entries = 300, s.image_width = 1, s.log_step = 2.f;
  shapes.push_back(s);
  s = base;
  s.views = 64, s.erase = false, s.op_entries = 256, s.class_entries = 256, s.image_height = 3,
  s.image_width = 2;
  shapes.push_back(s);
  for (int partners : {0, 1, 7, 300}) {
    for (bool pairs : {false, true}) {
      s = base;
      s.views = 34, s.partners = partners, s.pairs = pairs, s.wide_weights = partners == 1;
      s.view_width = partners == 7 ? 300 : 224;
      s.partner_classes = partners == 7;
      s.wide_classes = pairs;
      if (s.partner_classes) s.class_entries = 8 * 12;
      if (partners > 1) s.group_rows = 10;  // 4 groups, the last one shorter
      if (partners == 1 && pairs)
        s.num_ops = s.op_entries = s.topk = s.class_entries = 0, s.wide_classes = false;
      shapes.push_back(s);
    }
  }
  return shapes;
}

}  // namespace dali_dr::testing
