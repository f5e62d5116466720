"""Predicted and measured standard deviations of layers: `python benchmarks/moments.py FOLDER`.

Every model of a folder gets fresh weights by a scheme (analytic if not given) with several seeds, each time on another
feed of standard normal values, and runs in ONNX Runtime. The output of every layer, before its bias where that is
apart, is compared with what the moments by rule predict: the standard deviation over all elements and seeds. Narrow
layers differ from draw to draw: seeds are added until nine standard errors in ten are below 3 %, or `--most` are drawn.

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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from onnx import helper, numpy_helper

from onnxinit.analysis import Analysis, analyse
from onnxinit.model import ModelFile, build
from onnxinit.plan import Plan, make_plan
from onnxinit.signal.moments import Prediction, Predictions, analytic, predict
from onnxinit.values import fresh

RECURRENT = ("LSTM", "GRU", "RNN")
CLOSE = 0.10
SHARP = 0.03


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
    inputs: list[dict[str, Any]], seeds: int, most: int,
) -> dict[str, Tally]:  # fmt: skip
    wanted = list(layer_nodes(model, predictions))
    names = sorted({name for _, fetch, _ in wanted for name in fetch})
    fed = {i.name for i in model.graph.input}
    tallies: dict[str, Tally] = {}
    for seed in range(most):
        errors = sorted(t.error for t in tallies.values())
        if seed >= seeds and seed % 4 == 0 and errors[: max(1, len(errors) * 9 // 10)][-1] < SHARP:
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


def compare(
    path: Path, folder: Path, scratch: Path, scheme: str, seeds: int, most: int
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
    plan, _ = analytic(make_plan(analysis, scheme=scheme), analysis)
    predictions = predict(plan, analysis)
    if predictions.without_rule:
        print(f"  without a rule: {dict(predictions.without_rule)}")
    if predictions.unreached:
        print(f"  not reached: {', '.join(predictions.unreached[:4])} ({len(predictions.unreached)})")
    tallies = measure(model, analysis, file, plan, predictions, inputs, seeds, most)
    return [(p, tallies.get(p.id)) for p in predictions.layers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scheme", default="analytic")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=["*"], help="globs on the names of the models")
    parser.add_argument("--all", action="store_true", help="print every layer, not those alone that are further off")
    args = parser.parse_args()
    total = close = unmeasured = 0
    rows: list[tuple[str, int, int]] = []
    for path in sorted({p for only in args.only for p in args.folder.glob(f"{only}.onnx")}):
        with tempfile.TemporaryDirectory() as scratch:
            print(path.stem, flush=True)
            try:
                found = compare(path, args.folder, Path(scratch), args.scheme, args.seeds, args.most)
            except Exception as e:  # whatever a model does; the list goes on
                print(f"  failed: {type(e).__name__}: {str(e)[:300]}")
                continue
        measured = [(p, t) for p, t in found if t is not None and t.std > 0.0]
        unmeasured += len(found) - len(measured)
        good = 0
        for p, t in measured:
            off = p.std / t.std - 1.0
            good += abs(off) <= CLOSE
            if args.all or abs(off) > CLOSE:
                print(
                    f"  {p.id:56} {p.op:12} predicted {p.std:8.4f} measured {t.std:8.4f} {off:+7.1%} (+-{t.error:.1%})"
                )
        rows.append((path.stem, good, len(measured)))
        total, close = total + len(measured), close + good
    print(f"\nwithin {CLOSE:.0%}, scheme {args.scheme}, {args.seeds} to {args.most} seeds")
    for name, good, count in rows:
        if good < 0.9 * count:
            print(f"  {name:40} {good:4} of {count:4}")
    print(
        f"{sum(good >= 0.9 * count for _, good, count in rows)} of {len(rows)} models have 90 % of their layers within"
    )
    print(f"{close} of {total} layers ({close / max(1, total):.1%}); {unmeasured} could not be measured")


if __name__ == "__main__":
    main()
