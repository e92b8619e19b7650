#!/usr/bin/env python3
"""Draws what bench/run measured: a roofline and, against the peer, bars. Reads convrt_bench --json, writes SVG and PNG.

usage: plot.py RESULTS.json [--out=PREFIX] [--threads=N] [--layout=nchw|nhwc]
       plot.py TRACE.json [--out=PREFIX] [--ms=LENGTH] [--end=MS]     a timeline of what CONVRT_TRACE=TRACE.json wrote
"""
import argparse
import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

# Okabe and Ito's palette: distinct for colour-blind readers and in grey.
CLASS_COLORS = {"1x1": "#0072B2", "3x3": "#D55E00", "3x3s2": "#E69F00", "depthwise": "#009E73", "other": "#CC79A7"}
CLASS_MARKERS = {"1x1": "o", "3x3": "s", "3x3s2": "D", "depthwise": "^", "other": "v"}


def pick(session, where, layout):
    """Results of that many threads, or that GPU's kernels, that stand in the layout's table, wrong ones left out."""
    def stands_here(r):
        if isinstance(where, str):
            return r["device"] == where and r.get("clock") == "gpu"
        return r["threads"] == where and r["device"] == "cpu"
    return [r for r in session["results"]
            if stands_here(r) and "gflops" in r
            and (r["layout"] == layout or r["contender"] in ("onednn free", "onednn winograd"))]


def own(results):
    return [r for r in results if not r["peer"]]


def gpu(session, where):
    return next((p for p in session.get("device_peaks", []) if p["device"] == where), None)


def peak(session, where):
    if isinstance(where, str):
        return gpu(session, where)["gflops"] if gpu(session, where) else 0
    return max((p["gflops"] for p in session["peaks"] if p["threads"] == where), default=0)


def ceilings(session, where):
    """Bandwidths whose slopes bound the roofline."""
    if isinstance(where, str):
        found = gpu(session, where)
        return [{"level": "copy", "gbytes_per_s": found["copy_gbytes_per_s"]}] if found else []
    return [b for b in session["bandwidths"] if b["threads"] == where]


def caption(session, where, layout):
    e = session["environment"]
    if isinstance(where, str):
        machine = f"{gpu(session, where)['name']} through OpenGL" if gpu(session, where) else where
    else:
        machine = f"{e['cpu']} ({e['arch']}), {where} thread{'s' if where > 1 else ''}"
    return f"{machine}, {layout.upper()}, convrt {e['version']} {e['commit']}, {e['compiler']}, {e['date'][:10]}"


def file_part(where):
    return where.replace(":", "") if isinstance(where, str) else f"{where}t"


def note(axes, text):
    axes.annotate(text, (0, 0), xycoords="axes fraction", xytext=(0, -40), textcoords="offset points", fontsize=7,
                  color="#555555", va="top")


def save(figure, prefix, name):
    for ending in ("svg", "png"):
        path = f"{prefix}-{name}.{ending}"
        figure.savefig(path, dpi=150, bbox_inches="tight")
        print(f"wrote {path}")
    plt.close(figure)


