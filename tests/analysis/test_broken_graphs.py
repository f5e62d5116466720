"""Graphs that somebody has broken: an answer or an error of our own, whatever does not fit together."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from disguises import graphs_in
from gallery import SMALL
from graphs import build
from growth import grown
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, numpy_helper

import onnxinit
from onnxinit.analysis.operators import NO_WEIGHTS, OPERATORS

_OPERATORS = sorted(op for domain, op in {*OPERATORS, *NO_WEIGHTS} if domain in ("", "com.microsoft"))
_NUMBERS = [-1, 0, 1, 2, -7, 99, 2**31, -(2**63), 2**63 - 1]
_SHAPES = [(), (1,), (0,), (7, 3), (2, 0, 3), (3, 8), (8,), (4, 4, 1)]
_TYPES = ["f4", "i1", "i8", "f8", "?", "u1", "f2"]


def _another_operator(node: NodeProto, random: Random) -> None:
    node.op_type = random.choice(_OPERATORS)


def _no_attribute(node: NodeProto, random: Random) -> None:
    if node.attribute:
        del node.attribute[random.randrange(len(node.attribute))]


def _another_attribute(node: NodeProto, random: Random) -> None:
    for a in node.attribute:
        if a.type == AttributeProto.INT:
            a.i = random.choice(_NUMBERS)
        elif a.type == AttributeProto.INTS and a.ints:
            a.ints[random.randrange(len(a.ints))] = random.choice(_NUMBERS)
        elif a.type == AttributeProto.FLOAT:
            a.f = random.choice([0.0, float("nan"), float("inf"), -1e30])
        elif a.type == AttributeProto.STRING:
            a.s = random.choice([b"", b"\xff", b"ab,bc", b"...i,io->...o"])


def _another_length(node: NodeProto, random: Random) -> None:
    for a in node.attribute:
        if a.ints and random.random() < 0.5:
            a.ints.pop()
        elif a.type == AttributeProto.INTS:
            a.ints.append(random.choice([0, -1, 5]))


def _less(node: NodeProto, random: Random) -> None:
    if node.input:
        del node.input[random.randrange(len(node.input))]


def _omitted(node: NodeProto, random: Random) -> None:
    names = random.choice([node.input, node.output])
    if names:
        names[random.randrange(len(names))] = ""


def _more(node: NodeProto, random: Random) -> None:
    random.choice([node.input, node.output]).append(random.choice(["", "more"]))


def _another_domain(node: NodeProto, random: Random) -> None:
    node.domain = random.choice(["", "com.microsoft", "ai.onnx.ml", "local", "x.y"])


_TO_NODES: list[Callable[[NodeProto, Random], None]] = [
    _another_operator, _no_attribute, _another_attribute, _another_length, _less, _omitted, _more, _another_domain,
]  # fmt: skip


def _another_operand(graph: GraphProto, random: Random) -> None:
    node = random.choice(graph.node)
    made = [name for other in graph.node for name in other.output]
    if node.input and made:
        node.input[random.randrange(len(node.input))] = random.choice(made)


def _another_tensor(graph: GraphProto, random: Random) -> None:
    if graph.initializer:
        tensor = random.choice(graph.initializer)
        shape = random.choice([*_SHAPES, tuple(tensor.dims)[::-1], tuple(tensor.dims)[1:], (*tensor.dims, 1)])
        values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3
        tensor.CopyFrom(numpy_helper.from_array(values.astype(random.choice(_TYPES)), tensor.name))


def _another_type(graph: GraphProto, random: Random) -> None:
    infos = [*graph.input, *graph.output]
    if infos:
        info = random.choice(infos)
        dims = info.type.tensor_type.shape.dim
        if random.random() < 0.3:
            info.type.ClearField("tensor_type")
        elif dims and random.random() < 0.5:
            dims[random.randrange(len(dims))].dim_value = random.choice([0, -1, 1, 1000000])
        else:
            dims.add().dim_value = 3


_TO_GRAPHS = [_another_operand, _another_tensor, _another_type]


def broken(model: ModelProto, random: Random) -> ModelProto:
    """The model with something in it that does not fit."""
    graphs = [model.graph, *graphs_in(iter(model.graph.node))]
    bodies = [body for body in [*graphs, *model.functions] if body.node]
    if bodies and random.random() < 0.7:
        random.choice(_TO_NODES)(random.choice(random.choice(bodies).node), random)
    else:
        graph = random.choice([graph for graph in graphs if graph.node] or [model.graph])
        random.choice(_TO_GRAPHS)(graph, random) if graph.node else None
    return model


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_what_is_broken_is_answered_or_refused(random: Random) -> None:
    model = SMALL[random.choice(list(SMALL))]() if random.random() < 0.3 else grown(random)[1]
    for _ in range(random.choice([1, 1, 2, 3])):
        model = broken(model, random)
    try:
        onnxinit.inspect(model)
        onnxinit.reinit(model, threads=1, scheme=random.choice(["auto", "he", "analytic", "orthogonal"]))
    except onnxinit.OnnxinitError as error:
        assert str(error)


# What has ended in a traceback, or never.
BROKEN = {
    "an equation with fewer terms than operands": """(float[2,4] x) => (float[2,3] y)
        { h = Einsum<equation = "ab">(x, w) y = Add(h, b) }""",
    "negative lengths": """(float[2,4] x) => (float[2,3] y)
        { s = Constant<value = int64[2] {-2, -3}>() c = ConstantOfShape(s) h = MatMul(x, w) y = Mul(h, c) }""",
    "strides of another rank": """(float[2,4,5,5] x) => (float[2,3,5,5] y)
        { h = Conv<strides = [1]>(x, k) y = Add(h, b) }""",
    "a kernel of a million million taps": """(float[2,4,1000000,1000000] x, float[4,3,1000000,1000000] v)
        => (float[2,3,5,5] y) { h = ConvTranspose(x, v) y = Conv(h, k) }""",
    "a product of numbers": "(float x) => (float y) { h = MatMul(x, x) y = MatMul(h, w) }",
}
SHAPES = {"w": (4, 3), "b": (3,), "k": (3, 4, 1, 1)}


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("scheme", ["he", "analytic"])
def test_what_has_ended_in_a_traceback(text: str, scheme: str) -> None:
    given: dict[str, Any] = {name: shape for name, shape in SHAPES.items() if f" {name})" in text}
    model = build(text, check=False, **given)
    assert {w.name for w in onnxinit.inspect(model, scheme=scheme).weights} <= set(SHAPES)
    assert isinstance(onnxinit.reinit(model, scheme=scheme).model, onnx.ModelProto)
