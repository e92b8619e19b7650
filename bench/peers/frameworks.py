#!/usr/bin/env python3
"""convrt's CPU path beside ONNX Runtime and ncnn, layer by layer, in one call.

usage: frameworks.py [--bench=build/bench/convrt_bench] [--suite=peers36] [--filter=TEXT] [--threads=1] [--rounds=3]

Fetches both from the Python package index into build/peers/frameworks (nothing is installed) unless they are there; one
that cannot be had is left out with a word. fp32, no bias, NCHW as both take it, each in its own favourite form inside
(Winograd and packed layouts included). In every round each peer and convrt_bench take turns on a layer; medians over all
rounds' samples. A peer's output is checked against sums in double at 64 places before its time counts; convrt_bench
checks convrt's. Exit status 1: a wrong result on any side.
"""
import argparse
import csv
import importlib
import math
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE = ROOT / "build/peers/frameworks"
NEEDED = ["numpy"]
PEER_PACKAGES = {"onnxruntime": ["onnx", "onnxruntime"], "ncnn": ["ncnn"]}
DEFAULTS = {"n": 1, "sh": 1, "sw": 1, "dh": 1, "dw": 1, "ph": 0, "pw": 0, "g": 1}


def fetch(packages):
    """Whether all of them are there; each set of packages has a folder of its own, complete or not there."""
    for package in packages:
        site = SITE / package
        if not site.exists():
            fresh = SITE / f"{package}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target",
                       str(fresh), package]
            if subprocess.run(command).returncode != 0:
                print(f"frameworks.py: {package} cannot be had from the Python package index", file=sys.stderr)
                return False
            fresh.rename(site)
        sys.path.append(str(site))
    return True


