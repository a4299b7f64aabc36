// See write_tables.h.
#include "record/write_tables.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "record/error.h"
#include "view/layout.h"

namespace dali_dr::record {
namespace {

constexpr size_t kMaxEntries = 0xffff;   // of any table
constexpr size_t kSmallTable = 256;      // entries that one byte can point to
constexpr uint32_t kCounted = 1u << 16;  // classes below are counted in an array

void CheckEntries(const char* name, size_t entries) {
  if (entries > kMaxEntries)
    Fail("number of ", name, " is ", entries, "; a record holds ", kMaxEntries, ": store fewer views");
}

[[noreturn, gnu::cold, gnu::noinline]] void FailTwice(size_t row, uint64_t id) {
  Fail("view ", row, ": class id ", id, " is there twice");
}

/// Distinct numbers, in a table by their hashes.
class Distinct {
 public:
  explicit Distinct(size_t most) {
    const size_t slots = std::bit_ceil(2 * std::min(most, kMaxEntries + 1) + 2);
    slots_.assign(slots, Slot{});
    shift_ = 64 - static_cast<uint32_t>(std::countr_zero(slots));
    found_.clear();
  }

  /// The slot that the number is in.
  uint32_t Add(uint64_t number) {
    constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15;
    size_t at = number * kMultiplier >> shift_;
    while (slots_[at].number != number) {
      if (slots_[at].number == kEmpty) {
        CheckEntries("operations with different magnitudes", found_.size() + 1);
        slots_[at].number = number;
        found_.push_back({number, static_cast<uint32_t>(at)});
        break;
      }
      at = (at + 1) & (slots_.size() - 1);
    }
    return static_cast<uint32_t>(at);
  }

  /// The numbers in ascending order; from now on, place() has the place of each slot's.
  void Sort(std::vector<uint64_t>* numbers) {
    std::sort(found_.begin(), found_.end(),
              [](const Found& a, const Found& b) { return a.number < b.number; });
    numbers->clear();
    for (const Found& found : found_) {
      slots_[found.slot].place = static_cast<uint16_t>(numbers->size());
      numbers->push_back(found.number);
    }
  }
  uint16_t place(uint32_t slot) const { return slots_[slot].place; }

 private:
  static constexpr uint64_t kEmpty = std::numeric_limits<uint64_t>::max();
  struct Slot {
    uint64_t number = kEmpty;
    uint16_t place = 0;
  };
  struct Found {
    uint64_t number;
    uint32_t slot;
  };
  std::vector<Slot> slots_;
  std::vector<Found> found_;
  uint32_t shift_;
};

/// A number for each element that keeps ids apart and in order, and finds the element again.
uint64_t Key(int32_t id, size_t element) { return uint64_t{static_cast<uint32_t>(id)} << 32 | element; }

/// How often a class occurs, the most frequent first; of equally frequent ones the lower.
uint64_t Frequency(uint32_t count, uint32_t id) { return uint64_t{~count} << 32 | id; }

/// Classes below kCounted, and how often each occurs.
struct Counts {
  struct Class {
    uint32_t count = 0;
    uint32_t row = 0;  // the last one it is in, and 1
    uint16_t place = 0;
  };
  std::vector<Class> classes;   // by id
  std::vector<uint64_t> found;  // ids that occur

  void Count(std::span<const int32_t> ids, size_t topk, uint32_t limit) {
    classes.assign(limit, Class{});
    found.clear();
    for (size_t row = 0; row < ids.size() / topk; ++row) {
      for (const int32_t id : ids.subspan(row * topk, topk)) {
        Class& c = classes[static_cast<uint32_t>(id)];
        if (c.row == row + 1) FailTwice(row, static_cast<uint32_t>(id));
        c.row = static_cast<uint32_t>(row + 1);
        if (c.count++ == 0) found.push_back(static_cast<uint32_t>(id));
      }
    }
    CheckEntries("class table entries", found.size());
  }

