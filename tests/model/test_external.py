"""External data in the output: one file, shared places, entries that survive."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import ModelFile, build, write

W1, B1 = "graph.initializer[0]", "graph.initializer[1]"


def entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def refer(name: str, dims: list[int], kind: int = 1, **values: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=dims, data_type=kind, data_location=1)
    for key, value in values.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(path: Path, *tensors: onnx.TensorProto) -> ModelFile:
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], list(tensors))).SerializeToString())
    return ModelFile.open(path)


def test_external_stays_external(external_path: Path, mlp: onnx.ModelProto, values: Callable[..., Any]) -> None:
    file = ModelFile.open(external_path)
    out = external_path.parent / "sub" / "out.onnx"
    out.parent.mkdir()
    fresh = {W1: values(file, W1)}
    write(file, out, fresh, metadata=None)
    assert sorted(os.listdir(out.parent)) == ["out.onnx", "out.onnx.data"]
    bare = onnx.load(out, load_external_data=False)
    assert entries(bare.graph.initializer[0]) == {"location": "out.onnx.data", "offset": "0", "length": "2400"}
    loaded = onnx.load(out)
    onnx.checker.check_model(str(out))
    assert loaded.graph.initializer[0].raw_data == fresh[W1].raw
    assert loaded.graph.initializer[1].raw_data == mlp.graph.initializer[1].raw_data  # kept, and copied
    assert loaded.graph.node == mlp.graph.node


def test_what_is_rewritten_need_not_be_there(external_path: Path, values: Callable[..., Any]) -> None:
    (external_path.parent / "weights.bin").unlink()
    file = ModelFile.open(external_path)
    out = external_path.parent / "out.onnx"
    write(file, out, {path: values(file, path) for path in (W1, B1)}, metadata=None)
    onnx.checker.check_model(str(out))
    before = sorted(os.listdir(external_path.parent))
    line = r"mlp.onnx: tensor 'b1' \(graph.initializer\[1\], float \[30\]\), which is kept: its external data"
    with pytest.raises(
        ModelError, match=line + " 'weights.bin' is missing or incomplete: No such file or directory; put it there"
    ):
        write(file, external_path.parent / "other.onnx", {W1: values(file, W1)}, metadata=None)
    assert sorted(os.listdir(external_path.parent)) == before


def test_too_short_for_what_is_kept(external_path: Path, values: Callable[..., Any]) -> None:
    data = external_path.parent / "weights.bin"
    os.truncate(data, os.path.getsize(data) - 1)
    file = ModelFile.open(external_path)
    with pytest.raises(ModelError, match=r"tensor 'b1' .* the file has \d+ bytes, \d+ are needed"):
        write(file, external_path.parent / "out.onnx", {W1: values(file, W1)}, metadata=None)


def test_entries_of_any_order_and_key_survive(tmp_path: Path, values: Callable[..., Any]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    old = hashlib.sha1(bytes(8)).hexdigest()
    first = refer("a", [2], custom="c", length="8", checksum=old, location="w.bin", offset="8")
    file = save(tmp_path / "m.onnx", first, refer("b", [3], location="w.bin", checksum=old))
    write(file, tmp_path / "o.onnx", {W1: values(file, W1)}, metadata=None)
    a, b = onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer
    data = (tmp_path / "o.onnx.data").read_bytes()
    assert [entry.key for entry in a.external_data] == ["custom", "length", "checksum", "location", "offset"]
    assert entries(a) == {
        "custom": "c",
        "length": "8",
        "checksum": hashlib.sha1(data[:8]).hexdigest(),
        "location": "o.onnx.data",
        "offset": "0",
    }
    assert data[:8] == values(file, W1).raw
    assert entries(b) == {
        "location": "o.onnx.data",
        "checksum": hashlib.sha1(bytes(12)).hexdigest(),
        "offset": "64",
        "length": "12",
    }


def test_one_place_stays_one_place(tmp_path: Path, values: Callable[..., Any]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(range(64)))
    place = {"location": "w.bin", "offset": "8", "length": "8"}
    file = save(
        tmp_path / "m.onnx",
        refer("a", [2], **place),
        refer("b", [2, 1], **(place | {"location": "./w.bin"})),
        refer("c", [2], **(place | {"offset": "16"})),
    )
    a, b, c = (t.identity for t in file.tensors.values())
    assert a == b != c

    fresh = {path: values(file, path) for path in (W1, B1)}
    assert fresh[W1].raw == fresh[B1].raw
    write(file, tmp_path / "o.onnx", fresh, metadata=None)
    one, two, three = onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer
    assert entries(one) == entries(two) != entries(three)
    assert numpy_helper.to_array(three, str(tmp_path)).tobytes() == bytes(range(16, 24))

    # What is kept keeps its values, whoever it shared them with.
    write(file, tmp_path / "p.onnx", {W1: values(file, W1)}, metadata=None)
    one, two, _ = onnx.load(tmp_path / "p.onnx").graph.initializer
    assert (one.raw_data, two.raw_data) == (values(file, W1).raw, bytes(range(8, 16)))


def test_the_layout_is_aligned_and_the_same_every_time(tmp_path: Path, values: Callable[..., Any]) -> None:
    tensors = [refer(f"t{i}", [n], location="w.bin") for i, n in enumerate((3, 5000, 0, 7, 1024))]
    file = save(tmp_path / "m.onnx", *tensors)
    fresh = {path: values(file, path) for path in file.tensors}
    for name, threads in (("one", 1), ("two", 4)):
        (tmp_path / name).mkdir()
        write(file, tmp_path / name / "o.onnx", fresh, metadata=None, threads=threads)
    for kind in ("o.onnx", "o.onnx.data"):
        assert (tmp_path / "one" / kind).read_bytes() == (tmp_path / "two" / kind).read_bytes()
    initializers = onnx.load(tmp_path / "one" / "o.onnx", load_external_data=False).graph.initializer
    offsets = [int(entries(t)["offset"]) for t in initializers]
    assert offsets == [0, 4096, 24128, 24128, 24576]


def test_old_values_beside_external_ones_go(tmp_path: Path, values: Callable[..., Any]) -> None:
    tensor = refer("a", [2], location="w.bin")
    tensor.raw_data = b"old data"
    file = save(tmp_path / "m.onnx", tensor)
    write(file, tmp_path / "o.onnx", {W1: values(file, W1)}, metadata=None)
    assert b"old data" not in (tmp_path / "o.onnx").read_bytes()


def test_in_memory_external_becomes_embedded(
    external_path: Path, tmp_path: Path, mlp: onnx.ModelProto, values: Callable[..., Any]
) -> None:
    model = onnx.load(external_path, load_external_data=False)
    file = ModelFile.of(model)
    fresh = {W1: values(file, W1)}
    built = build(file, fresh, metadata=None)
    write(file, tmp_path / "o.onnx", fresh, metadata=None)
    assert onnx.load(tmp_path / "o.onnx", load_external_data=False) == built
    first, second = built.graph.initializer
    assert first.raw_data == fresh[W1].raw
    assert not first.external_data and not first.HasField("data_location")
    assert second == model.graph.initializer[1]  # still refers to where it did
    assert onnx.load(tmp_path / "o.onnx").graph.initializer[1].raw_data == mlp.graph.initializer[1].raw_data


def test_too_large_for_protobuf_becomes_external(
    mlp: onnx.ModelProto, tmp_path: Path, monkeypatch: Any, values: Callable[..., Any]
) -> None:
    typed = helper.make_tensor("typed", 1, [1000], [3.0] * 1000)
    half = helper.make_tensor("half", 10, [1000], [3.0] * 1000)
    mlp.graph.initializer.extend([typed, half])
    onnx.save(mlp, tmp_path / "m.onnx")
    file = ModelFile.open(tmp_path / "m.onnx")
    fresh = {path: values(file, path) for path in (W1, B1)}
    monkeypatch.setattr("onnxinit.model.skeleton.PROTOBUF_LIMIT", 4000)
    write(file, tmp_path / "o.onnx", fresh, metadata={"onnxinit": "x"})
    bare = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    assert [t.data_location for t in bare.graph.initializer] == [1, 0, 1, 0]  # int32_data is no raw data: it stays
    onnx.checker.check_model(str(tmp_path / "o.onnx"))
    w1, b1, again, same = onnx.load(tmp_path / "o.onnx").graph.initializer
    assert (w1.raw_data, b1.raw_data) == (fresh[W1].raw, fresh[B1].raw)
    assert numpy_helper.to_array(again).tolist() == [3.0] * 1000
    assert same == half
    assert (os.path.getsize(tmp_path / "o.onnx")) < 4000

    monkeypatch.setattr("onnxinit.model.skeleton.PROTOBUF_LIMIT", 1000)
    with pytest.raises(ModelError, match=r"m.onnx: without its tensors the result has \d+ bytes, more than protobuf"):
        write(file, tmp_path / "p.onnx", fresh, metadata=None)
    assert not (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize("kind", [1, 16, 17, 22, 7])
def test_reading_external_values(kind: int, tmp_path: Path) -> None:
    raw = bytes(range(48, 48 + 24))
    (tmp_path / "w.bin").write_bytes(b"xxxx" + raw)
    n = {1: 6, 16: 12, 17: 24, 22: 47, 7: 3}[kind]
    file = save(tmp_path / "m.onnx", refer("a", [n], kind, location="w.bin", offset="4", length="24"))
    expected = numpy_helper.to_array(onnx.TensorProto(dims=[n], data_type=kind, raw_data=raw))
    got = file.array(W1)
    assert got.dtype == expected.dtype and np.array_equal(got, expected)
