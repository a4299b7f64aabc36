// How the tests of csrc/record read records and report what is wrong.
#ifndef DALI_DR_CSRC_TESTS_RECORD_CHECKS_H_
#define DALI_DR_CSRC_TESTS_RECORD_CHECKS_H_

#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "record/reader.h"
#include "tests/check.h"
#include "tests/record_shapes.h"

namespace dali_dr::record {

using dali_dr::testing::AllShapes;
using dali_dr::testing::Bytes;
using dali_dr::testing::Check;
using dali_dr::testing::Compress;
using dali_dr::testing::CompressFrames;
using dali_dr::testing::ExpectedView;
using dali_dr::testing::MadeRecord;
using dali_dr::testing::MakeRecord;
using dali_dr::testing::RecordShape;

/// View `row` of `from`, a Record or a Reader that has `record` open.
template <typename From>
ExpectedView Read(From& from, const Record& record, uint32_t row) {
  ExpectedView got;
  got.words.resize(record.view_words());
  got.ids.resize(record.topk());
  got.probs.resize(record.topk());
  from.ReadView(row, got.words, got.ids, got.probs);
  return got;
}
inline ExpectedView Read(const Record& record, uint32_t row) { return Read(record, record, row); }

/// A record whose bytes are all at hand: its head, then one group after the other.
inline Record ParseWhole(std::span<const uint8_t> bytes) {
  Record record = Record::Parse(bytes);
  if (record.record_bytes() != bytes.size()) throw RecordError("record_bytes do not fit");
  size_t at = record.head_bytes();
  for (uint32_t group = 0; group < record.groups(); ++group) at += record.AddGroup(group, bytes.subspan(at));
  if (at != bytes.size()) throw RecordError("header and columns need only a part");
  return record;
}

/// The message of the RecordError that `body` throws; empty if it throws none.
inline std::string Refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const RecordError& error) {
    return error.what();
  }
  return "";
}

/// Reads every view of exactly these bytes, in memory of their own so that an overrun is seen.
inline std::string RefusalOf(const Bytes& bytes) {
  return Refusal([&] {
    const Bytes own(bytes);
    const Record record = ParseWhole(own);
    for (uint32_t row = 0; row < record.views(); ++row) Read(record, row);
  });
}

inline void CheckRefused(const Bytes& bytes, const std::string& word, const std::string& what) {
  const std::string message = RefusalOf(bytes);
  Check(message.find(word) != std::string::npos,
        what + ": want an error about \"" + word + "\", got \"" + message + "\"");
}

template <typename T>
Bytes With(Bytes bytes, size_t at, T value) {
  std::memcpy(&bytes.at(at), &value, sizeof value);
  return bytes;
}

}  // namespace dali_dr::record

#endif  // DALI_DR_CSRC_TESTS_RECORD_CHECKS_H_
