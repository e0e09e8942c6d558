#include "npy.h"

#include <array>
#include <cstring>

namespace chitu::cli {
namespace {

constexpr uint64_t kMaxHeaderBytes = 10000;  // as NumPy's own reader; a real header has about 80
constexpr size_t kMaxRank = 8;
constexpr std::string_view kMagic("\x93NUMPY", 6);

/// The literal that NumPy writes is a Python dict; this reads exactly that one dict and nothing else of Python.
class HeaderParser {
 public:
  HeaderParser(const ByteSource& source, std::string_view text) : source_(source), text_(text) {}

  void parse(NpyHeader& header) {
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    for (skip_space(); !take('}'); skip_space()) {
      const std::string key = string_literal();
      expect(':');
      skip_space();
      if (key == "descr") {
        once(has_descr, key);
        header.stored = element_type();
      } else if (key == "fortran_order") {
        once(has_order, key);
        if (boolean_literal()) fail("fortran_order is True, want C order (numpy.ascontiguousarray before saving)");
      } else if (key == "shape") {
        once(has_shape, key);
        header.shape = tuple();
      } else {
        fail("unknown key '" + printable(key) + "'");
      }
      skip_space();
      if (take(',')) continue;
      if (peek() != '}') fail_expected("',' or '}'");
    }
    skip_space();
    if (pos_ != text_.size()) fail_expected("nothing after '}'");
    if (!has_descr) fail("key 'descr' is missing");
    if (!has_order) fail("key 'fortran_order' is missing");
    if (!has_shape) fail("key 'shape' is missing");
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const { throw ParseError(source_.name(), "header: " + reason); }
  [[noreturn]] void fail_expected(const std::string& what) const {
    const std::string got = pos_ < text_.size() ? "'" + printable(text_.substr(pos_, 1)) + "'" : "the end of the header";
    fail("want " + what + " at byte " + std::to_string(pos_) + ", got " + got);
  }
  void once(bool& seen, const std::string& key) const {
    if (seen) fail("key '" + key + "' occurs twice");
    seen = true;
  }
  char peek() const { return pos_ < text_.size() ? text_[pos_] : '\0'; }
  bool take(char c) {
    if (pos_ >= text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }
  void skip_space() {
    while (pos_ < text_.size() && (text_[pos_] == ' ' || text_[pos_] == '\n' || text_[pos_] == '\t')) ++pos_;
  }
  void expect(char c) {
    skip_space();
    if (!take(c)) fail_expected(std::string("'") + c + "'");
  }
  bool take_word(std::string_view word) {
    if (text_.substr(pos_, word.size()) != word) return false;
    pos_ += word.size();
    return true;
  }

  std::string string_literal() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail_expected("a quoted string");
    const size_t begin = ++pos_;
    while (pos_ < text_.size() && text_[pos_] != quote) {
      if (text_[pos_] == '\\' || text_[pos_] == '\n') fail_expected("a string without escapes");
      ++pos_;
    }
    if (pos_ >= text_.size()) fail_expected("the closing quote");
    return std::string(text_.substr(begin, pos_++ - begin));
  }

  bool boolean_literal() {
    if (take_word("True")) return true;
    if (take_word("False")) return false;
    fail_expected("True or False");
  }

  ElementType element_type() {
    if (peek() == '[' || peek() == '(') fail("structured dtype, want '<f2', '<f4', '<f8' or '|b1'");
    const std::string descr = string_literal();
    if (descr == "<f2") return ElementType::f16;
    if (descr == "<f4") return ElementType::f32;
    if (descr == "<f8") return ElementType::f64;
    if (descr == "|b1") return ElementType::boolean;
    std::string hint;
    if (descr.find('O') != std::string::npos) hint = " (object arrays hold pickled code and are never read)";
    if (descr.find('V') != std::string::npos) hint = " (.npy has no bfloat16: store it as .safetensors)";
    if (descr.starts_with('>')) hint = " (big-endian)";
    fail("dtype '" + printable(descr, 40) + "'" + hint + ", want '<f2', '<f4', '<f8' or '|b1'");
  }

  int64_t size_literal() {
    if (peek() == '-') fail("shape has a negative size");
    const size_t begin = pos_;
    int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      if (__builtin_mul_overflow(value, int64_t{10}, &value) || __builtin_add_overflow(value, int64_t{peek() - '0'}, &value)) {
        fail("shape has a size that overflows 63 bits");
      }
      ++pos_;
    }
    if (pos_ == begin) fail_expected("a size");
    if (pos_ - begin > 1 && text_[begin] == '0') fail("shape has a size with a leading zero");
    return value;
  }

