"""The Python surface, on real files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxinit
from onnxinit.plan import Plan

MODELS = Path(__file__).parent.parent / "models"
RESNET, LSTM, TRANSFORMER = (MODELS / f"{n}.onnx" for n in ("resnet_bn", "bilstm_tagger", "transformer"))


def arrays(model: str | os.PathLike[str] | onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def note(model: onnx.ModelProto) -> dict[str, Any] | None:
    values = [p.value for p in model.metadata_props if p.key == "onnxinit"]
    assert len(values) <= 1
    return json.loads(values[0]) if values else None


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_path_to_a_path(tmp_path: Path) -> None:
    before = sha(RESNET)
    result = onnxinit.reinit(RESNET, tmp_path / "fresh.onnx", scheme="he", seed=7)
    assert (result.path, result.model) == (tmp_path / "fresh.onnx", None)
    assert sha(RESNET) == before
    old, new = arrays(RESNET), arrays(tmp_path / "fresh.onnx")
    assert [w.id for w in result.weights] == [e.id for e in result.plan.entries]
    assert set(old) == {w.name for w in result.weights} | {k.id for k in result.kept} & set(old)
    for entry in result.plan.entries:
        values = new[entry.id].astype(np.float64)
        assert values.shape == entry.shape
        assert entry.std is not None
        assert values.std() == pytest.approx(entry.std, rel=5 / np.sqrt(2 * values.size), abs=1e-12)
    assert result.nbytes == sum(new[w.name].nbytes for w in result.weights)


def test_a_model_in_memory(tmp_path: Path) -> None:
    model = onnx.load(RESNET)
    before = model.SerializeToString()
    result = onnxinit.reinit(model, scheme="he", seed=7)
    assert model.SerializeToString() == before
    assert result.path is None
    assert result.model is not None
    onnxinit.reinit(RESNET, tmp_path / "a.onnx", scheme="he", seed=7)
    onnxinit.reinit(model, tmp_path / "b.onnx", scheme="he", seed=7)
    assert result.model == onnx.load(tmp_path / "a.onnx") == onnx.load(tmp_path / "b.onnx")


def test_without_an_output_it_stands_beside_the_input(tmp_path: Path) -> None:
    for name, expected in [("m.onnx", "m.reinit.onnx"), ("m.model", "m.model.reinit.onnx")]:
        (tmp_path / name).write_bytes(LSTM.read_bytes())
        assert onnxinit.reinit(tmp_path / name).path == tmp_path / expected
        assert (tmp_path / expected).exists()


def test_in_place(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(LSTM.read_bytes())
    assert onnxinit.reinit(str(model), in_place=True).path == model
    assert sha(model) != sha(LSTM)
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("model", [RESNET, LSTM, TRANSFORMER], ids=lambda p: p.stem)
def test_the_same_bytes_for_any_number_of_threads(model: Path, tmp_path: Path) -> None:
    written = []
    for i, threads in enumerate([1, 3, None]):
        out = tmp_path / f"{i}.onnx"
        onnxinit.reinit(model, out, scheme="orthogonal", threads=threads, seed=2)
        written.append(sha(out))
    assert len(set(written)) == 1


def test_a_selection_changes_no_other_byte(tmp_path: Path) -> None:
    onnxinit.reinit(RESNET, tmp_path / "all.onnx", seed=4)
    result = onnxinit.reinit(RESNET, tmp_path / "fc.onnx", seed=4, include="fc.*")
    old, whole, some = arrays(RESNET), arrays(tmp_path / "all.onnx"), arrays(tmp_path / "fc.onnx")
    for name in old:
        expected = whole if name.startswith("fc.") else old
        assert some[name].tobytes() == expected[name].tobytes()
    assert {w.id for w in result.weights} == {"fc.weight", "fc.bias"}


def test_a_random_seed_is_told_and_gives_the_same_again(tmp_path: Path) -> None:
    first = onnxinit.reinit(LSTM, tmp_path / "a.onnx", seed="random", metadata=False)
    other = onnxinit.reinit(LSTM, tmp_path / "b.onnx", seed="random", metadata=False)
    assert first.plan.seed != other.plan.seed
    onnxinit.reinit(LSTM, tmp_path / "c.onnx", seed=first.plan.seed, metadata=False)
    assert sha(tmp_path / "a.onnx") == sha(tmp_path / "c.onnx") != sha(tmp_path / "b.onnx")


def test_no_global_state_is_touched() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].tobytes()  # type: ignore[union-attr]  # noqa: NPY002
    onnxinit.reinit(onnx.load(LSTM), scheme="he")
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[union-attr]  # noqa: NPY002


def test_the_metadata_tells_how_the_weights_were_made(tmp_path: Path) -> None:
    rules = ["role:bias=constant:value=0.01"]
    first = onnxinit.reinit(onnx.load(LSTM), scheme="he:mode=fan_out", seed=9, rules=rules, exclude="embedding*")
    assert first.model is not None
    assert note(first.model) == {
        "version": onnxinit.__version__,
        "stream": 1,
        "arguments": {"scheme": "he:mode=fan_out", "seed": 9, "rules": rules, "exclude": ["embedding*"]},
        "seed": 9,
        "plan": first.plan.digest(),
    }
    again = onnxinit.reinit(first.model)
    assert again.model is not None
    said = note(again.model)
    assert said is not None
    assert (said["arguments"], said["seed"]) == ({}, 0)
    silent = onnxinit.reinit(first.model, metadata=False)
    assert silent.model is not None
    assert note(silent.model) is None


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = onnxinit.reinit(LSTM, tmp_path / "x.onnx", dry_run=True)
    assert (result.path, result.model, os.listdir(tmp_path)) == (None, None, [])
    assert len(result.weights) == 6
    assert onnxinit.reinit(onnx.load(LSTM), dry_run=True).model is None


def test_a_plan_makes_the_same_model_again(tmp_path: Path) -> None:
    first = onnxinit.reinit(LSTM, tmp_path / "a.onnx", scheme="he", seed=5, exclude="tags.bias")
    (tmp_path / "plan.json").write_text(json.dumps(first.plan.to_json()))
    for plan in (first.plan, tmp_path / "plan.json", str(tmp_path / "plan.json")):
        again = onnxinit.reinit(LSTM, tmp_path / "b.onnx", plan=plan, force=True)
        assert sha(tmp_path / "a.onnx") == sha(tmp_path / "b.onnx")
        assert again.plan == first.plan
        assert onnxinit.inspect(LSTM, plan=plan).plan == first.plan


@pytest.mark.parametrize(
    ("given", "what"),
    [({"scheme": "he"}, "scheme"), ({"seed": 0}, "seed"), ({"rules": "*=ones", "include": "x"}, "rules and include")],
)
def test_a_plan_says_it_all(given: dict[str, Any], what: str) -> None:
    plan = Plan(0, 1, ())
    with pytest.raises(onnxinit.SchemeError, match=f"^a plan is given, which says it all: leave out {what}$"):
        onnxinit.reinit(LSTM, plan=plan, dry_run=True, **given)


@pytest.mark.parametrize("seed", ["many", "1.5", ""])
def test_a_seed_that_is_none(seed: str) -> None:
    with pytest.raises(onnxinit.SchemeError, match=rf"^the seed '{seed}' is neither a whole number nor 'random'$"):
        onnxinit.reinit(LSTM, seed=seed, dry_run=True)


@pytest.mark.parametrize("threads", [0, -2])
def test_too_few_threads(threads: int) -> None:
    with pytest.raises(onnxinit.SchemeError, match=f"^{threads} threads cannot draw anything: give at least 1$"):
        onnxinit.reinit(LSTM, threads=threads, dry_run=True)


def test_progress_counts_the_bytes_of_fresh_values(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = onnxinit.reinit(RESNET, tmp_path / "a.onnx", progress=lambda done, total: told.append((done, total)))
    assert [t for _, t in told] == [result.nbytes] * len(told)
    assert told[-1][0] == result.nbytes
    assert [d for d, _ in told] == sorted(d for d, _ in told)


def test_a_model_without_weights_is_no_error(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    result = onnxinit.reinit(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert (result.weights, result.nbytes, result.plan.entries) == ((), 0, ())
    assert onnx.load(tmp_path / "out.onnx").graph == onnx.load(tmp_path / "m.onnx").graph


def test_what_is_rewritten_needs_no_old_values(tmp_path: Path) -> None:
    model, data = tmp_path / "m.onnx", tmp_path / "weights.bin"
    onnx.save(onnx.load(RESNET), model, save_as_external_data=True, location=data.name, size_threshold=0)
    onnxinit.reinit(model, tmp_path / "whole.onnx", seed=1)
    inspected = onnxinit.inspect(model)
    data.unlink()
    assert onnxinit.inspect(model) == inspected
    onnxinit.reinit(model, tmp_path / "alone.onnx", seed=1)
    whole, alone = arrays(tmp_path / "whole.onnx"), arrays(tmp_path / "alone.onnx")
    assert {n: a.tobytes() for n, a in whole.items()} == {n: a.tobytes() for n, a in alone.items()}
    out = tmp_path / "no.onnx"
    with pytest.raises(onnxinit.ModelError, match=r"tensor 'fc.bias' .*, which is kept: .*'weights.bin' is missing"):
        onnxinit.reinit(model, out, exclude="fc.bias")
    assert not out.exists()


@pytest.mark.parametrize("scheme", ["he", "xavier", "orthogonal", "sparse", "auto"])
@pytest.mark.parametrize("model", sorted(MODELS.glob("*.onnx")), ids=lambda p: p.stem)
def test_every_sample_model_runs_with_finite_outputs(model: Path, scheme: str, tmp_path: Path) -> None:
    onnxinit.reinit(model, tmp_path / "m.onnx", scheme=scheme)
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for i in session.get_inputs():
        shape = [n if isinstance(n, int) else 4 for n in i.shape]
        feeds[i.name] = (
            rng.standard_normal(shape).astype(np.float32) if "float" in i.type else rng.integers(0, 9, shape)
        )
    for output in session.run(None, feeds):
        assert np.isfinite(output).all()


def test_inspect_of_a_model_in_memory() -> None:
    found = onnxinit.inspect(onnx.load(LSTM), scheme="he")
    assert found.path == ""
    assert found.weights == onnxinit.inspect(LSTM, scheme="he").weights
    assert found.plan == onnxinit.reinit(LSTM, scheme="he", dry_run=True).plan


INSPECTED_WEIGHT = [
    "id", "name", "scope", "where", "role", "shape", "dtype", "op", "node", "input", "fan_in", "fan_out", "groups",
    "blocks", "upstream", "downstream", "tied_to", "scheme", "gain", "std",
]  # fmt: skip


def test_the_json_of_an_inspection() -> None:
    data = onnxinit.inspect(LSTM, scheme="he", rules=["tags.bias=keep"]).to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == ["format", "model", "weights", "kept", "warnings"]
    assert data["format"] == "onnxinit.inspection/1"
    assert data["model"] == {"path": str(LSTM), "ir_version": 8, "opsets": {"": 17}}
    assert all(list(w) == INSPECTED_WEIGHT for w in data["weights"])
    assert all(list(k) == ["id", "name", "scope", "shape", "dtype", "reason"] for k in data["kept"])
    weights = {w["id"]: w for w in data["weights"]}
    w = weights["lstm.W"]
    assert (w["role"], w["op"], w["input"], w["shape"], w["dtype"]) == (
        "input_weight",
        "LSTM",
        1,
        [2, 128, 24],
        "float",
    )
    assert (w["fan_in"], w["fan_out"], w["blocks"], w["groups"], w["where"]) == (24, 32, 8, 1, "initializer")
    assert (w["scheme"], w["gain"], w["std"]) == ("he", 2**0.5, pytest.approx((2 / 24) ** 0.5))
    bias = weights["tags.bias"]
    assert (bias["scheme"], bias["gain"], bias["std"]) == (None, None, None)


@pytest.mark.usefixtures("own_table")
def test_a_scheme_of_ones_own() -> None:
    @onnxinit.scheme("test_api_mine")
    def mine(block: onnxinit.Block, *, scale: float = 1.0) -> onnxinit.Distribution:
        """Mine."""
        return onnxinit.Distribution.constant(scale * block.fan("fan_in"))

    result = onnxinit.reinit(onnx.load(LSTM), rules=["tags.weight=test_api_mine:scale=2"])
    assert result.model is not None
    assert (arrays(result.model)["tags.weight"] == 128).all()
