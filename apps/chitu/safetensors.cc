#include "safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

namespace chitu::cli {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = uint64_t{1} << 20;
constexpr size_t kMaxTensors = 4096;
constexpr size_t kMaxRank = 8;
constexpr int kMaxDepth = 4;  // header, tensor, array, number

struct DtypeRow {
  std::string_view name;
  int bytes;
};
constexpr DtypeRow kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                                {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8},     {"U64", 8}, {"C64", 8}};

int dtype_bytes(std::string_view name) {
  for (const DtypeRow& row : kDtypes) {
    if (row.name == name) return row.bytes;
  }
  return 0;
}

class HeaderReader {
 public:
  explicit HeaderReader(const ByteSource& source) : source_(source) {}

  SafetensorsHeader read() {
    const std::string text = header_text();
    const Json json = parse(text);
    SafetensorsHeader header;
    for (const auto& [name, value] : json.items()) {
      if (name == "__metadata__") {
        read_metadata(value, header.metadata);
      } else {
        header.tensors.emplace(name, read_entry(name, value));
      }
    }
    if (header.tensors.empty()) fail("holds no tensor");
    if (header.tensors.size() > kMaxTensors) {
      fail("holds " + std::to_string(header.tensors.size()) + " tensors, at most " + std::to_string(kMaxTensors) + " accepted");
    }
    check_layout(header);
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const { throw ParseError(source_.name(), reason); }
  static std::string tensor_text(const std::string& name) { return "tensor '" + printable(name, 60) + "'"; }

  std::string header_text() {
    if (source_.size() == 0) fail("is empty, want a .safetensors file");
    if (source_.size() < 8) fail("truncated inside the header length");
    std::array<unsigned char, 8> prefix{};
    source_.read(0, reinterpret_cast<std::byte*>(prefix.data()), prefix.size());
    uint64_t bytes = 0;
    for (int i = 7; i >= 0; --i) bytes = bytes << 8 | prefix[static_cast<size_t>(i)];
    // A text file or another format read as a length gives an absurd number: name that case instead of only the limit.
    if (bytes > kMaxHeaderBytes) {
      fail("header length " + std::to_string(bytes) + ", at most " + std::to_string(kMaxHeaderBytes) + " accepted (not a .safetensors file?)");
    }
    if (bytes > source_.size() - 8) fail("truncated inside the header");
    if (bytes < 2) fail("header of " + std::to_string(bytes) + " bytes, want at least {}");
    std::string text(bytes, '\0');
    source_.read(8, reinterpret_cast<std::byte*>(text.data()), text.size());
    data_offset_ = 8 + bytes;
    if (text[0] != '{') fail("header does not begin with '{' (not a .safetensors file?)");
    // The JSON lexer takes a zero byte for the end of its input, which would hide whatever follows.
    if (text.find('\0') != std::string::npos) fail("header contains a zero byte");
    return text;
  }

  Json parse(const std::string& text) {
    std::vector<std::set<std::string>> keys;
    const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
      // The depth of an opening bracket counts the containers around it.
      if ((event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) && depth + 1 >= kMaxDepth) {
        fail("header is nested deeper than " + std::to_string(kMaxDepth) + " levels");
      }
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
      if (event == Json::parse_event_t::object_end) keys.pop_back();
      if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
        fail("header has the key '" + printable(parsed.get<std::string>(), 60) + "' twice");
      }
      return true;
    };
    try {
      Json json = Json::parse(text.begin(), text.end(), check);
      return json;
    } catch (const Json::parse_error& error) {
      fail("header is not valid JSON near byte " + std::to_string(error.byte));
    } catch (const Json::exception&) {
      fail("header is not valid JSON: a number or a string cannot be read");
    }
  }

  void read_metadata(const Json& value, std::map<std::string, std::string>& metadata) {
    if (!value.is_object()) fail("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("__metadata__ entry '" + printable(key, 60) + "' is not a string");
      metadata.emplace(key, text.get<std::string>());
    }
  }

  uint64_t unsigned_number(const Json& value, const std::string& what) const {
    if (!value.is_number_unsigned()) fail(what + " is not a non-negative integer below 2^64");
    return value.get<uint64_t>();
  }

  SafetensorsEntry read_entry(const std::string& name, const Json& value) {
    const std::string what = tensor_text(name);
    if (name.empty()) fail("has a tensor with an empty name");
    if (!value.is_object()) fail(what + " is not described by an object");
    for (const auto& item : value.items()) {
      const std::string& key = item.key();
      if (key != "dtype" && key != "shape" && key != "data_offsets") fail(what + " has the unknown field '" + printable(key, 60) + "'");
    }
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      if (!value.contains(key)) fail(what + " lacks the field '" + key + "'");
    }
    SafetensorsEntry entry;
    const Json& dtype = value["dtype"];
    if (!dtype.is_string()) fail(what + ": dtype is not a string");
    entry.dtype = dtype.get<std::string>();
    const int bytes = dtype_bytes(entry.dtype);
    if (bytes == 0) fail(what + " has the unknown dtype '" + printable(entry.dtype, 40) + "'");

    const Json& shape = value["shape"];
    if (!shape.is_array()) fail(what + ": shape is not an array");
    if (shape.size() > kMaxRank) fail(what + " has more than " + std::to_string(kMaxRank) + " dimensions");
    for (const Json& size : shape) {
      const uint64_t number = unsigned_number(size, what + ": a size in shape");
      if (number > static_cast<uint64_t>(INT64_MAX)) fail(what + " has a size in shape that overflows 63 bits");
      entry.shape.push_back(static_cast<int64_t>(number));
    }
    const int64_t count = checked_element_count(source_, what, entry.shape, bytes);

    const Json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2) fail(what + ": data_offsets is not an array of two numbers");
    const uint64_t begin = unsigned_number(offsets[0], what + ": data_offsets");
    const uint64_t end = unsigned_number(offsets[1], what + ": data_offsets");
    if (begin > end) fail(what + ": data_offsets end before they begin");
    const uint64_t available = source_.size() - data_offset_;
    if (end > available) {
      fail("truncated: " + what + " ends at byte " + std::to_string(end) + " of the data, the file has " + std::to_string(available));
    }
    const uint64_t want = static_cast<uint64_t>(count) * static_cast<uint64_t>(bytes);
    if (end - begin != want) {
      fail(what + " of shape " + shape_text(entry.shape) + " and dtype " + entry.dtype + " needs " + std::to_string(want) + " bytes, its data_offsets span " +
           std::to_string(end - begin));
    }
    entry.begin = data_offset_ + begin;
    entry.end = data_offset_ + end;
    return entry;
  }

  void check_layout(const SafetensorsHeader& header) const {
    struct Range {
      uint64_t begin, end;
      const std::string* name;
    };
    std::vector<Range> ranges;
    for (const auto& [name, entry] : header.tensors) ranges.push_back({entry.begin, entry.end, &name});
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    uint64_t at = data_offset_;
    for (const Range& range : ranges) {
      if (range.begin < at) fail(tensor_text(*range.name) + " overlaps the one before it");
      if (range.begin > at) fail("has a hole of " + std::to_string(range.begin - at) + " bytes before " + tensor_text(*range.name));
      at = range.end;
    }
    if (at != source_.size()) fail("has " + std::to_string(source_.size() - at) + " trailing bytes after the last tensor");
  }

  const ByteSource& source_;
  uint64_t data_offset_ = 0;
};

