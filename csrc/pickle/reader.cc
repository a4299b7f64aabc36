// See reader.h; calls.cc has what names and calls mean.
#include "pickle/reader.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "escape.h"
#include "pickle/error.h"
#include "pickle/opcodes.h"

namespace dali_dr::pickle {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers of pickles are read by memcpy");

constexpr uint8_t kHighestProtocol = 5;
constexpr uint8_t kStop = '.';

Value Int(int64_t number) {
  Value value{Kind::kInt};
  value.integer = number;
  return value;
}

/// The one number that is big-endian.
Value BigEndian(const uint8_t* bytes) {
  uint64_t bits = 0;
  std::memcpy(&bits, bytes, sizeof bits);
  Value value(Kind::kFloat);
  value.real = std::bit_cast<double>(__builtin_bswap64(bits));
  return value;
}

bool IsNumber(uint8_t opcode) { return opcode == 'G' || opcode == 'K' || opcode == 'M'; }

Value Bool(bool truth) {
  Value value{Kind::kBool};
  value.integer = truth;
  return value;
}

}  // namespace

size_t Reader::Read(std::span<const uint8_t> bytes, bool storages, Tree* tree) {
  if (bytes.size() > kMostBytes)
    Fail("the pickle has ", bytes.size(), " bytes, more than ", kMostBytes, ", which none of this kind has");
  begin_ = at_ = bytes.data();
  end_ = at_ + bytes.size();
  storages_ = storages;
  tree_ = tree;
  stack_.Shrink(0);
  memo_.Shrink(0);
  remembered_ = 0;
  marks_.clear();
  dtypes_.clear();
  decoded_ = 0;
  while (true) {
    PushNumbers();
    const auto opcode = Take<uint8_t>();
    if (opcode == kStop) break;
    Step(opcode);
  }
  if (!marks_.empty() || stack_.size() != 1)
    Fail("the pickle stops with ", stack_.size(), " values, where it should have made one: it is damaged");
  tree->root = *stack_.begin();
  return static_cast<size_t>(at_ - begin_);
}

// Most values are such numbers, in runs: without this they take twice the time.
void Reader::PushNumbers() {
  constexpr ptrdiff_t kLongest = 9;
  if (end_ - at_ < kLongest || !IsNumber(*at_)) return;
  constexpr size_t kRun = 32;
  Value *const run = stack_.Room(kRun), *next = run;
  const uint8_t *at = at_, *const last = end_ - kLongest;
  do {
    if (*at == 'G') {
      *next++ = BigEndian(at + 1);
      at += kLongest;
    } else {
      const int wide = *at == 'M';  // without a branch, which could not be foreseen
      *next++ = Int(at[1] | ((at[2] << 8) & -wide));
      at += 2 + wide;
    }
  } while (next < run + kRun && at <= last && IsNumber(*at));
  at_ = at;
  stack_.Add(static_cast<size_t>(next - run));
}

