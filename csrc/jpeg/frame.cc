// See frame.h.
#include "jpeg/frame.h"

#include <algorithm>

#include "jpeg/markers.h"

namespace dali_dr::jpeg {
namespace {

using Bytes = std::span<const uint8_t>;

int32_t DivideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

// `segment` is what follows the length of SOF0 or SOF1.
bool ReadSof(Bytes segment, Frame* frame, Bytes* components) {
  if (segment.size() < 6 || segment[0] != 8) return false;
  frame->height = Big16(segment, 1);
  frame->width = Big16(segment, 3);
  const size_t count = segment[5];
  if (frame->height < 1 || frame->width < 1 || (count != 1 && count != 3) || segment.size() != 6 + 3 * count)
    return false;
  frame->max_h = frame->max_v = 1;
  for (size_t i = 0; i < count; ++i) {
    const int32_t h = segment[7 + 3 * i] >> 4, v = segment[7 + 3 * i] & 15;
    if (h < 1 || h > 4 || v < 1 || v > 4) return false;
    if (count == 1) continue;  // a scan of one component has MCUs of one block, whatever its factors
    frame->max_h = std::max(frame->max_h, h);
    frame->max_v = std::max(frame->max_v, v);
  }
  frame->mcu_height = 8 * frame->max_v;
  frame->mcu_width = 8 * frame->max_h;
  frame->mcu_rows = DivideUp(frame->height, frame->mcu_height);
  frame->mcus_per_row = DivideUp(frame->width, frame->mcu_width);
  *components = segment.subspan(6);
  return true;
}

// Whether the scan has all components in the frame's order, and all of each.
bool IsWholeScan(Bytes segment, Bytes components) {
  const size_t count = components.size() / 3;
  if (segment.empty() || segment[0] != count || segment.size() != 4 + 2 * count) return false;
  for (size_t i = 0; i < count; ++i)
    if (segment[1 + 2 * i] != components[3 * i]) return false;
  const auto rest = segment.subspan(1 + 2 * count);
  return rest[0] == 0 && rest[1] == 63 && rest[2] == 0;
}

bool IsNeeded(uint8_t marker) { return marker == kApp0 || marker == kApp14 || !IsMetadata(marker); }

}  // namespace

bool ReadFrame(Bytes encoded, Frame* frame) {
  if (encoded.size() < 4 || encoded[0] != 0xff || encoded[1] != kSoi) return false;
  frame->needed.assign(1, {0, 2});
  frame->restart_interval = 0;
  Bytes components;
  for (size_t at = 2; encoded.size() - at >= 4;) {
    const uint8_t marker = encoded[at + 1];
    if (encoded[at] != 0xff) return false;  // junk between segments
    if (marker == 0xff) {                   // a fill byte
      ++at;
      continue;
    }
    const size_t length = static_cast<size_t>(Big16(encoded, at + 2)), end = at + 2 + length;
    if (length < 2 || end > encoded.size()) return false;
    const Bytes segment = encoded.subspan(at + 4, length - 2);
    if (IsNeeded(marker)) frame->needed.push_back({at, end});
    if (marker == kSof0 || marker == kSof1) {
      if (!components.empty() || !ReadSof(segment, frame, &components)) return false;
      frame->size_at = at + 5;
    } else if (marker == kDri) {
      if (segment.size() != 2) return false;
      frame->restart_interval = Big16(segment, 0);
    } else if (marker == kSos) {
      frame->scan = end;
      return !components.empty() && IsWholeScan(segment, components);
    } else if (marker != kDht && marker != kDqt && marker < kApp0) {
      return false;  // another process, DNL, DAC, or a marker without a segment
    }
    at = end;
  }
  return false;
}

void CopyHeader(Bytes encoded, const Frame& frame, int32_t height, int32_t width,
                std::vector<uint8_t>* header) {
  header->clear();
  for (const auto& [begin, end] : frame.needed) {
    const size_t place = header->size();
    header->insert(header->end(), encoded.begin() + static_cast<ptrdiff_t>(begin),
                   encoded.begin() + static_cast<ptrdiff_t>(end));
    if (frame.size_at < begin || frame.size_at >= end) continue;
    uint8_t* const size = header->data() + place + (frame.size_at - begin);
    for (int i = 0; i < 2; ++i) {
      size[i] = static_cast<uint8_t>(height >> (8 - 8 * i));
      size[2 + i] = static_cast<uint8_t>(width >> (8 - 8 * i));
    }
  }
}

}  // namespace dali_dr::jpeg
