"""Large graphs: time grows with the graph and no faster, and a deep one is no danger."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import onnx
import pytest
from graphs import analysed
from onnx import helper

from onnxinit.analysis.analyse import analyse
from onnxinit.model import ModelFile

Block = tuple[list[onnx.NodeProto], dict[str, list[int]]]  # nodes from one value to the next, and what they store
Step = Callable[[int, str], Block]


def chain(blocks: int, step: Step) -> onnx.ModelProto:
    """Blocks one after another from x to y."""
    nodes: list[onnx.NodeProto] = []
    shapes: dict[str, list[int]] = {}
    at = "x"
    for i in range(blocks):
        made, stored = step(i, at)
        nodes += made
        shapes |= stored
        at = made[-1].output[0]
    nodes.append(helper.make_node("Identity", [at], ["y"]))
    held = [helper.make_tensor(n, 1, s, bytes(4 * math.prod(s)), raw=True) for n, s in shapes.items()]
    ends = [helper.make_tensor_value_info(n, 1, [2, 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def residual(i: int, x: str) -> Block:
    return [
        node("MatMul", f"{x} w{i}", f"a{i}"), node("Add", f"a{i} b{i}", f"c{i}"), node("Relu", f"c{i}", f"d{i}"),
        node("MatMul", f"d{i} v{i}", f"e{i}"), node("Add", f"{x} e{i}", f"f{i}"),
    ], {f"w{i}": [4, 4], f"b{i}": [4], f"v{i}": [4, 4]}  # fmt: skip


def normed(i: int, x: str) -> Block:
    """A norm written out, a gate and a residual sum."""
    return [
        node("ReduceMean", x, f"m{i}", axes=[-1]), node("Sub", f"{x} m{i}", f"d{i}"),
        node("Mul", f"d{i} d{i}", f"q{i}"), node("ReduceMean", f"q{i}", f"v{i}", axes=[-1]),
        node("Sqrt", f"v{i}", f"s{i}"), node("Div", f"d{i} s{i}", f"n{i}"), node("Mul", f"n{i} g{i}", f"o{i}"),
        node("MatMul", f"o{i} w{i}", f"h{i}"), node("Sigmoid", f"h{i}", f"z{i}"), node("Mul", f"h{i} z{i}", f"u{i}"),
        node("Add", f"{x} u{i}", f"f{i}"),
    ], {f"g{i}": [4], f"w{i}": [4, 4]}  # fmt: skip


def shared(i: int, x: str) -> Block:
    return [node("MatMul", f"{x} w", f"a{i}"), node("Add", f"a{i} b", f"c{i}"), node("Tanh", f"c{i}", f"d{i}")], {
        "w": [4, 4], "b": [4],
    }  # fmt: skip


def cell(i: int, x: str) -> Block:
    """A recurrent cell, unrolled."""
    return [
        node("MatMul", "x w", f"p{i}"), node("MatMul", f"{x} r", f"q{i}"), node("Add", f"p{i} q{i}", f"s{i}"),
        node("Tanh", f"s{i}", f"h{i}"),
    ], {"w": [4, 4], "r": [4, 4]}  # fmt: skip


def pointwise(i: int, x: str) -> Block:
    layer = [node("MatMul", "x w", "start")] if i == 0 else []
    return [*layer, node(("Tanh", "Relu", "Sigmoid")[i % 3], "start" if i == 0 else x, f"a{i}")], {"w": [4, 4]}


def moved(i: int, x: str) -> Block:
    """A weight that is turned again and again before it is used."""
    made = [node("Transpose", "w" if i == 0 else f"t{i - 1}", f"t{i}")]
    return [*made, node("MatMul", f"x t{i}", f"a{i}"), node("Relu", f"a{i}", f"r{i}")], {"w": [4, 4]}


def steps_of(model: onnx.ModelProto) -> int:
    """How many functions are called to analyse it: time, without a clock."""
    file, count = ModelFile.of(model), 0

    def tick(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(tick)
    try:
        analyse(file)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("step", [residual, normed, shared, cell, pointwise])
def test_time_grows_with_the_graph_and_no_faster(step: Step) -> None:
    once, twice = (steps_of(chain(n // len(step(1, "x")[0]), step)) for n in (1250, 2500))
    assert twice < 2.2 * once


@pytest.mark.parametrize("step", [residual, normed, shared, cell, pointwise, moved])
def test_a_deep_graph_is_walked_without_recursion(step: Step) -> None:
    found = analysed(chain(3000 // max(1, len(step(1, "x")[0]) - 1), step))
    assert found.weights
    assert not found.kept


def test_hundreds_of_slices_of_one_tensor() -> None:
    """Every step of an unrolled model reads its own matrix of one stack."""

    def step(i: int, x: str) -> Block:
        index = helper.make_node("Constant", [], [f"i{i}"], value_int=i)
        return [index, node("Gather", f"w i{i}", f"m{i}"), node("MatMul", f"{x} m{i}", f"a{i}")], {"w": [800, 4, 4]}

    once, twice = (steps_of(chain(n, step)) for n in (400, 800))
    assert twice < 2.3 * once
    (w,) = analysed(chain(800, step)).weights
    assert (w.blocks, w.fan_in, w.fan_out) == (800, 4, 4)
