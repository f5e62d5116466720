"""Opening: what the skeleton holds, what the tensors are, against the onnx package."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from onnx import helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import ModelFile
from onnxinit.model.skeleton import Skeleton
from onnxinit.model.wire import FileSource

ROOT = Path(__file__).parents[2]
BACKEND = sorted((Path(onnx.__file__).parent / "backend/test/data").glob("**/*.onnx"))
SHARED = [*sorted(ROOT.glob("../shared/corpus/*.onnx")), *sorted(ROOT.glob("../shared/real/*.onnx"))]


def tensors_of(message: Message, path: str = "") -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor of a message with its path: an independent walk, by reflection."""
    if isinstance(message, onnx.TensorProto):
        yield path, message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        step = f"{path}.{descriptor.name}" if path else descriptor.name
        if isinstance(value, Message):
            yield from tensors_of(value, step)
        else:
            for i, item in enumerate(value):
                yield from tensors_of(item, f"{step}[{i}]")


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and (a.tobytes() == b.tobytes() or a.dtype == object)


@pytest.mark.parametrize("path", BACKEND, ids=lambda path: f"{path.parent.name}")
def test_models_that_onnx_ships(path: Path) -> None:
    file = ModelFile.open(path)
    wanted = dict(tensors_of(onnx.load(path)))
    assert set(file.tensors) == set(wanted)
    for place, tensor in wanted.items():
        stored = file.tensors[place]
        assert (stored.name, stored.dims, stored.data_type) == (tensor.name, tuple(tensor.dims), tensor.data_type)
        assert file.has_data(place)
        array = numpy_helper.to_array(tensor)
        assert same(file.array(place), array)
        if array.dtype != object and stored.data_type not in {21, 22, 23, 25, 26, 27, 28}:
            assert stored.nbytes == array.nbytes


@pytest.mark.skipif(not SHARED, reason="the shared models are not there")
def test_shared_models() -> None:
    for path in SHARED:
        file = ModelFile.open(path)
        model = onnx.load(path, load_external_data=False)
        assert list(dict(tensors_of(model)).keys() - file.tensors.keys()) == []
        assert list(file.tensors) == sorted(file.tensors, key=lambda p: file.places[p].span.message.start)


@pytest.mark.parametrize("form", ["raw_data", "typed", "external"])
@pytest.mark.parametrize(
    "data_type", [1, 3, 10, 11, 16, 17, 21, 22]
)  # float, int8, halves, double, float8, uint4, int4
def test_a_run_of_the_elements(form: str, data_type: int, tmp_path: Path) -> None:
    values = np.arange(3000) % 7
    tensor = helper.make_tensor("t", data_type, [30, 100], values)
    if form != "typed":
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "t")
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    external = {"save_as_external_data": True, "location": "d", "size_threshold": 0} if form == "external" else {}
    onnx.save(model, tmp_path / "m.onnx", **external)
    file = ModelFile.open(tmp_path / "m.onnx")
    whole = file.array("graph.initializer[0]").reshape(-1)
    assert whole.astype(float).tolist() == values.tolist()
    for first, count in ((0, 3000), (1, 10), (1000, 501), (2999, 1), (7, 0)):
        assert same(file.array("graph.initializer[0]", (first, count)), whole[first : first + count])


def test_a_run_is_all_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = helper.make_tensor("t", 1, [3000], np.arange(3000.0))
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), tmp_path / "m.onnx")
    file = ModelFile.open(tmp_path / "m.onnx")
    read: list[int] = []
    plain = FileSource.read

    def counted(self: FileSource, start: int, end: int) -> bytes:
        read.append(end - start)
        return plain(self, start, end)

    monkeypatch.setattr(FileSource, "read", counted)
    assert file.array("graph.initializer[0]", (100, 50)).tolist() == list(range(100, 150))
    assert read == [200]


@pytest.mark.parametrize("n", [256, 257])
def test_the_skeleton_lacks_values_above_one_kib(n: int) -> None:
    arrays = [np.ones(n, np.float32), np.ones(3, np.float32)]
    typed = helper.make_tensor("typed", 1, [n], np.ones(n))
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(a, f"t{i}") for i, a in enumerate(arrays)])
    graph.initializer.append(typed)
    model = helper.make_model(graph)
    file = ModelFile.of(model)
    if n == 257:
        model.graph.initializer[0].ClearField("raw_data")
        model.graph.initializer[2].ClearField("float_data")
    assert file.proto == model
    assert [t.storage for t in file.tensors.values()] == ["raw_data", "raw_data", "float_data"]
    assert same(file.array("graph.initializer[2]"), np.ones(n, np.float32))


class Watched:
    """A source that counts what is read."""

    def __init__(self, source: Any) -> None:
        self.source, self.size, self.read_bytes = source, source.size, 0

    def read(self, start: int, end: int) -> bytes:
        self.read_bytes += end - start
        return self.source.read(start, end)


def test_payloads_are_not_read(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.zeros((1 << 20), np.float32), f"w{i}") for i in range(5)]
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], weights)), tmp_path / "m.onnx")
    source = Watched(FileSource(tmp_path / "m.onnx"))
    assert len(Skeleton(source, "m").scan.tensors) == 5
    assert source.read_bytes < 5 * 20_000


