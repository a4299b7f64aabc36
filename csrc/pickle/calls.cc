// The names that a pickle may have, and what stands for calling them: reader.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "pickle/error.h"
#include "pickle/reader.h"

namespace dali_dr::pickle {
namespace {

enum Name : uint32_t {
  kScalarName,
  kArrayName,
  kNdarrayName,
  kDtypeName,
  kEncodeName,
  kHooksName,
  kTensorName,
  kStorageName
};

struct Known {
  std::string_view module, name;
  Name what;
  Element element{};  // of a storage
};

// Modules moved in NumPy 2; both spellings are read with either.
constexpr Known kKnown[] = {
    {"numpy.core.multiarray", "scalar", kScalarName},
    {"numpy._core.multiarray", "scalar", kScalarName},
    {"numpy.core.multiarray", "_reconstruct", kArrayName},
    {"numpy._core.multiarray", "_reconstruct", kArrayName},
    {"numpy", "ndarray", kNdarrayName},
    {"numpy", "dtype", kDtypeName},
    {"_codecs", "encode", kEncodeName},
    {"collections", "OrderedDict", kHooksName},
    {"torch._utils", "_rebuild_tensor_v2", kTensorName},
    {"torch", "BoolStorage", kStorageName, {'b', 1}},
    {"torch", "ByteStorage", kStorageName, {'u', 1}},
    {"torch", "CharStorage", kStorageName, {'i', 1}},
    {"torch", "ShortStorage", kStorageName, {'i', 2}},
    {"torch", "IntStorage", kStorageName, {'i', 4}},
    {"torch", "LongStorage", kStorageName, {'i', 8}},
    {"torch", "HalfStorage", kStorageName, {'f', 2}},
    {"torch", "FloatStorage", kStorageName, {'f', 4}},
    {"torch", "DoubleStorage", kStorageName, {'f', 8}},
};

bool IsName(const Value& value, Name name) {
  return value.kind == Kind::kGlobal && kKnown[value.index].what == name;
}

bool IsCount(const Value& value) { return value.kind == Kind::kInt && value.integer >= 0; }

bool IsText(const Value& value, std::string_view text) {
  return value.kind == Kind::kText && value.text() == text;
}

[[noreturn]] void RefuseArguments(const char* what) {
  Fail("the pickle makes ", what,
       " in a way that neither NumPy nor torch does: it is damaged, or not what it seems");
}

/// The product of an array's dimensions, or where it is beyond `limit`, limit + 1.
uint64_t Count(const Array& array, uint64_t limit) {
  uint64_t count = 1;
  bool empty = false;
  for (uint32_t i = 0; i < array.dims; ++i) empty |= array.shape[i] == 0;
  if (empty) return 0;
  for (uint32_t i = 0; i < array.dims; ++i) {
    if (array.shape[i] > limit / count) return limit + 1;
    count *= array.shape[i];
  }
  return count;
}

void TakeShape(std::span<const Value> dims, const char* what, std::array<uint64_t, kMaxDims>* shape) {
  if (dims.size() > kMaxDims)
    Fail("the pickle has ", what, " of ", dims.size(), " dimensions, above ", kMaxDims);
  for (size_t i = 0; i < dims.size(); ++i) {
    if (!IsCount(dims[i])) RefuseArguments(what);
    (*shape)[i] = static_cast<uint64_t>(dims[i].integer);
  }
}

/// 0, 1 or, of something else, -1.
int Truth(const Value& value) {
  const bool fits = value.kind == Kind::kBool || value.kind == Kind::kInt;
  return fits && (value.integer == 0 || value.integer == 1) ? static_cast<int>(value.integer) : -1;
}

}  // namespace

void Reader::PushGlobal(std::string_view module, std::string_view name) {
  for (size_t i = 0; i < std::size(kKnown); ++i) {
    if (kKnown[i].name != name || kKnown[i].module != module) continue;
    Value value{Kind::kGlobal};
    value.index = i;
    return Push(value);
  }
  RefuseName(module, name);
}

void Reader::Reduce() {
  const Value arguments = Pop(), callee = Pop();
  if (callee.kind != Kind::kGlobal)
    Fail("the pickle calls ", tree_->Describe(callee), ", which is no function: it is damaged");
  if (arguments.kind != Kind::kTuple) RefuseArguments("a call");
  const auto items = tree_->Items(arguments);
  switch (kKnown[callee.index].what) {
    case kScalarName:
      return Push(MakeScalar(items));
    case kArrayName:
      return Push(MakeArray(items));
    case kDtypeName:
      return Push(MakeDtype(items));
    case kEncodeName:
      return Push(MakeBytes(items));
    case kHooksName:
      if (!items.empty()) RefuseArguments("an OrderedDict");
      return PushSequence(Kind::kDict);
    case kTensorName:
      return Push(MakeTensor(items));
    default:
      Fail("the pickle calls ", kKnown[callee.index].module, ".", kKnown[callee.index].name,
           ", which no file of this kind does");
  }
}

void Reader::Build() {
  const Value state = Pop(), target = Top();
  if (state.kind != Kind::kTuple) RefuseArguments("a state");
  if (target.kind == Kind::kDtype) return BuildDtype(&dtypes_[target.index], tree_->Items(state));
  if (target.kind == Kind::kArray) return BuildArray(&tree_->arrays[target.index], tree_->Items(state));
  Fail("the pickle sets the state of ", tree_->Describe(target), ", which has none: it is damaged");
}

// numpy.dtype("f4", False, True)
Value Reader::MakeDtype(std::span<const Value> arguments) {
  if (arguments.empty() || arguments.size() > 3 || arguments[0].kind != Kind::kText)
    RefuseArguments("a NumPy type");
  for (const Value& flag : arguments.subspan(1))
    if (Truth(flag) < 0) RefuseArguments("a NumPy type");
  const std::string_view name = arguments[0].text();
  Dtype dtype;
  if (name.size() != 2 || name.find_first_of("biuf") != 0 || name.find_first_of("1248", 1) != 1 ||
      (name[0] == 'b' && name[1] != '1') || (name[0] == 'f' && name[1] == '1'))
    Fail("the pickle has a NumPy type ", tree_->Describe(arguments[0]),
         ", which is none of b1, i1 … i8, u1 … u8, f2, f4, f8");
  dtype.element = {name[0], static_cast<uint8_t>(name[1] - '0')};
  if (dtypes_.size() == kMostDtypes) Fail("the pickle has more than ", kMostDtypes, " NumPy types");
  Value value{Kind::kDtype};
  value.index = dtypes_.size();
  dtypes_.push_back(dtype);
  return value;
}

// (3, "<", None, None, None, -1, -1, 0)
void Reader::BuildDtype(Dtype* dtype, std::span<const Value> state) {
  if (dtype->built || state.size() != 8 || state[0].kind != Kind::kInt || state[1].kind != Kind::kText)
    RefuseArguments("a NumPy type");
  if (!state[2].none() || !state[3].none() || !state[4].none()) RefuseArguments("a NumPy type");
  for (const Value& number : state.subspan(5))
    if (number.kind != Kind::kInt) RefuseArguments("a NumPy type");
  const std::string_view order = state[1].text();
  if (order == ">")
    Fail(
        "the pickle has big-endian numbers (NumPy's byte order \">\"), which are not read: write it anew on "
        "a "
        "little-endian machine");
  if (order != "<" && order != "=" && (order != "|" || dtype->element.size != 1))
    RefuseArguments("a NumPy type");
  dtype->built = true;
}

// scalar(dtype, bytes)
Value Reader::MakeScalar(std::span<const Value> arguments) {
  if (arguments.size() != 2 || arguments[0].kind != Kind::kDtype || arguments[1].kind != Kind::kBytes)
    RefuseArguments("a NumPy number");
  const Element element = dtypes_[arguments[0].index].element;
  if (arguments[1].length != element.size) RefuseArguments("a NumPy number");
  const uint8_t* bytes = arguments[1].bytes;
  Value value;
  if (element.kind == 'f') {
    value.kind = Kind::kFloat;
    value.real = Tree::Number(element, bytes);
    return value;
  }
  value.kind = element.kind == 'b' ? Kind::kBool : Kind::kInt;
  uint64_t number = element.kind == 'i' && bytes[element.size - 1] >> 7 ? ~uint64_t{0} : 0;
  std::memcpy(&number, bytes, element.size);
  if (element.kind == 'b') number = number != 0;
  if (element.kind == 'u' && number >> 63)
    Fail("the pickle has an integer of 64 bits without sign: ", number);
  value.integer = static_cast<int64_t>(number);
  return value;
}

// _codecs.encode(text, "latin1"): bytes as protocol 2 writes them, each a character in UTF-8.
Value Reader::MakeBytes(std::span<const Value> arguments) {
  if (arguments.size() != 2 || arguments[0].kind != Kind::kText || !IsText(arguments[1], "latin1"))
    RefuseArguments("bytes");
  const auto text = std::span(arguments[0].bytes, arguments[0].length);
  decoded_ += text.size();
  if (decoded_ > static_cast<size_t>(end_ - begin_)) Fail("the pickle decodes more text than it has");
  auto bytes = std::make_unique_for_overwrite<uint8_t[]>(text.size());
  uint32_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] < 0x80) {
      bytes[count++] = text[i];
      continue;
    }
    const bool pair = (text[i] == 0xc2 || text[i] == 0xc3) && i + 1 < text.size() && text[i + 1] >> 6 == 2;
    if (!pair) Fail("the pickle has bytes written as text that are not latin1: it is damaged");
    bytes[count++] = static_cast<uint8_t>(text[i] << 6 | (text[i + 1] & 0x3f));
    ++i;
  }
  Value value{Kind::kBytes, count};
  value.bytes = bytes.get();
  tree_->decoded.push_back(std::move(bytes));
  return value;
}