  std::vector<int64_t> tuple() {
    std::vector<int64_t> shape;
    if (!take('(')) fail_expected("'(' of the shape tuple");
    bool after_comma = true;
    for (skip_space(); !take(')'); skip_space()) {
      if (!after_comma) fail_expected("',' or ')' in the shape tuple");
      shape.push_back(size_literal());
      if (shape.size() > kMaxRank) fail("shape has more than " + std::to_string(kMaxRank) + " dimensions");
      skip_space();
      after_comma = take(',');
    }
    if (shape.size() == 1 && !after_comma) fail("shape is not a tuple: want '(n,)'");
    return shape;
  }

  const ByteSource& source_;
  std::string_view text_;
  size_t pos_ = 0;
};

}  // namespace

NpyHeader read_npy_header(const ByteSource& source) {
  const std::string& name = source.name();
  std::array<unsigned char, 12> prefix{};
  if (source.size() == 0) throw ParseError(name, "is empty, want a .npy file");
  const size_t available = source.size() < prefix.size() ? source.size() : prefix.size();
  source.read(0, reinterpret_cast<std::byte*>(prefix.data()), available);
  const size_t magic_bytes = available < kMagic.size() ? available : kMagic.size();
  if (std::memcmp(prefix.data(), kMagic.data(), magic_bytes) != 0) throw ParseError(name, "is not a .npy file (wrong magic)");
  if (available < 10) throw ParseError(name, "truncated inside the magic and version");
  const int major = prefix[6], minor = prefix[7];
  if (major < 1 || major > 3 || minor != 0) {
    throw ParseError(name, "has .npy version " + std::to_string(major) + "." + std::to_string(minor) + ", want 1.0, 2.0 or 3.0");
  }
  uint64_t header_bytes = prefix[8] | uint64_t{prefix[9]} << 8;
  uint64_t header_offset = 10;
  if (major > 1) {
    if (available < 12) throw ParseError(name, "truncated inside the header length");
    header_bytes |= uint64_t{prefix[10]} << 16 | uint64_t{prefix[11]} << 24;
    header_offset = 12;
  }
  if (header_bytes > kMaxHeaderBytes) {
    throw ParseError(name, "header of " + std::to_string(header_bytes) + " bytes, at most " + std::to_string(kMaxHeaderBytes) + " accepted");
  }
  if (header_offset + header_bytes > source.size()) throw ParseError(name, "truncated inside the header");
  std::string text(header_bytes, '\0');
  source.read(header_offset, reinterpret_cast<std::byte*>(text.data()), text.size());

  NpyHeader header;
  HeaderParser(source, text).parse(header);
  header.count = checked_element_count(source, "the array", header.shape, element_size(header.stored));
  header.data_offset = header_offset + header_bytes;
  const uint64_t want = static_cast<uint64_t>(header.count) * static_cast<uint64_t>(element_size(header.stored));
  const uint64_t got = source.size() - header.data_offset;
  if (want != got) {
    throw ParseError(name, (got < want ? std::string("truncated: ") : std::string("trailing bytes: ")) + "shape " + shape_text(header.shape) + " of " +
                               std::string(element_name(header.stored)) + " needs " + std::to_string(want) + " bytes of data, got " + std::to_string(got));
  }
  return header;
}

HostTensor read_npy(const ByteSource& source) {
  NpyHeader header = read_npy_header(source);
  return read_elements(source, header.data_offset, header.stored, std::move(header.shape), header.count);
}

void write_npy(OutputFile& file, const std::string& path, ElementType type, const std::vector<int64_t>& shape, const void* data) {
  std::string descr;
  switch (type) {
    case ElementType::f16:
      descr = "<f2";
      break;
    case ElementType::f32:
      descr = "<f4";
      break;
    case ElementType::f64:
      descr = "<f8";
      break;
    case ElementType::boolean:
      descr = "|b1";
      break;
    case ElementType::bf16:
      throw ParseError(path, ".npy has no bf16: give the output a .safetensors name");
  }
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (";
  uint64_t bytes = static_cast<uint64_t>(element_size(type));
  for (size_t i = 0; i < shape.size(); ++i) {
    header += std::to_string(shape[i]) + (shape.size() == 1 ? "," : i + 1 < shape.size() ? ", " : "");
    bytes *= static_cast<uint64_t>(shape[i]);
  }
  header += "), }";
  header.append((64 - (10 + header.size() + 1) % 64) % 64, ' ');
  header += '\n';
  std::string prefix(kMagic);
  prefix += '\x01';
  prefix += '\0';
  prefix += static_cast<char>(header.size() & 255);
  prefix += static_cast<char>(header.size() >> 8);
  file.write(prefix);
  file.write(header);
  if (bytes != 0) file.write(data, bytes);
}

}  // namespace chitu::cli