def layers(bench, suite, text):
    """(name, GFLOP, fields of the problem, problem)"""
    listing = subprocess.run([bench, "--list", f"--suite={suite}"], check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        name, gflop, _, problem = line.split()
        fields = dict(DEFAULTS, **{k: int(v) for k, v in re.findall(r"([a-z]+)(\d+)", problem)})
        if text in name:
            yield name, float(gflop), fields, problem


def convrt_samples(bench, problem, threads):
    """GFLOP/s of one short, checked run."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as table:
        command = [bench, f"--problem={problem}", f"--threads={threads}", "--layout=nchw", "--no-peers", "--reps=5",
                   "--sample-ms=3", f"--csv={table.name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"frameworks.py: {' '.join(command)} failed:\n{done.stderr}")
        rows = csv.DictReader(line for line in open(table.name) if not line.startswith("#"))
        return [float(row["gflops"]) for row in rows if row["contender"] == "convrt"]


def oracle(np, f, x, w, places):
    """dst[n, k, p, q] in double."""
    c_group, k_group, sums = f["c"] // f["g"], f["k"] // f["g"], []
    for n, k, p, q in places:
        c = k // k_group * c_group
        total = 0.0
        for r in range(f["r"]):
            for s in range(f["s"]):
                h, v = p * f["sh"] - f["ph"] + r * f["dh"], q * f["sw"] - f["pw"] + s * f["dw"]
                if 0 <= h < f["h"] and 0 <= v < f["w"]:
                    total += np.dot(x[n, c:c + c_group, h, v].astype(np.float64), w[k, :, r, s].astype(np.float64))
        sums.append(total)
    return np.array(sums)


def onnx_runner(np, f, x, w, threads):
    onnx, ort = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[f["r"], f["s"]], strides=[f["sh"], f["sw"]],
                            dilations=[f["dh"], f["dw"]], pads=[f["ph"], f["pw"]] * 2, group=f["g"])
    graph = helper.make_graph([node], "conv", [helper.make_tensor_value_info("x", kind, x.shape)],
                              [helper.make_tensor_value_info("y", kind, None)],
                              [onnx.numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    source = ort.OrtValue.ortvalue_from_numpy(x)
    binding.bind_ortvalue_input("x", source)
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    result = binding.get_outputs()[0]
    binding.bind_ortvalue_output("y", result)  # into the same memory from now on
    return (lambda: session.run_with_iobinding(binding)), (lambda: result.numpy())


def ncnn_runner(np, f, x, w, threads):
    if f["n"] != 1:
        raise ValueError("ncnn takes one image at a time")
    ncnn = importlib.import_module("ncnn")
    kind = "Convolution" if f["g"] == 1 else "ConvolutionDepthWise"
    values = {0: f["k"], 1: f["s"], 11: f["r"], 2: f["dw"], 12: f["dh"], 3: f["sw"], 13: f["sh"], 4: f["pw"],
              14: f["ph"], 5: 0, 6: w.size}
    if f["g"] > 1:
        values[7] = f["g"]
    layer = f"{kind} conv 1 1 x y " + " ".join(f"{key}={value}" for key, value in values.items())
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_int8_inference"):
        if hasattr(net.opt, option):
            setattr(net.opt, option, False)
    with tempfile.TemporaryDirectory() as folder:
        param, weights = pathlib.Path(folder) / "net.param", pathlib.Path(folder) / "net.bin"
        param.write_text(f"7767517\n2 2\nInput in 0 1 x\n{layer}\n")
        weights.write_bytes(np.uint32(0).tobytes() + w.tobytes())
        net.load_param(str(param))
        net.load_model(str(weights))
    source, last = ncnn.Mat(x[0]), []

    def run():
        extractor = net.create_extractor()
        extractor.input("x", source)
        last[:] = [net, extractor, extractor.extract("y")[1]]

    return run, (lambda: np.array(last[2])[None])


PEERS = {"onnxruntime": onnx_runner, "ncnn": ncnn_runner}


def samples(run, gflop, count=5, sample_s=0.003):
    run()
    found = []
    for _ in range(count):
        runs, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < sample_s or runs == 0:
            run()
            runs += 1
        found.append(gflop * runs / spent if spent > 0 else 0)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default=str(ROOT / "build/bench/convrt_bench"))
    parser.add_argument("--suite", default="peers36")
    parser.add_argument("--filter", default="", help="only layers whose name contains it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not pathlib.Path(options.bench).exists():
        parser.error(f"no convrt_bench at {options.bench}: build it (bench/run does), or name it with --bench=")
    if not fetch(NEEDED):
        return 2
    np = importlib.import_module("numpy")
    for peer, packages in PEER_PACKAGES.items():
        if not fetch(packages):
            del PEERS[peer]
    if not PEERS:
        return 2
    random = np.random.default_rng(1)
    ratios, wrong = {peer: [] for peer in PEERS}, 0
    print("NCHW in and out, fp32, threads:", options.threads, "- GFLOP/s, medians;",
          ", ".join(f"{p} {importlib.import_module(p).__version__}" for p in PEERS))
    print(f"{'layer':28}{'convrt':>9}" + "".join(f"{peer:>14}{'ratio':>7}" for peer in PEERS))
    for name, gflop, f, problem in layers(options.bench, options.suite, options.filter):
        x = random.uniform(-1, 1, (f["n"], f["c"], f["h"], f["w"])).astype(np.float32)
        w = random.uniform(-1, 1, (f["k"], f["c"] // f["g"], f["r"], f["s"])).astype(np.float32)
        ours, theirs, runners = [], {}, {}
        for peer, make in PEERS.items():
            try:
                run, fetch_result = make(np, f, x, w, options.threads)
                run()
                y = fetch_result()
            except (ImportError, ValueError, RuntimeError) as error:
                print(f"# {name}: no {peer}: {error}", file=sys.stderr)
                continue
            places = [tuple(random.integers(0, extent) for extent in y.shape) for _ in range(64)]
            error = np.abs(np.array([y[place] for place in places]) - oracle(np, f, x, w, places)).max()
            # Winograd loses digits: a bound that grows with the number of products, far below a wrong term.
            if error > 2e-5 * math.sqrt(f["r"] * f["s"] * f["c"] // f["g"]) + 1e-5:
                print(f"# {name}: {peer} is wrong by {error:g}", file=sys.stderr)
                wrong += 1
                continue
            runners[peer], theirs[peer] = run, []
        for _ in range(options.rounds):
            ours += convrt_samples(options.bench, problem, options.threads)
            for peer, run in runners.items():
                theirs[peer] += samples(run, gflop)
        mine, line = statistics.median(ours), ""
        for peer in PEERS:
            if peer not in theirs:
                line += f"{'-':>14}{'':7}"
                continue
            their = statistics.median(theirs[peer])
            ratios[peer].append(mine / their)
            line += f"{their:14.1f}{mine / their:7.2f}"
        print(f"{name:28}{mine:9.1f}{line}", flush=True)
    for peer, found in ratios.items():
        if found:
            mean = math.exp(sum(map(math.log, found)) / len(found))
            print(f"convrt / {peer}: {mean:.2f} over {len(found)} layers, lowest {min(found):.2f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
