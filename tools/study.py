#!/usr/bin/env python3
"""The accuracy study behind docs/accuracy-study.md: runs chitu_study, then writes study.json (medians over seeds), tables.md and the pictures.

    tools/study.py --binary build/bin/chitu_study --out build/study [--recorded QKV.safetensors] [--pictures docs/pictures]

One thread; about 12 minutes of one Zen 4 core. Runs whose file is already in --out are kept: delete a file to run it again. --recorded is a file
made by tools/record_qkv.py. Needs matplotlib for the pictures only.
"""

import argparse
import collections
import json
import pathlib
import statistics
import subprocess

ABLATION = "1,3,5,6,7,9,11,12,13,14,15,drift,segments,first-tile"
LONG = "1,3,4,5,6,7,8,9,10,11,12,13,14,15,16-gap6,16-gap6-mean1,17-zero,drift,segments,first-tile,constant-v,zero-rows,constant-channels"
RUNS = {
    "bars_64_4k": ["bars --head-dim 64 --seeds 8 --rows 128"],
    "bars_128_4k": ["bars --head-dim 128 --seeds 8 --rows 128"],
    "bars_64_32k": [f"lengths --sets {LONG} --head-dim 64 --seqlen 32768 --seeds 8 --rows 48"],
    "bars_128_32k": [f"lengths --sets {LONG} --head-dim 128 --seqlen 32768 --seeds 8 --rows 48"],
    "many_64": ["lengths --sets 3,6,9,11,13 --head-dim 64 --seeds 24 --rows 64"],
    "many_128": ["lengths --sets 3,6,9,11,13 --head-dim 128 --seeds 24 --rows 64"],
    "lengths": [f"lengths --sets 1 --head-dim {d} --seqlen {n} --seeds 4 --rows 64" for d in (64, 128) for n in (1024, 2048, 8192, 16384, 65536)],
    "causal": [
        f"lengths --sets 1,6,7,9,13,14,drift --head-dim {d} --seqlen {n} --seeds 4 --rows 64 --causal" for d in (64, 128) for n in (1024, 4096, 16384)
    ],
    "qk": [f"qk --sets {ABLATION} --seeds 8 --rows 64"],
    "pv": ["pv --sets 1,3,7,9,11,13,14,16-gap6,16-gap6-mean1,17-weak,17-zero --seeds 8 --rows 64"],
    "int8": ["int8 --sets 1,3,7,9,11,13,14,16-gap6,16-gap6-mean1,17-zero --seeds 8 --rows 64"],
    "fast64": ["fast --head-dim 64 --seeds 4 --rows 64"],
    "fast128": ["fast --head-dim 128 --seeds 4 --rows 64"],
    "lab64": ["lab --sets 3,6,9,12,first-tile --head-dim 64 --seeds 8 --rows 64"],
    "lab128": [f"lab --sets {ABLATION} --seeds 8 --rows 64"],
}


def run_all(binary, out, recorded):
    runs = dict(RUNS)
    if recorded:
        runs["recorded"] = [f"recorded --file {recorded} --rows 64"]
    for name, commands in runs.items():
        path = out / f"{name}.jsonl"
        if path.exists():
            continue
        print(f"{name} ..", flush=True)
        text = "".join(subprocess.run(["nice", binary, *c.split()], check=True, capture_output=True, text=True).stdout for c in commands)
        path.write_text(text)


class Study:
    """Records of one run, by (variant, set) or any other key."""

    def __init__(self, path):
        self.records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.sets = list(dict.fromkeys(r["set"] for r in self.records))
        self.variants = list(dict.fromkeys(r["variant"] for r in self.records))

    def median(self, field="nrmse", **where):
        values = [r[field] for r in self.records if all(r[k] == v for k, v in where.items())]
        return statistics.median(values) if values else None


def cell(study, field="nrmse", worst=True, **where):
    x = study.median(field, **where)
    if x is None:
        return ""
    text = f"{100 * x:.2f}"
    return text + f" ({100 * study.median('worst_row', **where):.1f})" if worst else text


