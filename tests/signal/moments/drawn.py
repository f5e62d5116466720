"""What layers make of a signal, by drawing weights many times and running the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from onnxinit.analysis import analyse
from onnxinit.model import ModelFile, build
from onnxinit.plan import Plan, make_plan
from onnxinit.signal.moments import Predictions, analytic, predict
from onnxinit.values import fresh

Array = npt.NDArray[np.generic]
Feed = Callable[[np.random.Generator], Mapping[str, Array]]


@dataclass(frozen=True)
class Seen:
    """A layer's output as it was measured.

    Attributes:
        std: Over all elements of all draws.
        error: The standard error of its square, relative.
    """

    std: float
    error: float

    def agrees(self, predicted: float, bias: float = 0.0) -> bool:
        """Whether a prediction is within five standard errors, and `bias` more, of the variance."""
        return abs((predicted / self.std) ** 2 - 1.0) <= 5.0 * self.error + bias


def planned(model: onnx.ModelProto, scheme: str = "analytic", rules: tuple[str, ...] = ()) -> tuple[Plan, Predictions]:
    analysis = analyse(ModelFile.of(model))
    return analytic(make_plan(analysis, scheme=scheme, rules=rules), analysis)


def expected(model: onnx.ModelProto, scheme: str, **given: float) -> Predictions:
    """What a plan of another scheme is expected to make."""
    analysis = analyse(ModelFile.of(model))
    return predict(make_plan(analysis, scheme=scheme), analysis, **given)  # type: ignore[arg-type]


def measured(model: onnx.ModelProto, plan: Plan, predictions: Predictions, feed: Feed, draws: int) -> dict[str, Seen]:
    """The outputs of the layers, each draw with weights and a feed of its own."""
    file = ModelFile.of(model)
    analysis = analyse(file)
    names = {p.id: p.output for p in predictions.layers if p.output}
    squares: dict[str, list[float]] = {i: [] for i in names}
    means: dict[str, list[float]] = {i: [] for i in names}
    for seed in range(draws):
        drawn = build(file, fresh(replace(plan, seed=seed), analysis, file.array), metadata=None)
        del drawn.graph.output[:]
        drawn.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names.values())
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = ort.InferenceSession(drawn.SerializeToString(), options, providers=["CPUExecutionProvider"])
        fed = dict(feed(np.random.default_rng(seed)))
        for ident, y in zip(names, session.run(list(names.values()), fed), strict=True):
            y = np.asarray(y, np.float64)
            squares[ident].append(float((y * y).mean()))
            means[ident].append(float(y.mean()))
    seen = {}
    for ident in names:
        second, mean = float(np.mean(squares[ident])), float(np.mean(means[ident]))
        error = float(np.std(squares[ident], ddof=1) / math.sqrt(draws) / second) if draws > 1 else 1.0
        seen[ident] = Seen(math.sqrt(second - mean * mean), error)
    return seen


def normal(**shapes: tuple[int, ...]) -> Feed:
    """Standard normal inputs of some shapes."""
    return lambda rng: {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
