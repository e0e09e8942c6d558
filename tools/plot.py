#!/usr/bin/env python3
"""Pictures of `chitu bench --json` results: accuracy, speed, and speed against accuracy.

  tools/plot.py RESULTS.json [MORE.json ...] --out FOLDER [--format png|svg] [--title TEXT]

Writes FOLDER/accuracy, speed and tradeoff with the extension asked for; a picture for which the results have no numbers is left out, and that is said.
Rows of several files are joined (a later file wins for the same method and length). Needs matplotlib.
"""

import argparse
import collections
import json
import pathlib
import sys
import textwrap

try:
    import matplotlib
except ImportError:
    sys.exit("plot.py: matplotlib is missing (python3 -m pip install matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.transforms
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

# Our own methods in warm colours, the published ones in cool ones, the 16-bit baseline in grey: the same in every picture.
STYLE = {
    "exact": ("#6b7280", "D"),
    "sage1": ("#1d4ed8", "s"),
    "sage2": ("#60a5fa", "s"),
    "int_flash": ("#047857", "^"),
    "int_flash_half": ("#6ee7b7", "^"),
    "chitu": ("#b91c1c", "o"),
    "chitu_int8": ("#ea580c", "o"),
    "chitu_fast": ("#facc15", "o"),
}
SETTINGS = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "chitu",  # the same results give the same file
}


def length_text(n):
    for factor, suffix in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if n % factor == 0:
            return f"{n // factor}{suffix}"
    for factor, suffix in ((10**6, "M"), (10**3, "K")):
        if n % factor == 0:
            return f"{n // factor}{suffix}"
    return str(n)


def load(paths):
    """(rows by method, in the order of STYLE; machine of the last file)"""
    rows, machine = {}, {}
    for path in paths:
        try:
            report = json.loads(pathlib.Path(path).read_text())
            results, machine = report["results"], report["machine"]
            for row in results:
                rows[row["method"], row["seqlen_k"], row["device"], row.get("inputs", "1")] = row
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.exit(f"plot.py: {path}: not results of chitu bench: {error!r}")
    settings = {(r["device"], r["head_dim"], r["num_heads_q"], r["num_heads_kv"], r["batch"], r["causal"], r["dtype"], r.get("inputs", "1")) for r in rows.values()}
    if not rows:
        sys.exit("plot.py: the files hold no results")
    if len(settings) > 1:
        sys.exit(f"plot.py: want results of one setting (device, head_dim, heads, batch, causal, dtype, inputs), got {sorted(settings)}")
    methods = collections.OrderedDict()
    for method in list(STYLE) + sorted({r["method"] for r in rows.values()} - set(STYLE)):
        found = sorted((r for r in rows.values() if r["method"] == method), key=lambda r: r["seqlen_k"])
        if found:
            methods[method] = found
    return methods, machine


def style(method):
    color, marker = STYLE.get(method, ("#000000", "x"))
    return {"color": color, "marker": marker}


def inputs_text(row):
    inputs = row.get("inputs", "1")  # results made before there was a choice do not say
    return "q, k, v ~ N(0,1)" if inputs == "1" else f"inputs {inputs} of the accuracy study"


def setting_text(row):
    heads = str(row["num_heads_q"]) if row["num_heads_q"] == row["num_heads_kv"] else f"{row['num_heads_q']}/{row['num_heads_kv']}"
    return f"batch {row['batch']}, {heads} heads, head_dim {row['head_dim']}, {row['dtype']}, {'causal' if row['causal'] else 'non-causal'}"


def machine_text(machine, row):
    if row["device"] == "cuda" and machine.get("gpus"):
        return machine["gpus"][0]["name"]
    return f"{machine.get('cpu', 'CPU')}, {machine.get('threads', '?')} threads, {machine.get('cpu_isa', '')}"


def finish(figure, title, subtitle, path):
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(subtitle, int(15.5 * width))
    figure.text(0.1 / width, 1 - 0.12 / height, title, fontsize=12.5, fontweight="bold", va="top")
    figure.text(0.1 / width, 1 - 0.40 / height, "\n".join(lines), fontsize=8.5, color="#4b5563", va="top", linespacing=1.35)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.48 + 0.165 * len(lines)) / height))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    print(path)


def label_points(figure, axes, points):
    """points: {text: (x, y)}. Each label takes the first place around its point that covers no point and no label."""
    places = [(9, 5, "left"), (9, -14, "left"), (-9, 5, "right"), (-9, -14, "right"), (0, 12, "center"), (0, -20, "center"), (9, 18, "left"), (9, -27, "left")]
    figure.canvas.draw()
    around = [axes.transData.transform(xy) for xy in points.values()]
    taken = [matplotlib.transforms.Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in around]
    for text, xy in points.items():
        for dx, dy, align in places:
            label = axes.annotate(text, xy, xytext=(dx, dy), textcoords="offset points", fontsize=9.5, ha=align)
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            label = axes.annotate(text, xy, xytext=(9, 5), textcoords="offset points", fontsize=9.5)
        taken.append(label.get_window_extent())


