"""Writing: only the values change, by comparison of the wire form and by what onnx reads."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxinit.errors import ModelError
from onnxinit.model import Chunk, ModelFile, build, write
from onnxinit.model.wire import bytes_head, decode_varint, fields

PAYLOADS = {4, 5, 6, 7, 9, 10, 11}

# ---- random models ----------------------------------------------------------------------------------------------

BITS = {1: 32, 11: 64, 10: 16, 16: 16, 3: 8, 2: 8, 6: 32, 7: 64, 13: 64, 14: 64, 22: 4}
FIELD = {1: "float_data", 11: "double_data", 7: "int64_data", 13: "uint64_data", 14: "float_data"}
UNKNOWN = st.sampled_from(
    [b"", b"", b"", b"\xf8\x3f\x05", b"\xc2\x3e\x03abc", b"\xfd\x3f\x01\x02\x03\x04", b"\xfb\x3f\x08\x01\xfc\x3f"]
)


@st.composite
def tensors(draw: Any, name: str) -> onnx.TensorProto:
    data_type = draw(st.sampled_from(sorted(BITS)))
    dims = draw(st.lists(st.integers(0, 3), max_size=3) | st.just([300]))
    n = math.prod(dims)
    raw = draw(st.binary(min_size=1, max_size=8))
    nbytes = -(-n * BITS[data_type] // 8)
    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=dims, doc_string=draw(st.text(max_size=3)))
    if draw(st.booleans()):
        tensor.raw_data = (raw * nbytes)[:nbytes]
    else:
        count = {14: 2 * n, 22: nbytes}.get(data_type, n)
        getattr(tensor, FIELD.get(data_type, "int32_data")).extend(raw[i % len(raw)] for i in range(count))
    tensor.MergeFromString(draw(UNKNOWN))
    return tensor


@st.composite
def graphs(draw: Any, prefix: str, depth: int = 0) -> onnx.GraphProto:
    graph = onnx.GraphProto(name=prefix)
    for i in range(draw(st.integers(0, 3))):
        graph.initializer.append(draw(tensors(f"{prefix}.w{i}")))
    for i in range(draw(st.integers(0, 1))):
        indices = helper.make_tensor("", 7, [1], [0])
        graph.sparse_initializer.append(
            onnx.SparseTensorProto(values=draw(tensors(f"{prefix}.s{i}")), indices=indices, dims=[9])
        )
    graph.node.extend(draw(nodes(prefix, depth)))
    for i in range(draw(st.integers(0, 2))):
        graph.value_info.append(helper.make_tensor_value_info(f"{prefix}.v{i}", 1, ["n"]))
    graph.MergeFromString(draw(UNKNOWN))
    return graph


@st.composite
def nodes(draw: Any, prefix: str, depth: int) -> list[onnx.NodeProto]:
    made = []
    for i in range(draw(st.integers(0, 2))):
        here = f"{prefix}.n{i}"
        node = onnx.NodeProto(op_type="Made", domain="test", output=[f"{here}.out"], name=here)
        what = draw(st.sampled_from(["t", "tensors", "sparse", "ints", *(["g", "graphs"] if depth < 2 else [])]))
        attribute = node.attribute.add(name="a")
        if what == "t":
            attribute.t.CopyFrom(draw(tensors("")))
        elif what == "tensors":
            attribute.tensors.extend([draw(tensors("")) for _ in range(2)])
        elif what == "sparse":
            attribute.sparse_tensors.add(values=draw(tensors("")))
        elif what == "g":
            attribute.g.CopyFrom(draw(graphs(here, depth + 1)))
        elif what == "graphs":
            attribute.graphs.append(draw(graphs(here, depth + 1)))
        else:
            attribute.ints.extend([1, 2, 3])
        attribute.MergeFromString(draw(UNKNOWN))
        node.MergeFromString(draw(UNKNOWN))
        made.append(node)
    return made


@st.composite
def models(draw: Any) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=8, graph=draw(graphs("main")))
    model.opset_import.add(version=17)
    for i in range(draw(st.integers(0, 2))):
        function = onnx.FunctionProto(name=f"f{i}", domain="test", node=draw(nodes(f"f{i}", 1)))
        function.attribute_proto.add(name="d").t.CopyFrom(draw(tensors("")))
        model.functions.append(function)
    if draw(st.booleans()):
        model.training_info.add().algorithm.CopyFrom(draw(graphs("train", 1)))
    for key in draw(st.lists(st.sampled_from(["z", "onnxinit", "a"]), max_size=4)):
        model.metadata_props.add(key=key, value=draw(st.text(max_size=4)))
    model.MergeFromString(draw(UNKNOWN))
    return model


# ---- an independent reading of the wire form ----------------------------------------------------------------------


def blanked(data: bytes, kind: Descriptor, fresh: set[str], in_place: set[str], path: str = "") -> list[Any]:
    """The fields of a message, without lengths of messages, values of fresh tensors and metadata entries of ours."""
    out: list[Any] = []
    counts: dict[int, int] = {}
    for number, wire, start, body, end in fields(data):
        about = kind.fields_by_number.get(number)
        if path in fresh and kind.name == "TensorProto" and number in PAYLOADS:
            # Values that were rewritten where they stand keep their place and length, others may move.
            out += [(number, end - body)] if path in in_place else []
        elif about is None or about.message_type is None or wire != 2:
            out.append(data[start:end])
        else:
            index = counts[number] = counts.get(number, -1) + 1
            repeated = hasattr(getattr(kind._concrete_class(), about.name), "add")
            step = f"{about.name}[{index}]" if repeated else about.name
            inner = f"{path}.{step}" if path else step
            if inner.startswith("metadata_props"):
                entry = onnx.StringStringEntryProto.FromString(data[body:end])
                out += [data[start:end]] if entry.key != "onnxinit" else []
            else:
                tag = data[start : decode_varint(data, start)[1]]
                out.append((tag, blanked(data[body:end], about.message_type, fresh, in_place, inner)))
    return out


def values_of(tensor: onnx.TensorProto) -> bytes:
    if tensor.raw_data or not (tensor.float_data or tensor.double_data):
        return tensor.raw_data
    return np.array(tensor.float_data, "<f4").tobytes() or np.array(tensor.double_data, "<f8").tobytes()


def find(model: Any, path: str) -> Any:
    for step in path.split("."):
        name, _, index = step.partition("[")
        model = getattr(model, name)
        model = model[int(index[:-1])] if index else model
    return model


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models(), data=st.data(), keep=st.booleans(), threads=st.sampled_from([1, 3]))
def test_only_the_values_change(
    model: onnx.ModelProto, data: Any, keep: bool, threads: int, tmp_path_factory: Any, values: Callable[..., Any]
) -> None:
    folder = tmp_path_factory.mktemp("m")
    raw = model.SerializeToString()
    (folder / "in.onnx").write_bytes(raw)
    file = ModelFile.open(folder / "in.onnx")
    chosen = data.draw(st.sets(st.sampled_from(sorted(file.tensors)))) if file.tensors else set()
    fresh = {path: values(file, path) for path in chosen}
    metadata = None if keep else {"onnxinit": '{"seed": 0}'}
    write(file, folder / "out.onnx", fresh, metadata=metadata, threads=threads)
    out = (folder / "out.onnx").read_bytes()

    kind = onnx.ModelProto.DESCRIPTOR
    in_place = {p for p in chosen if file.tensors[p].storage in {"raw_data", "float_data", "double_data"}}
    assert blanked(raw, kind, chosen, in_place) == blanked(out, kind, chosen, in_place)

    written = onnx.ModelProto.FromString(out)
    for path in chosen:
        assert values_of(find(written, path)) == fresh[path].raw
        for place in (model, written):
            tensor = find(place, path)
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    entries = [(e.key, e.value) for e in model.metadata_props if e.key != "onnxinit"]
    assert [(e.key, e.value) for e in written.metadata_props if e.key != "onnxinit"] == entries
    assert [e.value for e in written.metadata_props if e.key == "onnxinit"] == ([] if keep else ['{"seed": 0}'])
    model.ClearField("metadata_props")
    written.ClearField("metadata_props")
    assert written.SerializeToString() == model.SerializeToString()

    built = build(file, fresh, metadata=metadata, threads=threads)
    assert built.SerializeToString(deterministic=True) == onnx.ModelProto.FromString(out).SerializeToString(
        deterministic=True
    )
    assert (folder / "in.onnx").read_bytes() == raw


# ---- single cases -------------------------------------------------------------------------------------------------


def one(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], [tensor]), ir_version=8)


def test_nothing_to_do_copies_the_file(mlp_path: Path, tmp_path: Path) -> None:
    write(ModelFile.open(mlp_path), tmp_path / "out.onnx", {}, metadata=None)
    assert (tmp_path / "out.onnx").read_bytes() == mlp_path.read_bytes()


@pytest.mark.parametrize("kind", [10, 16, 21, 2, 6, 7, 12])
def test_values_that_do_not_fit_in_place_become_raw(kind: int, tmp_path: Path, values: Callable[..., Any]) -> None:
    tensor = helper.make_tensor("w", kind, [3, 400], np.ones((3, 400)).tolist())
    assert not tensor.raw_data
    file = ModelFile.of(one(tensor))
    fresh = {"graph.initializer[0]": values(file, "graph.initializer[0]")}
    write(file, tmp_path / "o.onnx", fresh, metadata=None)
    result = onnx.load(tmp_path / "o.onnx").graph.initializer[0]
    assert result.raw_data == fresh["graph.initializer[0]"].raw
    assert not result.int32_data and not result.int64_data and not result.uint64_data
    onnx.checker.check_tensor(result)


def test_a_tensor_without_values_gets_some(mlp: onnx.ModelProto, tmp_path: Path, values: Callable[..., Any]) -> None:
    for tensor in mlp.graph.initializer:
        tensor.ClearField("raw_data")
    file = ModelFile.of(mlp)
    fresh = {path: values(file, path) for path in ("graph.initializer[0]", "graph.initializer[1]")}
    write(file, tmp_path / "o.onnx", fresh, metadata=None)
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"), full_check=True)


def test_values_in_two_fields_leave_nothing_behind(values: Callable[..., Any]) -> None:
    tensor = numpy_helper.from_array(np.ones(300, np.float32), "w")
    tensor.float_data.extend([3.0] * 300)
    file = ModelFile.of(one(tensor))
    assert file.array("graph.initializer[0]").tolist() == [1.0] * 300  # readers take raw_data
    fresh = {"graph.initializer[0]": values(file, "graph.initializer[0]")}
    result = build(file, fresh, metadata=None).graph.initializer[0]
    assert result.raw_data == fresh["graph.initializer[0]"].raw
    assert not result.float_data


HEAD = onnx.TensorProto(name="w", data_type=1, dims=[2]).SerializeToString()
F = np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize(
    "body",
    [
        b"\x25" + F[:4] + b"\x25" + F[4:],  # float_data, not packed
        b"\x22\x04" + F[:4] + b"\x22\x04" + F[4:],  # float_data in two packed parts
        b"\x22\x04" + F[:4] + b"\x10\x01" + b"\x25" + F[4:],  # one packed, one not, not adjacent
        b"\x4a\x08" + b"x" * 8 + b"\x4a\x08" + F,  # raw_data twice: the last counts
        b"\x4a\x88\x80\x00" + F,  # a length with more bytes than it needs
        b"\x22\x00\x4a\x08" + F,  # an empty float_data beside
    ],
    ids=["unpacked", "split", "mixed", "raw twice", "long length", "empty field"],
)
def test_unusual_values(body: bytes, tmp_path: Path, values: Callable[..., Any]) -> None:
    graph = b"\x2a" + bytes([len(HEAD + body)]) + HEAD + body
    raw = b"\x08\x08\x3a" + bytes([len(graph)]) + graph
    model = onnx.ModelProto.FromString(raw)
    (tmp_path / "m.onnx").write_bytes(raw)
    file = ModelFile.open(tmp_path / "m.onnx")
    path = "graph.initializer[0]"
    assert file.array(path).tolist() == numpy_helper.to_array(model.graph.initializer[0]).tolist() == [1, 2]
    fresh = {path: values(file, path)}
    result = build(file, fresh, metadata=None)
    assert values_of(result.graph.initializer[0]) == fresh[path].raw
    assert numpy_helper.to_array(result.graph.initializer[0]).shape == (2,)


def parts(model: onnx.ModelProto) -> dict[str, bytes]:
    """The same model, with a message in two parts."""
    graph, node = onnx.GraphProto(), onnx.NodeProto()
    graph.CopyFrom(model.graph)
    first, second = onnx.GraphProto(name=graph.name), onnx.GraphProto()
    second.CopyFrom(graph)
    second.ClearField("name")
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    whole = rest.SerializeToString()
    split_graph = (
        whole + onnx.ModelProto(graph=first).SerializeToString() + onnx.ModelProto(graph=second).SerializeToString()
    )
    node.CopyFrom(model.graph.node[2])
    tensor = node.attribute[0].t
    halves = onnx.TensorProto(dims=tensor.dims), onnx.TensorProto(data_type=tensor.data_type, raw_data=tensor.raw_data)
    attribute = onnx.AttributeProto(name="value", type=4).SerializeToString()
    attribute += b"".join(onnx.AttributeProto(t=half).SerializeToString() for half in halves)
    node.ClearField("attribute")
    code = node.SerializeToString() + b"\x2a" + bytes([len(attribute)]) + attribute
    del graph.node[2]
    later = onnx.ModelProto(graph=graph).SerializeToString()
    body = later[len(later) - len(graph.SerializeToString()) :] + b"\x0a" + bytes([len(code)]) + code
    return {"graph": split_graph, "t": whole + bytes_head(7, len(body)) + body}


@pytest.mark.parametrize("which", ["graph", "t"])
def test_messages_in_two_parts(which: str, mlp: onnx.ModelProto, tmp_path: Path, values: Callable[..., Any]) -> None:
    raw = parts(mlp)[which]
    (tmp_path / "m.onnx").write_bytes(raw)
    same = onnx.load(tmp_path / "m.onnx")
    assert sorted(n.op_type for n in same.graph.node) == sorted(n.op_type for n in mlp.graph.node)
    file = ModelFile.open(tmp_path / "m.onnx")
    fresh = {path: values(file, path) for path in ("graph.initializer[0]", "graph.initializer[1]")}
    write(file, tmp_path / "o.onnx", fresh, metadata=None)
    result = onnx.load(tmp_path / "o.onnx")
    for path in fresh:
        assert find(result, path).raw_data == fresh[path].raw
        find(same, path).raw_data = fresh[path].raw
    assert result == same


def test_a_large_model_in_two_parts(mlp: onnx.ModelProto, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(parts(mlp)["graph"])
    monkeypatch.setattr("onnxinit.model.skeleton.PROTOBUF_LIMIT", 100)
    with pytest.raises(ModelError, match=r"m\.onnx: gives ModelProto\.graph in two parts and is too large to merge"):
        ModelFile.open(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("there", "metadata", "expected"),
    [
        ([], {"onnxinit": "new"}, ["onnxinit=new"]),
        (["b", "a"], {"onnxinit": "new"}, ["b=0", "a=1", "onnxinit=new"]),
        (["b", "onnxinit", "a", "onnxinit", "b"], {"onnxinit": "new"}, ["b=0", "onnxinit=new", "a=2", "b=4"]),
        (["b", "onnxinit", "a"], None, ["b=0", "a=2"]),
        (["b", "a"], {"a": "x", "onnxinit": "y"}, ["b=0", "a=x", "onnxinit=y"]),
    ],
)
def test_metadata(there: list[str], metadata: Any, expected: list[str], mlp: onnx.ModelProto) -> None:
    for i, key in enumerate(there):
        mlp.metadata_props.add(key=key, value=str(i))
    result = build(ModelFile.of(mlp), {}, metadata=metadata)
    assert [f"{e.key}={e.value}" for e in result.metadata_props] == expected


def test_fresh_values_of_the_wrong_size_are_refused(mlp: onnx.ModelProto, values: Callable[..., Any]) -> None:
    file = ModelFile.of(mlp)
    fresh = values(file, "graph.initializer[1]")
    with pytest.raises(ValueError, match="has 2400 bytes, its fresh values 120"):
        build(file, {"graph.initializer[0]": fresh}, metadata=None)


class Bad:
    """Chunks that do not tile the tensor."""

    def __init__(self, nbytes: int, chunks: list[Any]) -> None:
        self.nbytes, self._chunks = nbytes, chunks

    def chunks(self) -> Any:
        return iter(self._chunks)


@pytest.mark.parametrize(
    ("offset", "announced", "made", "message"),
    [
        (0, 119, 119, "have 119 of 120 bytes"),
        (1, 120, 120, "lies outside"),
        (0, 120, 119, "made 119 bytes, 120 were announced"),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_must_tile(
    offset: int, announced: int, made: int, message: str, threads: int, mlp: onnx.ModelProto
) -> None:
    bad = Bad(120, [Chunk(offset, announced, lambda: bytes(made))])
    with pytest.raises(ValueError, match=message):
        build(ModelFile.of(mlp), {"graph.initializer[1]": bad}, metadata=None, threads=threads)


def test_progress_counts_fresh_bytes(mlp_path: Path, tmp_path: Path, values: Callable[..., Any]) -> None:
    file = ModelFile.open(mlp_path)
    fresh = {path: values(file, path) for path in ("graph.initializer[0]", "graph.initializer[1]")}
    for threads in (1, 2):
        seen: list[int] = []
        write(file, tmp_path / "o", fresh, metadata=None, threads=threads, force=True, progress=seen.append)
        assert sum(seen) == 2400 + 120


def test_too_large_for_memory(mlp: onnx.ModelProto, monkeypatch: Any) -> None:
    file = ModelFile.of(mlp)
    monkeypatch.setattr("onnxinit.model.skeleton.PROTOBUF_LIMIT", 100)
    with pytest.raises(ModelError, match=r"would have \d+ bytes, more than protobuf takes; write it to a file"):
        build(file, {}, metadata=None)
