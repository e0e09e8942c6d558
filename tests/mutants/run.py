#!/usr/bin/env python3
"""Applies each mutant to a scratch copy of the tree, rebuilds what it touches, and runs the test that must fail. Exit code 1 if one survives.

usage: run.py [--build DIR] [--jobs N] [--only PART_OF_A_NAME] [--list]

The scratch tree is built with -O1 and with one instruction set of the CPU backend (AVX2), so that a mutant of a kernel is one compilation.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from mutants import DIRECT, MUTANTS  # noqa: E402

FOLDERS = ("include", "src", "tests", "benchmarks", "cmake", "CMakeLists.txt")
# Edits that make the scratch build fast; each must match.
FAST = [
    ("src/cpu/CMakeLists.txt", "set(isa_flags -O3)", "set(isa_flags -O1)"),
    ("src/cpu/CMakeLists.txt", "foreach(name avx2 avx512vnni avx512bf16)", "foreach(name avx2)"),
    ("src/cpu/CMakeLists.txt", "set_source_files_properties(isa_scalar.cc", "set_source_files_properties(isa_none.cc"),
    ("src/cpu/isa.cc", "return &avx512bf16_table();", "return &avx2_table();"),
    ("src/cpu/isa.cc", "return &avx512vnni_table();", "return &avx2_table();"),
    ("src/cpu/isa.cc", "return &scalar_table();", "return nullptr;"),
    ("src/reference/CMakeLists.txt", "PRIVATE -O3", "PRIVATE -O1"),
    ("src/eval/CMakeLists.txt", "PRIVATE -O3", "PRIVATE -O1"),
    ("tests/emulated/CMakeLists.txt", "PRIVATE -O2", "PRIVATE -O1"),
]
# Enough of the cases: the mutants are coarse.
ENVIRONMENT = dict(os.environ, CHITU_NUM_THREADS="2", CHITU_TEST_EFFORT="0.15")


def replace_once(path, old, new):
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        sys.exit(f"{path}: want exactly one occurrence, got {text.count(old)}, of:\n{old}")
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text


def run(command, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)


def must(command):
    result = run(command)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stdout[-4000:]}")


class Scratch:
    def __init__(self, folder, jobs):
        self.tree, self.build, self.jobs = folder / "tree", folder / "build", str(jobs)
        shutil.rmtree(self.tree, ignore_errors=True)  # the build folder stays: files are copied with their times, so ninja only rebuilds what changed
        self.tree.mkdir(parents=True)
        for name in FOLDERS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns("corpus") if name == "tests" else None)
            else:
                shutil.copy2(source, self.tree / name)
        for _, path, *_ in MUTANTS:  # an object of the last run may come from spoilt text: everything that can be spoilt is compiled anew
            (self.tree / path).touch()
        for path, old, new in FAST:
            replace_once(self.tree / path, old, new)
        cpu = self.tree / "src/cpu/CMakeLists.txt"
        cpu.write_text(cpu.read_text(encoding="utf-8").replace(" isa_scalar.cc", ""), encoding="utf-8")
        for name in ("fuzz", "consumer", "cli"):
            shutil.rmtree(self.tree / "tests" / name, ignore_errors=True)
            (self.tree / "tests" / name).mkdir()
            (self.tree / "tests" / name / "CMakeLists.txt").write_text("", encoding="utf-8")
        for name in ("test_npy.cc", "test_safetensors.cc"):  # they need the command's readers
            (self.tree / "tests" / name).unlink(missing_ok=True)
        must(["cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", "-DCHITU_CUDA=OFF", "-DCHITU_APPS=OFF", "-DCMAKE_BUILD_TYPE=Release",
              "-DCMAKE_CXX_FLAGS_RELEASE=-O1"])

    def build_test(self, test):
        """Empty, or what the compiler said."""
        binary = self.build / "bin" / f"chitu_{test}"
        if test in DIRECT:
            sources = [self.tree / "tests" / f"{test}.cc"] + [self.tree / s for s in DIRECT[test]]
            binary.parent.mkdir(parents=True, exist_ok=True)
            command = ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-I", self.tree / "include", "-I", self.tree / "src", "-I", self.tree / "tests",
                       *sources, "-o", binary, "-lgtest_main", "-lgtest", "-pthread"]
        else:
            command = ["cmake", "--build", self.build, "-j", self.jobs, "--target", f"chitu_{test}"]
        result = run(command)
        return result.stdout[-3000:] if result.returncode != 0 else ""

    def test_passes(self, test, pattern):
        try:
            return run([self.build / "bin" / f"chitu_{test}", f"--gtest_filter={pattern}"], env=ENVIRONMENT, timeout=300).returncode == 0
        except subprocess.TimeoutExpired:
            return False  # a mutant that hangs is found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if arguments.only in m[0]]
    if arguments.list:
        for name, path, *_, test, pattern in chosen:
            print(f"{test:18} {pattern:14} {path}: {name}")
        return 0
    begin = time.monotonic()
    scratch = Scratch(arguments.build.resolve(), arguments.jobs)
    # Before anything is spoilt, every test must pass and every text must match.
    for _, path, old, *_ in chosen:
        replace_once(scratch.tree / path, old, old)
    needed = {}
    for *_, test, pattern in chosen:
        needed.setdefault(test, set()).add(pattern)
    for test, patterns in needed.items():
        fault = scratch.build_test(test)
        if fault:
            sys.exit(f"{test} does not build:\n{fault}")
        if not scratch.test_passes(test, ":".join(sorted(patterns))):
            sys.exit(f"{test} fails, or takes more than 300 s, without any mutant")
    print(f"scratch build: {time.monotonic() - begin:.0f} s", flush=True)
    survivors = []
    for name, path, old, new, test, pattern in chosen:
        start = time.monotonic()
        original = replace_once(scratch.tree / path, old, new)
        fault = scratch.build_test(test)
        if fault:
            sys.exit(f"mutant '{name}' does not build:\n{fault}")
        killed = not scratch.test_passes(test, pattern)
        (scratch.tree / path).write_text(original, encoding="utf-8")
        print(f"{'killed  ' if killed else 'SURVIVED'} {time.monotonic() - start:5.1f} s  {test:18} {name}", flush=True)
        if not killed:
            survivors.append(name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed in {time.monotonic() - begin:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
