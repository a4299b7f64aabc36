// Small tars and their index, written from the ustar format and schemas/sample-index.md, for tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "crc32c.h"

namespace dali_dr::testing {

using Text = std::string;  // bytes, with the conveniences of a string

template <typename T>
void Put(Text* text, size_t at, T value) {
  std::memcpy(&text->at(at), &value, sizeof value);
}

template <typename T>
void AppendTo(Text* text, T value) {
  text->append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline void Write(const std::filesystem::path& path, const Text& text) {
  std::filesystem::remove(path);  // a new file: what is open stays as it is
  std::ofstream(path, std::ios::binary) << text;
}

inline Text Contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Item {
  Text name, data;
  bool base256 = false;
  uint64_t block = 0;  // of the data, set by Tar
};

inline Text Tar(std::vector<Item>* items) {
  Text tar;
  for (Item& item : *items) {
    Text header(512, '\0');
    header.replace(0, item.name.size(), item.name);
    if (item.base256) {
      header[124] = static_cast<char>(0x80);
      for (int i = 0; i < 8; ++i) header[135 - i] = static_cast<char>(item.data.size() >> (8 * i));
    } else {
      char octal[13];
      std::snprintf(octal, sizeof octal, "%011zo", item.data.size());
      header.replace(124, 11, octal, 11);
    }
    header[156] = '0';
    header.replace(257, 8,
                   Text("ustar\0"
                        "00",
                        8));
    tar += header;
    item.block = tar.size() / 512;
    tar += item.data;
    tar.resize((tar.size() + 511) / 512 * 512);
  }
  tar.resize(tar.size() + 1024);
  return tar;
}

struct IndexEntry {
  uint32_t image_file, image_block, image_bytes, record_file, record_block, record_bytes;
  int32_t label;
  uint16_t height = 375, width = 500;  // of the image
  uint32_t image_crc = 0;
};
struct Row {
  Text key;
  IndexEntry entry;
};

/// What an index is like besides its samples.
struct IndexForm {
  uint32_t version = 2;
  bool image_crcs = false;
  uint32_t num_classes = 1000, num_outputs = 65536;
};

inline std::span<const uint8_t> Bytewise(const Text& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

/// Puts the checksum of an index of version 2 where it belongs.
inline Text Sealed(Text index) {
  Put(&index, 56, uint32_t{0});
  Put(&index, 56, Crc32c(Bytewise(index)));
  return index;
}

/// For each sample, the file of its record: that of the one before, where it has none.
inline std::vector<uint32_t> FilesOf(const std::vector<Row>& rows) {
  std::vector<uint32_t> files;
  for (const Row& row : rows) {
    const uint32_t before = files.empty() ? 0 : files.back();
    files.push_back(row.entry.record_bytes ? row.entry.record_file : before);
  }
  return files;
}

inline Text IndexOf(const std::vector<Row>& rows, const std::vector<std::pair<Text, uint64_t>>& files,
                    const IndexForm& form = {}) {
  const bool old = form.version == 1;
  const std::vector<uint32_t> file_of = FilesOf(rows);
  Text keys, table, offsets, entries, crcs, image_files, out = "DDRINDEX";
  AppendTo<uint64_t>(&offsets, 0);
  bool apart = false;  // an image and its record
  for (size_t i = 0; i < rows.size(); ++i) {
    const IndexEntry& e = rows[i].entry;
    AppendTo<uint64_t>(&offsets, (keys += rows[i].key).size());
    if (old) AppendTo(&entries, e.image_file);
    for (uint32_t word : {e.image_block, e.image_bytes}) AppendTo(&entries, word);
    if (old) AppendTo(&entries, e.record_file);
    for (uint32_t word : {e.record_block, e.record_bytes}) AppendTo(&entries, word);
    AppendTo(&entries, e.label);
    if (old) continue;
    for (uint16_t edge : {e.height, e.width}) AppendTo(&entries, edge);
    AppendTo(&crcs, e.image_crc);
    AppendTo(&image_files, e.image_file);
    apart |= e.image_file != file_of[i];
  }
  for (size_t f = 0; f < files.size(); ++f) {
    AppendTo<uint64_t>(&table, files[f].second);
    uint64_t first = 0;
    while (first < rows.size() && file_of[first] < f) ++first;
    if (!old) AppendTo(&table, first);
    AppendTo<uint16_t>(&table, static_cast<uint16_t>(files[f].first.size()));
    table += files[f].first;
  }
  AppendTo<uint32_t>(&out, form.version);
  AppendTo<uint32_t>(&out, 64);
  AppendTo<uint64_t>(&out, rows.size());
  AppendTo<uint32_t>(&out, form.num_classes);
  AppendTo<uint32_t>(&out, old ? 0 : form.num_outputs);
  AppendTo<uint32_t>(&out, static_cast<uint32_t>(files.size()));
  AppendTo<uint32_t>(&out, old ? 0 : form.image_crcs + 2 * apart);
  AppendTo<uint64_t>(&out, table.size());
  AppendTo<uint64_t>(&out, keys.size());
  AppendTo<uint64_t>(&out, 0);
  out += entries;
  if (!old && form.image_crcs) out += crcs;
  if (apart) out += image_files;
  out.resize((out.size() + 7) / 8 * 8);
  out += offsets + keys + table;
  return old ? out : Sealed(std::move(out));
}

inline Text String(std::span<const uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace dali_dr::testing