  void PutTable(std::span<const int32_t> ids, ClassTable* table) {
    for (uint64_t& id : found) id = Frequency(classes[id].count, static_cast<uint32_t>(id));
    std::sort(found.begin(), found.end());
    for (const uint64_t key : found) {
      classes[static_cast<uint32_t>(key)].place = static_cast<uint16_t>(table->entries.size());
      table->entries.push_back(static_cast<uint32_t>(key));
    }
    for (size_t i = 0; i < ids.size(); ++i) table->places[i] = classes[static_cast<uint32_t>(ids[i])].place;
  }
};

/// One table of any classes.
void SortClasses(std::span<const int32_t> ids, size_t topk, ClassTable* table) {
  std::vector<uint64_t> keys(ids.size()), order;
  for (size_t i = 0; i < ids.size(); ++i) keys[i] = Key(ids[i], i);
  std::sort(keys.begin(), keys.end());
  std::vector<uint32_t> counts;
  std::vector<uint32_t> found;
  // Places are those of the ascending classes first; there may be more of these than a table holds.
  std::vector<uint32_t> ascending(ids.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto element = static_cast<uint32_t>(keys[i]);
    const bool repeated = i > 0 && keys[i] >> 32 == keys[i - 1] >> 32;
    if (repeated && element / topk == static_cast<uint32_t>(keys[i - 1]) / topk)
      FailTwice(element / topk, keys[i] >> 32);
    if (!repeated) found.push_back(static_cast<uint32_t>(keys[i] >> 32)), counts.push_back(0);
    ++counts.back();
    ascending[element] = static_cast<uint32_t>(found.size() - 1);
  }
  CheckEntries("class table entries", found.size());
  for (size_t i = 0; i < found.size(); ++i) order.push_back(Frequency(counts[i], static_cast<uint32_t>(i)));
  std::sort(order.begin(), order.end());
  std::vector<uint16_t> place(found.size());
  for (const uint64_t key : order) {
    place[static_cast<uint32_t>(key)] = static_cast<uint16_t>(table->entries.size());
    table->entries.push_back(found[static_cast<uint32_t>(key)]);
  }
  for (size_t i = 0; i < ids.size(); ++i) table->places[i] = place[ascending[i]];
}

/// Class tables of the views of one partner after another.
class SplitTables {
 public:
  /// Ids are below `limit`.
  SplitTables(std::span<const int32_t> ids, size_t topk, uint64_t limit, std::vector<uint16_t>* places)
      : ids_(ids), topk_(topk), words_(limit / 64 + 1), places_(places) {
    gaps_.clear();
  }

  /// The table of these rows' classes. Returns how many it has.
  uint32_t Add(std::span<const uint32_t> rows) {
    const size_t before = gaps_.size();
    // Marks are read in order, which takes as long as there are ids; sorting takes longer for each element.
    if (words_ <= kMostWords && words_ <= kWordsPerElement * rows.size() * topk_)
      AddMarked(rows);
    else
      AddSorted(rows);
    return static_cast<uint32_t>(gaps_.size() - before);
  }

  /// Ascending classes as differences, table after table.
  const std::vector<uint32_t>& gaps() const { return gaps_; }

 private:
  static constexpr size_t kMostWords = kCounted / 64 + 1, kWordsPerElement = 4;

  template <typename Visit>
  void Each(std::span<const uint32_t> rows, Visit visit) const {
    for (const uint32_t row : rows)
      for (size_t i = row * topk_; i < (row + 1) * topk_; ++i) visit(i);
  }

  void AddMarked(std::span<const uint32_t> rows) {
    marks_.assign(words_, 0);
    place_.resize(words_ * 64);
    Each(rows,
         [&](size_t i) { marks_[static_cast<uint32_t>(ids_[i]) / 64] |= uint64_t{1} << (ids_[i] % 64); });
    uint16_t entries = 0;
    uint32_t last = 0;
    for (size_t word = 0; word < words_; ++word) {
      for (uint64_t left = marks_[word]; left; left &= left - 1) {
        const auto id = static_cast<uint32_t>(word * 64 + static_cast<uint32_t>(std::countr_zero(left)));
        place_[id] = entries++;
        gaps_.push_back(id - last);
        last = id;
      }
    }
    Each(rows, [&](size_t i) { (*places_)[i] = place_[static_cast<uint32_t>(ids_[i])]; });
  }

  void AddSorted(std::span<const uint32_t> rows) {
    keys_.clear();
    Each(rows, [&](size_t i) { keys_.push_back(Key(ids_[i], i)); });
    std::sort(keys_.begin(), keys_.end());
    uint16_t entries = 0;
    uint32_t last = 0;
    for (const uint64_t key : keys_) {
      const auto id = static_cast<uint32_t>(key >> 32);
      if (entries == 0 || id != last) {
        gaps_.push_back(id - last);
        last = id;
        ++entries;
      }
      (*places_)[static_cast<uint32_t>(key)] = static_cast<uint16_t>(entries - 1);
    }
  }

