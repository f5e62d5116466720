"""The connections of a linear model, counted by running it: an oracle for fans and layouts that knows no operator.

A weight element e, an input x and an output y are connected when y is not zero for a weight of zeros but for a one at e
and an input of zeros but for a one at x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from graphs import arange, weights
from onnx import helper

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Connections:
    """The (element, input, output) triples of some weights, which share one numbering of elements."""

    first: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    met: Flags
    output: npt.NDArray[np.int_]  # by y: which output of the model it is of

    def elements(self, name: str) -> npt.NDArray[np.int64]:
        return arange(self.shapes[name]) + self.first[name]


def connections(model: onnx.ModelProto, names: Sequence[str]) -> Connections:
    """Run a model that is linear in both its one input and the weights named; an open length is taken for one."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    stored = {t.name: t for t in model.graph.initializer}
    shapes = {n: tuple(stored[n].dims) for n in names}
    for name in names:
        model.graph.initializer.remove(stored[name])
        model.graph.input.append(helper.make_tensor_value_info(name, stored[name].data_type, shapes[name]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    signal = session.get_inputs()[0]
    shape = [n if isinstance(n, int) else 1 for n in signal.shape]
    ends: list[int] = []
    first: dict[str, int] = {}
    rows: list[list[npt.NDArray[np.bool_]]] = []
    for name in names:
        first[name] = len(rows)
        for e in range(int(np.prod(shapes[name]))):
            feed = {n: np.zeros(shapes[n], np.float32) for n in names}
            feed[name].flat[e] = 1
            met: list[Flags] = []
            for j in range(int(np.prod(shape))):
                x = np.zeros(shape, np.float32)
                x.flat[j] = 1
                results = session.run(None, {**feed, signal.name: x})
                ends = [r.size for r in results]
                met.append(np.concatenate([np.ravel(r) != 0 for r in results]))
            rows.append(met)
    return Connections(first, shapes, np.array(rows), np.repeat(np.arange(len(ends)), ends))


def assert_counts(model: onnx.ModelProto, names: Sequence[str], cut: bool = False) -> None:
    """Fans and layouts of the weights named are those that the connections say.

    With `cut`, every output of the model comes from one block only, and every block makes one output only.
    """
    counted, said = connections(model, names), weights(model)
    into = counted.met.sum((0, 1))  # by output: the input values that reach it
    for name in names:
        layout = said[name].layout
        assert layout is not None, name
        covered = np.zeros(said[name].shape, int)
        for part in layout.parts:
            covered[tuple(slice(a, a + n) for a, n in zip(part.start, part.shape, strict=True))] += 1
            blocks = part.to_canonical(counted.elements(name)).astype(int)
            reached = counted.met[blocks.ravel()].any((0, 1))
            assert part.fan_in == into[reached].max(), name
            assert part.fan_out == max(counted.met[b.ravel()].sum((0, 2)).max() for b in blocks), name
            _assert_structure(counted.met, blocks)
            if cut:
                made = [set(counted.output[counted.met[b.ravel()].any((0, 1))].tolist()) for b in blocks]
                assert sorted(made) == sorted({k} for k in set(counted.output.tolist())), name
        assert (covered == 1).all()


def _assert_structure(met: Flags, blocks: npt.NDArray[np.int_]) -> None:
    """Elements of a block share outputs just where they share a row, inputs just where they share a column."""
    outs, ins = met.any(1).astype(int), met.any(2).astype(int)
    for b, block in enumerate(blocks):
        ids = block.ravel()
        rows, columns = (np.broadcast_to(a, block.shape).ravel() for a in _rows_and_columns(block))
        np.testing.assert_array_equal(outs[ids] @ outs[ids].T > 0, rows[:, None] == rows)
        np.testing.assert_array_equal(ins[ids] @ ins[ids].T > 0, columns[:, None] == columns)
        for other in blocks[:b]:
            assert not (outs[ids] @ outs[other.ravel()].T).any()


def _rows_and_columns(block: npt.NDArray[np.int_]) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    tail = (1,) * (block.ndim - 2)
    return np.arange(block.shape[0]).reshape(-1, 1, *tail), np.arange(block.shape[1]).reshape(1, -1, *tail)
