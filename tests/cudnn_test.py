#!/usr/bin/env python3
"""bench/peers/cudnn.py without a card: how it reads convrt_bench's results, picks the better way of each side, and rates
the goals."""
import importlib.util
import io
import pathlib
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "bench" / "peers" / "cudnn.py"
spec = importlib.util.spec_from_file_location("cudnn", SCRIPT)
cudnn = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cudnn)


def result(layer, problem, layout, gflops, kernel="gl.large_256.128x128x8", **more):
    return {"layer": layer, "problem": problem + ("+nhwc" if layout == "nhwc" else ""), "layout": layout, "gflop": 1,
            "gflops": gflops, "kernel": kernel, "ms": 1, "spread": 0, "tensor_sets": 3, **more}


class Comparison(unittest.TestCase):
    def test_problems(self):
        fields = cudnn.parse_problem("n32c96h112w112k96r3s3sh2sw2g96ph1pw1+nhwc")
        self.assertEqual([fields[x] for x in ("n", "c", "k", "sh", "dh", "g", "ph")], [32, 96, 96, 2, 1, 96, 1])
        for wrong in ("n1c3h8w8k4r3s3pt1", "n1c3!", "1n"):
            with self.assertRaises(ValueError):
                cudnn.parse_problem(wrong)

    def test_the_better_layout_counts_on_both_sides(self):
        layers = {}
        a, b = "n32c64h56w56k64r1s1", "n32c64h56w56k256r1s1"
        wrong = cudnn.collect_convrt({"results": [
            result("rn50_a_N32", a, "nchw", 20e3), result("rn50_a_N32", a, "nhwc", 30e3),
            result("rn50_b_N32", b, "nchw", 40e3), {**result("rn50_b_N32", b, "nhwc", 0), "error": "dst[0] is wrong"},
        ]}, "normal", layers)
        self.assertEqual(len(wrong), 1)
        self.assertIn("dst[0] is wrong", wrong[0])
        cudnn.collect_convrt({"results": [result("rn50_a_N32", a, "nchw", 10e3)]}, "strict", layers)
        layers["rn50_a", 32]["cudnn"] = {"nchw": {"eager": 15, "graph": 12}, "nhwc": {"eager": 5, "graph": 10}}
        layers["rn50_b", 32]["cudnn"] = {"nchw": {"eager": 15}, "nhwc": {"eager": 20, "graph": 80, "kernels": ["k"]}}
        self.assertEqual(cudnn.best_peer(layers["rn50_b", 32]), (80, "graph nhwc", ["k"]))
        out = io.StringIO()
        goals = {g["what"]: g for g in cudnn.report(layers, [], out)}
        ratio = goals["23 ResNet-50 convs, N = 32"]
        self.assertEqual(ratio["layers"], 2)
        self.assertAlmostEqual(ratio["ratio"], 1.0)  # sqrt(30/15 * 40/80)
        self.assertAlmostEqual(goals["direct only (strict), 23 ResNet-50 convs, N = 32"]["ratio"], 10 / 15)
        self.assertAlmostEqual(goals["lowest layer, N = 32 (rn50_b)"]["ratio"], 0.5)
        self.assertIn("not met", out.getvalue())

    def test_a_layer_without_a_peer_has_no_ratio(self):
        layers = {}
        cudnn.collect_convrt({"results": [result("vgg_a", "n1c3h8w8k4r3s3", "nchw", 5)]}, "normal", layers)
        out = io.StringIO()
        self.assertEqual(cudnn.report(layers, [], out), [])
        self.assertIn("vgg_a", out.getvalue())


if __name__ == "__main__":
    unittest.main()