def roofline(session, where, layout, prefix):
    results = own(pick(session, where, layout))
    roof = peak(session, where)
    levels = ceilings(session, where)
    if not results or not roof or not levels:
        return
    intensity = [r["gflop"] * 1e9 / r["bytes"] for r in results]
    left = min(0.25, min(intensity) / 2)
    right = max(256, 2 * max(intensity))
    figure, axes = plt.subplots(figsize=(9, 5.5))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)

    axes.plot([min(roof / b["gbytes_per_s"] for b in levels), right], [roof, roof], color="black", linewidth=1.4, zorder=1)
    axes.annotate(f"FMA peak {roof:.0f} GFLOP/s", (right, roof), fontsize=9, va="top", ha="right", xytext=(-4, -4),
                  textcoords="offset points")

    for name, color in CLASS_COLORS.items():
        for winograd in (False, True):
            members = [r for r in results if r["class"] == name and ("winograd" in r["kernel"]) == winograd]
            if members:
                axes.scatter([r["gflop"] * 1e9 / r["bytes"] for r in members], [r["gflops"] for r in members], s=42,
                             marker=CLASS_MARKERS[name], facecolor="none" if winograd else color, edgecolor=color,
                             linewidth=1.4, label=name + (" (Winograd)" if winograd else ""), zorder=3)
    axes.set_xlim(left, right)
    bottom = min(min(r["gflops"] for r in results) / 1.6, roof / 8)
    axes.set_ylim(bottom, 1.5 * max(roof, max(r["gflops"] for r in results)))
    # Memory ceilings up to the compute ceiling; each label runs along its line, just above where the line begins.
    for level in levels:
        slope = level["gbytes_per_s"]
        begin = max(left, bottom / slope)
        axes.plot([begin, roof / slope], [begin * slope, roof], color="#999999", linewidth=1, zorder=1)
        (x0, y0), (x1, y1) = axes.transData.transform([(begin, begin * slope), (2 * begin, 2 * begin * slope)])
        axes.annotate(f"{level['level']} {slope:.0f} GB/s", (begin, begin * slope), xytext=(4, 9),
                      textcoords="offset points", fontsize=8, color="#555555", rotation_mode="anchor",
                      rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("FLOP per byte of source, weights and destination (direct convolution's FLOPs)")
    axes.set_ylabel("GFLOP/s, median")
    axes.set_title("Roofline: measured peaks and convrt's layers", loc="left", fontweight="bold")
    axes.grid(True, which="major", color="#EEEEEE", zorder=0)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.95)
    note(axes, caption(session, where, layout) +
         ".\nWinograd does fewer multiplications than it is credited with, so it may stand above the peak.")
    save(figure, prefix, f"roofline-{layout}-{file_part(where)}")


