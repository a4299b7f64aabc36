// Pickles and torch's archives as the tests want them, written from Python's pickletools and PKWARE's
// APPNOTE.TXT.
#ifndef DALI_DR_CSRC_TESTS_MAKE_PICKLE_H_
#define DALI_DR_CSRC_TESTS_MAKE_PICKLE_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace dali_dr::testing::made {

using Text = std::string;

template <typename T>
Text Little(T number) {
  Text bytes(sizeof number, 0);
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

inline Text None() { return "N"; }
inline Text True() { return "\x88"; }
inline Text False() { return "\x89"; }
inline Text Int(int64_t number) {
  if (number >= 0 && number < 256) return "K" + Little(static_cast<uint8_t>(number));
  if (number >= 0 && number < 65536) return "M" + Little(static_cast<uint16_t>(number));
  if (number == static_cast<int32_t>(number)) return "J" + Little(static_cast<int32_t>(number));
  return "\x8a\x08" + Little(number);
}
inline Text Float(double number) {
  const Text little = Little(number);
  return "G" + Text(little.rbegin(), little.rend());
}
inline Text String(const Text& text) { return "X" + Little(static_cast<uint32_t>(text.size())) + text; }
inline Text Bytes(const Text& bytes) { return "B" + Little(static_cast<uint32_t>(bytes.size())) + bytes; }
inline Text Join(const std::vector<Text>& items) {
  Text all;
  for (const Text& item : items) all += item;
  return all;
}
inline Text Tuple(const std::vector<Text>& items) { return "(" + Join(items) + "t"; }
inline Text List(const std::vector<Text>& items) { return "](" + Join(items) + "e"; }
inline Text Dict(const std::vector<std::pair<Text, Text>>& items) {
  Text all = "}(";
  for (const auto& [key, value] : items) all += String(key) + value;
  return all + "u";
}
inline Text Global(const Text& module, const Text& name) { return "c" + module + "\n" + name + "\n"; }
inline Text Call(const Text& callee, const std::vector<Text>& arguments) {
  return callee + Tuple(arguments) + "R";
}
inline Text Whole(const Text& body, int protocol = 2) {
  return "\x80" + Text(1, static_cast<char>(protocol)) + body + ".";
}

/// Of a NumPy type by its name: "f4", and its byte order.
inline Text Dtype(const Text& name, const Text& order = "<") {
  const Text state = Tuple({Int(3), String(order), None(), None(), None(), Int(-1), Int(-1), Int(0)});
  return Call(Global("numpy", "dtype"), {String(name), False(), True()}) + state + "b";
}
inline Text Scalar(const Text& name, const Text& bytes) {
  return Call(Global("numpy.core.multiarray", "scalar"), {Dtype(name), Bytes(bytes)});
}
inline Text Shape(const std::vector<int64_t>& dims) {
  std::vector<Text> items;
  for (const int64_t dim : dims) items.push_back(Int(dim));
  return Tuple(items);
}
inline Text NumpyArray(const Text& name, const std::vector<int64_t>& shape, const Text& bytes,
                       bool fortran = false) {
  const Text start = Call(Global("numpy._core.multiarray", "_reconstruct"),
                          {Global("numpy", "ndarray"), Tuple({Int(0)}), Bytes("b")});
  return start + Tuple({Int(1), Shape(shape), Dtype(name), fortran ? True() : False(), Bytes(bytes)}) + "b";
}
inline Text TorchStorage(const Text& type, const Text& key, int64_t elements, bool older = false) {
  std::vector<Text> id{String("storage"), Global("torch", type), String(key), String("cpu"), Int(elements)};
  if (older) id.push_back(None());
  return Tuple(id) + "Q";
}
inline Text Tensor(const Text& storage, int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides) {
  return Call(Global("torch._utils", "_rebuild_tensor_v2"),
              {storage, Int(offset), Shape(shape), Shape(strides), False(),
               Call(Global("collections", "OrderedDict"), {})});
}
template <typename T>
Text Array(const std::vector<T>& numbers) {
  Text bytes;
  for (const T& number : numbers) bytes += Little(number);
  return bytes;
}

inline uint32_t Checksum(const Text& bytes) {  // a bit at a time
  uint32_t value = 0xffffffff;
  for (const char byte : bytes) {
    value ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0xedb88320u : value >> 1;
  }
  return ~value;
}

struct ZipForm {
  bool zip64 = true;       ///< sizes and places in ZIP64 parts, as torch writes them
  uint16_t method = 0;     ///< 8: deflated
  uint16_t flags = 0x808;  /// 1: encrypted
  uint64_t shift = 0;      ///< what every member's place is wrong by
  uint64_t longer = 0;     ///< what every member's size is wrong by
};

inline Text Zip(const std::vector<std::pair<Text, Text>>& members, const ZipForm& form = {}) {
  Text archive, directory;
  const auto u16 = [](uint64_t number) { return Little(static_cast<uint16_t>(number)); };
  const auto u32 = [](uint64_t number) { return Little(static_cast<uint32_t>(number)); };
  for (const auto& [name, bytes] : members) {
    const uint64_t place = archive.size() + form.shift, size = bytes.size() + form.longer;
    archive += "PK\3\4" + u16(45) + u16(form.flags) + u16(form.method) + u32(0) + u32(0) + u32(0) + u32(0) +
               u16(name.size()) + u16(5) + name + Text("FB\1\0Z", 5) + bytes;
    Text extra;
    if (form.zip64)
      extra = u16(0x4246) + u16(1) + "Z" + u16(1) + u16(24) + Little(size) + Little(size) + Little(place);
    const uint64_t small = form.zip64 ? 0xffffffff : size;
    directory += "PK\1\2" + u16(45) + u16(45) + u16(form.flags) + u16(form.method) + u32(0) +
                 u32(Checksum(bytes)) + u32(small) + u32(small) + u16(name.size()) + u16(extra.size()) +
                 u16(0) + u16(0) + u16(0) + u32(0) + u32(form.zip64 ? 0xffffffff : place) + name + extra;
  }
  const uint64_t begin = archive.size(), count = members.size();
  archive += directory;
  if (form.zip64) {
    const uint64_t end = archive.size();
    archive += "PK\6\6" + Little(uint64_t{44}) + u16(45) + u16(45) + u32(0) + u32(0) + Little(count) +
               Little(count) + Little(uint64_t{directory.size()}) + Little(begin);
    archive += "PK\6\7" + u32(0) + Little(end) + u32(1);
  }
  return archive + "PK\5\6" + u16(0) + u16(0) + u16(count) + u16(count) + u32(directory.size()) + u32(begin) +
         u16(0);
}

/// As torch.save writes it.
inline Text Archive(const Text& pickle, const std::vector<std::pair<Text, Text>>& storages = {},
                    const ZipForm& form = {}) {
  std::vector<std::pair<Text, Text>> members{{"archive/data.pkl", pickle}, {"archive/byteorder", "little"}};
  for (const auto& [key, bytes] : storages) members.emplace_back("archive/data/" + key, bytes);
  return Zip(members, form);
}

/// As torch.save wrote it before: the storages are counted in elements.
struct OlderStorage {
  Text key;
  uint64_t elements;
  Text bytes;
};
inline Text Older(const Text& pickle, const std::vector<OlderStorage>& storages, int64_t version = 1001,
                  bool little = true) {
  const Text magic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);
  Text file = Whole(magic) + Whole(Int(version)) +
              Whole(Dict({{"protocol_version", Int(1001)}, {"little_endian", little ? True() : False()}})) +
              pickle;
  std::vector<Text> keys;
  for (const OlderStorage& storage : storages) keys.push_back(String(storage.key));
  file += Whole(List(keys));
  for (const OlderStorage& storage : storages) file += Little(storage.elements) + storage.bytes;
  return file;
}

}  // namespace dali_dr::testing::made

#endif  // DALI_DR_CSRC_TESTS_MAKE_PICKLE_H_
