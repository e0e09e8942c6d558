// The .safetensors reader against hand-made bad files, each refused with its own reason, and the reader and writer against each other.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "safetensors.h"
#include "tensor_file.h"

namespace chitu::cli {
namespace {

std::string length_prefix(uint64_t bytes) {
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(bytes >> (8 * i) & 255);
  return out;
}

std::string file_of(const std::string& header, size_t data_bytes) { return length_prefix(header.size()) + header + std::string(data_bytes, '\0'); }

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* reason;  ///< part of the message
};

std::string many_tensors(int count) {
  std::string header = "{";
  for (int i = 0; i < count; ++i) header += (i ? "," : "") + ("\"t" + std::to_string(i) + "\":") + entry("F32", "[0]", "[0,0]");
  return header + "}";
}

std::vector<BadFile> bad_files() {
  const std::string good = R"({"q":)" + entry("F32", "[2,3]", "[0,24]") + "}";
  std::vector<BadFile> files = {
      {"empty", "", "is empty"},
      {"one_byte", "x", "truncated inside the header length"},
      {"seven_bytes", length_prefix(2).substr(0, 7), "truncated inside the header length"},
      {"length_only", length_prefix(10), "truncated inside the header"},
      {"zero_header", length_prefix(0) + "{}", "header of 0 bytes"},
      {"one_byte_header", length_prefix(1) + "{", "header of 1 bytes"},
      {"header_bomb_2_64", length_prefix(~uint64_t{0}) + "{}", "header length 18446744073709551615"},
      {"header_bomb_2_63", length_prefix(uint64_t{1} << 63) + "{}", "at most 1048576"},
      {"header_over_limit", file_of("{" + std::string(1 << 20, ' ') + "}", 0), "at most 1048576"},
      {"length_wraps_with_eight", length_prefix(~uint64_t{0} - 7) + "{}", "at most 1048576"},
      {"length_beyond_file", length_prefix(1000) + good, "truncated inside the header"},
      {"text_file", "hello, this is not a tensor file", "not a .safetensors file"},
      {"npy_file", std::string("\x93NUMPY\x01\x00\x76\x00", 10) + std::string(200, ' '), "not a .safetensors file"},
      {"not_json", file_of("xxxxxxxx", 0), "does not begin with '{'"},
      {"leading_space", file_of(" " + good, 24), "does not begin with '{'"},
      {"byte_order_mark", file_of("\xEF\xBB\xBF" + good, 24), "does not begin with '{'"},
      {"array_header", file_of("[1,2]", 0), "does not begin with '{'"},
      {"unclosed", file_of(good.substr(0, good.size() - 1), 24), "not valid JSON"},
      {"trailing_json", file_of(good + "{}", 24), "not valid JSON"},
      {"trailing_letter", file_of(good + " x", 24), "not valid JSON"},
      {"trailing_comma", file_of(R"({"q":)" + entry("F32", "[2,3]", "[0,24]") + ",}", 24), "not valid JSON"},
      {"comment", file_of("{/*c*/" + good.substr(1), 24), "not valid JSON"},
      {"zero_byte_hides_rest", file_of(good + std::string("\0{", 2), 24), "zero byte"},
      {"bad_utf8_name", file_of("{\"\xff\":" + entry("F32", "[0]", "[0,0]") + "}", 0), "not valid JSON"},
      {"overlong_utf8_name", file_of("{\"\xc0\xaf\":" + entry("F32", "[0]", "[0,0]") + "}", 0), "not valid JSON"},
      {"lone_surrogate", file_of("{\"\\ud800\":" + entry("F32", "[0]", "[0,0]") + "}", 0), "not valid JSON"},
      {"nan_literal", file_of(R"({"q":)" + entry("F32", "[NaN]", "[0,24]") + "}", 24), "not valid JSON"},
      {"huge_number", file_of(R"({"q":)" + entry("F32", "[1e999]", "[0,24]") + "}", 24), "not valid JSON"},
      {"depth_bomb", file_of("{\"q\":" + std::string(100000, '[') + std::string(100000, ']') + "}", 0), "nested deeper than 4"},
      {"depth_five", file_of(R"({"q":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4), "nested deeper than 4"},
      {"object_depth", file_of(R"({"q":{"dtype":{"a":{"b":1}},"shape":[1],"data_offsets":[0,4]}})", 4), "nested deeper than 4"},
      {"duplicate_tensor", file_of(R"({"q":)" + entry("F32", "[1]", "[0,4]") + R"(,"q":)" + entry("F32", "[1]", "[0,4]") + "}", 4), "'q' twice"},
      {"duplicate_escaped", file_of(R"({"q":)" + entry("F32", "[1]", "[0,4]") + R"(,"\u0071":)" + entry("F32", "[1]", "[0,4]") + "}", 4), "'q' twice"},
      {"duplicate_field", file_of(R"({"q":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,4]}})", 4), "'shape' twice"},
      {"duplicate_metadata", file_of(R"({"__metadata__":{"a":"1","a":"2"},"q":)" + entry("F32", "[1]", "[0,4]") + "}", 4), "'a' twice"},
      {"no_tensor", file_of("{}", 0), "holds no tensor"},
      {"only_metadata", file_of(R"({"__metadata__":{"a":"1"}})", 0), "holds no tensor"},
      {"metadata_number", file_of(R"({"__metadata__":{"a":1},"q":)" + entry("F32", "[1]", "[0,4]") + "}", 4), "is not a string"},
      {"metadata_text", file_of(R"({"__metadata__":"a","q":)" + entry("F32", "[1]", "[0,4]") + "}", 4), "__metadata__ is not an object"},
      {"entry_number", file_of(R"({"q":5})", 0), "not described by an object"},
      {"entry_null", file_of(R"({"q":null})", 0), "not described by an object"},
      {"empty_name", file_of(R"({"":)" + entry("F32", "[1]", "[0,4]") + "}", 4), "empty name"},
      {"unknown_field", file_of(R"({"q":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4), "unknown field 'x'"},
      {"no_dtype", file_of(R"({"q":{"shape":[1],"data_offsets":[0,4]}})", 4), "lacks the field 'dtype'"},
      {"no_shape", file_of(R"({"q":{"dtype":"F32","data_offsets":[0,4]}})", 4), "lacks the field 'shape'"},
      {"no_offsets", file_of(R"({"q":{"dtype":"F32","shape":[1]}})", 4), "lacks the field 'data_offsets'"},
      {"dtype_number", file_of(R"({"q":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4), "dtype is not a string"},
      {"dtype_unknown", file_of(R"({"q":)" + entry("F31", "[1]", "[0,4]") + "}", 4), "unknown dtype 'F31'"},
      {"dtype_lower_case", file_of(R"({"q":)" + entry("f32", "[1]", "[0,4]") + "}", 4), "unknown dtype"},
      {"shape_text", file_of(R"({"q":)" + entry("F32", R"("1")", "[0,4]") + "}", 4), "shape is not an array"},
      {"shape_negative", file_of(R"({"q":)" + entry("F32", "[-1]", "[0,4]") + "}", 4), "not a non-negative integer"},
      {"shape_minus_zero", file_of(R"({"q":)" + entry("F32", "[-0]", "[0,0]") + "}", 0), "not a non-negative integer"},
      {"shape_fraction", file_of(R"({"q":)" + entry("F32", "[1.0]", "[0,4]") + "}", 4), "not a non-negative integer"},
      {"shape_exponent", file_of(R"({"q":)" + entry("F32", "[1e0]", "[0,4]") + "}", 4), "not a non-negative integer"},
      {"shape_true", file_of(R"({"q":)" + entry("F32", "[true]", "[0,4]") + "}", 4), "not a non-negative integer"},
      {"shape_2_63", file_of(R"({"q":)" + entry("F32", "[9223372036854775808]", "[0,4]") + "}", 4), "overflows 63 bits"},
      {"shape_2_64", file_of(R"({"q":)" + entry("F32", "[18446744073709551617]", "[0,4]") + "}", 4), "not a non-negative integer"},
      {"shape_product_wraps_to_4", file_of(R"({"q":)" + entry("U8", "[4194305,4194305,211106198978564]", "[0,4]") + "}", 4), "overflows 63 bits"},
      {"shape_bytes_wrap", file_of(R"({"q":)" + entry("F64", "[2305843009213693952]", "[0,0]") + "}", 0), "overflows 63 bits"},
      {"zero_hides_overflow", file_of(R"({"q":)" + entry("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]") + "}", 0), "overflows 63 bits"},
      {"rank_nine", file_of(R"({"q":)" + entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") + "}", 4), "more than 8 dimensions"},
      {"offsets_one", file_of(R"({"q":)" + entry("F32", "[1]", "[0]") + "}", 4), "array of two numbers"},
      {"offsets_three", file_of(R"({"q":)" + entry("F32", "[1]", "[0,4,4]") + "}", 4), "array of two numbers"},
      {"offsets_object", file_of(R"({"q":)" + entry("F32", "[1]", R"({"a":0,"b":4})") + "}", 4), "array of two numbers"},
      {"offsets_negative", file_of(R"({"q":)" + entry("F32", "[1]", "[-4,0]") + "}", 4), "not a non-negative integer"},
      {"offsets_reversed", file_of(R"({"q":)" + entry("F32", "[1]", "[4,0]") + "}", 4), "end before they begin"},
      {"offsets_beyond_file", file_of(R"({"q":)" + entry("F32", "[2,3]", "[0,24]") + "}", 23), "truncated"},
      {"offsets_2_64", file_of(R"({"q":)" + entry("F32", "[1]", "[18446744073709551612,18446744073709551615]") + "}", 4), "truncated"},
      {"offsets_too_short", file_of(R"({"q":)" + entry("F32", "[2]", "[0,4]") + "}", 4), "needs 8 bytes"},
      {"offsets_too_long", file_of(R"({"q":)" + entry("F32", "[1]", "[0,8]") + "}", 8), "needs 4 bytes"},
      {"hole_first", file_of(R"({"q":)" + entry("F32", "[1]", "[4,8]") + "}", 8), "hole of 4 bytes"},
      {"hole_between", file_of(R"({"a":)" + entry("F32", "[1]", "[0,4]") + R"(,"b":)" + entry("F32", "[1]", "[8,12]") + "}", 12), "hole of 4 bytes"},
      {"overlap", file_of(R"({"a":)" + entry("F32", "[2]", "[0,8]") + R"(,"b":)" + entry("F32", "[2]", "[4,12]") + "}", 12), "overlaps"},
      {"alias", file_of(R"({"a":)" + entry("F32", "[2]", "[0,8]") + R"(,"b":)" + entry("F32", "[2]", "[0,8]") + "}", 8), "overlaps"},
      {"trailing_data", file_of(good, 25), "1 trailing bytes"},
      {"truncated_data", file_of(good, 8), "truncated"},
      {"too_many_tensors", file_of(many_tensors(4097), 0), "4097 tensors"},
  };
  return files;
}

std::string reason_of(const std::string& bytes, const std::string& tensor = {}) {
  try {
    const MemorySource source("x.safetensors", bytes);
    read_safetensors(source, tensor, "q");
  } catch (const ParseError& error) {
    EXPECT_EQ(error.file(), "x.safetensors");
    EXPECT_EQ(std::string(error.what()), "x.safetensors: " + error.reason());
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.reason();
  }
  return "accepted";
}

TEST(Safetensors, RefusesBadFiles) {
  const std::vector<BadFile> files = bad_files();
  EXPECT_GE(files.size(), 40u);
  for (const BadFile& file : files) EXPECT_NE(reason_of(file.bytes).find(file.reason), std::string::npos) << file.name << ": " << reason_of(file.bytes);
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string good = file_of(R"({"q":)" + entry("F32", "[2,3]", "[0,24]") + "}", 24);
  ASSERT_EQ(reason_of(good), "accepted");
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(reason_of(good.substr(0, n)), "accepted") << n;
}

TEST(Safetensors, MessagesStayOnePrintableLine) {
  const std::string reason = reason_of(file_of(R"({"a\nb\u001b[31m":5})", 0));
  EXPECT_NE(reason.find("a\\x0ab\\x1b[31m"), std::string::npos) << reason;
  const std::string name(100000, 'x');
  EXPECT_LT(reason_of(file_of("{\"" + name + "\":5}", 0)).size(), 200u);
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  EXPECT_EQ(reason_of(file_of(R"({"q":)" + entry("F32", "[]", "[0,4]") + "}  ", 4)), "accepted");
  EXPECT_EQ(reason_of(file_of(R"({"q":)" + entry("F16", "[0,5]", "[0,0]") + "}", 0)), "accepted");
  EXPECT_EQ(reason_of(file_of(R"({"b":)" + entry("BF16", "[1]", "[4,6]") + R"(,"q":)" + entry("F32", "[1]", "[0,4]") + "}", 6)), "accepted");
  EXPECT_EQ(reason_of(file_of(R"({"__metadata__":{"a":"1"},"other":)" + entry("I64", "[1]", "[0,8]") + R"(,"q":)" + entry("F32", "[0]", "[8,8]") + "}", 8)),
            "accepted");
  EXPECT_EQ(reason_of(file_of(many_tensors(4096), 0), "t17"), "accepted");
}

TEST(Safetensors, ChoosesTheTensor) {
  const std::string two = file_of(R"({"q":)" + entry("F32", "[1]", "[0,4]") + R"(,"k":)" + entry("I64", "[1]", "[4,12]") + "}", 12);
  EXPECT_EQ(reason_of(two, "q"), "accepted");
  EXPECT_EQ(reason_of(two), "accepted");  // the fallback name
  EXPECT_NE(reason_of(two, "v").find("holds no tensor 'v', it has: k, q"), std::string::npos);
  EXPECT_NE(reason_of(two, "k").find("dtype I64, want"), std::string::npos);
  EXPECT_NE(reason_of(file_of(many_tensors(12), 0)).find("name one as FILE:TENSOR"), std::string::npos);
}

TEST(Safetensors, ConvertsDoubleAndChecksBool) {
  const double values[3] = {1.0 / 3, -std::numeric_limits<double>::infinity(), 3.4028235677973366e38 * (1 - 0x1p-40)};
  std::string bytes = file_of(R"({"q":)" + entry("F64", "[3]", "[0,24]") + "}", 0) + std::string(reinterpret_cast<const char*>(values), 24);
  const HostTensor tensor = read_safetensors(MemorySource("x", bytes), "q");
  ASSERT_EQ(tensor.type, ElementType::f32);
  float got[3];
  std::memcpy(got, tensor.data.data(), sizeof got);
  EXPECT_EQ(got[0], 1.0f / 3);
  EXPECT_TRUE(std::isinf(got[1]));
  EXPECT_EQ(got[2], std::numeric_limits<float>::max());
  const double large = 3.4028235677973366e38;  // the first double that rounds to infinity
  std::memcpy(bytes.data() + bytes.size() - 8, &large, 8);
  EXPECT_NE(reason_of(bytes).find("beyond the range of fp32 at element 2"), std::string::npos);

  const std::string mask = file_of(R"({"q":)" + entry("BOOL", "[3]", "[0,3]") + "}", 0);
  EXPECT_EQ(reason_of(mask + std::string("\1\0\1", 3)), "accepted");
  EXPECT_NE(reason_of(mask + std::string("\1\0\2", 3)).find("bool of value 2 at element 2"), std::string::npos);
}

class SafetensorsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("chitu-test-" + std::to_string(::getpid()) + "-st");
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::filesystem::path folder_;
};

TEST_F(SafetensorsFile, RoundTrip) {
  const std::vector<uint16_t> a = {0x3f80, 0xff80, 0x7fc1, 1, 2, 3};
  const std::vector<float> b = {1.5f, -0.0f};
  TensorOutput output;
  output.add(path("x.safetensors:a b"), "", ElementType::bf16, {1, 2, 3});
  output.add(path("x.safetensors"), "lse", ElementType::f32, {2});
  EXPECT_FALSE(std::filesystem::exists(path("x.safetensors")));
  output.write_and_commit({a.data(), b.data()});
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
  const HostTensor got = load_tensor(path("x.safetensors:a b"), "q");
  EXPECT_EQ(got.type, ElementType::bf16);
  EXPECT_EQ(got.shape, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(0, std::memcmp(got.data.data(), a.data(), 12));
  EXPECT_EQ(load_tensor(path("x.safetensors"), "lse").shape, (std::vector<int64_t>{2}));
}

TEST_F(SafetensorsFile, NothingIsLeftWithoutCommit) {
  {
    TensorOutput output;
    output.add(path("x.safetensors"), "out", ElementType::f32, {1});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  TensorOutput output;
  output.add(path("y.safetensors"), "out", ElementType::f32, {1});
  EXPECT_THROW(output.add(path("y.safetensors:out"), "lse", ElementType::f32, {1}), ParseError);
  EXPECT_THROW(output.add(path("missing/y.safetensors"), "lse", ElementType::f32, {1}), ParseError);
  EXPECT_THROW(output.add(path("y.txt"), "lse", ElementType::f32, {1}), ParseError);
  EXPECT_THROW(output.add(path("y.npy"), "out", ElementType::bf16, {1}), ParseError);
}

TEST(TensorRef, Names) {
  EXPECT_EQ(parse_tensor_ref("a:b/x.safetensors:l.0:q").path, "a:b/x.safetensors");
  EXPECT_EQ(parse_tensor_ref("a:b/x.safetensors:l.0:q").tensor, "l.0:q");
  EXPECT_EQ(parse_tensor_ref("x.npy").format, FileFormat::npy);
  EXPECT_THROW(parse_tensor_ref("x.safetensors:"), ParseError);
  EXPECT_THROW(parse_tensor_ref("x.npz"), ParseError);
  EXPECT_THROW(parse_tensor_ref("x.npy:q"), ParseError);
  EXPECT_THROW(parse_tensor_ref(""), ParseError);
}

}  // namespace
}  // namespace chitu::cli