std::string list_names(const SafetensorsHeader& header) {
  std::string out;
  size_t shown = 0;
  for (const auto& entry : header.tensors) {
    if (shown == 8) return out + ", ... (" + std::to_string(header.tensors.size()) + " in all)";
    out += (shown++ ? ", " : "") + printable(entry.first, 60);
  }
  return out;
}

std::string_view dtype_of(ElementType type) {
  switch (type) {
    case ElementType::f16:
      return "F16";
    case ElementType::bf16:
      return "BF16";
    case ElementType::f32:
      return "F32";
    case ElementType::f64:
      return "F64";
    case ElementType::boolean:
      return "BOOL";
  }
  return "";
}

}  // namespace

SafetensorsHeader read_safetensors_header(const ByteSource& source) { return HeaderReader(source).read(); }

HostTensor read_safetensors(const ByteSource& source, const std::string& tensor, const std::string& fallback) {
  const SafetensorsHeader header = read_safetensors_header(source);
  auto found = header.tensors.end();
  if (!tensor.empty()) {
    found = header.tensors.find(tensor);
    if (found == header.tensors.end()) {
      throw ParseError(source.name(), "holds no tensor '" + printable(tensor, 60) + "', it has: " + list_names(header));
    }
  } else if (header.tensors.size() == 1) {
    found = header.tensors.begin();
  } else {
    found = header.tensors.find(fallback);
    if (found == header.tensors.end()) {
      throw ParseError(source.name(), "holds several tensors, name one as FILE:TENSOR: " + list_names(header));
    }
  }
  const SafetensorsEntry& entry = found->second;
  ElementType type;
  if (entry.dtype == "F16") {
    type = ElementType::f16;
  } else if (entry.dtype == "BF16") {
    type = ElementType::bf16;
  } else if (entry.dtype == "F32") {
    type = ElementType::f32;
  } else if (entry.dtype == "F64") {
    type = ElementType::f64;
  } else if (entry.dtype == "BOOL") {
    type = ElementType::boolean;
  } else {
    throw ParseError(source.name(), "tensor '" + printable(found->first, 60) + "' has dtype " + entry.dtype + ", want F16, BF16, F32, F64 or BOOL");
  }
  const auto count = static_cast<int64_t>(entry.end - entry.begin) / element_size(type);
  return read_elements(source, entry.begin, type, entry.shape, count);
}

void write_safetensors(OutputFile& file, const std::vector<NamedTensor>& tensors) {
  Json header = Json::object();
  uint64_t at = 0;
  std::vector<uint64_t> sizes;
  for (const NamedTensor& tensor : tensors) {
    uint64_t bytes = static_cast<uint64_t>(element_size(tensor.type));
    for (const int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
    header[tensor.name] = {{"dtype", dtype_of(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    sizes.push_back(bytes);
    at += bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins aligned
  std::array<char, 8> prefix{};
  for (size_t i = 0; i < 8; ++i) prefix[i] = static_cast<char>(text.size() >> (8 * i) & 255);
  file.write(prefix.data(), prefix.size());
  file.write(text);
  for (size_t i = 0; i < tensors.size(); ++i) file.write(tensors[i].data, sizes[i]);
}

}  // namespace chitu::cli
