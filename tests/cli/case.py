"""What the test cases of the command share: how it is called, scratch files, the look of an error."""

import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import unittest

import tensors as t

CHITU = None  # set by test_cli.py
# Overall relative L2 error on N(0,1) at a few hundred keys: above what docs/methods.md publishes for the method, below what a mistake gives.
LIMITS = {"exact": 2e-3, "sage1": 0.02, "sage2": 0.055, "int_flash": 0.05, "int_flash_half": 0.015, "chitu": 0.02, "chitu_int8": 0.03, "chitu_fast": 0.055}
LSE_LIMIT = 0.03


def chitu(*arguments, env=None, timeout=600):
    return subprocess.run([CHITU, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="chitu-cli-"))
        self.random = random.Random(self.id())

    def tearDown(self):
        shutil.rmtree(self.folder)

    def path(self, name):
        return self.folder / name

    def normal(self, shape, dtype="fp16", scale=1.0):
        return t.rounded([self.random.gauss(0, scale) for _ in range(t.count(shape))], dtype)

    def write(self, name, shape, values, dtype="fp16"):
        self.path(name).write_bytes(t.npy_bytes(shape, values, dtype))
        return self.path(name)

    def expect(self, result, code):
        self.assertEqual(result.returncode, code, f"stdout: {result.stdout[-2000:]}\nstderr: {result.stderr[-2000:]}")

    def expect_bad(self, result, *words, code=2):
        """One clear line on stderr, the exit code, and neither an output nor a temporary file."""
        self.expect(result, code)
        self.assertEqual(result.stdout, "")
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertTrue(result.stderr.startswith("chitu: "), result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        for file in self.folder.iterdir():
            self.assertFalse(file.name.startswith(("out", "lse", ".chitu")), file.name)
