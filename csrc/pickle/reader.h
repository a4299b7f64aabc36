// Reads pickles without executing anything: of the opcodes and the names that pickles may have, it knows
// those that the published sets' files have (NumPy's numbers and arrays, torch's tensors), and refuses all
// others by name.
//
// Nothing is ever looked up: a name is compared with a list, and what the file wants to be called with it is
// an argument whose shape is checked.
#ifndef DALI_DR_CSRC_PICKLE_READER_H_
#define DALI_DR_CSRC_PICKLE_READER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pickle/error.h"
#include "pickle/tree.h"

namespace dali_dr::pickle {

inline constexpr size_t kMostBytes = size_t{256} << 20;  ///< of a file
inline constexpr size_t kMostValues =
    size_t{2} << 20;  ///< of a tree: 32 MiB, and of each of what it is read with; 8,000 views have 0.5 Mi
inline constexpr size_t kMostArrays = 256;   ///< of a tree, and storages
inline constexpr size_t kMostDtypes = 4096;  ///< of a pickle

/// Throws PickleError where `count` more than `size` would be too many.
inline void RequireRoom(size_t size, size_t count) {
  if (size > kMostValues || count > kMostValues - size)
    Fail("the pickle has more than ", kMostValues, " values");
}

/// Values, of which many are put on top at once. What lies behind them is kept as room for more.
class Stack {
 public:
  size_t size() const { return size_; }
  Value* begin() { return values_.data(); }
  Value* end() { return values_.data() + size_; }
  Value& back() { return values_[size_ - 1]; }
  Value& operator[](size_t place) { return values_[place]; }

  /// Where `count` values may be written, before Add puts them on the stack.
  Value* Room(size_t count) {
    if (values_.size() - size_ < count) {
      RequireRoom(size_, count);
      values_.resize(2 * values_.size() + count);
    }
    return end();
  }
  void Add(size_t count) { size_ += count; }
  void Shrink(size_t size) { size_ = size; }

  void push_back(const Value& value) {
    *Room(1) = value;
    ++size_;
  }
  /// Makes it `size` values, of which those that are new are `value`.
  void Grow(size_t size, const Value& value) {
    std::fill_n(Room(size - size_), size - size_, value);
    size_ = size;
  }

 private:
  std::vector<Value> values_;
  size_t size_ = 0;
};

class Reader {
 public:
  /// Reads the pickle with which `bytes` begin into the tree, to whatever it holds already; its value is the
  /// tree's root then. Torch's storages are named only with `storages`; they are still to be found. Returns
  /// the pickle's length. Throws PickleError. The tree points into the bytes.
  size_t Read(std::span<const uint8_t> bytes, bool storages, Tree* tree);

 private:
  struct Dtype {
    Element element;
    bool built = false;
  };

  void Step(uint8_t opcode);
  /// Takes the opcodes that come, as long as they are floats and small integers.
  void PushNumbers();
  template <typename T>
  T Take();
  std::span<const uint8_t> TakeBytes(uint64_t count);
  std::string_view TakeLine();

  void Push(const Value& value) { stack_.push_back(value); }
  void PushText(Kind kind, uint64_t length);
  Value Pop();
  Value& Top();
  /// What lies above the last mark, which goes.
  size_t PopMark();

  void PushSequence(Kind kind);
  void PushTuple(size_t first);
  void Extend(size_t first, Kind kind);
  void Memoize(size_t place);
  void Recall(size_t place);
  void LongInteger();

  [[noreturn]] void RefuseOpcode(uint8_t opcode);
  [[noreturn]] void RefuseName(std::string_view module, std::string_view name);
  void PushGlobal(std::string_view module, std::string_view name);
  void Reduce();
  void Build();
  Value MakeDtype(std::span<const Value> arguments);
  Value MakeScalar(std::span<const Value> arguments);
  Value MakeArray(std::span<const Value> arguments);
  Value MakeBytes(std::span<const Value> arguments);
  Value MakeTensor(std::span<const Value> arguments);
  void BuildDtype(Dtype* dtype, std::span<const Value> state);
  void BuildArray(Array* array, std::span<const Value> state);
  void PushStorage();
  size_t AddStorage(const Storage& storage);

  const uint8_t *begin_ = nullptr, *at_ = nullptr, *end_ = nullptr;
  bool storages_ = false;
  Tree* tree_ = nullptr;
  Stack stack_;
  Stack memo_;             // with gaps, if the pickle numbers what it remembers
  size_t remembered_ = 0;  // of them
  std::vector<size_t> marks_;
  std::vector<Dtype> dtypes_;
  size_t decoded_ = 0;  // bytes
};

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_READER_H_
