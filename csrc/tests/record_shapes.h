// The records that the tests and the fuzzer make.
#ifndef DALI_DR_CSRC_TESTS_RECORD_SHAPES_H_
#define DALI_DR_CSRC_TESTS_RECORD_SHAPES_H_

#include <vector>

#include "tests/make_record.h"

namespace dali_dr::testing {

/// Shapes that together use every branch of the layout.
inline std::vector<RecordShape> AllShapes() {
  std::vector<RecordShape> shapes;
  RecordShape base;
  shapes.push_back(base);
  for (uint32_t version : {1u, 2u}) {
    for (uint32_t encoding : {0u, 1u, 2u}) {
      RecordShape s = base;
      s.version = version;
      s.encoding = encoding;
      s.wide_classes = encoding == 1;
      s.views = 17;
      shapes.push_back(s);
    }
  }
  RecordShape s = base;  // nothing but crops
  s.num_ops = s.op_entries = s.topk = s.class_entries = 0, s.flip = s.erase = false, s.encoding = 0;
  shapes.push_back(s);
  s = base;  // u16 tables everywhere, large images and views
  s.views = 400, s.group_rows = 134, s.op_entries = 300, s.class_entries = 301, s.view_height = 256,
  s.image_height = s.image_width = 65535;
  shapes.push_back(s);
  s = base;  // the smallest image, one view, one class, sixteen operations
  s.views = 1, s.image_height = s.image_width = s.view_height = s.view_width = 1, s.num_ops = 16,
  s.op_entries = 1, s.topk = s.class_entries = 1;
  shapes.push_back(s);
  for (uint32_t group_rows : {1u, 2u, 8u, 16u}) {
    s = base;
    s.views = 17, s.group_rows = group_rows, s.encoding = group_rows % 3;
    shapes.push_back(s);
  }
  s.num_ops = s.op_entries = s.topk = s.class_entries = 0, s.flip = s.erase = false, s.encoding = 0;
  s.image_height = s.image_width = 1;  // groups of no bytes
  shapes.push_back(s);
  s = base;  // a dense row
  s.views = 9, s.topk = 300, s.class_entries = 300, s.image_width = 1, s.log_step = 2.f;
  shapes.push_back(s);
  s = base;
  s.views = 64, s.erase = false, s.op_entries = 256, s.class_entries = 256, s.image_height = 3,
  s.image_width = 2;
  shapes.push_back(s);
  for (uint32_t pair_rank :
       {0u, 1u, 4u, 9u}) {  // the root code; of 10 ranks, the last may be alone in its byte
    s = base;
    s.views = 13, s.encoding = 3, s.pair_rank = pair_rank, s.class_bits = pair_rank ? 5 + pair_rank : 0;
    s.group_rows = pair_rank == 4 ? 5 : 0;
    s.class_entries = 40;
    shapes.push_back(s);
  }
  s.topk = s.class_entries = 1, s.pair_rank = 0, s.class_bits = 1;
  shapes.push_back(s);
  s = base;  // packed ids as long as they get, more than 256 of them, and many pairs
  s.views = 9, s.encoding = 3, s.topk = 300, s.class_entries = 300, s.pair_rank = 255, s.class_bits = 31,
  s.root_step = 1.0f / 256;
  shapes.push_back(s);
  for (int partners : {0, 1, 7, 300}) {
    for (bool pairs : {false, true}) {
      s = base;
      s.views = 34, s.partners = partners, s.pairs = pairs, s.wide_weights = partners == 1;
      s.view_width = partners == 7 ? 300 : 224;
      s.partner_classes = partners == 7;
      s.version = partners == 300 && pairs ? 1 : 2;
      if (partners == 1 || partners == 7) s.encoding = 3, s.pair_rank = pairs ? 2 : 5;
      s.wide_classes = pairs;
      if (s.partner_classes) s.class_entries = 8 * 12;
      if (partners > 1) s.group_rows = 10;  // 4 groups, the last one shorter
      if (partners == 1 && pairs)
        s.num_ops = s.op_entries = s.topk = s.class_entries = s.pair_rank = 0, s.wide_classes = false;
      shapes.push_back(s);
      if (!pairs || s.version == 1) continue;
      s.own_mixes = true;
      shapes.push_back(s);
    }
  }
  return shapes;
}

}  // namespace dali_dr::testing

#endif  // DALI_DR_CSRC_TESTS_RECORD_SHAPES_H_
