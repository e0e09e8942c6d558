#!/usr/bin/env python3
"""The include graph of the C++ and CUDA sources by layer; fails on an include that goes upward, sideways or to a third party's header elsewhere.

The rules are those of docs/design.md ("Layers"). Usage: tools/layers.py [--quiet]
"""

import argparse
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
SOURCES = {".h", ".cc", ".cu", ".cuh"}

# Layer of a path: the first prefix that fits. Then the layers that each may include (itself always).
LAYERS = [
    ("include/chitu/", "api"),
    ("src/core/", "core"),
    ("src/eval/", "eval"),
    ("src/reference/", "reference"),
    ("src/cpu/device/", "cpu/device"),
    ("src/cpu/", "cpu"),
    ("src/cuda/device/", "cuda/device"),
    ("src/cuda/", "cuda"),
    ("src/distributed/", "distributed"),
    ("src/c_api", "c_api"),
    ("src/", "front"),
    ("apps/study/", "study"),
    ("apps/", "apps"),
    ("examples/", "examples"),
    ("python/", "python"),
    ("tests/", "tests"),
    ("benchmarks/", "benchmarks"),  # stand outside: their own includes are not looked at
]
MAY_INCLUDE = {
    "api": set(),
    "core": {"api"},
    "eval": {"api", "core"},  # core: only EVAL_CORE
    "reference": {"api", "core"},
    "cpu/device": {"core"},
    "cpu": {"api", "core", "cpu/device"},
    "cuda/device": {"core"},
    "cuda": {"api", "core", "cuda/device"},
    "distributed": {"api"},
    "c_api": {"api"},
    "front": {"api", "core"},
    "apps": {"api", "eval"},
    "study": {"api", "core", "eval", "reference", "apps"},  # emulates parts of methods: looks inside on purpose
    "examples": {"api"},
    "python": {"api"},
    "tests": {"api", "core", "eval", "reference", "cpu/device", "cpu", "cuda/device", "cuda", "distributed", "front", "apps", "benchmarks"},
}
# The oracles judge the kernels, so they share definitions with them, but no arithmetic beyond the rounding of one value.
EVAL_CORE = {"src/core/codec.h", "src/core/mask.h", "src/core/scheme.h", "src/core/hd.h", "src/core/key_weights.h", "src/core/rotation.h"}

# Headers that are neither ours nor the standard library's, and where they may be included.
THIRD_PARTY = [
    (r"cuda\w*\.h|cuda_.*\.h|mma\.h|nv/.*|cooperative_groups.*", ["src/cuda/", "src/distributed/nccl_comm.cc", "apps/chitu/device_cuda.cc", "tests/"]),
    (r"nccl\.h", ["src/distributed/nccl_comm.cc"]),
    (r"mpi\.h", ["src/distributed/mpi_comm.cc", "examples/"]),
    (r"(x86|imm|arm_neon)\w*\.h|arm_neon\.h|cpuid\.h", ["src/cpu/"]),
    (r"CLI/.*|fmt/.*|nlohmann/.*", ["apps/", "tests/"]),
    (r"gtest/.*", ["tests/"]),
    (r"nanobind/.*", ["python/"]),
    (r"(sys/\w+|errno|pthread|sched|unistd|fcntl|dlfcn|signal|poll|link)\.h", ["src/cpu/", "src/cuda/", "src/distributed/", "apps/", "tests/"]),
]
STANDARD = re.compile(r"[a-z0-9_]+")  # <vector>, <cstdint>: standard headers have no dot


def layer_of(path):
    return next((layer for prefix, layer in LAYERS if path.startswith(prefix)), None)


def resolve(source, name):
    """The file of ours that an include names, relative to the root, or None."""
    for base in (source.parent, ROOT / "include", ROOT / "src", ROOT / "tests", ROOT / "benchmarks", ROOT / "apps/chitu", ROOT / "apps/study"):
        candidate = (base / name).resolve()
        if candidate.is_file() and ROOT in candidate.parents:
            return candidate.relative_to(ROOT).as_posix()
    return None


def check_third_party(path, name):
    for pattern, homes in THIRD_PARTY:
        if re.fullmatch(pattern, name):
            return None if any(path.startswith(home) for home in homes) else f"<{name}> belongs to {', '.join(homes)}"
    return None if STANDARD.fullmatch(name) else f"<{name}> is no standard header and has no home in tools/layers.py"


def check_own(path, target):
    source, wanted = layer_of(path), layer_of(target)
    if source == wanted:
        return None
    if wanted not in MAY_INCLUDE[source]:
        return f"layer {source} may not include layer {wanted} ({target})"
    if source == "eval" and wanted == "core" and target not in EVAL_CORE:
        return f"src/eval may include only {', '.join(sorted(EVAL_CORE))} of src/core, not {target}"
    return None


def find_cycle(graph):
    state, stack = {}, []

    def visit(node):
        state[node] = "open"
        stack.append(node)
        for following in sorted(graph.get(node, ())):
            if state.get(following) == "open":
                return stack[stack.index(following):] + [following]
            if following not in state:
                cycle = visit(following)
                if cycle:
                    return cycle
        stack.pop()
        state[node] = "done"
        return None

    for node in sorted(graph):
        if node not in state:
            cycle = visit(node)
            if cycle:
                return cycle
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quiet", action="store_true", help="print the graph only when something is wrong")
    arguments = parser.parse_args()
    faults, edges, graph = [], collections.Counter(), collections.defaultdict(set)
    folders = ("include", "src", "apps", "examples", "python", "tests")
    for source in sorted(p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES):
        path = source.relative_to(ROOT).as_posix()
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, angled = match.groups()
            target = resolve(source, quoted) if quoted else None
            if target:
                graph[path].add(target)
                edges[layer_of(path), layer_of(target)] += 1
                fault = check_own(path, target)
            elif quoted and "/" not in quoted and not re.fullmatch(r"cuda\w*\.h", quoted):
                fault = f'"{quoted}" is not in the tree'
            else:
                fault = check_third_party(path, quoted or angled)
            if fault:
                faults.append(f"{path}:{number}: {fault}")
    cycle = find_cycle(graph)
    if cycle:
        faults.append("cycle: " + " -> ".join(cycle))
    if faults or not arguments.quiet:
        for (source, target), count in sorted(edges.items()):
            if source != target:
                print(f"{source:12} -> {target:12} {count:4}")
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"layers: {len(graph)} files, {sum(edges.values())} includes, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
