// Rows of text cells as an aligned table, Markdown or CSV.
#pragma once

#include <string>
#include <vector>

namespace chitu::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  /// One cell per column. Missing values are "-" in text and Markdown, empty in CSV: pass an empty string.
  void add(std::vector<std::string> cells);
  std::string text() const;
  std::string markdown() const;
  std::string csv() const;

 private:
  std::vector<size_t> widths() const;
  std::vector<bool> numeric() const;
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

/// Four significant digits, in plain notation where that is short: "12.34", "0.0123", "1.23e-05".
std::string number_text(double value);

}  // namespace chitu::cli
