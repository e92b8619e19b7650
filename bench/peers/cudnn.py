#!/usr/bin/env python3
"""convrt through OpenGL against PyTorch's cuDNN on the same NVIDIA card, in one call, layer by layer.

usage: cudnn.py [--bench=build/bench/convrt_bench] [--batch=32,1] [--json=FILE] [--ours-only] ...   (see --help)

Both sides: fp32 (TF32 off), tensors on the device, no bias, the same number of tensor sets taken in turn so that none
stays in L2, the card kept busy before a time is taken, TFLOP/s at the FLOPs of direct convolution, better of NCHW and
NHWC (channels_last). convrt: convrt_bench, by the GPU's timer, every dispatch of a convolution included, outputs checked
against a double-precision oracle. cuDNN: benchmark mode; "eager" is runs between two events, "graph" the replay of a
captured CUDA graph, which has no gaps of the host; the faster counts. cuDNN's outputs are compared with a convolution
in double on a few images' worth of outputs.

Goals (ratio of geomeans) are those of the project's issue on GPU speed. Exit status 1: a wrong result on either side.
"""
import argparse
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

LAYOUTS = ("nchw", "nhwc")
# title, prefix of the layers' names, batch, contender, goal; a goal of the lowest layer stands below.
ROWS = [
    ("23 ResNet-50 convs, N = 32", "rn50", 32, "normal", 1.25),
    ("8 VGG-16 3x3, N = 32", "vgg", 32, "normal", 1.6),
    ("direct only (strict), 23 ResNet-50 convs, N = 32", "rn50", 32, "strict", 1.0),
    ("23 ResNet-50 convs, N = 1", "rn50", 1, "normal", 1.5),
    ("4 MobileNet-v2 depthwise, N = 32", "mbv2", 32, "normal", 1.3),
]
LOWEST = ("lowest layer, N = 32", 32, 0.8)

LETTERS = {"n": 1, "c": 1, "h": 1, "w": 1, "k": 1, "r": 1, "s": 1, "sh": 1, "sw": 1, "dh": 1, "dw": 1, "ph": 0, "pw": 0,
           "g": 1}


def parse_problem(text):
    """The fields of a problem string that the suites use: {"n": 32, "c": 64, ...}."""
    fields = dict(LETTERS)
    body = text.split("+")[0]
    found = re.findall(r"([a-z]+)(\d+)", body)
    if "".join(a + b for a, b in found) != body or any(a not in LETTERS for a, _ in found):
        raise ValueError(f"expected a problem of the letters {' '.join(LETTERS)}, found {text}")
    fields.update((letter, int(number)) for letter, number in found)
    return fields


def stem(layer):
    """The layer's name without its batch: "rn50_1x1_64-64_56" of "rn50_1x1_64-64_56_N32"."""
    return re.sub(r"_N\d+$", "", layer)


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0


# ---- convrt

