"""Predicted and measured standard deviations of layers: `python benchmarks/moments.py FOLDER`.

Every model of a folder gets fresh weights by a scheme (analytic if not given) with several seeds, each time on another
feed of standard normal values, and runs in ONNX Runtime. The output of every layer, before its bias where that is
apart, is compared with what the moments by rule predict: the standard deviation over all elements and seeds. Narrow
layers differ from draw to draw: seeds are added until nine standard errors in ten are below 3 %, or `--most` are drawn,
or `--seconds` are over. A layer whose own standard error is above 5 % then is not told from one that is right, and is
counted apart whether it is near the prediction or not; of few draws of a heavy tail the error is an underestimate.

The rules are the same for kernels of every base. Independent weights (`--scheme analytic`) let a layer of few taps vary
from draw to draw, and a deep network multiplies that up; orthogonal ones (`--scheme analytic:base=orthogonal`) hardly
do, and test the same rules with a fraction of the noise. Deviations of a draw still add up along a deep network without
norms. `--stepwise` leaves them out: it asks for each layer's std where all layers before it have the std predicted.

FOLDER holds `NAME.onnx` with `NAME.truth.json`, whose `inputs` say what to feed, and `materialize.py`, which writes the
data that the files refer to; without them, feeds are made from the types of the inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from onnx import helper, numpy_helper

from onnxinit import reinit
from onnxinit.analysis import Analysis, analyse
from onnxinit.model import ModelFile, build
from onnxinit.plan import Plan, make_plan
from onnxinit.schemes import parse_spec
from onnxinit.signal.moments import Prediction, Predictions, analytic, predict
from onnxinit.values import fresh

RECURRENT = ("LSTM", "GRU", "RNN")
CLOSE = 0.10
SHARP = 0.03
BLUNT = 0.05


@dataclass
class Tally:
    """Sums over the elements of an output, seed by seed."""

    means: list[float]
    squares: list[float]

    @property
    def std(self) -> float:
        """Of all elements of all seeds together."""
        return math.sqrt(max(0.0, float(np.mean(self.squares)) - float(np.mean(self.means)) ** 2))

    @property
    def error(self) -> float:
        """The relative standard error of the std, from how the seeds differ."""
        if len(self.squares) < 2 or not np.mean(self.squares):
            return 0.0
        return float(np.std(self.squares, ddof=1) / np.mean(self.squares) / math.sqrt(len(self.squares)) / 2)


@dataclass
class Row:
    """How many layers of a model are measured, close, told sharply, both, and cannot be measured."""

    model: str
    measured: int = 0
    close: int = 0
    sharp: int = 0
    both: int = 0
    missing: int = 0


def load(path: Path, folder: Path, scratch: Path) -> onnx.ModelProto:
    if (folder / "materialize.py").exists():
        command = [sys.executable, str(folder / "materialize.py"), "--out", str(scratch), "--single", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        path = scratch / path.name
    model = onnx.load(str(path))
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def inputs_of(model: onnx.ModelProto, truth: dict[str, Any] | None) -> list[dict[str, Any]]:
    if truth is not None:
        return list(truth["inputs"])
    stored = {t.name for t in model.graph.initializer}
    found = []
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [d.dim_value or (4 if i == 0 else 16) for i, d in enumerate(kind.shape.dim)]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        if info.name not in stored:
            found.append({"name": info.name, "dtype": dtype, "shape": shape, "low": 0, "high": 2})
    return found


def feed(inputs: list[dict[str, Any]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for one in inputs:
        kind, shape = np.dtype(one["dtype"]), one["shape"]
        if one.get("ones"):
            made[one["name"]] = np.ones(shape, kind)
        elif kind.kind in "iu":
            made[one["name"]] = rng.integers(one.get("low", 0), one.get("high", 2), shape, dtype=kind)
        elif kind.kind == "b":
            made[one["name"]] = np.ones(shape, kind)
        else:
            made[one["name"]] = rng.standard_normal(shape).astype(kind)
    return made


def fix_shapes(model: onnx.ModelProto, inputs: list[dict[str, Any]]) -> None:
    """Tell the graph the lengths that it is fed with."""
    shapes = {one["name"]: one["shape"] for one in inputs}
    for info in model.graph.input:
        for d, n in zip(info.type.tensor_type.shape.dim, shapes.get(info.name, ()), strict=False):
            d.dim_value = n
    del model.graph.value_info[:]
    for info in model.graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")


def layer_nodes(model: onnx.ModelProto, predictions: Predictions) -> Iterator[tuple[Prediction, list[str], Any]]:
    """Of every layer that can be measured the values to fetch, and its node for those that need arithmetic."""
    made = {o for n in model.graph.node for o in n.output}
    by_name = {n.name: n for n in model.graph.node if n.name}
    for p in predictions.layers:
        node = by_name.get(p.node)
        if p.output in made:
            yield p, [p.output], None
        elif node is not None and p.op in (*RECURRENT, "Attention", "FusedConv", "FusedGemm"):
            yield p, [node.input[0]], node


def by_hand(node: Any, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray | None:
    """The output of a layer inside an operator, before bias and function."""
    w = weights.get(node.input[1])
    if w is None:
        return None
    if node.op_type in RECURRENT:
        return np.einsum("tbi,dgi->dtbg", x, w)
    if node.op_type == "Attention":
        return x @ w
    if node.op_type == "FusedConv":
        kept = [a for a in node.attribute if not a.name.startswith("activation")]
        one = helper.make_node("Conv", ["x", "w"], ["y"])
        one.attribute.extend(kept)
        info = helper.make_tensor_value_info
        graph = helper.make_graph([one], "g", [info("x", 1, x.shape), info("w", 1, w.shape)], [info("y", 1, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x, "w": w})[0]
    return None


def measure(
    model: onnx.ModelProto, analysis: Analysis, file: ModelFile, plan: Plan, predictions: Predictions,
    inputs: list[dict[str, Any]], seeds: int, most: int, seconds: float,
) -> dict[str, Tally]:  # fmt: skip
    wanted = list(layer_nodes(model, predictions))
    names = sorted({name for _, fetch, _ in wanted for name in fetch})
    fed = {i.name for i in model.graph.input}
    tallies: dict[str, Tally] = {}
    begun = time.monotonic()
    for seed in range(most):
        errors = sorted(t.error for t in tallies.values())
        sharp = seed % 4 == 0 and bool(errors) and errors[: max(1, len(errors) * 9 // 10)][-1] < SHARP
        if seed >= seeds and (sharp or time.monotonic() - begun > seconds):
            break
        drawn = build(file, fresh(replace(plan, seed=seed), analysis, file.array), metadata=None)
        weights = {}
        if any(node is not None for *_, node in wanted):
            weights = {t.name: numpy_helper.to_array(t) for t in drawn.graph.initializer}
        del drawn.graph.output[:]
        fetched = [n for n in names if n not in fed]
        if not fetched and not names:
            break
        drawn.graph.output.extend(onnx.ValueInfoProto(name=n) for n in fetched)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = ort.InferenceSession(drawn.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = feed(inputs, seed)
        values = dict(zip(fetched, session.run(fetched, given), strict=True)) | given
        for p, fetch, node in wanted:
            y = values[fetch[0]] if node is None else by_hand(node, values[fetch[0]], weights)
            if y is None or not y.size:
                continue
            y = np.asarray(y, np.float64)
            tally = tallies.setdefault(p.id, Tally([], []))
            tally.means.append(float(y.mean()))
            tally.squares.append(float((y * y).mean()))
    return tallies


def stepwise(
    model: onnx.ModelProto, plan: Plan, settled: Predictions, base: str, inputs: list[dict[str, Any]],
    seeds: int, most: int, seconds: float,
) -> dict[str, Tally]:  # fmt: skip
    """What a layer's std would be with the plan's gain, were those of all layers before it what is predicted.

    On each draw, LSUV finds the gains that make them so; the std is the plan's gain over the one that it finds. Weights
    whose gain does not matter, since the graph normalises them, are left to their base, and not measured.
    """
    free = [f"{p.id}={base}" for p in settled.layers if p.note]
    asked = {p.id for p in settled.layers if not p.note}
    given = {e.id: e for e in plan.entries}
    tallies: dict[str, Tally] = {}
    begun = time.monotonic()
    for seed in range(most):
        errors = sorted(t.error for t in tallies.values())
        if seed >= seeds and (
            errors[: max(1, len(errors) * 9 // 10)][-1] < SHARP or time.monotonic() - begun > seconds
        ):
            break
        found = reinit(
            model, scheme=f"lsuv:base={base}", rules=free, seed=seed, data=feed(inputs, seed), recalibrate_norm=False
        )
        fine = {f.id for f in found.signal.layers if f.status == "set"} if found.signal is not None else set()
        for entry in found.plan.entries:
            gain = given[entry.id].gain
            if entry.id in asked & fine and isinstance(entry.gain, float) and isinstance(gain, float) and entry.gain:
                tally = tallies.setdefault(entry.id, Tally([], []))
                tally.means.append(0.0)
                tally.squares.append((gain / entry.gain) ** 2)
    return tallies


def compare(
    path: Path, folder: Path, scratch: Path, scheme: str, seeds: int, most: int, seconds: float, steps: bool
) -> list[tuple[Prediction, Tally | None]]:
    truth = path.with_suffix("").with_suffix(".truth.json") if path.suffix == ".onnx" else None
    held = json.loads(truth.read_text()) if truth is not None and truth.exists() else None
    model = load(path, folder, scratch)
    inputs = inputs_of(model, held)
    fix_shapes(model, inputs)
    file = ModelFile.of(model)
    analysis = analyse(file)
    if held is None:  # tokens of every row
        rows = [int(w.fan_out) for w in analysis.weights if w.role == "embedding" and w.fan_out]
        inputs = [one | {"high": min(rows)} if rows and one["dtype"].startswith("int") else one for one in inputs]
    plan, settled = analytic(make_plan(analysis, scheme=scheme), analysis)
    predictions = predict(plan, analysis)
    if predictions.without_rule:
        print(f"  without a rule: {dict(predictions.without_rule)}")
    if predictions.unreached:
        print(f"  not reached: {', '.join(predictions.unreached[:4])} ({len(predictions.unreached)})")
    if steps:
        base = str(dict(parse_spec(scheme).values)["base"])
        tallies = stepwise(model, plan, settled, base, inputs, seeds, most, seconds)
        return [(p, tallies.get(p.id)) for p in predictions.layers]
    tallies = measure(model, analysis, file, plan, predictions, inputs, seeds, most, seconds)
    return [(p, tallies.get(p.id)) for p in predictions.layers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scheme", default="analytic")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0, help="a model, beyond --seeds")
    parser.add_argument("--stepwise", action="store_true", help="each layer behind layers of unit variance")
    parser.add_argument("--only", nargs="*", default=["*"], help="globs on the names of the models")
    parser.add_argument("--all", action="store_true", help="print every layer, not those alone that are further off")
    parser.add_argument("--json", type=Path, help="where to append a line for every layer")
    args = parser.parse_args()
    rows: list[Row] = []
    for path in sorted({p for only in args.only for p in args.folder.glob(f"{only}.onnx")}):
        with tempfile.TemporaryDirectory() as scratch:
            print(path.stem, flush=True)
            try:
                how = args.scheme, args.seeds, args.most, args.seconds, args.stepwise
                found = compare(path, args.folder, Path(scratch), *how)
            except Exception as e:  # whatever a model does; the list goes on
                print(f"  failed: {type(e).__name__}: {str(e)[:300]}")
                continue
        rows.append(told(path.stem, found, show_all=args.all))
        if args.json is not None:
            with args.json.open("a") as f:
                f.writelines(line(path.stem, p, t) for p, t in found)
    report(rows, f"scheme {args.scheme}, {args.seeds} to {args.most} seeds")


def line(model: str, p: Prediction, t: Tally | None) -> str:
    held = {"model": model, "id": p.id, "op": p.op, "predicted": p.std, "note": p.note}
    if t is not None:
        held |= {"measured": t.std, "error": t.error, "seeds": len(t.squares)}
    return json.dumps(held) + "\n"


def told(model: str, found: list[tuple[Prediction, Tally | None]], *, show_all: bool) -> Row:
    """Count the layers of a model; prints those that are further off."""
    row = Row(model)
    for p, t in found:
        if t is None or not t.std > 0.0:
            row.missing += 1
            continue
        off = p.std / t.std - 1.0
        near, sharp = abs(off) <= CLOSE, t.error <= BLUNT
        row.measured, row.close = row.measured + 1, row.close + near
        row.sharp, row.both = row.sharp + sharp, row.both + (near and sharp)
        if show_all or not near:
            print(f"  {p.id:56} {p.op:12} predicted {p.std:8.4f} measured {t.std:8.4f} {off:+7.1%} (+-{t.error:.1%})")
    return row


def report(rows: list[Row], how: str) -> None:
    """The figures, and the models with fewer than nine layers in ten close."""
    print(f"\nwithin {CLOSE:.0%}, {how}")
    for row in rows:
        if row.both < 0.9 * row.sharp:
            print(f"  {row.model:40} {row.both:4} of {row.sharp:4} told sharply, {row.measured} measured")
    good = sum(row.both >= 0.9 * row.sharp for row in rows)
    print(f"{good} of {len(rows)} models have 90 % of their layers within, of those told sharply")
    measured, close = sum(row.measured for row in rows), sum(row.close for row in rows)
    sharp, both = sum(row.sharp for row in rows), sum(row.both for row in rows)
    print(f"{both} of {sharp} layers told sharply ({both / max(1, sharp):.1%})")
    print(f"{close} of all {measured} layers ({close / max(1, measured):.1%})")
    print(f"{sum(row.missing for row in rows)} could not be measured")


if __name__ == "__main__":
    main()
