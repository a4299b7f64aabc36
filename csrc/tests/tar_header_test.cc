// Which headers are of which key: plain names, those that others write, and those that are none.
#include "shards/tar_header.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

#include "check.h"

namespace dali_dr::shards {
namespace {

using namespace dali_dr::testing;

enum class Kind {
  kPosix,
  kGnu,
  kOld
};  // ustar with a prefix; GNU, which has times in its place; of before ustar

/// A header as `kind` writes it, of 5 bytes called `name`, which is cut.
std::string Header(const std::string& name, Kind kind = Kind::kPosix, const std::string& prefix = "",
                   char type = '0') {
  std::string header(kTarBlock, '\0');
  header.replace(0, std::min<size_t>(name.size(), 100), name.substr(0, 100));
  header.replace(124, 11, "00000000005");
  header[156] = type;
  if (kind == Kind::kPosix) header.replace(257, 8, std::string("ustar\0", 6) + "00");
  if (kind == Kind::kGnu) header.replace(257, 8, std::string("ustar  \0", 8));
  header.replace(345, prefix.size(), prefix);
  return header;
}

bool Is(const std::string& header, const std::string& key, uint64_t bytes = 5) {
  const auto* data = reinterpret_cast<const uint8_t*>(header.data());
  return IsHeaderOf(std::span<const uint8_t, kTarBlock>(data, kTarBlock), key, bytes);
}

void TestNames() {
  const std::string digest = "-0123456789abcdef", hundred(100, 'x');
  const struct {
    std::string name, key;
    bool is;
  } cases[] = {
      {"a.jpg", "a", true},
      {"b.jpg", "a", false},
      {"ab.jpg", "a", false},
      {"a", "a", false},
      {"n1/a.jpg", "n1/a", true},
      {"./a.jpg", "a", true},
      {"././/a.jpg", "a", true},
      {"./a.jpg", "./a", true},  // as it stands
      {"a.jpg", "./a", false},
      {"/abs/a.jpg", "abs/a", true},
      {"./b.jpg", "a", false},
      {".a.jpg", "a", false},
      {"../a.jpg", "a", false},
      {"../a.jpg", "%2E%2E/a", true},
      {"dog 1.jpg", "dog%201", true},
      {"dog%201.jpg", "dog%201", true},
      {"./x y/dog 1.jpg", "x%20y/dog%201", true},
      {"dog_1.jpg", "dog%201", false},
      {"dog 2.jpg", "dog%201", false},
      {"dog%2.jpg", "dog%2", true},
      {"dog%GG.jpg", "dog%GG", true},
      {"d%2520.jpg", "d%2520", true},
      {"d%20.jpg", "d%2520", true},
      {"d .jpg", "d%2520", false},
      {"anything.jpg", "K\xC3\xA4se", true},     // written differently by different tars
      {"anything.jpg", "a%C2%A0b", true},        // likewise, once it is unescaped
      {hundred + "y.jpg", hundred + "y", true},  // cut
      {"./" + hundred, hundred + "z", true},
      {hundred, "y" + hundred, false},
      {hundred + ".jpg", std::string(76, 'x') + digest, true},  // a key that was too long
      {"./" + hundred, std::string(76, 'x') + digest, true},
      {hundred, std::string(75, 'x') + "y" + digest, false},
      {hundred, std::string(76, 'x') + "-0123456789abcdeg", false},
      {"x.jpg", "x" + digest, false},
  };
  for (const auto& one : cases)
    for (const Kind kind : {Kind::kPosix, Kind::kGnu, Kind::kOld})
      Check(Is(Header(one.name, kind), one.key) == one.is, one.name + " for the key " + one.key);
}

void TestFields() {
  Check(Is(Header("a.jpg", Kind::kPosix, "p/q"), "p/q/a"), "a prefix");
  Check(!Is(Header("a.jpg", Kind::kPosix, "p/q"), "a"), "a prefix that is not in the key");
  Check(Is(Header("a.jpg", Kind::kPosix, "./p q"), "p%20q/a"), "a prefix that is mapped");
  Check(Is(Header("a.jpg", Kind::kGnu, "14500000000"), "a"), "GNU's times are no prefix");
  Check(Is(Header("a.jpg", Kind::kOld, "left over"), "a"), "what lies there before ustar is no prefix");
  Check(!Is(Header("a.jpg"), "a", 6), "another size");
  for (const char type : {'1', '2', '5', 'x', 'L'})
    Check(!Is(Header("a.jpg", Kind::kPosix, "", type), "a"), std::string("a member of type ") + type);
  for (const char type : {'\0', '7'})
    Check(Is(Header("a.jpg", Kind::kPosix, "", type), "a"), "a regular file by another letter");
}

}  // namespace
}  // namespace dali_dr::shards

int main() {
  dali_dr::shards::TestNames();
  dali_dr::shards::TestFields();
  return dali_dr::testing::Verdict("tar_header");
}