def bars(axes, items, text):
    """items: [(method, value)], drawn top to bottom."""
    names = [name for name, _ in items]
    axes.barh(range(len(items)), [value for _, value in items], color=[style(name)["color"] for name in names], height=0.66)
    top = max(value for _, value in items)
    for i, (_, value) in enumerate(items):
        axes.text(value + 0.012 * top, i, text(value), va="center", fontsize=9)
    axes.set_yticks(range(len(items)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * top)
    axes.grid(axis="y", visible=False)


def lines(axes, methods, value):
    lengths = sorted({r["seqlen_k"] for rows in methods.values() for r in rows})
    for method, rows in methods.items():
        points = [(r["seqlen_k"], value(r)) for r in rows if value(r) is not None]
        if points:
            axes.plot(*zip(*points), label=method, linewidth=1.8, markersize=6, **style(method))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(lengths))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: length_text(round(n))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("keys")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def single_length(methods):
    return len({r["seqlen_k"] for rows in methods.values() for r in rows}) == 1


def draw_accuracy(methods, machine, title, path):
    percent = lambda r: None if r["nrmse"] is None else 100 * r["nrmse"]
    some = {m: rows for m, rows in methods.items() if any(percent(r) is not None for r in rows)}
    if not some:
        return False
    row = next(iter(some.values()))[0]
    figure, axes = plt.subplots(figsize=(7.6, 3.6 if single_length(some) else 4.2))
    rows = {r["reference_rows"] for rows in some.values() for r in rows}
    judged = f"{min(rows)}" if len(rows) == 1 else f"{min(rows)} to {max(rows)}"
    subtitle = f"{inputs_text(row)}, {setting_text(row)}; against fp64 on {judged} rows"
    if single_length(some):
        bars(axes, [(m, percent(r[0])) for m, r in some.items()], lambda x: f"{x:.2f} %")
        axes.set_xlabel("relative L2 error of the output, %")
        subtitle = f"{length_text(row['seqlen_k'])} keys, " + subtitle
    else:
        lines(axes, some, percent)
        axes.set_ylabel("relative L2 error of the output, %")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    finish(figure, title or "Accuracy", subtitle, path)
    return True


def speed_unit(methods):
    """GFLOP/s reads better than 0.3 TFLOP/s."""
    top = max((r["tflops"] or 0) for rows in methods.values() for r in rows)
    return (1000, "GFLOP/s") if top < 10 else (1, "TFLOP/s")


def draw_speed(methods, machine, title, path):
    some = {m: rows for m, rows in methods.items() if any(r["tflops"] for r in rows)}
    if not some:
        return False
    factor, unit = speed_unit(some)
    value = lambda r: None if r["tflops"] is None else factor * r["tflops"]
    row = next(iter(some.values()))[0]
    figure, axes = plt.subplots(figsize=(7.6, 3.2 if single_length(some) else 4.2))
    subtitle = f"{machine_text(machine, row)}; {setting_text(row)}; quantization included"
    if single_length(some):
        bars(axes, [(m, value(r[0])) for m, r in some.items() if value(r[0]) is not None], lambda x: f"{x:.0f}" if x >= 10 else f"{x:.2f}")
        axes.set_xlabel(unit)
        subtitle = f"{length_text(row['seqlen_k'])} keys; " + subtitle
    else:
        lines(axes, some, value)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
    finish(figure, title or "Speed", subtitle, path)
    return True


def draw_tradeoff(methods, machine, title, path):
    """One point per method at the largest length: up and to the left is better."""
    length = max(r["seqlen_k"] for rows in methods.values() for r in rows)
    points = {m: r for m, rows in methods.items() for r in rows if r["seqlen_k"] == length and r["tflops"] and r["nrmse"]}
    if len(points) < 2:
        return False
    factor, unit = speed_unit({m: [r] for m, r in points.items()})
    figure, axes = plt.subplots(figsize=(7.6, 4.4))
    labels = {}
    for method, row in points.items():
        x, y = 100 * row["nrmse"], factor * row["tflops"]
        axes.scatter(x, y, s=90, zorder=3, **style(method))
        labels[method] = (x, y)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.margins(x=0.18, y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("relative L2 error of the output, % (log scale; left is better)")
    axes.set_ylabel(f"{unit}, quantization included (up is better)")
    figure.tight_layout()
    label_points(figure, axes, labels)
    row = next(iter(points.values()))
    finish(figure, title or "Speed against accuracy", f"{length_text(length)} keys; {machine_text(machine, row)}; {setting_text(row)}", path)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="JSON of chitu bench")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the pictures")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--title", help="instead of Accuracy, Speed, Speed against accuracy")
    arguments = parser.parse_args()
    methods, machine = load(arguments.results)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(SETTINGS):
        for name, draw in (("accuracy", draw_accuracy), ("speed", draw_speed), ("tradeoff", draw_tradeoff)):
            if not draw(methods, machine, arguments.title, arguments.out / f"{name}.{arguments.format}"):
                print(f"plot.py: no {name} picture: the results have too few numbers for it", file=sys.stderr)


if __name__ == "__main__":
    main()
