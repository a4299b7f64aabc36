// Tests of csrc/record/write.h: what is written is read as what was put in, and what does not fit is refused.
// tests/test_record_native.py compares the bytes with Python's.
#include "record/write.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "tests/record_checks.h"
#include "tests/write_columns.h"

namespace dali_dr::record {
namespace {

using dali_dr::testing::ColumnsOf;
using dali_dr::testing::InOrder;
using dali_dr::testing::SettingsOf;

/// Whether probabilities are as near as their encoding is exact.
bool Near(const std::vector<float>& have, const std::vector<float>& want, Encoding encoding) {
  if (encoding == kFloat32) return have == want;
  for (size_t k = 0; k < want.size(); ++k) {
    const float p = have[k], q = want[k];
    if (encoding == kFloat16 && std::abs(p - q) > q * 0x1p-11f + 0x1p-25f) return false;
    if (encoding == kRootCode && std::abs(std::sqrt(p) - std::sqrt(q)) > 0.05f) return false;
    if (encoding == kLogCode && q > 0 && std::abs(std::log(p / q)) > 1.1f) return false;
  }
  return true;
}

std::vector<ExpectedView> ReadAll(const std::vector<uint8_t>& member) {
  Reader reader;
  const Record& record = reader.Open(member);
  std::vector<ExpectedView> views;
  for (uint32_t row = 0; row < record.views(); ++row) views.push_back(Read(reader, record, row));
  return views;
}

void CheckWritten(const RecordShape& shape, const std::string& name) {
  MadeRecord made = MakeRecord(shape, 7);
  const Reinforcements columns = ColumnsOf(shape, &made.views);
  WriteSettings settings = SettingsOf(shape);
  for (const Encoding encoding : {kFloat32, kFloat16, kLogCode, kRootCode}) {
    settings.encoding = encoding;
    const std::string what = name + ", encoding " + std::to_string(encoding);
    const std::vector<uint8_t> member = Write(columns, settings);
    std::vector<ExpectedView> read = ReadAll(member);
    const auto want = InOrder(made.views, shape.topk, shape.pairs);
    Check(read.size() == want.size(), what + ": rows");
    for (size_t row = 0; row < want.size(); ++row) {
      auto words = want[row].words;
      words[9] = static_cast<int32_t>(shape.num_ops);
      Check(read[row].words == words && read[row].ids == want[row].ids, what + ": views and classes");
      Check(Near(read[row].probs, want[row].probs, encoding), what + ": probabilities");
    }
    settings.recode = true;
    const std::vector<uint8_t> again = Write(ColumnsOf(shape, &read), settings);
    const std::vector<ExpectedView> reread = ReadAll(again);
    for (size_t row = 0; row < want.size(); ++row)
      Check(reread[row].words == read[row].words && reread[row].probs == read[row].probs,
            what + ": what was read is written as it was");
    settings.recode = false;
  }
}

void TestEveryShape() {
  int number = 0;
  for (const RecordShape& shape : AllShapes())
    if (shape.log_step <= 1) CheckWritten(shape, "shape " + std::to_string(number++));
}

void TestClassesInAnyOrder() {
  RecordShape shape;
  shape.views = 20;
  MadeRecord made = MakeRecord(shape, 5);
  Reinforcements columns = ColumnsOf(shape, &made.views);
  for (size_t i = 0; i < columns.probs.size(); ++i)
    columns.probs[i] = std::ldexp(0.5f - static_cast<float>(i) / 1024, -static_cast<int>(i % columns.topk));
  const std::vector<uint8_t> sorted = Write(columns, SettingsOf(shape));
  for (size_t row = 0; row < columns.size(); ++row) {
    const auto first = static_cast<std::ptrdiff_t>(row * columns.topk),
               last = first + std::ptrdiff_t(columns.topk);
    std::reverse(columns.ids.begin() + first, columns.ids.begin() + last);
    std::reverse(columns.probs.begin() + first, columns.probs.begin() + last);
  }
  Check(Write(columns, SettingsOf(shape)) == sorted, "classes are put in order");
}

void TestTooLarge() {
  RecordShape shape;
  shape.views = 1, shape.topk = shape.class_entries = 400, shape.num_ops = shape.op_entries = 0;
  MadeRecord made = MakeRecord(shape, 5);
  const Reinforcements one = ColumnsOf(shape, &made.views);
  Reinforcements many = one;
  const auto repeat = [](auto& column) {
    const auto first = column;
    for (int i = 1; i < 45000; ++i) column.insert(column.end(), first.begin(), first.end());
  };
  repeat(many.views.crop), repeat(many.views.flip), repeat(many.views.erase), repeat(many.ids),
      repeat(many.probs);
  WriteSettings settings = SettingsOf(shape);
  settings.encoding = kFloat32;
  const std::string message = Refusal([&] { Write(many, settings); });
  Check(message.find("record size") != std::string::npos,
        "a record of more than 64 MiB is refused: " + message);
}

/// Tables of classes by partner, which mixed views have where one table would be large.
void TestClassTables() {
  for (const bool wide : {false, true}) {
    for (const uint32_t views : {60u, 400u, 700u}) {
      RecordShape shape;
      shape.views = views, shape.class_entries = 400, shape.wide_classes = wide, shape.num_ops = 0;
      shape.op_entries = 0;
      shape.partners = views == 700 ? 690 : 5;
      if (views == 700) shape.topk = 150;  // more classes in all than the tables of a record hold
      shape.pairs = views == 60;
      CheckWritten(shape, std::to_string(views) + " views of " + (wide ? "wide" : "narrow") + " classes");
    }
  }
}

struct Case {
  Reinforcements columns;
  WriteSettings settings;
};

Case MakeCase(int partners, bool pairs) {
  RecordShape shape;
  shape.views = 4, shape.partners = partners, shape.pairs = pairs;
  MadeRecord made = MakeRecord(shape, 3);
  return {ColumnsOf(shape, &made.views), SettingsOf(shape)};
}

void CheckFails(int partners, bool pairs, const std::string& word, const std::function<void(Case&)>& change) {
  Case c = MakeCase(partners, pairs);
  change(c);
  const std::string message = Refusal([&] { Write(c.columns, c.settings); });
  Check(message.find(word) != std::string::npos,
        "want a refusal about \"" + word + "\", got \"" + message + "\"");
}

void TestRefusals() {
  CheckFails(-1, false, "views", [](Case& c) { c.columns = {}; });
  CheckFails(-1, false, "encoding", [](Case& c) { c.settings.encoding = static_cast<Encoding>(4); });
  CheckFails(-1, false, "image height", [](Case& c) { c.settings.image_height = 0; });
  CheckFails(-1, false, "log_step", [](Case& c) { c.settings.log_step = 2; });
  CheckFails(-1, false, "crop", [](Case& c) { c.columns.views.crop[2].height = 400; });
  CheckFails(-1, false, "flip", [](Case& c) { c.columns.views.flip[2] = 2; });
  CheckFails(-1, false, "operation", [](Case& c) { c.columns.views.ops[2] = 18; });
  CheckFails(-1, false, "is none of operation 14", [](Case& c) {
    c.columns.views.ops[2] = 14;
    c.columns.views.magnitudes[2] = 0.75f;
  });
  CheckFails(-1, false, "magnitude", [](Case& c) { c.columns.views.magnitudes[2] = INFINITY; });
  CheckFails(-1, false, "erase", [](Case& c) { c.columns.views.erase[2] = {0, 0, 0, 3}; });
  CheckFails(-1, false, "erase", [](Case& c) { c.columns.views.erase[2] = {0, 224, 1, 1}; });
  CheckFails(-1, false, "class id", [](Case& c) { c.columns.ids[2] = -1; });
  CheckFails(-1, false, "class id", [](Case& c) { c.settings.num_outputs = 1; });
  CheckFails(-1, false, "twice", [](Case& c) { c.columns.ids[2] = c.columns.ids[3]; });
  CheckFails(-1, false, "twice", [](Case& c) { c.columns.ids[2] = c.columns.ids[3] = 70000; });
  CheckFails(-1, false, "probability", [](Case& c) { c.columns.probs[2] = NAN; });
  CheckFails(-1, false, "sum", [](Case& c) { c.columns.probs.assign(c.columns.probs.size(), 0.5f); });
  // Columns that do not belong together.
  CheckFails(-1, false, "flip", [](Case& c) { c.columns.views.crop.pop_back(); });
  CheckFails(-1, false, "flip", [](Case& c) { c.columns.views.flip.pop_back(); });
  CheckFails(-1, false, "ops", [](Case& c) { c.columns.views.ops.pop_back(); });
  CheckFails(-1, false, "probs", [](Case& c) { c.columns.probs.pop_back(); });
  CheckFails(2, false, "lam", [](Case& c) { c.columns.lam.pop_back(); });
  CheckFails(2, false, "crop", [](Case& c) { c.columns.partner_views.crop.pop_back(); });
  // Mixed views.
  CheckFails(2, true, "partner", [](Case& c) { c.columns.partner[2] = -3; });
  CheckFails(2, true, "weight", [](Case& c) { c.columns.lam[2] = 1.5f; });
  CheckFails(2, true, "cutmix", [](Case& c) { c.columns.cut[2] = {0, 0, 225, 1}; });
  CheckFails(2, true, "partner's crop", [](Case& c) { c.columns.partner_views.crop[2].top = -1; });
  CheckFails(2, true, "in all mixed views", [](Case& c) {
    for (const size_t row : {2, 3})
      c.columns.partner[row] = kSelfPartner, c.columns.partner_views.crop[row] = {0, 0, 1, 1};
  });
  CheckFails(2, true, "parameters of a partner", [](Case& c) {
    for (const size_t row : {2, 3}) {
      c.columns.partner[row] = kNoPartner, c.columns.lam[row] = 1, c.columns.cut[row] = {};
      c.columns.partner_views.crop[row] = {0, 0, 1, 2}, c.columns.swapped[row] = 0;
    }
  });
  CheckFails(2, true, "pairs", [](Case& c) { c.columns.swapped[2] = 1; });
  CheckFails(2, true, "pairs", [](Case& c) { c.columns.views.crop[2] = {0, 0, 1, 1}; });
  CheckFails(2, true, "no partner", [](Case& c) {
    for (const size_t row : {2, 3})
      c.columns.partner[row] = kNoPartner, c.columns.lam[row] = 1, c.columns.cut[row] = {},
      c.columns.swapped[row] = 0;
  });
}

}  // namespace
}  // namespace dali_dr::record

int main() {
  dali_dr::record::TestEveryShape();
  dali_dr::record::TestClassesInAnyOrder();
  dali_dr::record::TestTooLarge();
  dali_dr::record::TestClassTables();
  dali_dr::record::TestRefusals();
  return dali_dr::testing::Verdict("write");
}
