"""How long the analysis of a large graph takes, and that it grows linearly: `python benchmarks/analyse.py`.

The graph is a stack of transformer-like blocks as exporters write them: decomposed LayerNorm, a dense layer as MatMul
and Add, decomposed GELU, a second dense layer, a residual sum. The values lie in an external file that is not there, so
that nothing but the analysis is measured: in seconds of processor time, since it runs on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxinit.analysis import analyse
from onnxinit.model import ModelFile

WIDTH = 64
CONSTANTS = {"two": 2.0, "eps": 1e-5, "sqrt2": 2**0.5, "one": 1.0, "half": 0.5}


def block(i: int, x: str) -> Iterator[NodeProto]:
    """The nodes of block `i`, reading `x` and making `x{i}`."""

    def node(op: str, *inputs: str, out: str, **attributes: object) -> NodeProto:
        names = [n.replace("@", f"{i}.") for n in inputs]
        return helper.make_node(op, names, [out.replace("@", f"{i}.")], name=f"{i}/{out}", **attributes)

    yield node("ReduceMean", x, out="@mean", axes=[-1])
    yield node("Sub", x, "@mean", out="@centred")
    yield node("Pow", "@centred", "two", out="@square")
    yield node("ReduceMean", "@square", out="@var", axes=[-1])
    yield node("Add", "@var", "eps", out="@safe")
    yield node("Sqrt", "@safe", out="@std")
    yield node("Div", "@centred", "@std", out="@unit")
    yield node("Mul", "@unit", "@gamma", out="@scaled")
    yield node("Add", "@scaled", "@beta", out="@norm")
    yield node("MatMul", "@norm", "@up", out="@product1")
    yield node("Add", "@product1", "@bias1", out="@hidden")
    yield node("Div", "@hidden", "sqrt2", out="@small")
    yield node("Erf", "@small", out="@erf")
    yield node("Add", "@erf", "one", out="@erf1")
    yield node("Mul", "@hidden", "@erf1", out="@gelu2")
    yield node("Mul", "@gelu2", "half", out="@gelu")
    yield node("MatMul", "@gelu", "@down", out="@product2")
    yield node("Add", "@product2", "@bias2", out="@delta")
    yield node("Add", x, "@delta", out=f"x{i}")


SHAPES = {
    "gamma": [WIDTH],
    "beta": [WIDTH],
    "up": [WIDTH, 4 * WIDTH],
    "bias1": [4 * WIDTH],
    "down": [4 * WIDTH, WIDTH],
    "bias2": [WIDTH],
}


def stack(nodes: int) -> ModelProto:
    """A graph of about that many nodes."""
    blocks = nodes // len(list(block(0, "x")))
    body = [n for i in range(blocks) for n in block(i, f"x{i - 1}" if i else "x")]
    tensors = [numpy_helper.from_array(np.float32(v), k) for k, v in CONSTANTS.items()]
    for i in range(blocks):
        for name, shape in SHAPES.items():
            tensor = TensorProto(name=f"{i}.{name}", data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="elsewhere.bin")
            tensor.external_data.add(key="offset", value=str(4096 * len(tensors)))
            tensors.append(tensor)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", WIDTH]) for n in ("x", f"x{blocks - 1}")]
    graph = helper.make_graph(body, "stack", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20000, help="size of the largest graph")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    sizes = [args.nodes // 4, args.nodes // 2, args.nodes]
    opening: dict[int, list[float]] = {n: [] for n in sizes}
    analysing: dict[int, list[float]] = {n: [] for n in sizes}
    count: dict[int, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {n: Path(folder, f"{n}.onnx") for n in sizes}
        for n, path in paths.items():
            path.write_bytes(stack(n).SerializeToString())
        for _ in range(args.runs):
            for n, path in paths.items():
                start = time.process_time()
                file = ModelFile.open(path)
                opened = time.process_time()
                found = analyse(file)
                opening[n].append(opened - start)
                analysing[n].append(time.process_time() - opened)
                count[n] = (len(file.proto.graph.node), len(found.weights))

    print(f"medians of {args.runs} interleaved runs\n")
    print(f"{'nodes':>8}{'weights':>9}{'open s':>9}{'analyse s':>11}{'us per node':>13}")
    for n in sizes:
        nodes, weights = count[n]
        took = statistics.median(analysing[n])
        print(f"{nodes:8}{weights:9}{statistics.median(opening[n]):9.3f}{took:11.3f}{took / nodes * 1e6:13.1f}")


if __name__ == "__main__":
    main()