def run_convrt(arguments, accuracy):
    """What convrt_bench measured: its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "convrt.json"
        command = [arguments.bench, f"--device={arguments.device}", "--no-end-to-end", f"--json={out}",
                   f"--reps={arguments.reps}"]
        if arguments.problem:
            command += [f"--problem={p}{'+nhwc' if layout == 'nhwc' else ''}"
                        for p in arguments.problem for layout in LAYOUTS]
        else:
            command += ["--suite=gpu35", "--layout=both", "--batch=" + ("32" if accuracy == "strict" else ",".join(map(str, arguments.batch)))]
            wanted = arguments.filter or ("rn50" if accuracy == "strict" else "")
            if wanted:
                command.append(f"--filter={wanted}")
        if accuracy == "strict":
            command.append("--strict")
        if not arguments.untuned:
            command.append("--tuned")
        # The driver compiles a shader in half a second: side by side first, or the plans wait for one after another.
        ahead = [subprocess.Popen(command + [f"--prepare={i}/{arguments.jobs}"], stdout=subprocess.DEVNULL)
                 for i in range(arguments.jobs)]
        for process in ahead:
            process.wait()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode not in (0, 1) or not out.exists():
            sys.exit(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-3000:]}")
        return json.loads(out.read_text())


def collect_convrt(session, accuracy, layers):
    """Adds the better layout of each layer to layers[(stem, n)][accuracy]. Returns the wrong results."""
    wrong = []
    for r in session["results"]:
        problem = r["problem"].split("+")[0]
        fields = parse_problem(problem)
        entry = layers.setdefault((stem(r["layer"]).split("+")[0], fields["n"]), {"problem": problem, "ours": {}})
        entry["gflop"] = r["gflop"]
        if "error" in r:
            wrong.append(f"{r['kernel']} on {r['problem']}: {r['error']}")
            continue
        rate = {"tflops": r["gflops"] * 1e-3, "layout": r["layout"], "kernel": r["kernel"], "us": r["ms"] * 1e3,
                "spread": r["spread"], "sets": r["tensor_sets"]}
        entry.setdefault("layouts", {}).setdefault(accuracy, {})[r["layout"]] = rate
        best = entry["ours"].get(accuracy)
        if best is None or rate["tflops"] > best["tflops"]:
            entry["ours"][accuracy] = rate
    return wrong


# ---- cuDNN

class Cudnn:
    def __init__(self):
        import torch  # here, so that --ours-only needs none
        self.torch = torch
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)

    def version(self):
        return f"PyTorch {self.torch.__version__}, cuDNN {self.torch.backends.cudnn.version()}"

    def timed_ms(self, action):
        torch = self.torch
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        action()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def keep_busy(self, action, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            action()
            self.torch.cuda.synchronize()

    def series_ms(self, action, calls, reps):
        """Milliseconds a convolution: median of `reps` series of `calls`."""
        return statistics.median(self.timed_ms(action) / calls for _ in range(reps))

    def problem(self, fields, layout):
        """Source, weights and the other arguments of conv2d."""
        torch = self.torch
        memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        generator = torch.Generator(device="cuda").manual_seed(1)
        def tensor(*shape):
            made = torch.rand(*shape, device="cuda", generator=generator) * 2 - 1
            return made.to(memory_format=memory)
        weights = tensor(fields["k"], fields["c"] // fields["g"], fields["r"], fields["s"])
        how = {"stride": (fields["sh"], fields["sw"]), "padding": (fields["ph"], fields["pw"]),
               "dilation": (fields["dh"], fields["dw"]), "groups": fields["g"]}
        return tensor(fields["n"], fields["c"], fields["h"], fields["w"]), weights, how

    def measure(self, fields, layout, sets, reps):
        """{"eager": TFLOP/s, "graph": ..., "error": worst error over its bound, "calls": in a series}"""
        torch = self.torch
        functional = torch.nn.functional
        first, weights, how = self.problem(fields, layout)
        src = [first] + [first.clone(memory_format=torch.preserve_format) for _ in range(sets - 1)]
        dst = functional.conv2d(src[0], weights, **how)  # benchmark mode searches now
        flops = 2.0 * dst.numel() * weights[0].numel()
        error = self.error(src[0], weights, dst, how)
        once = self.timed_ms(lambda: functional.conv2d(src[0], weights, **how))
        once = min(once, self.timed_ms(lambda: functional.conv2d(src[0], weights, **how)))
        calls = max(10, min(256, sets, int(5 / once)))  # one graph holds them all; the eager series is no shorter
        calls = max(calls, sets if sets * once < 20 else 0)

        def eager():
            for i in range(calls):
                functional.conv2d(src[i % sets], weights, **how)
        self.keep_busy(eager, 0.35 if reps > 1 else 0)
        result = {"eager": flops / self.series_ms(eager, calls, reps) * 1e-9, "error": error, "calls": calls}
        try:
            graph = torch.cuda.CUDAGraph()
            kept = []  # every convolution its own destination, as ours have; freed with the graph
            with torch.cuda.graph(graph, stream=self.stream):
                for i in range(calls):
                    kept.append(functional.conv2d(src[i % sets], weights, **how))
                    if len(kept) >= sets:
                        kept.pop(0)
            self.keep_busy(graph.replay, 0.1 if reps > 1 else 0)
            result["graph"] = flops / self.series_ms(graph.replay, calls, reps) * 1e-9
            del graph, kept
        except RuntimeError as problem:
            torch.cuda.synchronize()
            result["graph_failed"] = str(problem).splitlines()[0]
        return result

    def kernel_names(self, fields, layout):
        torch = self.torch
        src, weights, how = self.problem(fields, layout)
        torch.nn.functional.conv2d(src, weights, **how)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            torch.nn.functional.conv2d(src, weights, **how)
            torch.cuda.synchronize()
        return [e.key[:120] for e in profile.key_averages() if not e.key.startswith(("cuda", "Activity", "aten::"))]

    def error(self, src, weights, dst, how):
        """Largest difference from a convolution in double of the first image's first filters, over the size of its
        terms times the rounding unit times their number; cuDNN's FFT rounds worse than a sum, so this is a check of
        meaning, not of accuracy."""
        torch = self.torch
        filters = weights.shape[0] if how["groups"] > 1 else min(8, weights.shape[0])
        image, some = src[:1].double(), weights[:filters].double()
        with torch.backends.cudnn.flags(enabled=False):  # PyTorch's own kernels: another opinion, and no search
            exact = torch.nn.functional.conv2d(image, some, **how)
            size = torch.nn.functional.conv2d(image.abs(), some.abs(), **how)
        bound = size * weights[0].numel() * 2.0 ** -24 + 1e-3 * size.mean()
        return float(((dst[:1, :filters].double() - exact).abs() / bound).max())


def run_cudnn(arguments, layers, deadline):
    peer = Cudnn()
    wrong = []
    for (name, n), entry in layers.items():
        if time.monotonic() > deadline:
            print(f"out of time before {name} N={n}: no cuDNN figures from here on", file=sys.stderr)
            break
        fields = parse_problem(entry["problem"])
        sets = max((r["sets"] for r in entry["ours"].values()), default=3)
        entry["cudnn"] = {}
        for layout in LAYOUTS:
            begin = time.monotonic()
            try:
                found = peer.measure(fields, layout, sets, arguments.reps)
            except RuntimeError as problem:  # out of memory, or no algorithm: the layer's other layout remains
                print(f"cuDNN: {name} N={n} {layout}: {str(problem).splitlines()[0]}", file=sys.stderr)
                peer.torch.cuda.empty_cache()
                continue
            found["seconds"] = time.monotonic() - begin
            entry["cudnn"][layout] = found
            if not found["error"] <= 1:
                wrong.append(f"cuDNN on {entry['problem']}, {layout}: error {found['error']:.3g} of what is allowed")
        took = sum(found["seconds"] for found in entry["cudnn"].values())
        print(f"cuDNN: {name} N={n} {best_peer(entry)[0]:.2f} TFLOP/s, took {took:.1f} s", file=sys.stderr)
        peer.torch.cuda.empty_cache()
    # After all times are taken, since a profiler slows down launches.
    for entry in layers.values():
        if way := best_peer(entry)[1]:
            layout = way.split()[1]
            try:
                entry["cudnn"][layout]["kernels"] = peer.kernel_names(parse_problem(entry["problem"]), layout)
            except RuntimeError as problem:
                print(f"cuDNN: no kernel names: {str(problem).splitlines()[0]}", file=sys.stderr)
                break
    return peer.version(), wrong


def matmul_peak(reps):
    """cuBLAS's SGEMM at 8192 cubed and a device copy: what CUDA reaches on this card. TFLOP/s, TB/s."""
    peer = Cudnn()
    torch = peer.torch
    size = 8192
    a, b = (torch.rand(size, size, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    multiply = lambda: torch.matmul(a, b, out=out)  # noqa: E731
    peer.keep_busy(multiply, 0.35)
    gemm = 2.0 * size**3 / peer.series_ms(multiply, 1, reps) * 1e-9
    source = torch.rand(1 << 26, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * 4.0 * source.numel() / peer.series_ms(lambda: target.copy_(source), 1, reps) * 1e-9
    return gemm, copy


def stand_in(path, layers):
    """Peer numbers from a file, {"layer n": TFLOP/s}: for trying this script where there is no such card."""
    known = json.loads(pathlib.Path(path).read_text())
    for (name, n), entry in layers.items():
        if f"{name} {n}" in known:
            entry["cudnn"] = {"nchw": {"eager": known[f"{name} {n}"], "error": 0}}
    return f"stand-in figures of {path}"


# ---- the table

def best_peer(entry):
    """(TFLOP/s, "graph nhwc", kernels) of the fastest way cuDNN ran the layer; TFLOP/s 0 where none did."""
    ways = [(found.get(how, 0), f"{how} {layout}", found.get("kernels", []))
            for layout, found in entry.get("cudnn", {}).items() for how in ("eager", "graph")]
    return max(ways, default=(0, "", []), key=lambda way: way[0])


def report(layers, peaks, out):
    """Prints the table and the goals. Returns the goals as data."""
    for n in sorted({n for _, n in layers}, reverse=True):
        print(f"\nN = {n}, TFLOP/s, better of NCHW and NHWC on both sides", file=out)
        print(f"{'layer':30}{'convrt':>8}  {'layout':6} {'kernel':34}{'cuDNN':>8}  {'how':11}{'eager':>7}{'graph':>7}"
              f"{'ratio':>7}{'strict':>8}{'ratio':>7}", file=out)
        for (name, batch), entry in layers.items():
            if batch != n:
                continue
            ours, strict = entry["ours"].get("normal"), entry["ours"].get("strict")
            rate, how, kernels = best_peer(entry)
            def way(key, found=entry.get("cudnn", {})):
                best = max((f.get(key, 0) for f in found.values()), default=0)
                return f"{best:7.2f}" if best else f"{'-':>7}"
            def ratio(mine):
                return f"{mine['tflops'] / rate:7.2f}" if mine and rate else f"{'-':>7}"
            print(f"{name:30}{ours['tflops'] if ours else 0:8.2f}  {ours['layout'] if ours else '':6} "
                  f"{ours['kernel'] if ours else 'WRONG':34}{rate:8.2f}  {how:11}{way('eager')}{way('graph')}{ratio(ours)}"
                  f"{strict['tflops'] if strict else 0:8.2f}{ratio(strict)}  {' + '.join(k[:60] for k in kernels)}",
                  file=out)
    goals = []
    for title, prefix, n, accuracy, goal in ROWS:
        pairs = [(entry["ours"][accuracy]["tflops"], best_peer(entry)[0]) for (name, batch), entry in layers.items()
                 if name.startswith(prefix) and batch == n and accuracy in entry["ours"] and best_peer(entry)[0]]
        if pairs:
            mine, theirs = geomean([a for a, _ in pairs]), geomean([b for _, b in pairs])
            goals.append({"what": title, "layers": len(pairs), "convrt": mine, "cudnn": theirs, "ratio": mine / theirs,
                          "goal": goal})
    title, n, goal = LOWEST
    ratios = [(entry["ours"]["normal"]["tflops"] / best_peer(entry)[0], name) for (name, batch), entry in layers.items()
              if batch == n and "normal" in entry["ours"] and best_peer(entry)[0]]
    if ratios:
        goals.append({"what": f"{title} ({min(ratios)[1]})", "layers": len(ratios), "ratio": min(ratios)[0], "goal": goal})
    print(f"\n{'geomeans':62}{'layers':>7}{'convrt':>8}{'cuDNN':>8}{'ratio':>7}{'goal':>6}", file=out)
    for g in goals:
        print(f"{g['what']:62}{g['layers']:7}{g.get('convrt', 0):8.2f}{g.get('cudnn', 0):8.2f}{g['ratio']:7.2f}"
              f"{g['goal']:6.2f}  {'met' if g['ratio'] >= g['goal'] else 'not met'}", file=out)
    for p in peaks:
        print(f"{p['what']}: {p['tflops']:.1f} TFLOP/s, copy {p['copy_tbytes_s']:.2f} TB/s", file=out)
    return goals


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--bench", default=str(root / "build" / "bench" / "convrt_bench"))
    parser.add_argument("--device", default="gl:0", help="convrt's device; must be the card that CUDA uses")
    parser.add_argument("--batch", default="32,1", help="batch sizes")
    parser.add_argument("--filter", default="", help="only layers whose name contains this")
    parser.add_argument("--problem", action="append", default=[], help="these problems (NCHW) instead of the suite")
    parser.add_argument("--reps", type=int, default=7, help="samples of each time")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes that compile shaders")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no further layer is begun")
    parser.add_argument("--untuned", action="store_true", help="convrt by its cost model alone")
    parser.add_argument("--no-strict", action="store_true", help="leave out the run without Winograd")
    parser.add_argument("--ours-only", action="store_true", help="leave cuDNN out; needs no PyTorch")
    parser.add_argument("--stand-in", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write everything here")
    arguments = parser.parse_args()
    arguments.batch = [int(n) for n in arguments.batch.split(",")]
    begin = time.monotonic()

    layers, wrong, peaks, sessions = {}, [], [], {}
    accuracies = ["normal"] if arguments.no_strict or 32 not in arguments.batch else ["normal", "strict"]
    for accuracy in accuracies:
        sessions[accuracy] = run_convrt(arguments, accuracy)
        wrong += collect_convrt(sessions[accuracy], accuracy, layers)
    for p in sessions["normal"]["device_peaks"]:
        peaks.append({"what": f"convrt through OpenGL on {p['name']}", "tflops": p["gflops"] * 1e-3,
                      "copy_tbytes_s": p["copy_gbytes_per_s"] * 1e-3})
    print(f"convrt took {time.monotonic() - begin:.0f} s", file=sys.stderr)

    version = ""
    if arguments.stand_in:
        version = stand_in(arguments.stand_in, layers)
    elif not arguments.ours_only:
        version, found = run_cudnn(arguments, layers, begin + arguments.budget)
        wrong += found
        gemm, copy = matmul_peak(arguments.reps)
        peaks.append({"what": "CUDA: cuBLAS SGEMM 8192 cubed, device copy of 256 MiB", "tflops": gemm,
                      "copy_tbytes_s": copy})
    environment = sessions["normal"]["environment"]
    print(f"convrt {environment['version']} {environment['commit']}, {environment['date']}; {version}")
    goals = report(layers, peaks, sys.stdout)
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"took {time.monotonic() - begin:.0f} s")
    if arguments.json:
        everything = {"format": "convrt cudnn 1", "environment": environment, "peer": version, "peaks": peaks,
                      "goals": goals, "wrong": wrong,
                      "layers": [{"layer": name, "n": n, **entry} for (name, n), entry in layers.items()]}
        pathlib.Path(arguments.json).write_text(json.dumps(everything, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
