#!/usr/bin/env python3
"""The gate on CUDA spills, tools/cuda_report.py, on logs made up here: needs neither nvcc nor a GPU. Standard library only."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOL = ROOT / "tools/cuda_report.py"
KERNEL = "_ZN5chitu4cuda4sm901fILi1EEEvi"  # void chitu::cuda::sm90::f<1>(int)
NAME = "sm90/a sm_90a sm90::f<1>"


def log(stores=0, loads=0, arch="sm_90a", more=""):
    return (f"ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function '{KERNEL}' for '{arch}'\n"
            f"ptxas info    : Function properties for {KERNEL}\n    72 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
            f"ptxas info    : Used 128 registers, used 3 barriers, 72 bytes cumulative stack size, 640 bytes smem\n{more}code - {KERNEL} 01c500\n")


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.object = self.folder / "x.dir/sm90/a.cu.o"
        self.object.parent.mkdir(parents=True)
        (self.folder / "objects").write_text(f"{self.object}\n{self.folder}/x.dir/b.cc.o\n")

    def report(self, text, *allowed, compiler="13.0.88", arguments=()):
        if text is not None:
            self.object.with_name("a.cu.o.ptxas").write_text(text)
        baseline = self.folder / "baseline"
        if "--update" not in arguments:
            baseline.write_text("# comment\nnvcc 13.0\narchitectures sm_90a\n" + "".join(f"{line}\n" for line in allowed))
        command = [sys.executable, TOOL, "--objects", self.folder / "objects", "--baseline", baseline, "--compiler", compiler, *arguments]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        self.assertEqual(result.stderr, "")
        return result.returncode, result.stdout

    def test_table(self):
        code, text = self.report(log())
        self.assertEqual(code, 0)
        self.assertEqual(text.splitlines()[1].split(), ["sm90/a", "sm90::f<1>", "sm_90a", "128", "-", "72", "640", str(0x1C500)])

    def test_a_new_spill_fails(self):
        code, text = self.report(log(4, 8))
        self.assertEqual(code, 1)
        self.assertIn(f"FAULT: {NAME}: spills 12 bytes, the baseline allows 0", text)

    def test_a_known_spill_passes_until_it_grows(self):
        self.assertEqual(self.report(log(4, 8), f"12 {NAME}")[0], 0)
        self.assertEqual(self.report(log(4, 12), f"12 {NAME}")[0], 1)
        code, text = self.report(log(4, 4), f"12 {NAME}")
        self.assertEqual(code, 0)
        self.assertIn("lower it", text)

    def test_serialised_wgmma_fails_whatever_the_baseline(self):
        line = f"ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to .. in the function '{KERNEL}'\n"
        for compiler in ("13.0.88", "14.1.2"):
            code, text = self.report(log(more=line), compiler=compiler)
            self.assertEqual(code, 1)
            self.assertIn("C7510", text)

    def test_an_object_without_a_log_fails(self):
        code, text = self.report(None)
        self.assertEqual(code, 1)
        self.assertIn("is missing", text)

    def test_an_entry_without_its_kernel_fails(self):
        self.assertEqual(self.report(log(), "12 sm90/a sm_90a sm90::g<1>")[0], 1)
        self.assertEqual(self.report(log(), "12 sm90/a sm_120a sm90::g<1>")[0], 0, "a build may leave an architecture out")

    def test_other_compilers_and_architectures_are_not_judged(self):
        self.assertEqual(self.report(log(4, 8), compiler="12.9.1")[0], 77)
        self.assertEqual(self.report(log(), compiler="12.9.1")[0], 0)
        code, text = self.report(log(4, 8, arch="sm_80"))
        self.assertEqual(code, 0)
        self.assertIn("note: sm_80", text)

    def test_update_writes_what_then_passes(self):
        self.assertEqual(self.report(log(4, 8), arguments=("--update",))[0], 0)
        self.assertIn(f"12 {NAME}\n", (self.folder / "baseline").read_text())


if __name__ == "__main__":
    unittest.main()
