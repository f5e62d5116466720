"""Graphs that nobody wrote: the truth is known by construction, and the analysis and what is written agree with it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from growing import Array, Truth
from growth import Growth, grown
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxinit
from onnxinit.analysis.weight import Weight
from tests.sweep.promises import difference, tensors

_ERRORS = 6  # standard errors that a sample variance may be off: one in 5e8 by chance
_LARGE = 500  # elements from which moments are looked at
_CONSTANT = {"bias": 0.0, "norm_scale": 1.0, "norm_shift": 0.0, "running_mean": 0.0, "running_var": 1.0}


def said_of(growth: Growth, path: Path) -> Iterator[str]:
    """Where an inspection disagrees with the truth."""
    inspection = onnxinit.inspect(path)
    weights = {w.name: w for w in inspection.weights}
    kept = {k.name: k for k in inspection.kept}
    for truth in growth.truths:
        if not truth.role:
            if truth.name in weights:
                yield f"kept: {truth.name} {truth.shape} is taken for {weights[truth.name].role}"
            continue
        weight = weights.pop(truth.name, None)
        if weight is None:
            reason = kept[truth.name].reason if truth.name in kept else "not listed"
            yield f"found: {truth.name}, {truth.role} {truth.shape}: {reason}"
        else:
            yield from _differences(truth, weight)
    for weight in weights.values():
        yield f"found: {weight.name} {weight.shape} is taken for {weight.role}"


def _differences(truth: Truth, weight: Weight) -> Iterator[str]:
    label = f"{truth.name}, {truth.role} {truth.shape}"
    if (weight.role, weight.shape) != (truth.role, truth.shape):
        yield f"role: {label}: said {weight.role} {weight.shape}"
        return
    if truth.fan_in is not None:
        fans = (truth.fan_in, truth.fan_out, truth.groups)
        if fans != (weight.fan_in, weight.fan_out, weight.groups):
            yield f"fans: {label}: {fans}, said {(weight.fan_in, weight.fan_out, weight.groups)}"
        if truth.blocks not in (None, weight.blocks):
            yield f"blocks: {label}: {truth.blocks}, said {weight.blocks}"
    for what, expected, found in (
        ("upstream", truth.upstream, weight.upstream),
        ("downstream", truth.downstream, weight.downstream),
    ):
        if expected is not None and truth.fan_in is not None:
            names = expected - {"linear"} or {"linear"}
            if names != {a.name for a in found}:
                yield f"{what}: {label}: {sorted(names)}, said {[a.name for a in found]}"
    if truth.tied != {tied.rpartition("/")[2] for tied in weight.tied_to}:
        yield f"ties: {label}: {truth.tied}, said {weight.tied_to}"


def written(growth: Growth, path: Path, out: Path, scheme: str) -> Iterator[str]:
    """Where what is written is not what was promised."""
    result = onnxinit.reinit(path, out, scheme=scheme, seed=growth.random.getrandbits(16))
    model, fresh = (onnx.load(str(p), load_external_data=False) for p in (path, out))
    truths = {t.name: t for t in growth.truths if t.role}
    rewritten = [w for w in result.weights if w.name in truths]
    changed = difference(model, fresh, rewritten, (path.parent, out.parent))
    if changed:
        yield f"untouched: {changed}"
    onnx.checker.check_model(str(out))
    if _runs(path, growth.feeds) and not _runs(out, growth.feeds):
        yield "runs: ONNX Runtime runs the input, not the result"
    values = _values(out, {w.path: w for w in result.weights})
    for name, truth in truths.items():
        if name in values:
            yield from _off(truth, values[name], scheme)


def _runs(path: Path, feeds: Mapping[str, Array]) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(feeds))
    except Exception:
        return False
    return True


def _values(path: Path, weights: Mapping[str, Weight]) -> dict[str, npt.NDArray[np.float64]]:
    """The real values of what is written, by name; quantised ones are left out."""
    model = onnx.load(str(path))
    return {
        weights[at].name: onnx.numpy_helper.to_array(tensor).astype(np.float64)
        for at, tensor in tensors(model)
        if at in weights and weights[at].quantised is None and not weights[at].role.startswith("quant")
    }


def _off(truth: Truth, values: npt.NDArray[np.float64], scheme: str) -> Iterator[str]:
    """What the values of a role should be, and are not."""
    label = f"{truth.name}, {truth.role} {truth.shape}"
    if truth.role in _CONSTANT and truth.blocks is None:
        expected = _CONSTANT[truth.role]
        if (truth.role != "bias" and (values != expected).any()) or not np.isin(values, [expected, 1.0]).all():
            yield f"default: {label} is not {expected} everywhere"
    variance = _variance(truth, scheme)
    if variance is None or values.size < _LARGE:
        return
    error = _ERRORS * math.sqrt(2 / values.size)
    if abs(values.var() / variance - 1) > error or abs(values.mean()) > _ERRORS * math.sqrt(variance / values.size):
        yield f"moments: {label}: {values.mean():.4g}, {values.var():.4g} instead of {variance:.4g} ({scheme})"


def _variance(truth: Truth, scheme: str) -> float | None:
    """The variance that a scheme promises; None where it does not say, or the truth is open."""
    if truth.fan_in is None or truth.fan_out is None or truth.role == "recurrent_weight":
        return None
    if truth.role == "embedding":
        return 1 / truth.fan_in
    if scheme == "lecun":
        return 1 / truth.fan_in
    if scheme == "xavier":
        return 2 / (truth.fan_in + truth.fan_out)
    if truth.downstream is None or len(truth.slopes) > 1 or truth.tied:  # tied ones are drawn as the first of them
        return None
    (slope,) = truth.slopes or {0.0}
    return 2 / ((1 + slope**2) * truth.fan_in)


def trouble(random: Random, folder: Path) -> list[str]:
    """All that is wrong with a model that grows at random."""
    growth, model = grown(random)
    path, out = folder / "in" / "model.onnx", folder / "out" / "model.onnx"
    path.parent.mkdir()
    out.parent.mkdir()
    growth.save(model, path)
    onnx.checker.check_model(str(path))
    said = list(said_of(growth, path))
    return said or list(written(growth, path, out, random.choice(["he", "lecun", "xavier"])))


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_every_tensor_is_what_it_was_made_as(random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert trouble(random, Path(folder)) == []
