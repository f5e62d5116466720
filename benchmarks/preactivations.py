"""What layers put out and how much is alive at once, by running a whole file with more outputs than it has.

Written apart from onnxinit, of which it knows nothing: it is to check it. A layer is a Conv, Gemm or MatMul with a
stored matrix, behind Identity and Transpose or not, and the Add of a stored bias after a MatMul.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, NodeProto

Feed = Mapping[str, np.ndarray]


def stored(graph: GraphProto) -> dict[str, onnx.TensorProto]:
    """The initializers by each name that they go by."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Identity", "Transpose") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def layers(graph: GraphProto) -> dict[str, str]:
    """The name of each layer's weight -> that of its pre-activation, in the graph's order."""
    weights, found = stored(graph), {}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        matrix = [weights[n].name for n in node.input[:2] if n in weights and len(weights[n].dims) > 1]
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not matrix:
            continue
        out, after = node.output[0], readers.get(node.output[0], [])
        if (
            node.op_type == "MatMul"
            and len(after) == 1
            and after[0].op_type == "Add"
            and weights.keys() & after[0].input
        ):
            out = after[0].output[0]
        found[matrix[0]] = out
    return found


def session(model: onnx.ModelProto | Path, threads: int = 1, plain: bool = False) -> ort.InferenceSession:
    """ONNX Runtime on the processor: as it comes, or without any change to the graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if plain else levels.ORT_ENABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def values(path: Path, feeds: Iterable[Feed], names: list[str]) -> Iterator[list[np.ndarray]]:
    """The values of that name when the file runs on each feed."""
    model = onnx.load(path)
    own = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in own)
    run = session(model, plain=True).run
    return (run(names, dict(feed)) for feed in feeds)


def stds(path: Path, feeds: Iterable[Feed]) -> dict[str, float]:
    """The name of each layer's weight -> the std of its pre-activation over all feeds."""
    places = layers(onnx.load(path, load_external_data=False).graph)
    count, sums, squares = np.zeros((3, len(places)))
    for outputs in values(path, feeds, list(places.values())):
        for i, y in enumerate(outputs):
            wide = y.astype(np.float64)
            count[i] += wide.size
            sums[i] += wide.sum()
            squares[i] += np.vdot(wide, wide)
    return dict(zip(places, np.sqrt(squares / count - (sums / count) ** 2).tolist(), strict=True))


def largest_weights(path: Path) -> int:
    """Bytes of the largest stored tensor: what a segment with one layer holds."""
    return max(len(t.raw_data) for t in onnx.load(path).graph.initializer)


def most_alive(path: Path, feed: Feed) -> int:
    """The most bytes of activations that are alive while a node runs, each freed after its last use."""
    graph = onnx.load(path, load_external_data=False).graph
    kept = stored(graph).keys() | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    nodes = [n for n in graph.node if n.output[0] not in kept]
    names = [o for n in nodes for o in n.output if o]
    size = {name: value.nbytes for name, value in zip(names, next(values(path, [feed], names)), strict=True)}
    size |= {name: value.nbytes for name, value in feed.items()}
    last = {name: i for i, node in enumerate(nodes) for name in node.input if name in size}
    last |= {o.name: len(nodes) for o in graph.output}
    alive, most = set(feed), 0
    for i, node in enumerate(nodes):
        alive |= {o for o in node.output if o}
        most = max(most, sum(size[name] for name in alive))
        alive = {name for name in alive if last.get(name, -1) > i}
    return most
