// The .npy reader against hand-made bad files, each refused with its own reason, files that cannot be read, and the writer.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "npy.h"
#include "tensor_file.h"

namespace chitu::cli {
namespace {

std::string npy(const std::string& header, size_t data_bytes, int major = 1, int minor = 0) {
  std::string out("\x93NUMPY", 6);
  out += static_cast<char>(major);
  out += static_cast<char>(minor);
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) out += static_cast<char>(header.size() >> (8 * i) & 255);
  return out + header + std::string(data_bytes, '\0');
}

std::string dict(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

std::string reason_of(const std::string& bytes) {
  try {
    read_npy(MemorySource("x.npy", bytes));
  } catch (const ParseError& error) {
    EXPECT_EQ(std::string(error.what()), "x.npy: " + error.reason());
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.reason();
  }
  return "accepted";
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* reason;
};

std::vector<BadFile> bad_files() {
  const std::string good = dict("'<f4'", "(2, 3)");
  return {
      {"empty", "", "is empty"},
      {"one_byte", "\x93", "truncated inside the magic"},
      {"magic_only", "\x93NUMPY", "truncated inside the magic"},
      {"no_length", std::string("\x93NUMPY\x01\x00\x10", 9), "truncated inside the magic"},
      {"v2_short_length", std::string("\x93NUMPY\x02\x00\x10\x00", 10), "truncated inside the header length"},
      {"wrong_magic", "\x93NUMPZ" + std::string(100, ' '), "wrong magic"},
      {"text", "hello world, no tensor here", "wrong magic"},
      {"zip", "PK\x03\x04" + std::string(100, ' '), "wrong magic"},
      {"safetensors", std::string("\x40\0\0\0\0\0\0\0{\"q\":", 13), "wrong magic"},
      {"version_0", npy(good, 24, 0), "version 0.0"},
      {"version_4", npy(good, 24, 4), "version 4.0"},
      {"version_1_1", npy(good, 24, 1, 1), "version 1.1"},
      {"version_255", npy(good, 24, 255, 255), "version 255.255"},
      {"header_bomb_v1", std::string("\x93NUMPY\x01\x00\xff\xff", 10) + std::string(100, ' '), "header of 65535 bytes"},
      {"header_bomb_v2", std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12) + std::string(100, ' '), "header of 4294967295 bytes"},
      {"header_just_over", npy(good + std::string(10001 - good.size(), ' '), 24), "header of 10001 bytes"},
      {"header_beyond_file", std::string("\x93NUMPY\x01\x00\x76\x00", 10) + "{'descr'", "truncated inside the header"},
      {"header_empty", npy("", 24), "want '{'"},
      {"header_spaces", npy(std::string(118, ' '), 24), "want '{'"},
      {"header_list", npy("['<f4']\n", 24), "want '{'"},
      {"header_unclosed", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), ", 24), "a quoted string"},
      {"header_after_dict", npy(good + "x", 24), "nothing after '}'"},
      {"header_second_dict", npy(dict("'<f4'", "(2, 3)") + good, 24), "nothing after '}'"},
      {"header_zero_byte", npy(good + std::string(1, '\0'), 24), "nothing after '}'"},
      {"no_descr", npy("{'fortran_order': False, 'shape': (2, 3)}\n", 24), "'descr' is missing"},
      {"no_order", npy("{'descr': '<f4', 'shape': (2, 3)}\n", 24), "'fortran_order' is missing"},
      {"no_shape", npy("{'descr': '<f4', 'fortran_order': False}\n", 24), "'shape' is missing"},
      {"empty_dict", npy("{}\n", 24), "'descr' is missing"},
      {"unknown_key", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'x': 1}\n", 24), "unknown key 'x'"},
      {"duplicate_key", npy("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (6,)}\n", 24), "'descr' occurs twice"},
      {"duplicate_shape", npy("{'shape': (6,), 'shape': (3,), 'descr': '<f4', 'fortran_order': False}\n", 24), "'shape' occurs twice"},
      {"no_colon", npy("{'descr' '<f4'}\n", 24), "want ':'"},
      {"no_comma", npy("{'descr': '<f4' 'fortran_order': False, 'shape': (6,)}\n", 24), "',' or '}'"},
      {"two_commas", npy("{'descr': '<f4',, 'fortran_order': False, 'shape': (6,)}\n", 24), "a quoted string"},
      {"unquoted_key", npy("{descr: '<f4'}\n", 24), "a quoted string"},
      {"open_quote", npy("{'descr: ", 24), "closing quote"},
      {"escape", npy("{'de\\x73cr': '<f4'}\n", 24), "without escapes"},
      {"fortran", npy(dict("'<f4'", "(2, 3)", "True"), 24), "fortran_order is True"},
      {"order_number", npy(dict("'<f4'", "(2, 3)", "0"), 24), "True or False"},
      {"order_lower", npy(dict("'<f4'", "(2, 3)", "false"), 24), "True or False"},
      {"object", npy(dict("'|O'", "(2, 3)"), 24), "never read"},
      {"bfloat16", npy(dict("'<V2'", "(2, 3)"), 12), "no bfloat16"},
      {"big_endian", npy(dict("'>f4'", "(2, 3)"), 24), "big-endian"},
      {"int32", npy(dict("'<i4'", "(2, 3)"), 24), "dtype '<i4', want"},
      {"uint8", npy(dict("'|u1'", "(2, 3)"), 6), "dtype '|u1', want"},
      {"complex", npy(dict("'<c8'", "(2, 3)"), 48), "dtype '<c8', want"},
      {"long_double", npy(dict("'<f16'", "(2, 3)"), 96), "dtype '<f16', want"},
      {"text_dtype", npy(dict("'<U10'", "(2, 3)"), 240), "dtype '<U10', want"},
      {"structured", npy(dict("[('a', '<f4')]", "(2, 3)"), 24), "structured dtype"},
      {"expression", npy(dict("__import__('os').system('true')", "(2, 3)"), 24), "a quoted string"},
      {"shape_number", npy(dict("'<f4'", "6"), 24), "'(' of the shape tuple"},
      {"shape_parenthesis", npy(dict("'<f4'", "(6)"), 24), "not a tuple"},
      {"shape_list", npy(dict("'<f4'", "[2, 3]"), 24), "'(' of the shape tuple"},
      {"shape_negative", npy(dict("'<f4'", "(-2, 3)"), 24), "negative"},
      {"shape_float", npy(dict("'<f4'", "(2.0, 3)"), 24), "',' or ')'"},
      {"shape_text", npy(dict("'<f4'", "('2', 3)"), 24), "a size"},
      {"shape_long", npy(dict("'<f4'", "(2L, 3L)"), 24), "',' or ')'"},
      {"shape_two_commas", npy(dict("'<f4'", "(2,, 3)"), 24), "a size"},
      {"shape_only_comma", npy(dict("'<f4'", "(,)"), 24), "a size"},
      {"shape_no_comma", npy(dict("'<f4'", "(2 3)"), 24), "',' or ')'"},
      {"shape_leading_zero", npy(dict("'<f4'", "(02, 3)"), 24), "leading zero"},
      {"shape_unclosed", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3", 24), "',' or ')'"},
      {"shape_nested", npy(dict("'<f4'", "((2, 3), 1)"), 24), "a size"},
      {"shape_2_63", npy(dict("'<f4'", "(9223372036854775808,)"), 24), "overflows 63 bits"},
      {"shape_many_digits", npy(dict("'<f4'", "(" + std::string(400, '9') + ",)"), 24), "overflows 63 bits"},
      {"shape_product_wraps_to_4", npy(dict("'|b1'", "(4194305, 4194305, 211106198978564)"), 4), "overflows 63 bits"},
      {"shape_bytes_wrap", npy(dict("'<f8'", "(2305843009213693952,)"), 0), "overflows 63 bits"},
      {"zero_hides_overflow", npy(dict("'<f4'", "(0, 4611686018427387904, 4611686018427387904)"), 0), "overflows 63 bits"},
      {"rank_nine", npy(dict("'<f4'", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), 4), "more than 8 dimensions"},
      {"data_missing", npy(good, 0), "truncated: shape [2, 3] of fp32 needs 24 bytes of data, got 0"},
      {"data_short", npy(good, 23), "truncated"},
      {"data_long", npy(good, 25), "trailing bytes"},
      {"two_arrays", npy(good, 24) + npy(good, 24), "trailing bytes"},
      {"huge_claim", npy(dict("'<f4'", "(1000000, 1000000, 1000)"), 24), "truncated"},
  };
}

TEST(Npy, RefusesBadFiles) {
  const std::vector<BadFile> files = bad_files();
  EXPECT_GE(files.size(), 40u);
  for (const BadFile& file : files) EXPECT_NE(reason_of(file.bytes).find(file.reason), std::string::npos) << file.name << ": " << reason_of(file.bytes);
}

TEST(Npy, RefusesEveryTruncation) {
  const std::string good = npy(dict("'<f4'", "(2, 3)"), 24);
  ASSERT_EQ(reason_of(good), "accepted");
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(reason_of(good.substr(0, n)), "accepted") << n;
}

TEST(Npy, AcceptsWhatTheFormatAllows) {
  EXPECT_EQ(reason_of(npy(dict("'<f2'", "()"), 2)), "accepted");
  EXPECT_EQ(reason_of(npy(dict("'<f2'", "(3,)"), 6)), "accepted");
  EXPECT_EQ(reason_of(npy(dict("\"<f4\"", "(1, 0, 1152921504606846976)"), 0, 2)), "accepted");
  EXPECT_EQ(reason_of(npy("{\"shape\":(2,3,),'fortran_order':False,'descr':'<f8'}", 48, 3)), "accepted");
  EXPECT_EQ(reason_of(npy(dict("'|b1'", "(2,)"), 2)), "accepted");
  EXPECT_EQ(read_npy(MemorySource("x", npy(dict("'<f4'", "(1, 2, 3, 4)"), 96))).shape, (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST(Npy, ConvertsDoubleAndChecksBool) {
  const double values[2] = {1e-300, -1.0 / 3};
  const std::string header = npy(dict("'<f8'", "(2,)"), 0);
  const HostTensor tensor = read_npy(MemorySource("x", header + std::string(reinterpret_cast<const char*>(values), 16)));
  float got[2];
  ASSERT_EQ(tensor.data.size(), sizeof got);
  std::memcpy(got, tensor.data.data(), sizeof got);
  EXPECT_EQ(got[0], 0.0f);
  EXPECT_EQ(got[1], -1.0f / 3);
  const double large[2] = {0, -1e39};
  EXPECT_NE(reason_of(header + std::string(reinterpret_cast<const char*>(large), 16)).find("beyond the range of fp32 at element 1"), std::string::npos);
  EXPECT_NE(reason_of(npy(dict("'|b1'", "(2,)"), 0) + "\x01\xff").find("bool of value 255"), std::string::npos);
}

class NpyFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("chitu-test-" + std::to_string(::getpid()) + "-npy");
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::string error_of(const std::string& file) const {
    try {
      load_tensor(file, "q");
    } catch (const ParseError& error) {
      return error.what();
    }
    return "accepted";
  }
  std::filesystem::path folder_;
};

TEST_F(NpyFile, FilesThatCannotBeRead) {
  EXPECT_NE(error_of(path("missing.npy")).find("cannot open: No such file"), std::string::npos);
  std::filesystem::create_directory(path("folder.npy"));
  EXPECT_NE(error_of(path("folder.npy")).find("is a directory"), std::string::npos);
  ASSERT_EQ(::mkfifo(path("pipe.npy").c_str(), 0600), 0);
  EXPECT_NE(error_of(path("pipe.npy")).find("is a pipe or a device"), std::string::npos);  // and does not wait for a writer
  std::filesystem::create_symlink("loop.npy", path("loop.npy"));
  EXPECT_NE(error_of(path("loop.npy")).find("cannot open"), std::string::npos);
  std::ofstream(path("empty.npy")).close();
  EXPECT_NE(error_of(path("empty.npy")).find("is empty"), std::string::npos);
  EXPECT_NE(error_of(std::string("a\0b.npy", 7)).find("zero byte"), std::string::npos);
}

TEST_F(NpyFile, SparseGiantIsRefusedBeforeAllocation) {
  // 8 TiB is more than the memory of a test machine; file systems without such sparse files skip the case.
  const std::string bytes = npy(dict("'<f4'", "(2199023255552,)"), 0);
  std::ofstream(path("giant.npy"), std::ios::binary) << bytes;
  std::error_code error;
  std::filesystem::resize_file(path("giant.npy"), bytes.size() + (uint64_t{1} << 43), error);
  if (error) GTEST_SKIP() << error.message();
  EXPECT_NE(error_of(path("giant.npy")).find("more than this machine's memory"), std::string::npos);
}

TEST_F(NpyFile, ShrinkingWhileOpenIsAnError) {
  std::ofstream(path("x.npy"), std::ios::binary) << npy(dict("'<f4'", "(1000,)"), 4000);
  const FileSource source(path("x.npy"));
  std::filesystem::resize_file(path("x.npy"), 200);
  try {
    read_npy(source);
    FAIL();
  } catch (const ParseError& error) {
    EXPECT_EQ(error.reason(), "became shorter while it was read");
  }
}

TEST_F(NpyFile, RoundTripAllTypes) {
  std::vector<float> data(24);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i) * 0.5f - 3;
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{1, 2, 3, 4}, {24}, {0, 5}, {}}) {
    for (const ElementType type : {ElementType::f32, ElementType::f16}) {
      TensorOutput output;
      output.add(path("out.npy"), "out", type, shape);
      output.write_and_commit({data.data()});
      const HostTensor got = load_tensor(path("out.npy"), "q");
      EXPECT_EQ(got.type, type);
      EXPECT_EQ(got.shape, shape);
      if (!got.data.empty()) {
        EXPECT_EQ(0, std::memcmp(got.data.data(), data.data(), got.data.size()));
      }
      EXPECT_EQ((std::filesystem::file_size(path("out.npy")) - got.data.size()) % 64, 0u);
    }
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(NpyFile, OutputReplacesWhereALinkPoints) {
  std::ofstream(path("real.npy")) << "old";
  std::filesystem::create_symlink("real.npy", path("link.npy"));
  const float value = 1;
  TensorOutput output;
  output.add(path("link.npy"), "out", ElementType::f32, {1});
  output.write_and_commit({&value});
  EXPECT_TRUE(std::filesystem::is_symlink(path("link.npy")));
  EXPECT_EQ(load_tensor(path("real.npy"), "q").shape, (std::vector<int64_t>{1}));
}

TEST_F(NpyFile, FailedOutputLeavesTheOldFile) {
  std::ofstream(path("out.npy")) << "old";
  {
    OutputFile file(path("out.npy"));
    file.write("new");
  }
  std::ifstream in(path("out.npy"));
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
  EXPECT_THROW(OutputFile(folder_.string()), ParseError);
  EXPECT_THROW(OutputFile("/dev/null"), ParseError);
  EXPECT_THROW(OutputFile(""), ParseError);
}

}  // namespace
}  // namespace chitu::cli