  std::span<const int32_t> ids_;
  const size_t topk_, words_;
  std::vector<uint16_t>* places_;
  std::vector<uint32_t> gaps_;
  std::vector<uint64_t> keys_, marks_;
  std::vector<uint16_t> place_;
};

/// A table for each partner, of classes below `limit`. Returns false where these are too large.
bool SplitClasses(std::span<const int32_t> ids, size_t topk, uint64_t limit, const PartnerTable& partners,
                  ClassTable* table) {
  const size_t tables = partners.numbers.size() + 1, count = partners.places.size();
  std::vector<uint32_t> starts(tables + 1), rows(count);
  for (const uint16_t place : partners.places) ++starts[place + size_t{1}];
  for (size_t i = 0; i < tables; ++i) starts[i + 1] += starts[i];
  for (size_t row = 0; row < count; ++row) rows[starts[partners.places[row]]++] = static_cast<uint32_t>(row);
  // Each start has moved to its table's end.
  SplitTables split(ids, topk, limit, &table->places);
  table->counts.clear();
  for (size_t number = 0; number < tables; ++number) {
    const uint32_t first = number ? starts[number - 1] : 0;
    table->counts.push_back(split.Add(std::span(rows).subspan(first, starts[number] - first)));
    if (split.gaps().size() > kMaxEntries) return false;
  }
  table->entries = split.gaps();
  table->largest = *std::max_element(table->counts.begin(), table->counts.end());
  table->by_partner = true;
  return true;
}

}  // namespace

void MakeOpTable(const Reinforcements& r, bool double_mix, OpTable* table) {
  const size_t rows = r.size(), n = r.num_ops, step = double_mix ? 2 : 1;
  table->own.resize(rows * n);
  table->partner.assign(r.mixing ? rows * n : 0, 0);
  table->entries.clear();
  if (n == 0) return;
  Distinct distinct(rows * n * (r.mixing ? 2 : 1));
  std::vector<uint32_t> slots(table->own.size() + table->partner.size());
  const auto key = [](const ViewColumns& views, size_t i) {
    return uint64_t{views.ops[i]} << 32 | std::bit_cast<uint32_t>(views.magnitudes[i]);
  };
  const auto each = [&](bool partner, auto visit) {
    for (size_t row = 0; row < rows; row += step) {
      if (partner && r.partner[row] == kNoPartner) continue;
      for (size_t i = row * n; i < (row + 1) * n; ++i) visit(i);
    }
  };
  uint32_t* partner_slots = slots.data() + table->own.size();
  each(false, [&](size_t i) { slots[i] = distinct.Add(key(r.views, i)); });
  if (r.mixing) each(true, [&](size_t i) { partner_slots[i] = distinct.Add(key(r.partner_views, i)); });
  distinct.Sort(&table->entries);
  each(false, [&](size_t i) { table->own[i] = distinct.place(slots[i]); });
  if (r.mixing) each(true, [&](size_t i) { table->partner[i] = distinct.place(partner_slots[i]); });
}

void MakePartnerTable(const Reinforcements& r, PartnerTable* table) {
  table->numbers.clear();
  table->places.clear();
  if (!r.mixing) return;
  std::vector<uint64_t> keys;
  for (size_t row = 0; row < r.size(); ++row)
    if (r.partner[row] >= 0) keys.push_back(Key(r.partner[row], row));
  std::sort(keys.begin(), keys.end());
  for (const uint64_t key : keys)
    if (const auto number = static_cast<int32_t>(key >> 32);
        table->numbers.empty() || table->numbers.back() != number)
      table->numbers.push_back(number);
  CheckEntries("partners", table->numbers.size());
  table->places.assign(r.size(), static_cast<uint16_t>(table->numbers.size()));
  uint16_t place = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (i > 0 && keys[i] >> 32 != keys[i - 1] >> 32) ++place;
    table->places[static_cast<uint32_t>(keys[i])] = place;
  }
}

void MakeClassTable(const Reinforcements& r, std::span<const int32_t> ids, const PartnerTable& partners,
                    ClassTable* table) {
  table->wide = table->by_partner = false;
  table->entries.clear();
  table->places.resize(ids.size());
  table->largest = 0;
  if (ids.empty()) return;
  const auto most = static_cast<uint32_t>(*std::max_element(ids.begin(), ids.end()));
  table->wide = most > 0xffff;
  if (most < kCounted) {
    thread_local Counts counts;
    counts.Count(ids, r.topk, most + 1);
    const bool split = r.mixing && counts.found.size() > kSmallTable;
    if (split && SplitClasses(ids, r.topk, uint64_t{most} + 1, partners, table)) return;
    counts.PutTable(ids, table);
  } else {
    SortClasses(ids, r.topk, table);
    const bool split = r.mixing && table->entries.size() > kSmallTable;
    const auto kept = split ? table->places : std::vector<uint16_t>();
    if (split && SplitClasses(ids, r.topk, uint64_t{most} + 1, partners, table)) return;
    if (split) table->places = kept;
  }
  table->largest = static_cast<uint32_t>(table->entries.size());
}

}  // namespace dali_dr::record
