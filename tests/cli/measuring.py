"""Cases of test_cli.py: `chitu accuracy` and `chitu bench`."""

import json
import math
import signal
import subprocess
import time

import case
import tensors as t
from case import LIMITS, Case, chitu


class Accuracy(Case):
    KEYS = {"cos", "rel_l1", "nrmse", "rmse", "max_diff", "mean_diff", "worst_row", "lse_error", "nan_count"}

    def setUp(self):
        super().setUp()
        self.shape = (1, 3, 140, 32)
        self.arrays = [self.normal(self.shape) for _ in range(3)]
        self.inputs = [x for name, values in zip("qkv", self.arrays) for x in (f"--{name}", self.write(f"{name}.npy", self.shape, values))]

    def test_metrics(self):
        result = chitu("accuracy", *self.inputs, "--device", "cpu", "--json", self.path("a.json"), "--quiet")
        self.expect(result, 0)
        for method in LIMITS:
            self.assertIn(method, result.stdout)
        report = json.loads(self.path("a.json").read_text())
        self.assertIn("machine", report)
        rows = {row["method"]: row for row in report["results"]}
        self.assertEqual(set(rows), set(LIMITS))
        for method, row in rows.items():
            self.assertLessEqual(self.KEYS, set(row["overall"]))
            self.assertEqual(len(row["heads"]), 3)
            self.assertTrue(row["all_rows"])
            self.assertEqual(row["reference_rows"], 3 * 140)
            self.assertLess(row["overall"]["nrmse"], LIMITS[method])
            self.assertEqual(row["overall"]["nan_count"], 0)
        self.assertIn("flagged_tile_share", rows["chitu_int8"])

    def test_against_own_metrics(self):
        chitu("run", *self.inputs, "--device", "cpu", "--method", "chitu_int8", "--causal", "--out", self.path("o.npy"))
        want = t.Attention(*self.arrays, self.shape, self.shape, 32, visible=lambda b, h, i, j: j <= i)
        result = chitu("accuracy", *self.inputs, "--device", "cpu", "--methods", "chitu_int8", "--causal", "--json", "-", "--quiet")
        overall = json.loads(result.stdout)["results"][0]["overall"]
        got = t.read_npy(self.path("o.npy"))[1]
        self.assertAlmostEqual(overall["nrmse"], t.nrmse(got, want.out), delta=1e-3 * overall["nrmse"])
        self.assertAlmostEqual(overall["max_diff"], max(abs(a - b) for a, b in zip(got, want.out)), delta=1e-6)

    def test_threshold(self):
        self.expect(chitu("accuracy", *self.inputs, "--methods", "exact,chitu", "--fail-above", "0.05", "--quiet"), 0)
        result = chitu("accuracy", *self.inputs, "--methods", "exact,sage2", "--fail-above", "0.005", "--quiet")
        self.expect(result, 3)
        self.assertIn("sage2", result.stderr)
        self.assertNotIn("exact", result.stderr)

    def test_nan_fails_the_threshold(self):
        self.arrays[1][5] = math.nan
        self.write("k.npy", self.shape, self.arrays[1])
        result = chitu("accuracy", *self.inputs, "--methods", "exact,chitu_int8", "--fail-above", "1", "--quiet", "--json", "-")
        self.expect(result, 3)
        overall = json.loads(result.stdout)["results"][0]["overall"]
        self.assertEqual(overall["nan_count"], 140 * 32)  # the head of the NaN key, though the reference is NaN there too
        self.assertIsNone(json.loads(result.stdout)["results"][0]["heads"][0]["cos"])
        self.assertIn("exact", result.stderr)

    def test_masks_that_broadcast(self):
        for shape in ((1, 1, 1, 140), (140, 140), (1, 3, 1, 140), (1, 1, 140, 1)):
            for dtype, values in (("bool", [i % 3 != 1 for i in range(t.count(shape))]), ("fp32", self.normal(shape, "fp32"))):
                with self.subTest(shape=shape, dtype=dtype):
                    mask = self.write("mask.npy", shape, values if dtype == "fp32" or shape[-1] > 1 else [True] * 140, dtype)
                    self.expect(chitu("accuracy", *self.inputs, "--mask", mask, "--methods", "exact,sage1", "--fail-above", "0.05", "--device", "cpu", "--quiet"), 0)

    def test_outputs(self):
        self.expect_bad(chitu("accuracy", *self.inputs, "--json", self.path("k.npy"), "--quiet"), "is an input")
        self.assertEqual(t.read_npy(self.path("k.npy"))[1], self.arrays[1])
        result = chitu("accuracy", *self.inputs, "--methods", "exact", "--json", "-", "--quiet")
        self.assertEqual(json.loads(result.stdout)["command"]["line"][1:3], ["accuracy", "--q"])
        with open("/dev/full", "w") as full:
            self.assertEqual(subprocess.run([case.CHITU, "info"], stdout=full, stderr=subprocess.PIPE).returncode, 1)

    def test_flagged_tiles_of_values_that_are_not_finite(self):
        # As above, but a NaN in the same head: its weights are NaN, and the method flags no tile of it.
        self.arrays[2] = [self.random.choice((-1.0, 1.0)) for _ in self.arrays[2]]
        self.arrays[2][32:64] = [0.0] * 32
        self.arrays[2][3] = math.nan
        self.write("v.npy", self.shape, self.arrays[2])
        result = chitu("accuracy", *self.inputs, "--methods", "chitu_int8", "--json", "-", "--quiet")
        self.expect(result, 0)
        self.assertEqual(json.loads(result.stdout)["results"][0]["flagged_tile_share"], 0)

    def test_flagged_tiles(self):
        # Tokens of one size, and a zero token in the first tile of head 0: its second tile and the other heads stay plain.
        self.arrays[2] = [self.random.choice((-1.0, 1.0)) for _ in self.arrays[2]]
        self.arrays[2][32:64] = [0.0] * 32
        self.write("v.npy", self.shape, self.arrays[2])
        result = chitu("accuracy", *self.inputs, "--methods", "chitu_int8", "--json", "-", "--quiet")
        self.assertAlmostEqual(json.loads(result.stdout)["results"][0]["flagged_tile_share"], 1 / 6, places=6)

    def test_sampled_rows(self):
        result = chitu("accuracy", *self.inputs, "--methods", "sage2,exact", "--rows", "30", "--json", "-", "--quiet", "--causal")
        for row in json.loads(result.stdout)["results"]:
            self.assertFalse(row["all_rows"])
            self.assertEqual(row["reference_rows"], 30)
            self.assertLess(row["overall"]["nrmse"], LIMITS[row["method"]])


