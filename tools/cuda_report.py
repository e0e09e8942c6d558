#!/usr/bin/env python3
"""Registers, spills, shared memory and code size of every CUDA kernel of a build; fails on more spilling than the baseline allows, and on serialised wgmma.

usage: cuda_report.py --objects FILE --baseline FILE --compiler VERSION [--table FILE] [--update]

Reads what cmake/keep_ptxas.sh left beside each object of the list. The baseline holds for one release of nvcc and the architectures it names: spills under
another release are reported and the exit code is 77 (CTest: skipped). --update writes the baseline from the build.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

SKIPPED = 77
COMPILING = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
PROPERTIES = re.compile(r"Function properties for (\S+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
CODE = re.compile(r"code (\S+) (\S+) ([0-9a-f]+)")
SERIALISED = re.compile(r"\(C75\d\d\)|wgmma\S* .*serialized")


class Kernel:
    def __init__(self, source, arch, symbol):
        self.source, self.arch, self.symbol, self.name = source, arch, symbol, symbol
        self.registers = self.shared = self.stack = self.stores = self.loads = 0
        self.code = None

    @property
    def spill(self):
        return self.stores + self.loads

    @property
    def key(self):
        return f"{self.source} {self.arch} {self.name}"


def parse_log(source, text):
    """Kernels and complaints of one object."""
    kernels, complaints, sizes = {}, [], []
    arch = current = None
    for line in text.splitlines():
        if match := COMPILING.search(line):
            arch = match[2]
        elif match := PROPERTIES.search(line):
            current = kernels.setdefault((arch, match[1]), Kernel(source, arch, match[1]))
        elif (match := FRAME.search(line)) and current and line.startswith(" "):
            current.stack, current.stores, current.loads = map(int, match.groups())
        elif (match := USED.search(line)) and current:
            current.registers = int(match[1])
            current.shared = int(m[1]) if (m := SHARED.search(line)) else 0
        elif match := CODE.fullmatch(line):
            sizes.append(match.groups())
        elif SERIALISED.search(line):
            complaints.append(f"{source}: {line.strip()}")
    architectures = {a for a, _ in kernels}
    for arch, symbol, size in sizes:
        arch = next(iter(architectures)) if arch == "-" and len(architectures) == 1 else arch
        if (arch, symbol) in kernels:
            kernels[arch, symbol].code = int(size, 16)
    return list(kernels.values()), complaints


def short_name(demangled):
    """`void chitu::cuda::sm90::f<chitu::cuda::sm90::T<1> >(Params)` -> `sm90::f<T<1>>`."""
    name = demangled.replace("(anonymous namespace)::", "").replace("> >", ">>").replace("> >", ">>")
    name = re.sub(r"^(void|int) ", "", name).replace("chitu::cuda::", "")
    depth = 0
    for i, c in enumerate(name):  # up to the parameter list: casts inside <> have parentheses too
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    head, angle, rest = name.partition("<")
    return head + angle + re.sub(r"\b\w+::", "", rest)


def read_build(objects):
    kernels, complaints = [], []
    for path in objects:
        source = path.as_posix().rpartition(".dir/")[2].removesuffix(".o").removesuffix(".cu")
        log = path.with_name(path.name + ".ptxas")
        if not log.is_file():
            complaints.append(f"{source}: {log} is missing: build it first")
            continue
        found, said = parse_log(source, log.read_text(encoding="utf-8", errors="replace"))
        kernels += found
        complaints += said
    names = subprocess.run(["c++filt"], input="\n".join(k.symbol for k in kernels), capture_output=True, text=True, check=True).stdout.splitlines()
    for kernel, name in zip(kernels, names):
        kernel.name = short_name(name)
    kernels.sort(key=lambda k: (k.source, k.arch, k.name))
    return kernels, complaints


def read_baseline(path):
    """Release of nvcc, {key: bytes}, architectures."""
    release, allowed, architectures = "", {}, set()
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split(maxsplit=1)
        if not words or line.startswith("#"):
            continue
        if words[0] == "nvcc":
            release = words[1]
        elif words[0] == "architectures":
            architectures = set(words[1].split())
        else:
            allowed[words[1]] = int(words[0])
    return release, allowed, architectures


def write_baseline(path, release, kernels):
    lines = [
        "# Register spills that kernels are known to have: bytes of spill stores + loads, source, architecture, kernel. Test cuda_resources fails on more.",
        "# A kernel that is not here may not spill. Written by tools/cuda_report.py --update (CONTRIBUTING.md); say in the commit why a number grew.",
        f"nvcc {release}",
        "architectures " + " ".join(sorted({k.arch for k in kernels})),
    ]
    lines += [f"{k.spill:5} {k.key}" for k in kernels if k.spill]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(kernels, allowed, architectures):
    """What is worse than the baseline, and what only differs from it."""
    faults, notes = [], []
    for kernel in kernels:
        limit = allowed.get(kernel.key, 0)
        if kernel.arch not in architectures:
            continue
        if kernel.spill > limit:
            faults.append(f"{kernel.key}: spills {kernel.spill} bytes, the baseline allows {limit}")
        elif kernel.spill < limit:
            notes.append(f"{kernel.key}: spills {kernel.spill} bytes, less than the {limit} of the baseline: lower it")
    built, here = {k.key for k in kernels}, {k.arch for k in kernels}
    for key in sorted(set(allowed) - built):
        if key.split()[1] in here:  # a build may leave architectures out
            faults.append(f"{key}: stands in the baseline, but there is no such kernel")
    for arch in sorted(here - architectures):
        notes.append(f"{arch}: the baseline has no such architecture, its spills are not judged")
    return faults, notes


def table(kernels):
    rows = [("source", "kernel", "arch", "registers", "spill st/ld", "stack", "smem", "code")]
    rows += [(k.source, k.name, k.arch, str(k.registers), f"{k.stores}/{k.loads}" if k.spill else "-", str(k.stack), str(k.shared),
              "-" if k.code is None else str(k.code)) for k in kernels]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip() for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=pathlib.Path, required=True, help="file with one object per line")
    parser.add_argument("--baseline", type=pathlib.Path, required=True)
    parser.add_argument("--compiler", required=True, help="version of nvcc")
    parser.add_argument("--table", type=pathlib.Path, help="write the table here instead of printing it")
    parser.add_argument("--update", action="store_true", help="write the baseline from this build")
    arguments = parser.parse_args()
    if not shutil.which("c++filt"):
        print("no c++filt (binutils) here: kernels have no names to compare")
        return SKIPPED
    objects = [pathlib.Path(line) for line in arguments.objects.read_text(encoding="utf-8").split("\n") if line.endswith(".cu.o")]
    kernels, faults = read_build(objects)
    if not kernels:
        faults.append(f"{arguments.objects}: no kernel in {len(objects)} objects")
    release = ".".join(arguments.compiler.split(".")[:2])
    if arguments.update and not faults:
        write_baseline(arguments.baseline, release, kernels)
    wanted, allowed, architectures = read_baseline(arguments.baseline)
    worse, notes = compare(kernels, allowed, architectures)
    if release == wanted:
        faults += worse
    else:
        notes += worse
    if arguments.table:
        arguments.table.write_text(table(kernels) + "\n", encoding="utf-8")
    else:
        print(table(kernels))
    for note in notes:
        print("note:", note)
    for fault in faults:
        print("FAULT:", fault)
    print(f"{len(kernels)} kernels, {sum(k.spill > 0 for k in kernels)} spill, {len(faults)} faults")
    if faults:
        return 1
    if worse:
        print(f"the baseline is of nvcc {wanted}, this build of {release}: not judged")
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
