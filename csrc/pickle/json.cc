// See json.h.
#include "pickle/json.h"

#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "message.h"
#include "pickle/error.h"

namespace dali_dr::pickle {
namespace {

class Writer {
 public:
  explicit Writer(const Tree& tree) : tree_(tree) {}

  std::string Write() {
    Put(tree_.root, 0);
    return std::move(json_);
  }

 private:
  void Put(const Value& value, int depth) {
    if (depth > kMostJsonDepth)
      Fail("lists and dictionaries lie deeper than ", kMostJsonDepth, " in each other");
    if (json_.size() > kMostJsonBytes) Fail("it is longer than ", kMostJsonBytes, " bytes as a text");
    switch (value.kind) {
      case Kind::kNone:
        json_ += "null";
        return;
      case Kind::kBool:
        json_ += value.integer ? "true" : "false";
        return;
      case Kind::kInt:
        Append(&json_, value.integer);
        return;
      case Kind::kFloat:
        return PutFloat(value.real);
      case Kind::kText:
        return PutText(value.text());
      case Kind::kTuple:
      case Kind::kList:
      case Kind::kDict:
        return PutItems(value, depth);
      default:
        Fail("it holds ", tree_.Describe(value),
             ", where only numbers, texts, lists and dictionaries are expected");
    }
  }

  void PutItems(const Value& value, int depth) {
    const bool dict = value.kind == Kind::kDict;
    const auto items = tree_.Items(value);
    json_ += dict ? '{' : '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) json_ += dict && i % 2 ? ':' : ',';
      if (!dict || i % 2)
        Put(items[i], depth + 1);
      else
        PutKey(items[i]);
    }
    json_ += dict ? '}' : ']';
  }

  void PutKey(const Value& key) {
    if (key.kind == Kind::kText) return PutText(key.text());
    if (key.kind != Kind::kInt) Fail("a dictionary has ", tree_.Describe(key), " as a key, which is no text");
    PutText(std::to_string(key.integer));
  }

  void PutFloat(double number) {
    if (std::isnan(number)) {
      json_ += "NaN";
    } else if (std::isinf(number)) {
      json_ += number < 0 ? "-Infinity" : "Infinity";
    } else {
      char digits[32] = {};  // and its end is looked for: MemorySanitizer does not see what to_chars does
      std::to_chars(digits, digits + sizeof digits - 1, number);
      const std::string_view text(digits);
      json_ += text;
      if (text.find_first_of(".e") == std::string_view::npos) json_ += ".0";  // else it would be an integer
    }
  }

  void PutText(std::string_view text) {
    constexpr char kDigits[] = "0123456789abcdef";
    if (text.size() > kMostJsonBytes) Fail("it is longer than ", kMostJsonBytes, " bytes as a text");
    json_ += '"';
    for (const char letter : text) {
      const auto code = static_cast<uint8_t>(letter);
      if (code < 32) {
        json_ += {'\\', 'u', '0', '0', kDigits[code >> 4], kDigits[code & 15]};
      } else {
        if (letter == '"' || letter == '\\') json_ += '\\';
        json_ += letter;
      }
    }
    json_ += '"';
  }

  const Tree& tree_;
  std::string json_;
};

}  // namespace

std::string Json(const Tree& tree) { return Writer(tree).Write(); }

}  // namespace dali_dr::pickle
