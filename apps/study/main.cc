// chitu_study: runs one part of the accuracy study and prints one JSON object per line. tools/study.py calls every part and writes tables and pictures.
//   chitu_study bars|lengths|qk|pv|int8|fast|lab [--seqlen N] [--head-dim D] [--seeds S] [--rows R] [--causal] [--sets a,b,..]
//   chitu_study recorded --file FILE.safetensors

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>

#include "case.h"
#include "lab.h"
#include "tensor_file.h"
#include "variants.h"

namespace chitu::study {
namespace {

struct Options {
  std::string part, file;
  std::int64_t seqlen = 4096, head_dim = 128, rows = 128;
  std::uint64_t seeds = 8;
  bool causal = false;
  std::vector<std::string> sets;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream s(text);
  for (std::string p; std::getline(s, p, ',');) parts.push_back(p);
  return parts;
}

Options parse(int argc, char** argv) {
  Options o;
  if (argc > 1) o.part = argv[1];
  for (int i = 2; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--causal") {
      o.causal = true;
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : "";
    if (name == "--seqlen") o.seqlen = std::atoll(value);
    if (name == "--head-dim") o.head_dim = std::atoll(value);
    if (name == "--rows") o.rows = std::atoll(value);
    if (name == "--seeds") o.seeds = static_cast<std::uint64_t>(std::atoll(value));
    if (name == "--file") o.file = value;
    if (name == "--sets") o.sets = split(value);
  }
  return o;
}

std::vector<Variant> variants_of(const std::string& part) {
  if (part == "bars") return method_variants(true);
  if (part == "lengths") return method_variants(false);
  if (part == "qk") return qk_variants();
  if (part == "pv") return pv_variants();
  if (part == "int8") return int8_variants();
  if (part == "fast") return fast_variants();
  return {};
}

/// Non-causal cases need few queries; causal ones a square problem.
Head make_head(const eval::InputSet& set, const Options& o, std::uint64_t seed) {
  const std::int64_t seqlen_q = o.causal ? o.seqlen : std::min<std::int64_t>(512, o.seqlen);
  eval::Inputs in = eval::make_inputs(set, {1, seqlen_q, o.seqlen, 1, 1, o.head_dim, o.head_dim}, seed);
  return {seqlen_q, o.seqlen, o.head_dim, std::move(in.q), std::move(in.k), std::move(in.v), o.causal};
}

void run_sets(const Options& o) {
  const std::vector<Variant> variants = variants_of(o.part);
  for (const eval::InputSet& set : eval::input_sets()) {
    if (!o.sets.empty() && std::find(o.sets.begin(), o.sets.end(), set.name) == o.sets.end()) continue;
    for (std::uint64_t seed = 1; seed <= o.seeds; ++seed) {
      Case c(make_head(set, o, seed), o.rows, seed);
      Record r{o.part, set.name, {}, o.head_dim, o.seqlen, o.causal, seed};
      for (const Variant& v : variants) {
        r.variant = v.name;
        print(r, c.run(v.scheme));
      }
      std::vector<LabResult> extra;
      if (o.part == "lab") extra = run_lab(c);
      if (o.part == "pv")
        for (float ratio : {4.0f, 8.0f}) extra.push_back(run_c4(c, ratio));
      for (LabResult& x : extra) {
        r.variant = x.name;
        x.result.flagged = x.share;
        print(r, x.result);
      }
    }
  }
}

/// Tensors layerL.q, .k, .v of shape [1, heads, tokens, head_dim].
void run_recorded(const Options& o) {
  for (int layer = 0;; ++layer) {
    const std::string name = o.file + ":layer" + std::to_string(layer) + ".";
    cli::HostTensor t[3];
    try {
      for (int i = 0; i < 3; ++i) t[i] = cli::load_tensor(name + "qkv"[i], "q");
    } catch (const std::exception& e) {
      if (layer == 0) throw;
      return;
    }
    const std::int64_t heads = t[0].shape.at(1), tokens = t[0].shape.at(2), dim = t[0].shape.at(3), size = tokens * dim;
    for (std::int64_t h = 0; h < heads; ++h) {
      Head head{tokens, tokens, dim, {}, {}, {}, o.causal};
      std::vector<float>* to[3] = {&head.q, &head.k, &head.v};
      for (int i = 0; i < 3; ++i) *to[i] = eval::decode(t[i].data.data() + h * size * 2, size, DType::f16);
      Case c(std::move(head), o.rows, 1);
      Record r{"recorded", "layer " + std::to_string(layer), {}, dim, tokens, o.causal, static_cast<std::uint64_t>(h)};
      for (const Variant& v : method_variants(true)) {
        r.variant = v.name;
        print(r, c.run(v.scheme));
      }
      for (LabResult& x : run_lab(c)) {
        r.part = "recorded lab";
        r.variant = x.name;
        print(r, x.result);
      }
    }
  }
}

}  // namespace
}  // namespace chitu::study

int main(int argc, char** argv) {
  using namespace chitu::study;
  const Options o = parse(argc, argv);
  try {
    if (o.part == "recorded")
      run_recorded(o);
    else if (o.part == "lab" || !variants_of(o.part).empty())
      run_sets(o);
    else
      return std::fprintf(stderr, "usage: chitu_study bars|lengths|qk|pv|int8|fast|lab|recorded [options]: see the head of apps/study/main.cc\n"), 2;
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "chitu_study: %s\n", e.what()), 1;
  }
  return 0;
}