// _reconstruct(ndarray, (0,), b"b")
Value Reader::MakeArray(std::span<const Value> arguments) {
  if (arguments.size() != 3 || !IsName(arguments[0], kNdarrayName) || arguments[1].kind != Kind::kTuple ||
      (arguments[2].kind != Kind::kBytes && arguments[2].kind != Kind::kText))
    RefuseArguments("a NumPy array");
  const auto shape = tree_->Items(arguments[1]);
  if (shape.size() != 1 || !IsCount(shape[0]) || shape[0].integer != 0) RefuseArguments("a NumPy array");
  if (tree_->arrays.size() == kMostArrays) Fail("the pickle has more than ", kMostArrays, " arrays");
  Value value{Kind::kArray};
  value.index = tree_->arrays.size();
  Array empty;
  empty.storage = AddStorage({});
  tree_->arrays.push_back(empty);
  return value;
}

// (1, shape, dtype, whether in Fortran's order, bytes)
void Reader::BuildArray(Array* array, std::span<const Value> state) {
  const char* what = "a NumPy array";
  if (array->built || state.size() != 5 || state[0].kind != Kind::kInt || state[1].kind != Kind::kTuple ||
      state[2].kind != Kind::kDtype || Truth(state[3]) < 0 || state[4].kind != Kind::kBytes)
    RefuseArguments(what);
  const auto dims = tree_->Items(state[1]);
  array->built = true;
  TakeShape(dims, what, &array->shape);
  array->dims = static_cast<uint32_t>(dims.size());
  array->element = dtypes_[state[2].index].element;
  const uint64_t bytes = state[4].length, elements = bytes / array->element.size;
  if (Count(*array, elements) != elements || elements * array->element.size != bytes)
    Fail("the pickle has ", tree_->Describe(stack_.back()), " of ", bytes, " bytes: it is damaged");
  uint64_t stride = 1;
  for (uint32_t i = 0; i < array->dims; ++i) {
    const uint32_t dim = Truth(state[3]) ? i : array->dims - 1 - i;
    array->strides[dim] = stride;
    stride *= std::max<uint64_t>(array->shape[dim], 1);
  }
  tree_->storages[array->storage] = {array->element, {}, elements, state[4].bytes};
}

