// Small tars and their index, written from the ustar format and schemas/sample-index.md, for tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <vector>

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
  std::filesystem::remove(path);  // a new file, so that mappings of the old one stay as they are
  std::ofstream(path, std::ios::binary) << text;
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

struct Entry {
  uint32_t image_file, image_block, image_bytes, record_file, record_block, record_bytes;
  int32_t label;
};
struct Row {
  Text key;
  Entry entry;
};

inline Text Index(const std::vector<Row>& rows, const std::vector<std::pair<Text, uint64_t>>& files) {
  Text keys, table, offsets, out = "DDRINDEX";
  AppendTo<uint64_t>(&offsets, 0);
  for (const Row& row : rows) AppendTo<uint64_t>(&offsets, (keys += row.key).size());
  for (const auto& [name, size] : files) {
    AppendTo<uint64_t>(&table, size);
    AppendTo<uint16_t>(&table, static_cast<uint16_t>(name.size()));
    table += name;
  }
  AppendTo<uint32_t>(&out, 1);
  AppendTo<uint32_t>(&out, 64);
  AppendTo<uint64_t>(&out, rows.size());
  AppendTo<uint64_t>(&out, 1000);
  AppendTo<uint32_t>(&out, static_cast<uint32_t>(files.size()));
  AppendTo<uint32_t>(&out, 0);
  AppendTo<uint64_t>(&out, table.size());
  AppendTo<uint64_t>(&out, keys.size());
  AppendTo<uint64_t>(&out, 0);
  for (const Row& row : rows) AppendTo(&out, row.entry);
  out.resize((out.size() + 7) / 8 * 8);
  return out + offsets + keys + table;
}

inline Text String(std::span<const uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace dali_dr::testing
