"""Files that cannot be: one line each that says what, where, and what to do."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import ModelFile
from onnxinit.model.scan import DEPTH
from onnxinit.model.skeleton import Skeleton
from onnxinit.model.wire import BytesSource, bytes_head


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        ModelFile.open(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def of(model: onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        ModelFile.of(model)
    return str(caught.value)


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.onnx") == f"{tmp_path}/no.onnx: there is no such file"


def test_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; give the .onnx file in it"


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert refusal(tmp_path / "m.onnx").endswith("m.onnx: is empty; copy or download the model again")


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    assert "m.onnx: is not a regular file" in refusal(tmp_path / "m.onnx")


def test_impossible_name() -> None:
    assert "is no possible file name" in refusal(Path("a\0b"))


def test_unreadable(mlp_path: Path, monkeypatch: Any) -> None:
    if os.geteuid() == 0:  # root may read anything

        def forbidden(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("onnxinit.model.wire.os.open", forbidden)
    mlp_path.chmod(0)
    assert refusal(mlp_path).endswith("mlp.onnx: cannot be read: Permission denied")


def test_a_disk_that_fails(mlp_path: Path, monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("onnxinit.model.wire.os.pread", broken)
    assert refusal(mlp_path).endswith("mlp.onnx: cannot be read: Input/output error")


@pytest.mark.parametrize(
    "data",
    [
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<html><body>404</body></html>",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b'{"a": 1}',
        bytes(10),
        b"\xff" * 100,
    ],
)
def test_not_a_protobuf(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    assert "m.onnx: is not an ONNX model" in refusal(tmp_path / "m.onnx")


def test_a_protobuf_without_a_graph(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    assert refusal(tmp_path / "m.onnx").endswith("has no graph, so it is not an ONNX model")


def test_truncated_anywhere(mlp: onnx.ModelProto, tmp_path: Path) -> None:
    data = mlp.SerializeToString()
    graph = data.index(b"\x3a")  # what is before it is a whole message
    for end in [*range(graph + 1, len(data) - 20, 97), graph + 1, graph + 2]:
        (tmp_path / "m.onnx").write_bytes(data[:end])
        assert "m.onnx: is not an ONNX model, or damaged or cut short (" in refusal(tmp_path / "m.onnx")


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0), bits=st.integers(1, 255), cut=st.integers(0, 60))
def test_any_damage_is_refused_or_read(at: int, bits: int, cut: int) -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model = helper.make_model(helper.make_graph([node], "g", [], [], [tensor]))
    data = bytearray(model.SerializeToString())
    data[at % len(data)] ^= bits
    try:
        Skeleton(BytesSource(bytes(data[: len(data) - cut])), "m")
    except ModelError:
        return


def test_messages_without_end() -> None:
    data = b""
    for _ in range(DEPTH // 3 + 1):
        attribute = bytes_head(6, len(data)) + data
        node = bytes_head(5, len(attribute)) + attribute + bytes(2000).replace(b"\0", b"\x1a\x00")
        data = bytes_head(1, len(node)) + node
    with pytest.raises(ModelError, match=f"more than {DEPTH} messages within each other"):
        Skeleton(BytesSource(bytes_head(7, len(data)) + data), "m")


def test_a_graph_too_large_for_protobuf(mlp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("onnxinit.model.skeleton.PROTOBUF_LIMIT", 100)
    assert re.search(r"mlp.onnx: has \d+ bytes besides its tensors, more than protobuf takes", refusal(mlp_path))


def test_a_large_tensor_with_broken_fields() -> None:
    tensor = onnx.TensorProto(raw_data=bytes(2000)).SerializeToString() + b"\x0a\x05"
    data = bytes_head(5, len(tensor)) + tensor
    with pytest.raises(ModelError, match=r"a field at byte .* ends 5 bytes after its tensor"):
        Skeleton(BytesSource(bytes_head(7, len(data)) + data), "m")


# ---- tensors ------------------------------------------------------------------------------------------------------


def with_tensor(**parts: Any) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], [onnx.TensorProto(name="w", **parts)]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dims": [2, -3], "data_type": 1}, "float [2, -3]) has a negative dimension"),
        ({"dims": [2**40, 2**40], "data_type": 1}, "has dimensions whose product overflows 64 bits"),
        ({"dims": [2**61], "data_type": 11}, "has dimensions whose product overflows 64 bits"),
        ({"dims": [2], "data_type": 1, "raw_data": bytes(7)}, "has 7 bytes of raw_data, but its shape needs 8"),
        (
            {"dims": [600], "data_type": 1, "raw_data": bytes(2404)},
            "has 2404 bytes of raw_data, but its shape needs 2400",
        ),
        (
            {"dims": [600], "data_type": 1, "float_data": [0] * 601},
            "has 601 values in float_data, but its shape needs 600",
        ),
        (
            {"dims": [2], "data_type": 1, "int32_data": [1, 2]},
            "has its values in int32_data, but its type needs float_data",
        ),
        (
            {"dims": [2], "data_type": 8, "raw_data": b"ab"},
            "has its values in raw_data, but its type needs string_data",
        ),
    ],
)
def test_tensors_that_do_not_fit(parts: dict[str, Any], message: str) -> None:
    line = of(with_tensor(**parts))
    assert "the model: tensor 'w' (graph.initializer[0], " in line
    assert message in line


def test_no_elements_need_no_data() -> None:
    ModelFile.of(with_tensor(dims=[0, 2**62, 2**62], data_type=1))


def test_names_must_be_text() -> None:
    model = with_tensor(dims=[1], data_type=1, raw_data=bytes(4))
    data = model.SerializeToString().replace(b"\x42\x01w", b"\x42\x01\xff")
    with pytest.raises(ModelError, match=re.escape("the name of a tensor (graph.initializer[0]) is not UTF-8 text")):
        ModelFile.of(onnx.ModelProto.FromString(data))


def test_names_of_nodes_and_values_must_be_text(mlp: onnx.ModelProto) -> None:
    data = mlp.SerializeToString()
    for old, new in ((b"\x0a\x01h", b"\x0a\x01\xff"), (b"\x22\x04Relu", b"\x22\x04\xff\xfflu")):
        assert old in data
        model = onnx.ModelProto.FromString(data.replace(old, new))
        assert of(model) == "the model: a name in the main graph is not UTF-8 text; export the model again"


# ---- external data ------------------------------------------------------------------------------------------------


def refer(folder: Path, **entries: str) -> Path:
    model = with_tensor(dims=[2], data_type=1, data_location=1)
    for key, value in entries.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "has external data without a location"),
        ({"location": "/etc/passwd"}, "has external data '/etc/passwd' outside the model's folder (an absolute path)"),
        ({"location": "../w.bin"}, "has external data '../w.bin' outside the model's folder"),
        ({"location": "a/../../w.bin"}, "outside the model's folder"),
        ({"location": "a\0b"}, "no possible file name"),
        ({"location": "w", "offset": "-1"}, "has external data whose offset is '-1', not a number of bytes"),
        ({"location": "w", "length": "x"}, "has external data whose length is 'x', not a number of bytes"),
        ({"location": "w", "offset": "9" * 30}, "not a number of bytes"),
        ({"location": "w", "length": "7"}, "has 7 bytes of external data, but its shape needs 8"),
    ],
)
def test_external_data_that_cannot_be(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    line = refusal(refer(tmp_path, **entries))
    assert "m.onnx: tensor 'w' (graph.initializer[0], float [2]) " in line
    assert message in line


def test_a_location_must_be_text(tmp_path: Path) -> None:
    path = refer(tmp_path, location="w.bin")
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"\xff.bin"))
    assert r"has external data b'\xff.bin', no possible file name (not UTF-8 text)" in refusal(path)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_bytes(np.array([1, 2], "<f4").tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").symlink_to("../blobs/1")
    path = refer(tmp_path / "model", location="w.bin")
    assert "allow that place with --external-root DIR" in refusal(path)
    assert "and outside" in refusal(path, external_root=tmp_path / "elsewhere")
    file = ModelFile.open(path, external_root=tmp_path / "blobs")
    assert file.array("graph.initializer[0]").tolist() == [1, 2]


def test_a_linked_model_has_its_data_beside_the_link(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    refer(tmp_path, location="w.bin").rename(tmp_path / "blobs" / "2")
    (tmp_path / "snapshot" / "m.onnx").symlink_to("../blobs/2")
    (tmp_path / "snapshot" / "w.bin").write_bytes(bytes(8))
    assert ModelFile.open(tmp_path / "snapshot" / "m.onnx").has_data("graph.initializer[0]")


def test_an_absolute_path_in_an_allowed_place(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    path = refer(tmp_path, location=str(tmp_path / "w.bin"))
    assert "(an absolute path)" in refusal(path)
    assert ModelFile.open(path, external_root=tmp_path).has_data("graph.initializer[0]")


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("w.bin")
    path = refer(tmp_path, location="w.bin")
    try:
        assert not ModelFile.open(path).has_data("graph.initializer[0]")
    except ModelError as error:  # Python before 3.13 does not resolve it
        assert "no possible file name" in str(error)


def make_short(path: Path) -> None:
    path.write_bytes(bytes(7))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (make_short, "the file has 7 bytes, 8 are needed"),
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
    ],
)
def test_external_data_that_is_not_there(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    make(tmp_path / "w.bin")
    file = ModelFile.open(refer(tmp_path, location="w.bin"))
    assert not file.has_data("graph.initializer[0]")
    line = rf"m.onnx: tensor 'w' \(.*\): its external data 'w.bin' is missing or incomplete: {reason}"
    with pytest.raises(ModelError, match=line):
        file.array("graph.initializer[0]")


def test_external_data_of_a_model_in_memory() -> None:
    model = with_tensor(dims=[2], data_type=1, data_location=1)
    model.graph.initializer[0].external_data.add(key="location", value="../anywhere")
    file = ModelFile.of(model)
    assert not file.has_data("graph.initializer[0]")
    with pytest.raises(ModelError, match="where the file lies is not known, as the model was given in memory"):
        file.array("graph.initializer[0]")