def bars(session, where, layout, prefix):
    """A bar for convrt, one for oneDNN in the same layout, a mark for its best in any layout or algorithm."""
    results = pick(session, where, layout)
    mine = {}
    for r in own(results):
        mine.setdefault(r["layer"], r)  # the first contender of ours: convrt's own choice unless asked otherwise
    if not mine:
        return
    peers = [r for r in results if r["peer"]]
    same, best = {}, {}
    for r in peers:
        best[r["layer"]] = max(best.get(r["layer"], 0), r["gflops"])
        if r["contender"] not in ("onednn free", "onednn winograd"):
            same[r["layer"]] = max(same.get(r["layer"], 0), r["gflops"])
    layers = list(mine)
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.25 * len(layers)))
    rows = range(len(layers))
    axes.barh([row - 0.2 for row in rows], [mine[layer]["gflops"] for layer in layers], height=0.4, zorder=2,
              color=[CLASS_COLORS[mine[layer]["class"]] for layer in layers])
    if peers:
        axes.barh([row + 0.2 for row in rows], [same.get(layer, 0) for layer in layers], height=0.4, color="#B5B5B5",
                  zorder=2, label=f"oneDNN, {layout.upper()} in and out" +
                  (" (the faster of direct and reorder)" if layout == "nchw" else ""))
        axes.scatter([best.get(layer, 0) for layer in layers], rows, marker="|", s=110, color="black", linewidth=1.6,
                     zorder=4, label="oneDNN, best layout and algorithm, reorders not counted")
    for row, layer in enumerate(layers):
        if layer in same:
            ratio = mine[layer]["gflops"] / same[layer]
            right_end = max(mine[layer]["gflops"], best.get(layer, 0))
            axes.annotate(f"{ratio:.2f}x", (right_end, row - 0.2), xytext=(5, 0), textcoords="offset points",
                          fontsize=7, va="center", color="black" if ratio >= 1 else "#B00000", zorder=5,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    roof = peak(session, where)
    if roof:
        axes.axvline(roof, color="black", linewidth=1, linestyle="--", zorder=3, label="FMA peak")
    for name, color in CLASS_COLORS.items():
        if any(r["class"] == name for r in mine.values()):
            axes.barh([0], [0], color=color, label=f"convrt, {name}")
    axes.set_yticks(rows, layers, fontsize=7.5)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * max([roof] + [r["gflops"] for r in mine.values()] + list(best.values())))
    axes.set_xlabel("GFLOP/s, median (direct convolution's FLOPs)")
    axes.grid(True, axis="x", color="#EEEEEE", zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title("convrt against oneDNN, layer by layer" if peers else "convrt, layer by layer", loc="left",
                   fontweight="bold", pad=48)
    axes.legend(fontsize=7.5, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncol=3, frameon=False)
    note(axes, caption(session, where, layout) +
         (".\nNumbers: convrt / oneDNN in the same layout." if peers else "."))
    save(figure, prefix, f"bars-{layout}-{file_part(where)}")


STAGE_COLORS = {"copy in": "#E69F00", "upload": "#0072B2", "compute": "#D55E00", "download": "#009E73",
                "fence": "#B5B5B5", "copy out": "#CC79A7", "dispatch": "#000000"}


def timeline(events, length_ms, end_ms, prefix):
    """A row for every track of a trace, a bar for every stage; the `length_ms` that end `end_ms` before its last event:
    late in a trace all is in steady state."""
    groups = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [e for e in events if e["ph"] == "X"]
    if not spans:
        return
    end = max(e["ts"] + e["dur"] for e in spans) - end_ms * 1e3
    begin = max(end - length_ms * 1e3, min(e["ts"] for e in spans))
    rows = sorted({(e["pid"], e["tid"]) for e in spans if e["ts"] + e["dur"] > begin and e["ts"] < end},
                  key=lambda row: (groups[row[0]], row[0], tracks[row]))
    figure, axes = plt.subplots(figsize=(11, 1.4 + 0.5 * len(rows)))
    for e in spans:
        if e["ts"] + e["dur"] <= begin or e["ts"] >= end:
            continue
        stage = e["name"].rsplit(" ", 1)[0]
        start = max(e["ts"], begin)
        axes.barh(rows.index((e["pid"], e["tid"])), (min(e["ts"] + e["dur"], end) - start) / 1e3, left=(start - begin) / 1e3,
                  height=0.7, color=STAGE_COLORS.get(stage, "#56B4E9"), edgecolor="white", linewidth=0.3)
    names = {pid: groups[pid].split(" ", 1)[0] for pid, _ in rows}  # of an executor's group: the device
    several = len(set(names.values())) > 1
    axes.set_yticks(range(len(rows)), [f"{names[row[0]]}  {tracks[row]}" if several else tracks[row] for row in rows],
                    fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title(groups[rows[0][0]] + (f" and {len(names) - 1} more" if len(names) > 1 else ""), loc="left", fontsize=9)
    for stage, color in STAGE_COLORS.items():
        axes.barh([0], [0], color=color, label=stage)
    axes.legend(fontsize=7.5, ncol=7, loc="lower left", bbox_to_anchor=(0, 1 + 0.4 / (0.5 * len(rows))), frameon=False)
    save(figure, prefix, "timeline")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--out", default="bench", help="prefix of the files written")
    parser.add_argument("--threads", type=int, action="append", help="default: every count in the results")
    parser.add_argument("--layout", choices=["nchw", "nhwc"], action="append", help="default: both")
    parser.add_argument("--ms", type=float, default=20, help="length of a timeline, milliseconds")
    parser.add_argument("--end", type=float, default=0, help="how long before the trace's end a timeline ends, milliseconds")
    arguments = parser.parse_args()
    session = json.loads(arguments.results.read_text())
    if isinstance(session, list):
        timeline(session, arguments.ms, arguments.end, arguments.out)
        return
    if session.get("format") != "convrt_bench 1":
        parser.error(f"{arguments.results}: expected a file of convrt_bench --json, format \"convrt_bench 1\"")
    places = arguments.threads or sorted({r["threads"] for r in session["results"] if r["device"] == "cpu"})
    places += [p["device"] for p in session.get("device_peaks", [])]
    for where in places:
        for layout in arguments.layout or ["nchw", "nhwc"]:
            roofline(session, where, layout, arguments.out)
            bars(session, where, layout, arguments.out)


if __name__ == "__main__":
    main()
