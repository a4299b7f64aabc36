// See tree.h.
#include "pickle/tree.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "escape.h"
#include "message.h"

namespace dali_dr::pickle {
namespace {

template <typename T>
double Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return static_cast<double>(value);
}

double Half(const uint8_t* bytes) {
  const uint32_t bits = bytes[0] | uint32_t{bytes[1]} << 8;
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const double mantissa = bits & 1023;
  double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  if (exponent == 31)
    value =
        mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  return bits >> 15 ? -value : value;
}

}  // namespace

void Tree::Clear() {
  root = {};
  values.clear();
  sequences.clear();
  arrays.clear();
  storages.clear();
  decoded.clear();
}

const Value* Tree::Find(const Value& dict, std::string_view key) const {
  if (dict.kind != Kind::kDict) return nullptr;
  const auto items = Items(dict);
  for (size_t i = items.size(); i >= 2; i -= 2)
    if (items[i - 2].kind == Kind::kText && items[i - 2].text() == key) return &items[i - 1];
  return nullptr;
}

double Tree::Number(Element element, const uint8_t* bytes) {
  switch (element.kind << 8 | element.size) {
    case 'b' << 8 | 1:
      return *bytes != 0;
    case 'i' << 8 | 1:
      return Load<int8_t>(bytes);
    case 'i' << 8 | 2:
      return Load<int16_t>(bytes);
    case 'i' << 8 | 4:
      return Load<int32_t>(bytes);
    case 'i' << 8 | 8:
      return Load<int64_t>(bytes);
    case 'u' << 8 | 1:
      return Load<uint8_t>(bytes);
    case 'u' << 8 | 2:
      return Load<uint16_t>(bytes);
    case 'u' << 8 | 4:
      return Load<uint32_t>(bytes);
    case 'u' << 8 | 8:
      return Load<uint64_t>(bytes);
    case 'f' << 8 | 2:
      return Half(bytes);
    case 'f' << 8 | 4:
      return Load<float>(bytes);
    default:
      return Load<double>(bytes);
  }
}

std::string Tree::Describe(const Value& value) const {
  constexpr size_t kMost = 40;
  switch (value.kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.integer ? "True" : "False";
    case Kind::kInt:
      return Message(value.integer);
    case Kind::kFloat:
      return Message(value.real);
    case Kind::kText:
      return Message("\"", Escaped(value.text().substr(0, kMost)), value.length > kMost ? "…\"" : "\"");
    case Kind::kBytes:
      return Message(value.length, " bytes");
    case Kind::kTuple:
      return Message("a tuple of ", value.length);
    case Kind::kList:
      return Message("a list of ", sequences[value.index].count);
    case Kind::kDict:
      return Message("a dictionary of ", sequences[value.index].count / 2);
    case Kind::kArray: {
      const Array& array = arrays[value.index];
      std::string shape;
      for (size_t i = 0; i < array.dims; ++i) Append(&shape, Message(i ? ", " : "", array.shape[i]));
      return Message("an array ", array.element.kind, unsigned{array.element.size}, " of shape (", shape,
                     ")");
    }
    default:
      return "a name";
  }
}

}  // namespace dali_dr::pickle