def table(study, rows, columns, key_row, key_column, worst=True):
    lines = ["| | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for r in rows:
        lines.append(f"| {r} | " + " | ".join(cell(study, worst=worst, **{key_row: r, key_column: c}) for c in columns) + " |")
    return "\n".join(lines)


def write_tables(studies, path):
    parts = []
    for name, s in studies.items():
        if not s.records:
            continue
        if name in ("lengths", "causal"):
            for d in (64, 128):
                sub = Study(pathlib.Path("/nonexistent"))
                sub.records = [dict(r, cell=f"{r['set']}, {r['seqlen']}") for r in s.records if r["head_dim"] == d]
                parts.append(f"## {name}, head_dim {d}\n" + table(sub, list(dict.fromkeys(r["cell"] for r in sub.records)), s.variants, "cell", "variant"))
        elif name == "recorded":
            for part in ("recorded", "recorded lab"):
                sub = Study(pathlib.Path("/nonexistent"))
                sub.records = [r for r in s.records if r["part"] == part]
                parts.append(f"## {part}\n" + table(sub, list(dict.fromkeys(r["variant"] for r in sub.records)), s.sets, "variant", "set"))
        elif name.startswith(("bars", "many", "fast")):
            parts.append(f"## {name}\n" + table(s, s.sets, s.variants, "set", "variant"))
        else:
            parts.append(f"## {name}\n" + table(s, s.variants, s.sets, "variant", "set"))
            shares = [r for r in s.records if r["flagged"]]
            if shares:
                sub = Study(pathlib.Path("/nonexistent"))
                sub.records = s.records
                lines = []
                for v in s.variants:
                    got = [sub.median("flagged", variant=v, set=x) or 0 for x in s.sets]
                    if any(got):
                        lines.append(f"| {v} | " + " | ".join(f"{100 * g:.0f} %" for g in got) + " |")
                parts.append(f"### {name}, share of tiles on the flagged path\n| | " + " | ".join(s.sets) + " |\n|" + "---|" * (len(s.sets) + 1) + "\n" + "\n".join(lines))
    path.write_text("\n\n".join(parts) + "\n")


def write_json(studies, path):
    groups = collections.defaultdict(list)
    for name, s in studies.items():
        for r in s.records:
            groups[name, r["set"], r["variant"], r["head_dim"], r["seqlen"], r["causal"]].append(r)
    rows = []
    for (name, set_name, variant, dim, seqlen, causal), rs in groups.items():
        row = {"run": name, "set": set_name, "variant": variant, "head_dim": dim, "seqlen": seqlen, "causal": bool(causal), "draws": len(rs)}
        for field in ("nrmse", "worst_row", "cos", "rel_l1", "lse_max", "flagged"):
            row[field] = statistics.median(r[field] for r in rs)
        row["nrmse_min"], row["nrmse_max"] = min(r["nrmse"] for r in rs), max(r["nrmse"] for r in rs)
        row["clean"] = all(r["clean"] for r in rs)
        rows.append(row)
    path.write_text(json.dumps({"results": rows}, indent=1) + "\n")


# The colours of tools/plot.py.
COLOURS = {"chitu": "#b91c1c", "chitu_int8": "#ea580c", "chitu_fast": "#facc15", "sage2": "#60a5fa", "sage1": "#1d4ed8", "int_flash": "#047857"}


def grouped_bars(plt, path, title, study, sets, variants):
    fig, ax = plt.subplots(figsize=(10, 3.6))
    width = 0.8 / len(variants)
    for i, v in enumerate(variants):
        y = [100 * (study.median(set=s, variant=v) or 0) for s in sets]
        ax.bar([k + (i - (len(variants) - 1) / 2) * width for k in range(len(sets))], y, width, label=v, color=COLOURS.get(v))
    ax.set_yscale("log")
    ax.set_ylim(top=ax.get_ylim()[1] * 4)  # room for the legend
    ax.yaxis.set_major_formatter(plt.FuncFormatter(lambda y, _: f"{y:g}"))
    ax.set_xticks(range(len(sets)), sets, fontsize=8)
    ax.set_xlabel("input set")
    ax.set_ylabel("NRMSE, %")
    ax.set_title(title, fontsize=10)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=7, ncols=4)
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


