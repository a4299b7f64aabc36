// What dali_dr/record/native.py calls through ctypes: write.h as a C function, for tests that compare it with
// dali_dr/record/encode.py.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>

#include "record/write.h"

extern "C" {

/// Columns as they lie in NumPy's arrays, C-contiguous; views.h says what they hold. Those of mixed views are
/// null where there is no mixing.
struct DaliDrColumns {
  const int32_t* crop;
  const uint8_t* flip;
  const uint8_t* ops;
  const float* magnitudes;
  const int32_t* erase;
};

struct DaliDrReinforcements {
  uint64_t views, num_ops, topk;
  DaliDrColumns own, of_partner;
  const int32_t* ids;
  const float* probs;
  const int32_t* partner;
  const float* lam;
  const int32_t* cut;
  const uint8_t* swapped;
};

struct DaliDrWriteSettings {
  uint32_t image_height, image_width, view_height, view_width, encoding, num_outputs, recode;
  float log_step;
};

/// A member, or why there is none; belongs to whoever asked, until dali_dr_record_delete.
struct DaliDrRecord {
  const uint8_t* data;
  uint64_t size;
  const char* reason;  // empty: there is a member
};
}

namespace {

using dali_dr::Box;
using dali_dr::record::Encoding;
using dali_dr::record::Reinforcements;
using dali_dr::record::ViewColumns;

struct Held : DaliDrRecord {
  std::vector<uint8_t> member;
  std::string why;
};

template <typename To, typename From>
std::vector<To> Copied(const From* from, size_t count) {
  static_assert(std::is_trivially_copyable_v<To>);
  std::vector<To> to(count);
  if (count > 0) std::memcpy(to.data(), from, count * sizeof(To));
  return to;
}

ViewColumns Taken(const DaliDrColumns& from, size_t views, size_t num_ops) {
  return {Copied<Box>(from.crop, views), Copied<uint8_t>(from.flip, views),
          Copied<uint8_t>(from.ops, views * num_ops), Copied<float>(from.magnitudes, views * num_ops),
          Copied<Box>(from.erase, views)};
}

Reinforcements Taken(const DaliDrReinforcements& from) {
  Reinforcements r;
  const size_t views = from.views;
  r.num_ops = from.num_ops;
  r.topk = from.topk;
  r.views = Taken(from.own, views, r.num_ops);
  r.ids = Copied<int32_t>(from.ids, views * r.topk);
  r.probs = Copied<float>(from.probs, views * r.topk);
  r.mixing = from.partner != nullptr;
  if (!r.mixing) return r;
  r.partner = Copied<int32_t>(from.partner, views);
  r.partner_views = Taken(from.of_partner, views, r.num_ops);
  r.lam = Copied<float>(from.lam, views);
  r.cut = Copied<Box>(from.cut, views);
  r.swapped = Copied<uint8_t>(from.swapped, views);
  return r;
}

}  // namespace

extern "C" {

// nullptr where there is no memory.
__attribute__((visibility("default"))) DaliDrRecord* dali_dr_record_write(
    const DaliDrReinforcements* from, const DaliDrWriteSettings* settings) {
  try {
    auto held = std::make_unique<Held>();
    try {
      const DaliDrWriteSettings& s = *settings;
      const auto encoding = static_cast<Encoding>(std::min(s.encoding, 255u));
      held->member =
          dali_dr::record::Write(Taken(*from), {s.image_height, s.image_width, s.view_height, s.view_width,
                                                encoding, s.log_step, s.num_outputs, s.recode != 0});
    } catch (const dali_dr::record::RecordError& error) {
      held->why = error.what();
    }
    held->data = held->member.data();
    held->size = held->member.size();
    held->reason = held->why.c_str();
    return held.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

__attribute__((visibility("default"))) void dali_dr_record_delete(DaliDrRecord* record) {
  delete static_cast<Held*>(record);
}
}
