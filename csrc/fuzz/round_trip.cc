// Any shape of a record: made from the schema by tests/make_record.h, it is read as what was put in. With any
// one byte changed, a view is refused or still the same; in version 1, which has no checksums, inside its
// bounds.
#include "fuzz/record_views.h"
#include "record/reader.h"
#include "tests/make_record.h"

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
  s.wide_weights = flags & 4 && s.partners >= 0;
  s.partner_classes = flags & 8 && s.partners > 0;
  s.version = flags & 2048 ? 1 : 2;
  s.own_mixes = flags & 8192 && s.pairs && s.version > 1;
  s.flip = flags & 16;
  s.erase = flags & 32;
  s.wide_classes = flags & 64;
  s.encoding = (flags >> 7 & 3) % (s.version > 1 ? 4 : 3);
  const auto most = flags & 512 ? 65535 : 300;  // of sides
  s.image_height = uint32_t(input->Range(1, most));
  s.image_width = uint32_t(input->Range(1, most));
  s.view_height = uint32_t(input->Range(1, flags & 1024 ? 8192 : 255));
  s.view_width = uint32_t(input->Range(1, flags & 1024 ? 8192 : 255));
  s.views = uint32_t(input->Range(1, 12)) * (s.pairs ? 2 : 1);
  s.group_rows = uint32_t(input->Range(0, 12)) * (s.pairs ? 2 : 1);
  if (s.group_rows > s.views) s.group_rows = 0;
  s.num_ops = uint32_t(input->Range(0, 16));
  s.op_entries = s.num_ops ? uint32_t(input->Range(1, 300)) : 0;
  const uint32_t tables = s.partner_classes ? uint32_t(s.partners) + 1 : 1;
  s.topk = uint32_t(input->Range(0, 20));
  s.class_entries = s.topk ? tables * (s.topk + uint32_t(input->Range(0, 300))) : 0;
  if (s.topk == 0) s.wide_classes = s.partner_classes = false, s.encoding = 0;
  if (s.encoding == 3) {
    s.pair_rank = uint32_t(input->Range(0, int(s.topk) - 1));
    s.root_step = float(input->Range(1, 256)) / 256;
  }
  if (flags & 4096 && s.version > 1 && s.topk > 0 && !s.partner_classes) {
    s.wide_classes = false;
    s.class_bits = uint32_t(input->Range(9, 31));  // more than 320 entries are not made
  }
  return s;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static record::Reader reader;
  Input input({data, size});
  const testing::RecordShape shape = TakeShape(&input);
  const testing::MadeRecord made = testing::MakeRecord(shape, input.Take<uint32_t>());
  testing::Bytes member = testing::CompressFrames(made.bytes, made.frames, shape.version > 1);
  const auto same = [&](uint32_t row) {
    std::vector<int32_t> view(size_t(ViewWords(shape.num_ops))), ids(shape.topk);
    if (shape.partners >= 0) view.resize(MixedWords(view.size()));
    std::vector<float> probs(shape.topk);
    reader.ReadView(row, view, ids, probs);
    const testing::ExpectedView& want = made.views[row];
    return view == want.words && ids == want.ids && probs == want.probs;
  };
  try {
    const record::Record& record = reader.Open(member);
    Require(record.views() == shape.views && record.topk() == int(shape.topk), "views and K as made");
    for (uint32_t row = 0; row < shape.views; ++row) Require(same(row), "a view as it was put in");
  } catch (const record::RecordError& error) {
    Require(false, std::string("a valid record is refused: ") + error.what());
  }
  member[input.Take<uint32_t>() % member.size()] ^= uint8_t(1 + input.Take<uint8_t>() % 255);
  try {
    const record::Record& record = reader.Open(member);
    if (shape.version == 1) fuzz::RequireViews(reader, record);
    for (uint32_t row = 0; row < shape.views && shape.version > 1; ++row)
      Require(same(row), "a changed byte is refused, or changes nothing");
  } catch (const record::RecordError&) {
  }
  return 0;
}
