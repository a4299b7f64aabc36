// See container.h. Both formats are torch/serialization.py's.
#include "pickle/container.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "escape.h"
#include "pickle/error.h"
#include "pickle/zip.h"

namespace dali_dr::pickle {
namespace {

using Bytes = std::span<const uint8_t>;

bool StartsWith(Bytes bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

// The pickle of the number 0x1950a86a20f9469cfc6c, of any protocol that has such numbers.
constexpr std::string_view kMagic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 13);

/// Where what follows torch's magic number begins, or 0 if the file does not begin with it.
size_t BehindMagic(Bytes file) {
  size_t at = 2;  // PROTO
  if (file.size() > 11 && file[at] == 0x95) at += 9;
  return file.size() > at && StartsWith(file.subspan(at), kMagic) ? at + kMagic.size() : 0;
}

void RequireEnd(size_t length, Bytes file) {
  if (length != file.size()) Fail(file.size() - length, " bytes follow the pickle: the file is damaged");
}

/// Gives a storage its bytes, of which there must be as many as it needs.
void Find(Storage* storage, Bytes bytes) {
  if (bytes.size() != storage->elements * storage->element.size)
    Fail("the tensor's storage ", Escaped(storage->key.text()), " has ", bytes.size(), " bytes, where its ",
         storage->elements, " elements take ", storage->elements * storage->element.size);
  storage->bytes = bytes.data();
}

/// Whether it is one of torch's that has no bytes yet.
bool IsSought(const Storage& storage) { return storage.key.kind == Kind::kText && !storage.bytes; }

void ReadArchive(Bytes file, Reader* reader, Tree* tree) {
  const auto members = ZipMembers(file);
  constexpr std::string_view kPickle = "/data.pkl";
  std::string_view folder;
  const Member* pickle = nullptr;
  for (const Member& member : members) {
    if (!member.name.ends_with(kPickle)) continue;
    if (pickle) Fail("the zip archive holds several data.pkl: it is none of torch's");
    pickle = &member;
    folder = member.name.substr(0, member.name.size() - kPickle.size());
  }
  if (!pickle) Fail("the zip archive holds no data.pkl: it is none that torch.save wrote");
  const auto find = [&](const std::string& name) -> const Member* {
    for (const Member& member : members)
      if (member.name == name) return &member;
    return nullptr;
  };
  const Member* order = find(std::string(folder) + "/byteorder");
  if (order && !(order->bytes.size() == 6 && StartsWith(order->bytes, "little")))
    Fail("the file was written on a machine of another byte order, which is not read");
  const Bytes bytes = Checked(*pickle);
  RequireEnd(reader->Read(bytes, true, tree), bytes);
  for (Storage& storage : tree->storages) {
    if (!IsSought(storage)) continue;
    const auto same = std::find_if(tree->storages.begin(), tree->storages.end(), [&](const Storage& other) {
      return other.bytes && other.key.kind == Kind::kText && other.key.text() == storage.key.text();
    });
    if (same != tree->storages.end()) {
      Find(&storage, {same->bytes, same->elements * same->element.size});
      continue;
    }
    const Member* member = find(Message(folder, "/data/", storage.key.text()));
    if (!member) Fail("the zip archive has no member for the tensor's storage ", Escaped(storage.key.text()));
    Find(&storage, Checked(*member));
  }
}

/// Magic number (read already), version, facts of the system, the object, keys of the storages, their bytes
/// in turn.
void ReadOlder(Bytes file, size_t at, Reader* reader, Tree* tree) {
  constexpr int64_t kVersion = 1001;
  at += reader->Read(file.subspan(at), false, tree);
  if (tree->root.kind != Kind::kInt || tree->root.integer != kVersion)
    Fail("torch's older format is of version ", tree->Describe(tree->root), ", not ", kVersion);
  at += reader->Read(file.subspan(at), false, tree);
  const Value* little = tree->Find(tree->root, "little_endian");
  if (!little || little->kind != Kind::kBool || !little->integer)
    Fail("the file was written on a machine of another byte order, which is not read");
  at += reader->Read(file.subspan(at), true, tree);
  const Value root = tree->root;
  at += reader->Read(file.subspan(at), false, tree);
  if (tree->root.kind != Kind::kList || tree->Items(tree->root).size() > kMostArrays)
    Fail("torch's older format has no list of storages, or one of too many: the file is damaged");
  for (const Value& key : tree->Items(tree->root)) {
    if (key.kind != Kind::kText) Fail("a storage is called ", tree->Describe(key), ": the file is damaged");
    uint64_t elements = 0;
    if (file.size() - at < sizeof elements) Fail("the file ends before its storages: it was cut off");
    std::memcpy(&elements, file.data() + at, sizeof elements);
    at += sizeof elements;
    uint64_t size = 0;
    for (Storage& storage : tree->storages) {
      if (!IsSought(storage) || storage.key.text() != key.text()) continue;
      size = storage.elements * storage.element.size;
      if (elements != storage.elements || size > file.size() - at)
        Fail("the file ends inside a storage, or has another size for it: it is damaged");
      Find(&storage, file.subspan(at, size));
    }
    if (size == 0 && elements != 0) Fail("the file has a storage that nothing uses: it is damaged");
    at += size;
  }
  for (const Storage& storage : tree->storages)
    if (IsSought(storage) && storage.elements > 0)
      Fail("a tensor's storage is missing: the file was cut off");
  RequireEnd(at, file);
  tree->root = root;
}

}  // namespace

void ReadFile(Bytes file, Reader* reader, Tree* tree) {
  tree->Clear();
  if (file.size() > kMostBytes)
    Fail("the file has ", file.size(), " bytes, more than ", kMostBytes, ", which none of this kind has");
  if (StartsWith(file, "PK")) return ReadArchive(file, reader, tree);
  if (const size_t at = BehindMagic(file)) return ReadOlder(file, at, reader, tree);
  if (file.empty()) Fail("the file is empty");
  if (file[0] != 0x80)
    Fail(
        "the file is neither an archive of torch.save nor a pickle of protocol 2 or later: it begins with "
        "the byte ",
        unsigned{file[0]});
  RequireEnd(reader->Read(file, false, tree), file);
}

}  // namespace dali_dr::pickle
