// See outline.h.
#include "jpeg/outline.h"

#include <algorithm>
#include <cstring>

#include "jpeg/markers.h"

namespace dali_dr::jpeg {
namespace {

using Bytes = std::span<const uint8_t>;

constexpr int kMostScans = 100;  // a progressive file has about 10; decoding time is scans × size

// `segment` is the frame header from its length on.
const char* ReadFrame(uint8_t marker, Bytes segment, Outline* outline) {
  if (outline->colours != 0) return "it has more than one frame";
  if (marker != kSof0 && marker != kSof1 && marker != kSof2 && marker != kSof9 && marker != kSof10)
    return "it is neither sequential nor progressive";
  if (segment.size() < 8) return "its markers are damaged";
  if (segment[2] != 8) return "it is not of 8 bits";
  outline->height = Big16(segment, 3);
  outline->width = Big16(segment, 5);
  outline->colours = segment[7];
  outline->sequential = marker == kSof0 || marker == kSof1;
  if (outline->height == 0 || outline->width == 0) return "its header does not say its size";
  if (outline->colours != 1 && outline->colours != 3) return "it is neither grey nor of three colours";
  if (segment.size() != 8 + 3 * static_cast<size_t>(outline->colours)) return "its markers are damaged";
  for (int c = 0; c < outline->colours; ++c) {
    const int factors = segment[9 + 3 * static_cast<size_t>(c)];
    outline->horizontal[c] = factors >> 4;
    outline->vertical[c] = factors & 15;
    if (std::min(outline->horizontal[c], outline->vertical[c]) < 1 ||
        std::max(outline->horizontal[c], outline->vertical[c]) > 4)
      return "its markers are damaged";
  }
  return nullptr;
}

// Where the marker behind a scan's data stands, or the end of the file.
size_t ScanEnd(Bytes file, size_t at) {
  at = FindMarker(file, at);
  while (at < file.size() && file[at + 1] >= kRst0 && file[at + 1] <= kRst7) at = FindMarker(file, at + 2);
  return at;
}

const char* ReadSegment(uint8_t marker, Bytes segment, Outline* outline) {
  if (IsFrame(marker)) return ReadFrame(marker, segment, outline);
  switch (marker) {
    case kSos:
      if (outline->colours == 0 || segment.size() < 3) return "its markers are damaged";
      outline->interleaved = segment[2] == outline->colours;
      return ++outline->scans > kMostScans ? "it has more than 100 scans" : nullptr;
    case kDri:
      if (segment.size() != 4) return "its markers are damaged";
      outline->restart_interval = Big16(segment, 2);
      return nullptr;
    case kDnl:
      return "its header does not say its size";
    case kDht:
    case kDac:
    case kDqt:
      return nullptr;
    default:
      return IsMetadata(marker) ? nullptr : "it has markers that are not of a JPEG's image";
  }
}

}  // namespace

int Outline::mcu_width() const {
  return colours == 1 ? 8 : 8 * *std::max_element(horizontal, horizontal + 3);
}

int Outline::mcu_height() const { return colours == 1 ? 8 : 8 * *std::max_element(vertical, vertical + 3); }

int64_t Outline::blocks() const {
  int64_t in_mcu = 0;
  for (int c = 0; c < colours; ++c) in_mcu += colours == 1 ? 1 : horizontal[c] * vertical[c];
  return in_mcu * mcus_per_row() * mcu_rows();
}

const char* ReadOutline(Bytes file, Outline* outline) {
  *outline = {};
  if (file.size() < 4 || file[0] != 0xff || file[1] != kSoi || file[2] != 0xff) return "it is no JPEG";
  size_t at = 2;
  for (;;) {
    if (at < file.size() && file[at] != 0xff) return "it has bytes between its segments that belong to none";
    while (at + 1 < file.size() && file[at + 1] == 0xff) ++at;  // fill bytes
    if (at + 1 >= file.size()) return "it is cut off";
    const uint8_t marker = file[at + 1];
    if (marker == kEoi) break;
    if (marker == kSoi || marker <= 1 || (marker >= kRst0 && marker <= kRst7))
      return "it has bytes between its segments that belong to none";
    if (at + 4 > file.size()) return "it is cut off";
    const auto length = static_cast<size_t>(Big16(file, at + 2));
    if (length < 2) return "its markers are damaged";
    if (length > file.size() - at - 2) return "it is cut off";
    const char* reason = ReadSegment(marker, file.subspan(at + 2, length), outline);
    if (reason != nullptr) return reason;
    if (IsMetadata(marker)) outline->metadata.push_back(file.subspan(at, 2 + length));
    at += 2 + length;
    if (marker == kSos) at = ScanEnd(file, at);
  }
  if (outline->scans == 0) return "it has no pixels";
  if (at + 2 != file.size()) return "it has bytes behind its end";
  return nullptr;
}

}  // namespace dali_dr::jpeg