void Reader::Step(uint8_t opcode) {
  switch (opcode) {
    case 'N':
      return Push({});
    case 0x88:
      return Push(Bool(true));
    case 0x89:
      return Push(Bool(false));
    case 'K':
      return Push(Int(Take<uint8_t>()));
    case 'M':
      return Push(Int(Take<uint16_t>()));
    case 'J':
      return Push(Int(Take<int32_t>()));
    case 0x8a:
      return LongInteger();
    case 'G':
      return Push(BigEndian(TakeBytes(sizeof(double)).data()));
    case 'X':
      return PushText(Kind::kText, Take<uint32_t>());
    case 0x8c:
      return PushText(Kind::kText, Take<uint8_t>());
    case 0x8d:
      return PushText(Kind::kText, Take<uint64_t>());
    case 'B':
      return PushText(Kind::kBytes, Take<uint32_t>());
    case 'C':
      return PushText(Kind::kBytes, Take<uint8_t>());
    case 0x8e:
      return PushText(Kind::kBytes, Take<uint64_t>());
    case '(':
      RequireRoom(marks_.size(), 1);
      return marks_.push_back(stack_.size());
    case ')':
      return PushTuple(stack_.size());
    case 't':
      return PushTuple(PopMark());
    case 0x85:
    case 0x86:
    case 0x87: {
      const size_t count = opcode - 0x84u, floor = marks_.empty() ? 0 : marks_.back();
      if (stack_.size() < floor + count)
        Fail("a tuple of ", count, " has fewer values: the pickle is damaged");
      return PushTuple(stack_.size() - count);
    }
    case ']':
      return PushSequence(Kind::kList);
    case '}':
      return PushSequence(Kind::kDict);
    case 'a':
      Top();
      return Extend(stack_.size() - 1, Kind::kList);
    case 'e':
      return Extend(PopMark(), Kind::kList);
    case 's':
      return Extend(std::max<size_t>(stack_.size(), 2) - 2, Kind::kDict);
    case 'u':
      return Extend(PopMark(), Kind::kDict);
    case 0x94:
      return Memoize(remembered_);
    case 'q':
      return Memoize(Take<uint8_t>());
    case 'r':
      return Memoize(Take<uint32_t>());
    case 'h':
      return Recall(Take<uint8_t>());
    case 'j':
      return Recall(Take<uint32_t>());
    case 'c': {
      const std::string_view module = TakeLine();
      return PushGlobal(module, TakeLine());
    }
    case 0x93: {
      const Value name = Pop(), module = Pop();
      if (name.kind != Kind::kText || module.kind != Kind::kText)
        Fail("the pickle names something by ", tree_->Describe(module), " and ", tree_->Describe(name),
             ", which are not two texts");
      return PushGlobal(module.text(), name.text());
    }
    case 'R':
      return Reduce();
    case 'b':
      return Build();
    case 'Q':
      return PushStorage();
    case 0x80: {
      const auto protocol = Take<uint8_t>();
      if (protocol > kHighestProtocol) Fail("the pickle is of protocol ", unsigned{protocol}, ", above 5");
      return;
    }
    case 0x95:
      if (Take<uint64_t>() > static_cast<uint64_t>(end_ - at_))
        Fail("a frame of the pickle is longer than the pickle: it was cut off");
      return;
    default:
      RefuseOpcode(opcode);
  }
}

template <typename T>
T Reader::Take() {
  if (static_cast<size_t>(end_ - at_) < sizeof(T))
    Fail("the pickle ends after ", end_ - begin_, " bytes, before it says so: it was cut off");
  T value;
  std::memcpy(&value, at_, sizeof value);
  at_ += sizeof value;
  return value;
}

std::span<const uint8_t> Reader::TakeBytes(uint64_t count) {
  if (count > static_cast<uint64_t>(end_ - at_))
    Fail("the pickle ends after ", end_ - begin_, " bytes, inside a text: it was cut off");
  const std::span bytes(at_, count);
  at_ += count;
  return bytes;
}

std::string_view Reader::TakeLine() {
  const auto* newline = std::find(at_, end_, '\n');
  const std::string_view line(reinterpret_cast<const char*>(at_), static_cast<size_t>(newline - at_));
  TakeBytes(line.size() + 1);
  return line;
}

void Reader::PushText(Kind kind, uint64_t length) {
  const auto bytes = TakeBytes(length);  // below kMostBytes, so that it fits 32 bits
  Value value{kind, static_cast<uint32_t>(bytes.size())};
  value.bytes = bytes.data();
  Push(value);
}

Value& Reader::Top() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back()))
    Fail("the pickle takes a value where there is none: it is damaged");
  return stack_.back();
}

Value Reader::Pop() {
  const Value value = Top();
  stack_.Shrink(stack_.size() - 1);
  return value;
}

size_t Reader::PopMark() {
  if (marks_.empty()) Fail("the pickle ends a list that it did not begin: it is damaged");
  const size_t mark = marks_.back();
  marks_.pop_back();
  return mark;
}

void Reader::PushSequence(Kind kind) {
  Value value{kind};
  value.index = tree_->sequences.size();
  RequireRoom(tree_->sequences.size(), 1);
  tree_->sequences.push_back({});
  Push(value);
}

