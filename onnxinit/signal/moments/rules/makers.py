"""Operators that make values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

from onnxinit.analysis.view import Node
from onnxinit.signal.moments.arrays import LENGTH, array_moments
from onnxinit.signal.moments.moments import constant, normal
from onnxinit.signal.moments.rules.table import Known, rule

if TYPE_CHECKING:
    from onnxinit.signal.moments.carry import Sweep


@rule("Constant")
def stored(sweep: Sweep, node: Node) -> Known:
    """What it holds."""
    return sweep.of(node.outputs[0])


@rule("ConstantOfShape", "GivenTensorFill")
def filled(sweep: Sweep, node: Node) -> Known:
    """The same number everywhere."""
    given = node.attributes.get("value")
    held = numpy_helper.to_array(given.t) if given is not None else np.zeros(1)
    made = array_moments(held.reshape(-1)[:1])
    return constant(made.mean, len(sweep.dims(node.outputs[0])), made.hidden)


@rule("RandomNormal", "RandomNormalLike")
def random_normal(sweep: Sweep, node: Node) -> Known:
    """By its attributes."""
    rank = len(sweep.dims(node.outputs[0]))
    return normal(node.float_attribute("mean", 0.0), node.float_attribute("scale", 1.0) ** 2, (0.0,) * rank)


@rule("RandomUniform", "RandomUniformLike")
def random_uniform(sweep: Sweep, node: Node) -> Known:
    """By its attributes."""
    low, high = node.float_attribute("low", 0.0), node.float_attribute("high", 1.0)
    return normal((low + high) / 2, (high - low) ** 2 / 12, (0.0,) * len(sweep.dims(node.outputs[0])))


@rule("Range")
def climbing(sweep: Sweep, node: Node) -> Known:
    """0, 1 ... n - 1."""
    n = (sweep.dims(node.outputs[0]) or (LENGTH,))[0]
    return array_moments(np.arange(max(1, n), dtype=np.float64))


@rule("EyeLike")
def eye(sweep: Sweep, node: Node) -> Known:
    """One on the diagonal."""
    n = max(1, *sweep.dims(node.outputs[0]), 1)
    return array_moments(np.eye(min(n, 512)))


@rule("OneHot")
def one_hot(sweep: Sweep, node: Node) -> Known:
    """One in so many places."""
    dims = sweep.dims(node.outputs[0])
    depth = dims[node.int_attribute("axis", -1)] if dims else LENGTH
    p = 1.0 / max(1, depth)
    return normal(p, p * (1.0 - p), (0.0,) * len(dims))


@rule("Bernoulli")
def coin(sweep: Sweep, node: Node) -> Known:
    """One with the probability given."""
    m = sweep.input(node)
    p = min(1.0, max(0.0, m.mean)) if m is not None else 0.5
    return normal(p, p * (1.0 - p), (0.0,) * len(sweep.dims(node.outputs[0])))


@rule("Shape", "Size", "NonZero", "Multinomial", "NonMaxSuppression", "SequenceLength", "SequenceEmpty", "Optional")
@rule("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "StringNormalizer", "TfIdfVectorizer")
@rule("If", "Loop", "Scan", "SequenceMap")
def no_signal(sweep: Sweep, node: Node) -> list[Known]:
    """Nothing that has moments of interest."""
    return [None for _ in node.outputs]