class Bench(Case):
    KEYS = ["method", "kernel", "device", "batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "causal", "dtype", "latency_ms", "kernel_ms",
            "tflops", "max_diff", "mean_diff", "nrmse", "cos", "lse_error", "reference_rows"]

    def test_json_and_csv(self):
        result = chitu("bench", "--seqlen", "256", "--heads", "4/2", "--device", "cpu", "--repeats", "2", "--json", self.path("b.json"), "--csv", self.path("b.csv"), "--quiet")
        self.expect(result, 0)
        self.assertEqual(result.stderr, "")
        report = json.loads(self.path("b.json").read_text())
        self.assertIn("cpu", report["machine"])
        self.assertEqual([row["method"] for row in report["results"]], list(LIMITS))
        for row in report["results"]:
            self.assertLessEqual(set(self.KEYS), set(row))
            self.assertLess(row["nrmse"], LIMITS[row["method"]], row["method"])
            self.assertGreater(row["reference_rows"], 0)
            self.assertEqual(row["latency_ms"] is None, row["kernel"].startswith("ref_"))
            self.assertEqual(row["tflops"] is None, row["latency_ms"] is None)
            self.assertEqual((row["num_heads_q"], row["num_heads_kv"], row["seqlen_q"], row["causal"]), (4, 2, 256, False))
            self.assertIn(row["method"], result.stdout)
        lines = self.path("b.csv").read_text().splitlines()
        self.assertEqual(len(lines), 1 + len(LIMITS))
        self.assertLessEqual(set(self.KEYS), set(lines[0].split(",")))

    def test_options(self):
        for extra in (("--causal",), ("--dtype", "bf16"), ("--dtype", "fp32"), ("--seqlen-q", "1"), ("--quantized-kv", "--method", "chitu_int8"), ("--peak-memory",), ("--markdown",)):
            with self.subTest(extra):
                self.expect(chitu("bench", "--table", "sweep", "--seqlen", "64,128", "--head-dim", "32", "--heads", "1", "--repeats", "1", "--device", "cpu", "--quiet", *extra), 0)
        result = chitu("bench", "--seqlen", "64", "--method", "exact", "--repeats", "1", "--device", "cpu", "--quiet", "--json", "-")
        self.assertEqual(len(json.loads(result.stdout)["results"]), 1)

    def test_kinds_of_inputs(self):
        common = ("--table", "sweep", "--seqlen", "300", "--heads", "4/2", "--batch", "2", "--method", "exact,chitu", "--repeats", "1", "--device", "cpu", "--quiet")
        errors = []
        for inputs in ("1", "8", "13", "16-gap6-mean1"):
            with self.subTest(inputs):
                result = chitu("bench", *common, "--inputs", inputs, "--json", self.path("b.json"))
                self.expect(result, 0)
                rows = json.loads(self.path("b.json").read_text())["results"]
                self.assertEqual([row["inputs"] for row in rows], [inputs] * 2)
                self.assertLess(rows[0]["nrmse"], 0.005)
                self.assertLess(rows[1]["nrmse"], 0.1)
                self.assertIn({"1": "1 (N(0,1))", "8": "8 (4 sinks", "13": "13 (logit std 4)"}.get(inputs, "16-gap6-mean1 (gap 6"), result.stdout)
                errors.append(rows[1]["nrmse"])
        self.assertEqual(len(set(errors)), 4)
        result = chitu("bench", *common, "--inputs", "8", "--softmax-scale", "1e-6")  # the gap would take keys that fp16 does not hold
        self.expect(result, 2)
        self.assertIn("--softmax-scale", result.stderr)
        result = chitu("bench", *common, "--inputs", "99")
        self.expect(result, 2)
        for word in ("--inputs", "16-gap6-mean1", "99"):
            self.assertIn(word, result.stderr)

    def test_every_kernel_of_a_method(self):
        common = ("--seqlen", "64", "--heads", "1", "--repeats", "1", "--device", "cpu", "--quiet", "--json", "-")
        rows = json.loads(chitu("bench", "--kernel", "all", "--method", "exact,chitu_int8,sage2", *common).stdout)["results"]
        self.assertEqual([(row["method"], row["kernel"]) for row in rows], [("exact", "cpu_f16_f16"), ("chitu_int8", "cpu_int8_i8"), ("sage2", "ref_scheme")])
        rows = json.loads(chitu("bench", "--kernel", "cpu_int8_i8", "--method", "exact,chitu_int8", *common).stdout)["results"]
        self.assertEqual([row["kernel"] for row in rows], [None, "cpu_int8_i8"])

    def test_quantized_kv_only_of_methods_that_have_it(self):
        result = chitu("bench", "--seqlen", "64", "--method", "exact,chitu_int8", "--quantized-kv", "--repeats", "1", "--device", "cpu", "--quiet", "--json", "-")
        exact, quantized = json.loads(result.stdout)["results"]
        self.assertEqual((exact["nrmse"], exact["latency_ms"]), (None, None))
        self.assertIn("no quantized K and V", exact["note"])
        self.assertLess(quantized["nrmse"], LIMITS["chitu_int8"])

    def test_failure_leaves_what_is_finished(self):
        for inputs in ("1", "8"):
            with self.subTest(inputs):
                self.fail_for_lack_of_memory("--inputs", inputs)

    def fail_for_lack_of_memory(self, *extra):
        common = ("--method", "exact", "--heads", "1", "--head-dim", "256", "--repeats", "1", "--device", "cpu", "--quiet", *extra)
        result = chitu("bench", "--seqlen", "64,1048576Mi", *common, "--json", self.path("b.json"))
        self.expect(result, 1)
        self.assertIn("memory", result.stderr)
        self.assertIn("exact", result.stdout)
        report = json.loads(self.path("b.json").read_text())
        self.assertFalse(report["command"]["complete"])
        self.assertIn("64,1048576Mi", report["command"]["line"])
        self.assertEqual([row["seqlen_k"] for row in report["results"]], [64])

    def test_interrupt_leaves_what_is_finished(self):
        begin = time.monotonic()
        self.expect(chitu("bench", "--seqlen", "64", "--method", "chitu_int8", "--device", "cpu", "--reference-rows", "8", "--quiet"), 0)
        short = time.monotonic() - begin
        command = [case.CHITU, "bench", "--seqlen", "64,200K", "--method", "chitu_int8", "--device", "cpu", "--reference-rows", "8", "--json", self.path("b.json")]
        process = subprocess.Popen([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(3 + 3 * short)  # the first row is finished, the second takes minutes
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        self.assertLess(time.monotonic() - begin, 20)
        self.assertEqual(process.returncode, 130, stderr)
        self.assertIn("interrupted", stderr)
        report = json.loads(self.path("b.json").read_text())
        self.assertFalse(report["command"]["complete"])
        self.assertEqual([row["seqlen_k"] for row in report["results"]], [64])
        self.assertIn("chitu_int8", stdout)