@pytest.mark.parametrize(
    ("kind", "dims", "field", "n", "nbytes"),
    [
        ("FLOAT", [2, 3], "float_data", 6, 24),
        ("COMPLEX64", [3], "float_data", 6, 24),
        ("DOUBLE", [3], "double_data", 3, 24),
        ("COMPLEX128", [3], "double_data", 6, 48),
        ("FLOAT16", [5], "int32_data", 5, 10),
        ("BFLOAT16", [5], "int32_data", 5, 10),
        ("INT4", [3, 3], "int32_data", 5, 5),
        ("UINT4", [2, 2], "int32_data", 2, 2),
        ("UINT2", [5], "int32_data", 2, 2),
        ("FLOAT6E2M3", [5], "int32_data", 5, 4),
        ("BOOL", [5], "int32_data", 5, 5),
        ("INT64", [2], "int64_data", 2, 16),
        ("UINT32", [2], "uint64_data", 2, 8),
        ("UINT64", [2], "uint64_data", 2, 16),
        ("FLOAT", [], "float_data", 1, 4),
        ("FLOAT", [0, 3], "float_data", 0, 0),
    ],
)
def test_sizes_of_typed_values(kind: str, dims: list[int], field: str, n: int, nbytes: int) -> None:
    if not hasattr(onnx.TensorProto, kind):
        pytest.skip(f"onnx {onnx.__version__} has no {kind}")
    data_type = getattr(onnx.TensorProto, kind)
    tensor = onnx.TensorProto(name="t", data_type=data_type, dims=dims, **{field: [1] * n})
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    stored = ModelFile.of(model).tensors["graph.initializer[0]"]
    assert (stored.storage, stored.nbytes) == (field if n else "none", nbytes)
    assert same(ModelFile.of(model).array("graph.initializer[0]"), numpy_helper.to_array(tensor))
    getattr(tensor, field).append(1)
    model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(ModelError, match=rf"'t' .* has {n + 1} values in {field}, but its shape needs {n}"):
        ModelFile.of(model)


@pytest.mark.parametrize("fraction", [1, 1 / 3])
@pytest.mark.parametrize("kind", [7, 13, 6, 10])
def test_large_varint_values_are_counted(kind: int, fraction: float) -> None:
    n = 2000
    field = {7: "int64_data", 13: "uint64_data"}.get(kind, "int32_data")
    numbers = [1000 if i < n * fraction else 1 for i in range(n)]  # of two bytes and of one
    tensor = onnx.TensorProto(name="t", data_type=kind, dims=[n], **{field: numbers})
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    assert same(ModelFile.of(model).array("graph.initializer[0]"), numpy_helper.to_array(tensor))
    model.graph.initializer[0].dims[0] = n + 1
    with pytest.raises(ModelError, match=f"has {n} values in {field}, but its shape needs {n + 1}"):
        ModelFile.of(model)


def test_strings_stay_what_they_are() -> None:
    words = [f"word {i}" for i in range(1000)]
    model = helper.make_model(helper.make_graph([], "g", [], [], [helper.make_tensor("s", 8, [1000], words)]))
    file = ModelFile.of(model)
    assert not file.proto.graph.initializer[0].string_data
    assert file.tensors["graph.initializer[0]"].storage == "string_data"
    assert file.array("graph.initializer[0]").tolist() == words
    model.graph.initializer[0].dims[0] = 999
    with pytest.raises(ModelError, match="has 1000 values in string_data, but its shape needs 999"):
        ModelFile.of(model)


def test_a_tensor_without_values(mlp: onnx.ModelProto) -> None:
    mlp.graph.initializer[0].ClearField("raw_data")
    file = ModelFile.of(mlp)
    assert file.tensors["graph.initializer[0]"].storage == "none"
    assert not file.has_data("graph.initializer[0]")
    assert file.has_data("graph.initializer[1]")
    with pytest.raises(ModelError, match=r"the model: tensor 'w1' .* has no values in the file"):
        file.array("graph.initializer[0]")


def test_a_model_of_two_gigabytes_in_memory() -> None:
    def serialize() -> bytes:  # as protobuf does
        raise ValueError("exceeds maximum protobuf size of 2GB")

    with pytest.raises(ModelError, match="2 GB or more; save it with external data and give the path"):
        ModelFile.of(SimpleNamespace(SerializeToString=serialize))  # type: ignore[arg-type]


def test_unknown_element_types_are_left_alone() -> None:
    tensor = onnx.TensorProto(name="t", dims=[3], raw_data=b"12345")
    tensor.MergeFromString(b"\x10\x63")  # data_type 99
    file = ModelFile.of(helper.make_model(helper.make_graph([], "g", [], [], [tensor])))
    assert file.tensors["graph.initializer[0]"].nbytes == 5
    with pytest.raises(ModelError, match=r"type 99 \[3\]\) cannot be read"):
        file.array("graph.initializer[0]")


def test_opening_needs_no_external_data(external_path: Path) -> None:
    os.remove(external_path.parent / "weights.bin")
    file = ModelFile.open(external_path)
    assert [file.has_data(path) for path in file.tensors] == [True, False, False]
    assert [t.storage for t in file.tensors.values()] == ["raw_data", "external", "external"]
