#include "table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace chitu::cli {
namespace {

/// Terminal columns: continuation bytes of UTF-8 take none.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

const std::string& shown(const std::string& cell) {
  static const std::string kMissing = "-";
  return cell.empty() ? kMissing : cell;
}

std::string padded(const std::string& cell, size_t width, bool right) {
  const std::string space(width - std::min(width, width_of(cell)), ' ');
  return right ? space + cell : cell + space;
}

std::string csv_cell(const std::string& cell) {
  if (cell.find_first_of(",\"\n\r") == std::string::npos) return cell;
  std::string out = "\"";
  for (const char c : cell) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

}  // namespace

void Table::add(std::vector<std::string> cells) {
  if (cells.size() != header_.size()) throw std::logic_error("table: a row has another number of cells than the header");
  rows_.push_back(std::move(cells));
}

std::vector<size_t> Table::widths() const {
  std::vector<size_t> widths;
  for (const std::string& cell : header_) widths.push_back(width_of(cell));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(shown(row[i])));
  }
  return widths;
}

std::vector<bool> Table::numeric() const {
  std::vector<bool> numeric(header_.size(), true);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      if (!row[i].empty() && row[i].find_first_not_of("0123456789.+-einfaxKM%") != std::string::npos) numeric[i] = false;
    }
  }
  return numeric;
}

std::string Table::text() const {
  const auto width = widths();
  const auto right = numeric();
  const auto line = [&](const std::vector<std::string>& row) {
    std::string out;
    for (size_t i = 0; i < row.size(); ++i) out += (i ? "  " : "") + padded(shown(row[i]), width[i], right[i]);
    while (!out.empty() && out.back() == ' ') out.pop_back();
    return out + "\n";
  };
  std::string out = line(header_);
  size_t total = width.empty() ? 0 : 2 * (width.size() - 1);
  for (const size_t w : width) total += w;
  out += std::string(total, '-') + "\n";
  for (const auto& row : rows_) out += line(row);
  return out;
}

std::string Table::markdown() const {
  const auto width = widths();
  const auto right = numeric();
  const auto line = [&](const std::vector<std::string>& row) {
    std::string out = "|";
    for (size_t i = 0; i < row.size(); ++i) out += " " + padded(shown(row[i]), width[i], right[i]) + " |";
    return out + "\n";
  };
  std::string out = line(header_) + "|";
  for (size_t i = 0; i < width.size(); ++i) out += " " + std::string(std::max<size_t>(width[i], 3) - 1, '-') + (right[i] ? ": |" : "- |");
  out += "\n";
  for (const auto& row : rows_) out += line(row);
  return out;
}

std::string Table::csv() const {
  std::string out;
  const auto line = [&](const std::vector<std::string>& row) {
    for (size_t i = 0; i < row.size(); ++i) out += (i ? "," : "") + csv_cell(row[i]);
    out += "\n";
  };
  line(header_);
  for (const auto& row : rows_) line(row);
  return out;
}

std::string number_text(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const double size = std::fabs(value);
  if (size == 0) return "0";
  if (size < 1e-3 || size >= 1e7) return fmt::format("{:.3e}", value);
  const int digits = std::max(0, 3 - static_cast<int>(std::floor(std::log10(size))));
  return fmt::format("{:.{}f}", value, std::min(digits, 6));
}

}  // namespace chitu::cli