// _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
Value Reader::MakeTensor(std::span<const Value> arguments) {
  const char* what = "a torch tensor";
  if (arguments.size() != 6 || arguments[0].kind != Kind::kStorage || !IsCount(arguments[1]) ||
      arguments[2].kind != Kind::kTuple || arguments[3].kind != Kind::kTuple || Truth(arguments[4]) < 0 ||
      arguments[5].kind != Kind::kDict || !tree_->Items(arguments[5]).empty())
    RefuseArguments(what);
  const auto shape = tree_->Items(arguments[2]), strides = tree_->Items(arguments[3]);
  if (shape.size() != strides.size()) RefuseArguments(what);
  const Storage& storage = tree_->storages[arguments[0].index];
  Array array;
  array.element = storage.element;
  array.built = true;
  array.dims = static_cast<uint32_t>(shape.size());
  TakeShape(shape, what, &array.shape);
  TakeShape(strides, what, &array.strides);
  array.offset = static_cast<uint64_t>(arguments[1].integer);
  array.storage = arguments[0].index;
  const uint64_t count = Count(array, storage.elements);
  uint64_t last = array.offset;  // of its elements, in the storage
  bool inside = count <= storage.elements;
  for (uint32_t i = 0; inside && count > 0 && i < array.dims; ++i) {
    const uint64_t steps = array.shape[i] - 1, stride = array.strides[i];
    inside = last < storage.elements && (steps == 0 || stride <= (storage.elements - 1 - last) / steps);
    if (inside) last += steps * stride;
  }
  if (!inside || (count > 0 && last >= storage.elements))
    Fail("the pickle has a tensor of more elements than its storage of ", storage.elements,
         ": it is damaged");
  if (tree_->arrays.size() == kMostArrays) Fail("the pickle has more than ", kMostArrays, " arrays");
  Value value{Kind::kArray};
  value.index = tree_->arrays.size();
  tree_->arrays.push_back(array);
  return value;
}

