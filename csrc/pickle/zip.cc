// See zip.h. Fields are those of PKWARE's APPNOTE.TXT, with ZIP64, which torch always writes.
#include "pickle/zip.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "escape.h"
#include "pickle/error.h"

namespace dali_dr::pickle {
namespace {

constexpr size_t kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20, kEntryBytes = 46, kLocalBytes = 30;
constexpr size_t kMostComment = 65535;
constexpr uint32_t kIn64 = 0xffffffff;  // the field is in the ZIP64 part

struct Extent {
  uint64_t begin, end;
};

class Archive {
 public:
  explicit Archive(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  std::vector<Member> Members() {
    FindDirectory();
    std::vector<Member> members;
    uint64_t at = directory_.begin;
    for (uint64_t i = 0; i < count_; ++i) members.push_back(ReadEntry(&at));
    if (at != directory_.end) Damaged("its directory has another length than its end says");
    extents_.push_back(directory_);
    std::sort(extents_.begin(), extents_.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < extents_.size(); ++i)
      if (extents_[i].begin < extents_[i - 1].end) Damaged("members lie over each other");
    for (size_t i = 0; i < members.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        if (members[i].name == members[j].name) Damaged("a member is there twice");
    return members;
  }

 private:
  [[noreturn]] static void Damaged(const char* why) { Fail("the zip archive cannot be read: ", why); }

  template <typename T>
  T Get(uint64_t at) const {
    if (at > bytes_.size() || bytes_.size() - at < sizeof(T))
      Damaged("it is cut off, or points outside of itself");
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }

  std::span<const uint8_t> Part(uint64_t at, uint64_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at)
      Damaged("it is cut off, or points outside of itself");
    return bytes_.subspan(at, count);
  }

  bool Signed(uint64_t at, uint32_t signature) const { return Get<uint32_t>(at) == signature; }

  void FindDirectory() {
    if (bytes_.size() < kEndBytes) Damaged("it is cut off");
    const uint64_t last = bytes_.size() - kEndBytes, first = last - std::min<uint64_t>(last, kMostComment);
    uint64_t end = last;
    while (!(Signed(end, 0x06054b50) && end + kEndBytes + Get<uint16_t>(end + 20) == bytes_.size())) {
      if (end-- == first) Damaged("it has no end: it is cut off");
    }
    count_ = Get<uint16_t>(end + 10);
    uint64_t size = Get<uint32_t>(end + 12), begin = Get<uint32_t>(end + 16), behind = end;
    if (end >= kLocator64Bytes && Signed(end - kLocator64Bytes, 0x07064b50)) {
      const auto end64 = Get<uint64_t>(end - kLocator64Bytes + 8);
      Part(end64, kEnd64Bytes);
      if (!Signed(end64, 0x06064b50) || end64 + kEnd64Bytes > end - kLocator64Bytes)
        Damaged("its ZIP64 end is none");
      const auto count = Get<uint64_t>(end64 + 32), size64 = Get<uint64_t>(end64 + 40),
                 begin64 = Get<uint64_t>(end64 + 48);
      if ((count_ != 0xffff && count_ != count) || (size != kIn64 && size != size64) ||
          (begin != kIn64 && begin != begin64))
        Damaged("its two ends differ");
      count_ = count, size = size64, begin = begin64, behind = end64;
    }
    if (count_ > kMostMembers) Fail("the zip archive has ", count_, " members, above ", kMostMembers);
    Part(begin, size);
    directory_ = {begin, begin + size};
    if (directory_.end > behind) Damaged("its directory lies over its end");
  }

  Member ReadEntry(uint64_t* at) {
    const uint64_t entry = *at;
    Part(entry, kEntryBytes);
    if (!Signed(entry, 0x02014b50)) Damaged("its directory is none");
    const auto name = Get<uint16_t>(entry + 28), extra = Get<uint16_t>(entry + 30),
               comment = Get<uint16_t>(entry + 32);
    *at = entry + kEntryBytes + name + extra + comment;
    if (*at > directory_.end) Damaged("its directory is cut off");
    Member member{Text(entry + kEntryBytes, name), {}, Get<uint32_t>(entry + 16)};
    uint64_t stored = Get<uint32_t>(entry + 20), size = Get<uint32_t>(entry + 24),
             local = Get<uint32_t>(entry + 42);
    Resolve64(entry + kEntryBytes + name, extra, {&size, &stored, &local});
    if (Get<uint16_t>(entry + 8) & 0x2041)
      Fail("the member ", Escaped(member.name), " of the zip archive is encrypted");
    if (Get<uint16_t>(entry + 10) != 0 || stored != size)
      Fail("the member ", Escaped(member.name),
           " of the zip archive is compressed, which torch's files never are");
    if (!Signed(local, 0x04034b50) || Get<uint16_t>(local + 8) != 0 ||
        Text(local + kLocalBytes, Get<uint16_t>(local + 26)) != member.name)
      Damaged("a member is not what its directory says");
    const uint64_t data = local + kLocalBytes + Get<uint16_t>(local + 26) + Get<uint16_t>(local + 28);
    member.bytes = Part(data, size);
    extents_.push_back({local, data + size});
    return member;
  }

  /// Puts the ZIP64 values, which are there in this order, in place of the fields that are too small for
  /// them.
  void Resolve64(uint64_t at, uint64_t length, std::array<uint64_t*, 3> fields) const {
    const uint64_t end = at + length;
    if (std::none_of(fields.begin(), fields.end(), [](auto* field) { return *field == kIn64; })) return;
    while (at + 4 <= end && Get<uint16_t>(at) != 1) at += 4u + Get<uint16_t>(at + 2);
    const uint64_t values = at + 4;
    if (values > end || values + Get<uint16_t>(at + 2) > end) Damaged("a ZIP64 size is missing");
    uint64_t left = Get<uint16_t>(at + 2), next = values;
    for (uint64_t* field : fields) {
      if (*field != kIn64) continue;
      if (left < 8) Damaged("a ZIP64 size is missing");
      *field = Get<uint64_t>(next);
      next += 8, left -= 8;
    }
  }

  std::string_view Text(uint64_t at, uint64_t length) const {
    const auto part = Part(at, length);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

  std::span<const uint8_t> bytes_;
  uint64_t count_ = 0;
  Extent directory_{};
  std::vector<Extent> extents_;
};

constexpr size_t kSlices = 16;

// Table i: the checksum's change by a byte that i bytes follow.
constexpr auto kTables = [] {
  std::array<std::array<uint32_t, 256>, kSlices> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
    tables[0][byte] = value;
  }
  for (size_t i = 1; i < kSlices; ++i)
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[i - 1][byte];
      tables[i][byte] = before >> 8 ^ tables[0][before & 255];
    }
  return tables;
}();

}  // namespace

std::vector<Member> ZipMembers(std::span<const uint8_t> archive) { return Archive(archive).Members(); }

std::span<const uint8_t> Checked(const Member& member) {
  if (Crc32(member.bytes) != member.checksum)
    Fail("the member ", Escaped(member.name), " of the zip archive is damaged: its checksum does not fit");
  return member.bytes;
}

uint32_t Crc32(std::span<const uint8_t> bytes) {
  uint32_t value = 0xffffffff;
  size_t at = 0;
  for (; at + kSlices <= bytes.size(); at += kSlices) {
    uint32_t words[4];
    std::memcpy(words, bytes.data() + at, sizeof words);
    words[0] ^= value;
    value = 0;
    for (size_t i = 0; i < kSlices; ++i) value ^= kTables[kSlices - 1 - i][words[i / 4] >> 8 * (i % 4) & 255];
  }
  for (; at < bytes.size(); ++at) value = value >> 8 ^ kTables[0][(value ^ bytes[at]) & 255];
  return ~value;
}

}  // namespace dali_dr::pickle
