"""Mote and onnxruntime draw with the same int8 network on one core of this machine; who is faster?

    pip install -r tests/onnxruntime/requirements.txt
    python tests/onnxruntime/compare.py

Mote's side is the released model, drawn by `time-drawing` (built in release mode first): whole images, noise and sampler
included. onnxruntime's side is demo.onnx beside this file: the same student with the same calibration, weights int8 for
each channel, activations uint8, quantization nodes that its CPU provider fuses to integer convolutions. Only the network's
passes count there. One thread, all graph optimizations, inputs and outputs bound once; both processes stay on one core and
take turns, and the shortest time of many images counts.

First both compute the same passes of one image. onnxruntime has 8 bits where Mote keeps 16, so its output may differ by
TOLERANCE = 0.08
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOLERANCE = 0.08
CLASS = 9

try:
    import numpy
    import onnxruntime
except ImportError as error:
    sys.exit(f"{error}: run `pip install -r {HERE / 'requirements.txt'}` first")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ROOT / "firmware/models/demo.mote")
    parser.add_argument("--onnx", default=HERE / "demo.onnx")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each, a second each")
    arguments = parser.parse_args()

    build = ["cargo", "build", "--quiet", "--release", "--locked", "--package", "time-drawing", "--message-format=json"]
    messages = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    program = [json.loads(line).get("executable") for line in messages.splitlines()]
    program = next(path for path in reversed(program) if path)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    def mote(seconds):
        command = [program, arguments.model, str(CLASS), str(seconds)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    network = Network(arguments.onnx, mote(0))
    print(f"onnxruntime {onnxruntime.__version__}; same input, difference of the outputs (root mean square, relative):")
    differences = network.differences()
    for row, difference in enumerate(differences):
        print(f"  pass {row}: {difference:.4f}")
    if max(differences) > TOLERANCE:
        sys.exit(f"the two do not compute the same network: more than {TOLERANCE}; is {arguments.onnx} up to date?")

    times = {"mote": [], "onnxruntime": []}
    for _ in range(arguments.rounds):
        times["mote"].append(mote(1.0)["seconds"])
        times["onnxruntime"].append(network.shortest(1.0))
    shortest = {name: min(each) for name, each in times.items()}
    for name, seconds in shortest.items():
        print(f"{name:12} {1e6 * seconds:8.1f} microseconds an image of {len(differences)} passes")
    print(f"mote is {shortest['onnxruntime'] / shortest['mote']:.2f} times as fast")


class Network:
    """The network in onnxruntime, with the passes that Mote made."""

    def __init__(self, path, made):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.passes = []
        for row, values in enumerate(made["passes"]):
            x, f = (numpy.array(values[name], numpy.float32).reshape(made["shape"]) for name in "xf")
            self.passes.append((self.bind(x, row * made["classes"] + CLASS), f))

    def bind(self, x, condition):
        binding = self.session.io_binding()
        channels_first = numpy.ascontiguousarray(x.transpose(2, 0, 1)[None])
        for name, value in [("x", channels_first), ("condition", numpy.array([condition], numpy.int64))]:
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(channels_first.shape, numpy.float32)
        binding.bind_ortvalue_output("f", output)
        return binding

    def differences(self):
        result = []
        for binding, expected in self.passes:
            self.session.run_with_iobinding(binding)
            found = binding.get_outputs()[0].numpy()[0].transpose(1, 2, 0)
            result.append(float(numpy.sqrt(numpy.mean((found - expected) ** 2) / numpy.mean(expected**2))))
        return result

    def shortest(self, seconds):
        started, shortest = time.perf_counter(), float("inf")
        while time.perf_counter() - started < seconds:
            begin = time.perf_counter()
            for binding, _ in self.passes:
                self.session.run_with_iobinding(binding)
            shortest = min(shortest, time.perf_counter() - begin)
        return shortest


if __name__ == "__main__":
    main()