void Reader::PushTuple(size_t first) {
  auto& values = tree_->values;
  const size_t count = stack_.size() - first;
  RequireRoom(values.size(), count);
  Value value{Kind::kTuple, static_cast<uint32_t>(count)};
  value.index = values.size();
  values.insert(values.end(), stack_.begin() + first, stack_.end());
  stack_.Shrink(first);
  Push(value);
}

void Reader::Extend(size_t first, Kind kind) {
  const size_t floor = marks_.empty() ? 0 : marks_.back(), count = stack_.size() - first;
  if (first <= floor || stack_[first - 1].kind != kind || (kind == Kind::kDict && count % 2 != 0))
    Fail("the pickle adds to a ", kind == Kind::kList ? "list" : "dictionary",
         " that is not there: it is damaged");
  auto& values = tree_->values;
  Sequence& sequence = tree_->sequences[stack_[first - 1].index];
  const auto added = stack_.begin() + first;
  if (sequence.capacity == 0) {  // as nearly all, which get all that they hold at once
    RequireRoom(values.size(), count);
    sequence = {values.size(), count, count};
    values.insert(values.end(), added, stack_.end());
    return stack_.Shrink(first);
  }
  const size_t room = sequence.capacity - sequence.count;
  if (count > room) {  // to the end of all values, with as much room again as it has had
    const size_t capacity = sequence.count + std::max(count, sequence.count);
    RequireRoom(values.size(), capacity);
    const size_t begin = values.size();
    values.resize(begin + capacity);
    std::copy_n(values.begin() + static_cast<ptrdiff_t>(sequence.begin), sequence.count,
                values.begin() + static_cast<ptrdiff_t>(begin));
    sequence.begin = begin;
    sequence.capacity = capacity;
  }
  std::copy(added, stack_.end(), values.begin() + static_cast<ptrdiff_t>(sequence.begin + sequence.count));
  sequence.count += count;
  stack_.Shrink(first);
}

void Reader::Memoize(size_t place) {
  const Value value = Top();
  if (place == memo_.size()) {
    ++remembered_;
    return memo_.push_back(value);
  }
  if (place > static_cast<size_t>(end_ - begin_))  // no pickle remembers more values than it has bytes
    Fail("the pickle remembers a value as number ", place, ", though it is too short to have so many");
  if (place > memo_.size()) memo_.Grow(place + 1, Value(Kind::kGlobal, 1));
  remembered_ += memo_[place].kind == Kind::kGlobal && memo_[place].length != 0;
  memo_[place] = value;
}

void Reader::Recall(size_t place) {
  if (place >= memo_.size() || (memo_[place].kind == Kind::kGlobal && memo_[place].length != 0))
    Fail("the pickle recalls value ", place, ", which it never remembered: it is damaged");
  Push(memo_[place]);
}

void Reader::LongInteger() {
  const auto bytes = TakeBytes(Take<uint8_t>());
  if (bytes.size() > 8) Fail("the pickle has an integer of ", bytes.size(), " bytes, above 8");
  uint64_t number = !bytes.empty() && bytes.back() >> 7 ? ~uint64_t{0} : 0;  // its sign
  std::memcpy(&number, bytes.data(), bytes.size());
  Push(Int(static_cast<int64_t>(number)));
}

void Reader::RefuseOpcode(uint8_t opcode) {
  const auto place = at_ - begin_ - 1;
  if (opcode == 'i') {  // calls what it names
    const std::string_view module = TakeLine();
    RefuseName(module, TakeLine());
  }
  for (const OpcodeName& each : kRefusedOpcodes)
    if (each.code == opcode)
      Fail("the pickle has the opcode ", each.name, " (byte ", place,
           "), which files of this kind do not have and which is never followed");
  Fail("the pickle has no opcode, but the byte ", unsigned{opcode}, " as byte ", place, ": it is damaged");
}

void Reader::RefuseName(std::string_view module, std::string_view name) {
  constexpr size_t kMost = 100;
  Fail("the pickle names ", Escaped(module.substr(0, kMost)), ".", Escaped(name.substr(0, kMost)),
       ", which is never looked up, let alone called: files of this kind name NumPy's numbers and arrays and "
       "torch's tensors alone");
}

}  // namespace dali_dr::pickle