// ("storage", FloatStorage, key, "cpu", elements), in torch's older format with None behind it
void Reader::PushStorage() {
  if (!storages_)
    Fail("the pickle refers to something outside of it (BINPERSID), which only torch's files do");
  const char* what = "a torch storage";
  const Value id = Pop();
  if (id.kind != Kind::kTuple) RefuseArguments(what);
  const auto items = tree_->Items(id);
  const bool older = items.size() == 6 && items[5].none();
  if ((items.size() != 5 && !older) || !IsText(items[0], "storage") || !IsName(items[1], kStorageName) ||
      items[2].kind != Kind::kText || items[3].kind != Kind::kText || !IsCount(items[4]))
    RefuseArguments(what);
  const Element element = kKnown[items[1].index].element;
  const auto elements = static_cast<uint64_t>(items[4].integer);
  if (elements > kMostBytes / element.size) Fail("a torch storage of ", elements, " elements is too large");
  Value value{Kind::kStorage};
  value.index = AddStorage({element, items[2], elements, nullptr});
  Push(value);
}

size_t Reader::AddStorage(const Storage& storage) {
  if (tree_->storages.size() == kMostArrays) Fail("the pickle has more than ", kMostArrays, " arrays");
  tree_->storages.push_back(storage);
  return tree_->storages.size() - 1;
}

}  // namespace dali_dr::pickle
