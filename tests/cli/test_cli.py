#!/usr/bin/env python3
"""The contract of the `chitu` command: results against an independent fp64 attention, exit codes, messages, files, JSON keys.

Usage: test_cli.py PATH/TO/chitu [unittest options]. Standard library only.
"""

import json
import math
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import case
import tensors as t
from case import LIMITS, LSE_LIMIT, Case, chitu
from measuring import Accuracy, Bench  # noqa: F401 (unittest finds them here)


class Run(Case):
    B, H, HKV, SQ, SK, D = 1, 2, 1, 37, 150, 32

    def make(self, dtype="fp16", **sizes):
        b, h, hkv, sq, sk, d = (sizes.get(n, getattr(self, n.upper())) for n in ("b", "h", "hkv", "sq", "sk", "d"))
        self.q_shape, self.k_shape = (b, h, sq, d), (b, hkv, sk, d)
        self.q, self.k, self.v = (self.normal(s, dtype) for s in (self.q_shape, self.k_shape, self.k_shape))
        if dtype != "bf16":
            self.write("q.npy", self.q_shape, self.q, dtype)
            self.write("k.npy", self.k_shape, self.k, dtype)
            self.write("v.npy", self.k_shape, self.v, dtype)

    def inputs(self):
        return "--q", self.path("q.npy"), "--k", self.path("k.npy"), "--v", self.path("v.npy")

    def run_good(self, *arguments):
        result = chitu("run", *self.inputs(), "--out", self.path("out.npy"), "--lse", self.path("lse.npy"), "--device", "cpu", *arguments)
        self.expect(result, 0)
        self.assertEqual(result.stderr, "")
        self.assertFalse([f for f in self.folder.iterdir() if f.name.startswith(".chitu")])
        return t.read_npy(self.path("out.npy")), t.read_npy(self.path("lse.npy"))

    def compare(self, out, lse, want, method, dtype="fp16"):
        self.assertEqual(out[0], self.q_shape)
        self.assertEqual(out[2], dtype)
        self.assertEqual(lse[0], self.q_shape[:3])
        self.assertEqual(lse[2], "fp32")
        self.assertTrue(all(map(math.isfinite, out[1])))
        self.assertLess(t.nrmse(out[1], want.out), LIMITS[method])
        for got, exact in zip(lse[1], want.lse):
            if exact == -math.inf:
                self.assertEqual(got, exact)
            else:
                self.assertLess(abs(got - exact), LSE_LIMIT)

    def test_every_method(self):
        self.make()
        want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.D)
        for method in LIMITS:
            with self.subTest(method):
                self.compare(*self.run_good("--method", method), want, method)
        self.compare(*self.run_good(), want, "chitu_int8")  # automatic: exact, chitu or chitu_int8

    def test_every_method_causal(self):
        self.make(sq=70, sk=50)  # more queries than keys: the first 20 rows see nothing
        want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.D, visible=lambda b, h, i, j: j <= i + 50 - 70)
        for method in LIMITS:
            with self.subTest(method):
                out, lse = self.run_good("--method", method, "--causal")
                self.compare(out, lse, want, method)
                self.assertEqual(out[1][: 20 * self.D], [0.0] * 20 * self.D)

    def test_masks(self):
        self.make()
        diagonal = self.SK - self.SQ
        keep = [self.random.random() < 0.7 for _ in range(self.SQ * self.SK)]
        added = t.rounded([self.random.gauss(0, 1) for _ in range(self.SK)], "fp32")
        self.write("keep.npy", (self.SQ, self.SK), keep, "bool")
        self.write("added.npy", (1, 1, 1, self.SK), added, "fp32")
        cases = {
            "causal": (("--causal",), lambda b, h, i, j: j <= i + diagonal, None),
            "top-left": (("--causal", "--causal-align", "top-left"), lambda b, h, i, j: j <= i, None),
            "window": (("--window", "20,3"), lambda b, h, i, j: i + diagonal - 20 <= j <= i + diagonal + 3, None),
            "window open": (("--window", "-1,5", "--causal-align", "top-left"), lambda b, h, i, j: j <= i + 5, None),
            "window and causal": (("--window", "9,-1", "--causal"), lambda b, h, i, j: i + diagonal - 9 <= j <= i + diagonal, None),
            "bool": (("--mask", self.path("keep.npy")), lambda b, h, i, j: keep[i * self.SK + j], None),
            "added": (("--mask", self.path("added.npy")), None, lambda b, h, i, j: added[j]),
            "bool and causal": (("--mask", self.path("keep.npy"), "--causal"), lambda b, h, i, j: keep[i * self.SK + j] and j <= i + diagonal, None),
        }
        for name, (arguments, visible, bias) in cases.items():
            with self.subTest(name):
                want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.D, visible=visible, bias=bias)
                for method in ("exact", "chitu_int8"):
                    self.compare(*self.run_good("--method", method, *arguments), want, method)

    def test_scale(self):
        self.make()
        for scale in (0.0, 0.3, -0.1):
            want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.D, scale=scale)
            self.compare(*self.run_good("--method", "exact", "--softmax-scale", scale), want, "exact")

    def test_dtypes(self):
        for dtype in ("fp32", "fp64"):
            with self.subTest(dtype):
                self.make(dtype)
                want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.D)
                for method in ("exact", "chitu"):
                    self.compare(*self.run_good("--method", method), want, method, "fp32")

    def test_safetensors_and_bf16(self):
        self.make("bf16")
        file = self.path("all.safetensors")
        file.write_bytes(t.safetensors_bytes({"layer.q": (self.q_shape, self.q, "bf16"), "k": (self.k_shape, self.k, "bf16"), "v": (self.k_shape, self.v, "bf16")}))
        want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.D)
        arguments = ("--q", f"{file}:layer.q", "--k", f"{file}:k", "--v", file, "--method", "exact", "--device", "cpu")
        self.expect(chitu("run", *arguments, "--out", self.path("out.safetensors"), "--lse", f"{self.path('out.safetensors')}:the lse"), 0)
        got = t.read_safetensors(self.path("out.safetensors"))
        self.assertEqual(set(got), {"out", "the lse"})
        self.assertEqual(got["out"][0::2], (self.q_shape, "bf16"))
        self.assertLess(t.nrmse(got["out"][1], want.out), 1e-2)
        self.assertLess(max(abs(a - b) for a, b in zip(got["the lse"][1], want.lse)), 1e-2)
        self.path("out.safetensors").unlink()
        self.expect_bad(chitu("run", *arguments, "--out", self.path("out.npy")), "no bf16")

    def test_layout(self):
        self.make()
        out, lse = self.run_good("--method", "chitu")
        self.write("q.npy", [self.q_shape[i] for i in (0, 2, 1, 3)], t.transpose(self.q, self.q_shape))
        self.write("k.npy", [self.k_shape[i] for i in (0, 2, 1, 3)], t.transpose(self.k, self.k_shape))
        self.write("v.npy", [self.k_shape[i] for i in (0, 2, 1, 3)], t.transpose(self.v, self.k_shape))
        other, other_lse = self.run_good("--method", "chitu", "--layout", "bshd")
        self.assertEqual(other[0], tuple(self.q_shape[i] for i in (0, 2, 1, 3)))
        self.assertEqual(other[1], t.transpose(out[1], self.q_shape))  # bit for bit
        self.assertEqual(other_lse, lse)

    def test_threads_do_not_change_bits(self):
        self.make()
        self.assertEqual(self.run_good("--threads", 1), self.run_good("--threads", 3))

    def test_odd_sizes(self):
        for sizes in ({"d": 1, "sk": 1, "sq": 1}, {"d": 59, "sk": 131, "sq": 3}, {"d": 256, "sk": 5, "sq": 2}, {"b": 2, "h": 4, "hkv": 2, "sk": 17, "sq": 5, "d": 80}):
            with self.subTest(sizes):
                self.make(**sizes)
                want = t.Attention(self.q, self.k, self.v, self.q_shape, self.k_shape, self.q_shape[3])
                self.compare(*self.run_good("--method", "exact"), want, "exact")
                self.run_good()

    def test_no_keys(self):
        self.make(sk=0)
        out, lse = self.run_good()
        self.assertEqual(out[1], [0.0] * t.count(self.q_shape))
        self.assertEqual(set(lse[1]), {-math.inf})

    def test_no_queries(self):
        self.make(sq=0)
        out, lse = self.run_good()
        self.assertEqual((out[0], out[1]), (self.q_shape, []))

    def start_endless(self, files=2, pause=0.01, **options):
        """A run that takes long, once its temporary files are there."""
        if not self.path("q.npy").exists():
            self.make(h=1, hkv=1, sq=40000, sk=40000, d=4)
        command = [case.CHITU, "run", *self.inputs(), "--out", self.path("out.npy"), "--lse", self.path("lse.npy"), "--method", "sage2", "--device", "cpu", "--threads", "1"]
        process = subprocess.Popen([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob(".chitu-*"))) < files:
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(pause)
        return process

    def test_a_signal_leaves_no_file(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                process = self.start_endless()
                process.send_signal(number)
                process.communicate(timeout=20)
                self.assertEqual(process.returncode, -number)
                self.assertEqual({file.name for file in self.folder.iterdir()}, {"q.npy", "k.npy", "v.npy"})

    def test_a_signal_at_once_leaves_no_file(self):
        """As soon as a file is there: between its making and the program's knowing of it."""
        for round in range(20):
            process = self.start_endless(files=1 + round % 2, pause=0)
            process.terminate()
            process.communicate(timeout=20)
            self.assertEqual({file.name for file in self.folder.iterdir()}, {"q.npy", "k.npy", "v.npy"})

    def test_an_ignored_signal_stays_ignored(self):
        process = self.start_endless(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        process.terminate()
        process.communicate(timeout=20)

    def test_overwrites_old_output(self):
        self.make()
        self.path("out.npy").write_text("old")
        self.run_good()


class BadFiles(Case):
    def run_bad(self, name, content, *words, argument="q"):
        good = self.write("good.npy", (1, 2, 5, 4), self.normal((1, 2, 5, 4)))
        bad = self.path(name)
        if content is not None:
            bad.write_bytes(content)
        files = {"q": good, "k": good, "v": good, **{argument: bad}}
        arguments = [x for n, file in files.items() for x in (f"--{n}", file)]
        with self.subTest(words[0]):
            self.expect_bad(chitu("run", *arguments, "--out", self.path("out.npy"), "--lse", self.path("lse.npy"), "--device", "cpu"), str(bad), *words)

    def test_npy(self):
        good = t.npy_bytes((1, 2, 5, 4), [0.0] * 40, "fp16")
        run = lambda content, *words: self.run_bad("bad.npy", content, *words)
        run(None, "cannot open")
        run(b"", "is empty")
        run(good[:5], "truncated")
        run(good[:40], "truncated inside the header")
        run(good[:-1], "truncated: shape")
        run(good + b"x", "trailing bytes")
        run(b"PK\x03\x04" + good[4:], "wrong magic")
        run(good[:6] + b"\x09" + good[7:], "version 9.0")
        run(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + good[10:], "header of 4294967295 bytes")
        run(good.replace(b"<f2", b"|O8"), "never read")
        run(good.replace(b"<f2", b">f2"), "big-endian")
        run(good.replace(b"<f2", b"<i2"), "dtype '<i2'")
        run(good.replace(b"False", b"True "), "fortran_order")
        run(good.replace(b"(1, 2, 5, 4)", b"(1,-2, 5, 4)"), "negative")
        run(t.npy_bytes((4194305, 4194305, 211106198978564), [0.0] * 2, "fp16"), "overflows")
        run(t.npy_bytes((1, 0, 2**40, 2**40), [], "fp16"), "overflows")
        run(t.npy_bytes((2, 5, 4), [0.0] * 40, "fp16"), "want a 4-D tensor")
        run(t.npy_bytes((1, 2, 5, 4), [True] * 40, "bool"), "got bool")

    def test_safetensors(self):
        run = lambda content, *words: self.run_bad("bad.safetensors", content, *words)
        tensor = lambda shape, begin, end, dtype="F16": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        file = lambda header, size: struct.pack("<Q", len(json.dumps(header))) + json.dumps(header).encode() + bytes(size)
        good = file({"q": tensor([1, 2, 5, 4], 0, 80)}, 80)
        run(None, "cannot open")
        run(b"", "is empty")
        run(good[:6], "truncated")
        run(good[:-1], "truncated")
        run(good + b"x", "trailing bytes")
        run(struct.pack("<Q", 2**63) + good[8:], "header length")
        run(b"not a safetensors file at all", "not a .safetensors file")
        run(file({"q": tensor([4194305, 4194305, 211106198978564], 0, 8)}, 8), "overflows")
        run(file({"q": tensor([1, 2, 5, 4], 0, 80, "I8")}, 80), "data_offsets span")
        run(file({"q": tensor([1, 2, 5, 8], 0, 80, "I8")}, 80), "dtype I8")
        run(file({"q": tensor([2, 5, 4], 0, 80)}, 80), "want a 4-D tensor")
        run(file({"a": tensor([1, 2, 5, 4], 0, 80), "b": tensor([1, 2, 5, 4], 40, 120)}, 120), "overlaps")
        run(file({"a": tensor([1], 0, 2), "b": tensor([1], 2, 4)}, 4), "several tensors")
        run(file({"q": {"x": [[[[1]]]]}}, 0), "nested deeper")
        text = b'{"q":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"q":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
        run(struct.pack("<Q", len(text)) + text + b"\0\0", "twice")

    def test_special_files(self):
        self.run_bad("missing.npy", None, "cannot open")
        self.path("folder.npy").mkdir()
        self.run_bad("folder.npy", None, "is a directory")
        os.mkfifo(self.path("pipe.npy"))
        self.run_bad("pipe.npy", None, "pipe")
        self.run_bad("q.txt", b"1 2 3", "want a name ending in .npy or .safetensors")
        self.run_bad("mask.npy", t.npy_bytes((1, 1, 1, 1, 5), [True] * 5, "bool"), "at most 4 dimensions", argument="mask")

    def test_line_breaks_in_names_are_escaped(self):
        good = self.write("good.npy", (1, 2, 5, 4), self.normal((1, 2, 5, 4)))
        result = chitu("run", "--q", "odd\nname.npy", "--k", good, "--v", good, "--out", self.path("out.npy"))
        self.expect_bad(result, "odd\\x0aname.npy")

    def test_shapes_that_do_not_fit(self):
        good = self.write("good.npy", (1, 2, 5, 4), self.normal((1, 2, 5, 4)))
        cases = {
            "k": [((2, 2, 5, 4), "fp16"), ((1, 3, 5, 4), "fp16"), ((1, 2, 5, 8), "fp16"), ((1, 2, 5, 4), "fp32")],
            "v": [((1, 2, 6, 4), "fp16"), ((1, 1, 5, 4), "fp16"), ((1, 2, 5, 4), "fp32")],
            "mask": [((5, 6), "bool"), ((3, 1, 5, 5), "fp32")],
        }
        for argument, shapes in cases.items():
            for shape, dtype in shapes:
                with self.subTest(argument=argument, shape=shape, dtype=dtype):
                    bad = self.write("bad.npy", shape, [1] * t.count(shape), dtype)
                    files = {"q": good, "k": good, "v": good, argument: bad}
                    arguments = [x for n, file in files.items() for x in (f"--{n}", file)]
                    self.expect_bad(chitu("run", *arguments, "--out", self.path("out.npy"), "--device", "cpu"), argument)
        # No elements, but a size that would be allocated for the output.
        k, v = self.write("k.npy", (1, 2, 0, 4), []), self.write("v.npy", (1, 2, 0, 2**40), [])
        for command in (("run", "--out", self.path("out.npy")), ("accuracy", "--quiet")):
            self.expect_bad(chitu(*command, "--q", good, "--k", k, "--v", v, "--device", "cpu"), "v: want a head_dim from 1 to 256")


class Usage(Case):
    def setUp(self):
        super().setUp()
        good = self.write("good.npy", (1, 2, 5, 4), self.normal((1, 2, 5, 4)))
        self.inputs = ("--q", good, "--k", good, "--v", good)

    def run_bad(self, *arguments, words=(), code=2):
        with self.subTest(arguments):
            self.expect_bad(chitu("run", *self.inputs, "--out", self.path("out.npy"), *arguments), *words, code=code)

    def test_options(self):
        self.run_bad("--method", "sage3", words=("--method", "sage3", "chitu_int8"))
        self.run_bad("--layout", "sbhd", words=("--layout", "sbhd"))
        self.run_bad("--device", "tpu", words=("--device", "tpu"))
        self.run_bad("--softmax-scale", "nan", words=("--softmax-scale",))
        self.run_bad("--softmax-scale", "1e99", words=("--softmax-scale",))
        self.run_bad("--softmax-scale", "x", words=("--softmax-scale",))
        self.run_bad("--window", "5", words=("--window",))
        self.run_bad("--window", "-2,5", words=("--window",))
        self.run_bad("--causal-align", "top-left", words=("--causal-align",))
        self.run_bad("--causal", "--causal-align", "middle", words=("--causal-align",))
        self.run_bad("--threads", "-1", words=("--threads",))
        self.run_bad("--threads", "many", words=("--threads",))
        for option in ("--mask", "--softmax-scale", "--window", "--causal-align", "--lse", "--method", "--layout", "--device", "--threads"):
            self.run_bad(option, "", words=(option, "empty"))
            self.run_bad(f"{option}=", "--causal", words=(option, "empty"))
        self.run_bad("--dropout", "0.1", words=("--dropout",))
        self.run_bad("extra", words=("extra",))

    def test_outputs(self):
        out = lambda *arguments: chitu("run", *self.inputs, *arguments)
        self.expect_bad(out("--out", self.path("missing/out.npy")), "cannot create")
        self.expect_bad(out("--out", self.path("x.txt")), "want a name ending")
        self.expect_bad(out("--out", self.inputs[1]), "is an input")
        self.expect_bad(out("--out", self.path("x.npy"), "--lse", self.path("x.npy")), "two outputs")
        self.expect_bad(out("--out", self.path("x.npy"), "--lse", self.path("missing/lse.npy")), "cannot create")
        self.assertFalse(self.path("x.npy").exists())
        self.path("folder.npy").mkdir()
        self.expect_bad(out("--out", self.path("folder.npy")), "is a directory")
        self.path("loop").symlink_to("loop")
        self.expect_bad(out("--out", self.path("loop/x.npy")), "cannot create")

    def test_command_line(self):
        self.expect(chitu("--help"), 0)
        self.expect(chitu("--version"), 0)
        for command in ("run", "bench", "accuracy", "info", "explain"):
            self.expect(chitu(command, "--help"), 0)
        self.expect_bad(chitu())
        self.expect_bad(chitu("fly"))
        self.expect_bad(chitu("run"), "--q")
        self.expect_bad(chitu("bench", "--seqlen", "0"), "--seqlen")
        self.expect_bad(chitu("bench", "--seqlen", "1G"), "--seqlen")
        self.expect_bad(chitu("bench", "--heads", "8/3"), "--heads")
        self.expect_bad(chitu("bench", "--table", "round"), "--table")
        self.expect_bad(chitu("bench", "--method", "exact,exact"), "--method")
        self.expect_bad(chitu("bench", "--seqlen", "64", "--json", self.path("missing/x.json")), "cannot create")
        self.expect_bad(chitu("accuracy", *self.inputs, "--fail-above", "-1"), "--fail-above")
        self.expect_bad(chitu("accuracy", *self.inputs, "--fail-above", ""), "--fail-above")
        self.expect_bad(chitu("bench", "--seqlen", "64", "--json", ""), "--json")
        self.expect_bad(chitu("bench", "--seqlen", "64", "--json", self.path("x"), "--csv", f"{self.folder}/./x"), "--csv")
        self.expect_bad(chitu("bench", "--seqlen", "64", "--head-dim", "257"), "--head-dim")
        self.expect_bad(chitu("bench", "--seqlen", "64", "--window", "0,9223372036854775807", "--quiet"), "mask.right")

    def test_no_gpu_is_unsupported(self):
        if json.loads(chitu("info", "--json").stdout)["gpus"]:
            self.skipTest("there is a GPU here")
        self.run_bad("--device", "cuda", words=("cuda",), code=4)


class Information(Case):
    def test_info(self):
        self.assertIn("ref_exact", chitu("info").stdout)
        facts = json.loads(chitu("info", "--json").stdout)
        self.assertLessEqual({"chitu_version", "cpu", "cpu_isa", "gpus", "kernels", "environment"}, set(facts))
        names = {kernel["name"] for kernel in facts["kernels"]}
        self.assertLessEqual({"ref_exact", "ref_scheme"}, names)
        for kernel in facts["kernels"]:
            self.assertEqual(kernel["runs_here"], kernel["reason"] == "")

    def test_explain(self):
        result = chitu("explain", "--method", "sage2", "--causal", "--device", "cpu", "--json")
        self.expect(result, 0)
        report = json.loads(result.stdout)
        self.assertEqual([row["kernel"] for row in report["rows"] if row["chosen"]], [report["chosen"]])
        self.assertTrue(all(row["chosen"] or row["reason"] for row in report["rows"]))
        self.expect(chitu("explain", "--device", "cpu", "--seqlen", "1Mi", "--heads", "32/8", "--head-dim", "128"), 0)
        self.expect_bad(chitu("explain", "--kernel", "no_such_row", "--device", "cpu"), "no_such_row")
        self.expect_bad(chitu("explain", "--heads", "6/4"), "--heads")


if __name__ == "__main__":
    case.CHITU = os.path.abspath(sys.argv.pop(1))
    unittest.main()
