// What a test measured, as rows of named values: printed as lines, and written as JSON after every section so
// that a run that is cut off keeps what it has.
#ifndef DALI_DR_CSRC_TESTS_REPORT_H_
#define DALI_DR_CSRC_TESTS_REPORT_H_

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace dali_dr::image {

// Names and values in order; a value is kept as JSON text.
class Row {
 public:
  Row& Add(const std::string& name, const std::string& value) {
    std::string quoted = "\"";
    for (char c : value) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return Put(name, quoted + '"');
  }
  Row& Add(const std::string& name, const char* value) { return Add(name, std::string(value)); }
  // With so many digits behind the point.
  Row& Add(const std::string& name, double value, int digits = 0) {
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return Put(name, std::isfinite(value) ? text : "null");
  }

  std::string Json() const {
    std::string text;
    for (const auto& [name, value] : values_)
      text += (text.empty() ? "" : ", ") + ('"' + name + "\": " + value);
    return '{' + text + '}';
  }
  void Print() const {
    for (const auto& [name, value] : values_) {
      const bool quoted = value[0] == '"';
      const std::string bare = quoted ? value.substr(1, value.size() - 2) : value;
      std::printf(quoted ? "%-34s " : "%s %10s  ", quoted ? bare.c_str() : name.c_str(), bare.c_str());
    }
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  Row& Put(const std::string& name, const std::string& value) {
    values_.emplace_back(name, value);
    return *this;
  }
  std::vector<std::pair<std::string, std::string>> values_;
};

class Report {
 public:
  explicit Report(std::string path) : path_(std::move(path)) {}

  // Rows that follow belong to it.
  void Section(const std::string& name) {
    std::printf("\n-- %s\n", name.c_str());
    sections_.emplace_back(name, std::vector<Row>());
  }
  void Add(const Row& row) {
    row.Print();
    sections_.back().second.push_back(row);
  }

  // Writes the whole file anew and puts it in the place of the old one. No path: nothing.
  bool Write() const {
    if (path_.empty()) return true;
    if (std::filesystem::exists(path_) && !std::filesystem::is_regular_file(path_)) return false;
    const std::string fresh = path_ + ".new";
    std::FILE* file = std::fopen(fresh.c_str(), "w");
    if (!file) return false;
    std::string text = "{";
    for (size_t s = 0; s < sections_.size(); ++s) {
      text += (s ? ",\n \"" : "\n \"") + sections_[s].first + "\": [";
      const auto& rows = sections_[s].second;
      for (size_t r = 0; r < rows.size(); ++r) text += (r ? ",\n  " : "\n  ") + rows[r].Json();
      text += "]";
    }
    text += "\n}\n";
    const bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size();
    return std::fclose(file) == 0 && whole && std::rename(fresh.c_str(), path_.c_str()) == 0;
  }

 private:
  std::string path_;
  std::vector<std::pair<std::string, std::vector<Row>>> sections_;
};

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_TESTS_REPORT_H_
