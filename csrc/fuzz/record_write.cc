// Any columns: what is written of those that fit is read as they are, in order of falling confidence; of any
// others, with lengths that do not belong together too, a RecordError.
#include "fuzz/record_views.h"
#include "record/reader.h"
#include "tests/write_columns.h"

using namespace dali_dr;
using fuzz::Input;
using fuzz::Require;

namespace {

testing::RecordShape TakeShape(Input* input) {
  testing::RecordShape s;
  const auto flags = input->Take<uint16_t>();
  s.pairs = flags & 1;
  s.partners = flags & 2 ? input->Range(0, 40) : -1;
  s.pairs = s.pairs && s.partners >= 0;
  s.own_mixes = flags & 2048 && s.pairs;
  s.wide_weights = flags & 4 && s.partners >= 0;
  s.flip = flags & 8;
  s.erase = flags & 16;
  s.wide_classes = flags & 32;
  s.image_height = uint32_t(input->Range(1, flags & 64 ? 65535 : 300));
  s.image_width = uint32_t(input->Range(1, flags & 64 ? 65535 : 300));
  s.view_height = uint32_t(input->Range(1, flags & 128 ? 8192 : 255));
  s.view_width = uint32_t(input->Range(1, flags & 128 ? 8192 : 255));
  const bool many = (flags & 0x700) == 0x700;  // in groups; seldom, as they take their time
  s.views = uint32_t(input->Range(1, many ? 300 : 6)) * (s.pairs ? 2 : 1);
  s.num_ops = uint32_t(input->Range(0, 16));
  s.op_entries = s.num_ops ? uint32_t(input->Range(1, many ? 300 : 20)) : 0;
  s.topk = uint32_t(input->Range(0, 20));
  s.class_entries = s.topk ? s.topk + uint32_t(input->Range(0, many ? 600 : 20)) : 0;
  if (s.topk == 0) s.wide_classes = false;
  s.encoding = 0;
  return s;
}

template <typename T>
void Change(std::vector<T>* column, Input* input) {
  const auto at = input->Take<uint16_t>();
  if (at % 16 == 15) return column->resize(at / 16 % 64);
  if (column->empty()) return;
  auto* bytes = reinterpret_cast<uint8_t*>(&(*column)[at % column->size()]);
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = input->Take<uint8_t>();
}

void ChangeViews(record::ViewColumns* views, uint8_t column, Input* input) {
  if (column == 0) Change(&views->crop, input);
  if (column == 1) Change(&views->flip, input);
  if (column == 2) Change(&views->ops, input);
  if (column == 3) Change(&views->magnitudes, input);
  if (column == 4) Change(&views->erase, input);
}

void ChangeAny(record::Reinforcements* r, Input* input) {
  const auto column = static_cast<uint8_t>(input->Take<uint8_t>() % 16);
  ChangeViews(&r->views, column, input);
  if (column >= 5 && column < 10) ChangeViews(&r->partner_views, static_cast<uint8_t>(column - 5), input);
  if (column == 10) Change(&r->ids, input);
  if (column == 11) Change(&r->probs, input);
  if (column == 12) Change(&r->partner, input);
  if (column == 13) Change(&r->lam, input);
  if (column == 14) Change(&r->cut, input);
  if (column == 15) Change(&r->swapped, input);
}

/// The member that was written holds these views in their order.
void RequireSame(const std::vector<uint8_t>& member, const std::vector<testing::ExpectedView>& want) {
  static record::Reader reader;
  const record::Record& record = reader.Open(member);
  Require(record.views() == want.size(), "as many views as there were");
  for (uint32_t row = 0; row < record.views(); ++row) {
    std::vector<int32_t> view(record.view_words()), ids(record.topk());
    std::vector<float> probs(record.topk());
    reader.ReadView(row, view, ids, probs);
    Require(view == want[row].words && ids == want[row].ids && probs == want[row].probs, "a view as it was");
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, size});
  const testing::RecordShape shape = TakeShape(&input);
  testing::MadeRecord made = testing::MakeRecord(shape, input.Take<uint32_t>());
  record::Reinforcements columns = testing::ColumnsOf(shape, &made.views);
  for (auto& view : made.views) view.words[9] = int32_t(shape.num_ops);
  record::WriteSettings settings = testing::SettingsOf(shape);
  try {
    RequireSame(record::Write(columns, settings), testing::InOrder(made.views, shape.topk, shape.pairs));
  } catch (const record::RecordError& error) {
    Require(false, std::string("valid columns are refused: ") + error.what());
  }
  const auto how = input.Take<uint8_t>();
  settings.encoding = record::Encoding(how & 7);
  settings.recode = how & 8;
  for (int changes = how >> 4; changes > 0; --changes) ChangeAny(&columns, &input);
  std::vector<uint8_t> member;
  try {
    member = record::Write(columns, settings);
  } catch (const record::RecordError&) {
    return 0;
  }
  record::Reader reader;
  const record::Record& record = reader.Open(member);  // what is written can be read
  fuzz::RequireViews(reader, record);
  return 0;
}
