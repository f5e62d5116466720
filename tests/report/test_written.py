from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from handmade import weight
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxinit
from onnxinit.model import ModelFile
from onnxinit.plan import Entry, Plan
from onnxinit.report import Written, measure
from onnxinit.report.file import report_file
from onnxinit.schemes import Spec

TYPES = {"float": 1, "double": 11, "float16": 10, "bfloat16": 16}


def measured(values: npt.NDArray[np.float64], dtype: str) -> Written:
    tensor = helper.make_tensor("w", TYPES[dtype], values.shape, values.ravel().tolist())
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [replace_name(x, "y")], [tensor])
    w = weight("w", "bias", values.shape, path="graph.initializer[0]", dtype=dtype)
    entry = Entry("w", "bias", values.shape, dtype, Spec.of("normal"), 1.0, 0.5, "w", "bytes", "")
    [written] = measure(ModelFile.of(helper.make_model(graph)), Plan(3, 1, (entry,)), [w])
    return written


def replace_name(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    other = onnx.ValueInfoProto()
    other.CopyFrom(value)
    other.name = name
    return other


@pytest.mark.parametrize("dtype", TYPES)
@given(st.lists(st.floats(-1000, 1000), max_size=20), st.floats(-1000, 1000))
def test_moments_and_digest_are_those_of_the_stored_values(dtype: str, values: list[float], offset: float) -> None:
    found = measured(np.array(values) + offset, dtype)
    stored: npt.NDArray[Any] = numpy_helper.to_array(
        helper.make_tensor("w", TYPES[dtype], [len(values)], (np.array(values) + offset).tolist())
    )
    assert (found.id, found.scheme, found.seed, found.std_asked) == ("w", "normal", 3, 0.5)
    assert found.sha256 == hashlib.sha256(stored.tobytes()).hexdigest()
    if values:
        assert found.mean == pytest.approx(stored.astype(np.float64).mean(), rel=1e-12, abs=1e-12)
        assert found.std == pytest.approx(stored.astype(np.float64).std(), rel=1e-9, abs=1e-12)
    else:
        assert found.mean is found.std is None


def test_large_tensors_are_merged_from_blocks() -> None:
    values = np.random.default_rng(0).standard_normal(600_000) + 1e4
    found = measured(values, "double")
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)


def test_what_was_asked_is_what_was_written(tmp_path: Path) -> None:
    model = Path(__file__).parent.parent.parent / "models" / "mlp_tanh30.onnx"
    result = onnxinit.reinit(model, tmp_path / "m.onnx", scheme="he", seed=1)
    written = measure(ModelFile.open(tmp_path / "m.onnx"), result.plan, result.weights)
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert [w.id for w in written] == [e.id for e in result.plan.entries]
    for w, entry in zip(written, result.plan.entries, strict=True):
        assert w.sha256 == hashlib.sha256(arrays[w.id].tobytes()).hexdigest()
        assert w.std_asked == entry.std
        assert w.std == pytest.approx(entry.std, rel=5 / np.sqrt(2 * arrays[w.id].size), abs=1e-12)
    assert replace(written[0]).to_json() == {
        "id": written[0].id,
        "scheme": "he",
        "seed": 1,
        "std_asked": written[0].std_asked,
        "std": written[0].std,
        "mean": written[0].mean,
        "sha256": written[0].sha256,
    }


def test_a_report_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(ZeroDivisionError), report_file(path):
        assert len(list(tmp_path.iterdir())) == 1
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with report_file(path) as write:
            write(text, {})
        assert path.read_text() == f'"{text}"\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to_as_it_is() -> None:
    with report_file(Path("/dev/null")) as write:
        write({}, {})
    assert Path("/dev/null").is_char_device()


def test_a_report_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    for path, reason in [(tmp_path, "Is a directory"), (tmp_path / "no" / "r.json", "No such file or directory")]:
        with (
            pytest.raises(onnxinit.ModelError, match=rf"^the report {path} cannot be written: {reason}$"),
            report_file(path),
        ):
            pytest.fail("nothing may be done first")


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with report_file(None) as write:
        write({}, {})
    assert list(tmp_path.iterdir()) == []