def length_picture(plt, path, lengths, bars):
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
    for ax, dim in zip(axes, (64, 128)):
        records = [r for r in lengths.records if r["head_dim"] == dim]
        for name in (f"bars_{dim}_4k", f"bars_{dim}_32k"):
            records += [r for r in bars[name].records if r["set"] == "1"]
        sub = Study(pathlib.Path("/nonexistent"))
        sub.records = records
        seqlens = sorted({r["seqlen"] for r in records})
        for v in ("chitu", "chitu_int8", "chitu_fast", "sage2"):
            ax.plot(seqlens, [100 * sub.median(variant=v, seqlen=n) for n in seqlens], marker="o", label=v, color=COLOURS[v])
        ax.axhline(1.2, color="gray", ls=":", lw=1)
        ax.axhline(1.7, color="gray", ls=":", lw=1)
        ax.set_xscale("log", base=2)
        ax.set_xticks(seqlens, [f"{n // 1024}K" for n in seqlens])
        ax.set_ylim(0, 4.5)
        ax.set_title(f"N(0,1), head_dim {dim}", fontsize=10)
        ax.set_xlabel("keys")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("NRMSE, %")
    axes[0].legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.62), ncols=2)
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


def draw(studies, folder):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    bars = studies["bars_128_4k"]
    sets = ["1", "3", "5", "6", "7", "8", "9", "11", "12", "13", "14", "15", "16-gap6", "drift", "segments"]
    grouped_bars(plt, folder / "study-sets.png", "Methods, head_dim 128, 4096 keys, median of 8 seeds", bars, sets,
                 ["chitu", "chitu_int8", "chitu_fast", "sage2", "sage1", "int_flash"])
    length_picture(plt, folder / "study-lengths.png", studies["lengths"], studies)
    grouped_bars(plt, folder / "study-qk.png", "QK alone, head_dim 128: what each part buys", studies["qk"], ["1", "3", "5", "6", "9", "13", "15", "drift", "segments"],
                 ["no mean, no R, per_thread", "global mean, no R, per_thread", "global mean, R, per_thread", "tile mean, no R, per_thread",
                  "tile mean, R, per_thread", "tile mean, channel weights, R, per_thread (adopted)", "tile mean, R, per_token"])
    grouped_bars(plt, folder / "study-pv.png", "PV alone, head_dim 128", studies["pv"], studies["pv"].sets,
                 ["C1: V per channel", "C2: V per channel and tile", "C3, quantised sum", "C3, raw sum", "C3, corrected sum (proposal)",
                  "u8 P against the running maximum", "F8: e4m3 P and V"])
    lab = studies["lab128"]
    grouped_bars(plt, folder / "study-lab.png", "Where 8-bit QK is the limit: ideas, QK alone, head_dim 128", lab, ["1", "3", "6", "9", "12", "13", "15"],
                 ["without channel weights", "per_token K", "two means per tile", "mean and trend per tile", "the same, none below 1 (adopted)", "second product: residual of Q",
                  "second product: residual of K"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="build/bin/chitu_study")
    parser.add_argument("--out", default="build/study", type=pathlib.Path)
    parser.add_argument("--recorded")
    parser.add_argument("--pictures", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run_all(args.binary, args.out, args.recorded)
    studies = {name: Study(args.out / f"{name}.jsonl") for name in [*RUNS, "recorded"]}
    write_json(studies, args.out / "study.json")
    write_tables(studies, args.out / "tables.md")
    if args.pictures:
        draw(studies, args.pictures)
    print(f"{args.out}/study.json, {args.out}/tables.md")


if __name__ == "__main__":
    main()
