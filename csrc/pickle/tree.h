// What a pickle holds, as values that nothing was executed for: numbers, texts, lists, tuples, dictionaries,
// arrays. All of them lie in a few vectors of the tree, and point into the file.
#ifndef DALI_DR_CSRC_PICKLE_TREE_H_
#define DALI_DR_CSRC_PICKLE_TREE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dali_dr::pickle {

enum class Kind : uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kBytes,
  kTuple,
  kList,
  kDict,
  kArray,   // of NumPy or torch
  kGlobal,  // the following are of use to the reader alone
  kDtype,
  kStorage,
};

struct Value {
  Kind kind = Kind::kNone;
  uint32_t length = 0;  ///< bytes of kText and kBytes, items of kTuple
  union {
    int64_t integer = 0;   ///< kInt, and kBool as 0 or 1
    double real;           ///< kFloat
    const uint8_t* bytes;  ///< kText (UTF-8, unchecked) and kBytes
    size_t index;          ///< of everything else, in its vector
  };

  Value() = default;
  explicit Value(Kind kind, uint32_t length = 0) : kind(kind), length(length) {}

  bool none() const { return kind == Kind::kNone; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes), length}; }
};

/// The type of an array's elements: 'b' (bool), 'i', 'u' or 'f', of so many bytes, little-endian.
struct Element {
  char kind = 'f';
  uint8_t size = 4;
};

inline constexpr size_t kMaxDims = 8;

/// Elements of a storage, by strides that stay inside it; never more elements than it has.
struct Array {
  Element element;
  bool built = false;
  uint32_t dims = 1;
  std::array<uint64_t, kMaxDims> shape{}, strides{};  ///< strides in elements
  uint64_t offset = 0;                                ///< of the first element, in elements
  size_t storage = 0;
};

/// Bytes of an array, or of several that share them.
struct Storage {
  Element element;
  Value key;  ///< what torch calls it
  uint64_t elements = 0;
  const uint8_t* bytes = nullptr;  ///< elements * element.size of them; null until they are found
};

/// A list or dictionary (keys and values in turn): some of the tree's values, with room for more behind them.
struct Sequence {
  size_t begin = 0, count = 0, capacity = 0;
};

class Tree {
 public:
  Value root;
  std::vector<Value> values;
  std::vector<Sequence> sequences;
  std::vector<Array> arrays;
  std::vector<Storage> storages;
  std::vector<std::unique_ptr<uint8_t[]>> decoded;  ///< bytes that do not lie in the file

  /// Forgets all values, but keeps the memory.
  void Clear();

  /// Items of a list or tuple, keys and values of a dictionary; of all else none.
  std::span<const Value> Items(const Value& value) const {
    if (value.kind == Kind::kTuple) return {values.data() + value.index, value.length};
    if (value.kind != Kind::kList && value.kind != Kind::kDict) return {};
    const Sequence& sequence = sequences[value.index];
    return {values.data() + sequence.begin, sequence.count};
  }

  bool IsSequence(const Value& value) const {
    return value.kind == Kind::kTuple || value.kind == Kind::kList;
  }

  /// The dictionary's value of this key (the last, if there are several), or null.
  const Value* Find(const Value& dict, std::string_view key) const;

  const Array& ArrayOf(const Value& value) const { return arrays[value.index]; }

  /// The array's element at the place `indices`, of which there are as many as dimensions and each is inside
  /// its dimension. Integers beyond 2^53 are rounded.
  template <typename... Indices>
  double At(const Array& array, Indices... indices) const {
    uint64_t place = array.offset;
    size_t dim = 0;
    ((place += array.strides[dim++] * static_cast<uint64_t>(indices)), ...);
    return Number(array.element, storages[array.storage].bytes + place * array.element.size);
  }

  /// What the value is, in a few words and on one line.
  std::string Describe(const Value& value) const;

  static double Number(Element element, const uint8_t* bytes);
};

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_TREE_H_
