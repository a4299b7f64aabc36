// See scan.h.
#include "jpeg/scan.h"

#include <algorithm>
#include <cstring>

#include "jpeg/markers.h"
#include "jpeg/slice.h"

namespace dali_dr::jpeg {
namespace {

constexpr int64_t kManyMcus = 300;  // from here on preparing to pass over them pays
constexpr size_t kChunk = 1 << 14;  // bytes that are made ready at a time: they stay in the first cache

}  // namespace

McuBox BoxOf(const Frame& frame, const Region& region) {
  const Region wanted = WithContext(frame, region);
  McuBox box{wanted.top / frame.mcu_height, (wanted.top + wanted.height - 1) / frame.mcu_height + 1,
             wanted.left / frame.mcu_width, (wanted.left + wanted.width - 1) / frame.mcu_width + 1};
  // The last MCU of a row may show only a few pixels.
  const int32_t right = std::min(frame.width, box.column_end * frame.mcu_width);
  while (box.column > 0 && right - box.column * frame.mcu_width < kNarrowest) --box.column;
  return box;
}

void Scan::Begin(std::span<const uint8_t> encoded, const Frame& frame, const McuLayout& layout,
                 const McuBox& box) {
  encoded_ = encoded;
  layout_ = layout;
  box_ = box;
  mcus_per_row_ = frame.mcus_per_row;
  all_ = mcus_per_row_ * frame.mcu_rows;
  interval_ = frame.restart_interval == 0 ? all_ : frame.restart_interval;
  row_ = box.row;
  column_ = box.column;
  misfit_ = false;
  segment_ = -1;
  raw_ = frame.scan;
  ended_ = true;
  if (Passed() < kManyMcus) return;
  for (int32_t i = 0; i < layout_.blocks; ++i)
    tables_[0][layout_.ac_table[layout_.component[static_cast<size_t>(i)]]].PrepareToSkip();
}

// How many MCUs there are to pass over.
int64_t Scan::Passed() const {
  const int64_t rows = box_.row_end - box_.row, beside = mcus_per_row_ - (box_.column_end - box_.column);
  if (interval_ < mcus_per_row_)
    return rows * std::min<int64_t>(box_.column, interval_ / 2);  // within a tile
  const int64_t above = interval_ == all_ ? box_.row * mcus_per_row_ : 0;
  return above + rows * beside;
}

// Takes more of the segment into the buffer: all that is there, or kChunk.
void Scan::Fill() {
  const size_t used = static_cast<size_t>(reader_.next - buffer_.data());
  const size_t rest = filled_ - std::min(used, filled_);
  if (buffer_.size() < rest + kChunk + kMcuBytes + 2) buffer_.resize(rest + kChunk + kMcuBytes + 2);
  uint8_t* const data = buffer_.data();
  std::memmove(data, data + (filled_ - rest), rest);
  reader_.next = data + (used - (filled_ - rest));
  filled_ = rest;
  const size_t limit = rest + kChunk;
  while (filled_ < limit) {
    const size_t most = std::min(limit - filled_, encoded_.size() - raw_);
    const uint8_t* const from = encoded_.data() + raw_;
    const auto* const found = static_cast<const uint8_t*>(std::memchr(from, 0xff, most));
    const size_t plain = found ? static_cast<size_t>(found - from) : most;
    std::memcpy(data + filled_, from, plain);
    filled_ += plain;
    raw_ += plain;
    if (!found) {
      if (raw_ == encoded_.size()) ended_ = true;
    } else if (encoded_.size() - raw_ >= 2 && encoded_[raw_ + 1] == 0) {
      data[filled_++] = 0xff;
      raw_ += 2;
      continue;
    } else {
      ended_ = true;
    }
    if (ended_) break;
  }
  if (ended_) std::memset(data + filled_, 0, kMcuBytes);
}

// Goes to the beginning of a segment behind the current one (-1: before the first).
bool Scan::Enter(int64_t segment) {
  while (segment_ < segment) {
    if (segment_ >= 0) {
      raw_ = FindMarker(encoded_, raw_);
      misfit_ = raw_ == encoded_.size() || encoded_[raw_ + 1] != kRst0 + segment_ % kRestartMarkers;
      if (misfit_) return false;
      raw_ += 2;
    }
    ++segment_;
    ended_ = false;
  }
  at_ = segment * interval_;
  dc_.fill(0);
  filled_ = 0;
  if (buffer_.empty()) buffer_.resize(kChunk + kMcuBytes + 2);
  reader_.Begin(buffer_.data());
  Fill();
  return true;
}

template <typename Block>
bool Scan::EachBlock(const Block& block) {
  const size_t left = filled_ - std::min(static_cast<size_t>(reader_.next - buffer_.data()), filled_);
  if (!ended_ && left < kMcuBytes) Fill();
  for (int32_t i = 0; i < layout_.blocks; ++i) {
    const size_t component = layout_.component[static_cast<size_t>(i)];
    if (!block(i, tables_[1][layout_.dc_table[component]], tables_[0][layout_.ac_table[component]],
               &dc_[component]))
      return false;
  }
  ++at_;
  // Bits behind the end are not those of the file.
  return !ended_ || reader_.position() <= buffer_.data() + filled_;
}

// Goes to an MCU that does not lie before the current one.
bool Scan::Seek(int64_t mcu) {
  const int64_t segment = mcu / interval_;
  if (segment != segment_ && !Enter(segment)) return false;
  while (at_ < mcu) {
    const bool good =
        EachBlock([&](int32_t, const HuffmanTable& dc_table, const HuffmanTable& ac_table, int32_t* dc) {
          return HuffmanTable::Skip(dc_table, ac_table, &reader_, dc);
        });
    if (!good) return false;
  }
  return true;
}

bool Scan::Next(int16_t* const* blocks) {
  if (!Seek(row_ * mcus_per_row_ + column_)) return false;
  const bool good =
      EachBlock([&](int32_t i, const HuffmanTable& dc_table, const HuffmanTable& ac_table, int32_t* dc) {
        return HuffmanTable::Decode(dc_table, ac_table, &reader_, dc, blocks[i]);
      });
  if (++column_ == box_.column_end) {
    column_ = box_.column;
    ++row_;
  }
  return good;
}

}  // namespace dali_dr::jpeg
