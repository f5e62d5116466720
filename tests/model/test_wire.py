"""The wire format, checked against protobuf itself."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.errors import ModelError
from onnxinit.model.wire import BytesSource, FileSource, MalformedError, decode_varint, encode_varint, fields


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_varint_round_trip(value: int, before: bytes, after: bytes) -> None:
    code = encode_varint(value)
    assert decode_varint(before + code + after, len(before)) == (value, len(before + code))


@given(st.integers(0, 2**63 - 1))
def test_varint_is_protobufs(value: int) -> None:
    assert onnx.ModelProto(ir_version=value).SerializeToString() == b"\x08" + encode_varint(value)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "cut short"), (b"\x80\x80", "cut short"), (b"\x80" * 10, "more than ten bytes")]
)
def test_bad_varint(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        decode_varint(data, 0)


def test_fields_tile_a_message() -> None:
    group = b"\xfb\x07\x08\x01\xfb\x07\xfc\x07\xfc\x07"  # field 127, a group with a varint and an empty group
    data = onnx.TensorProto(dims=[300, 2], data_type=1, float_data=[1, 2], name="w").SerializeToString() + group
    found = list(fields(data))
    assert [start for _, _, start, _, _ in found] == [0, *(end for *_, end in found)][:-1]
    assert found[-1][-1] == len(data)
    assert [(number, wire) for number, wire, *_ in found] == [(1, 0), (1, 0), (2, 0), (4, 2), (8, 2), (127, 3)]


@pytest.mark.parametrize("tag", [b"\x00", b"\x07\x00", b"\x0e\x00", b"\x0c"])
def test_impossible_tags(tag: bytes) -> None:
    with pytest.raises(MalformedError, match="no field has the tag"):
        list(fields(tag))


def test_group_without_an_end() -> None:
    with pytest.raises(MalformedError, match="cut short"):
        list(fields(b"\x0b\x12\x7f"))


def test_sources_agree(tmp_path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    for source in (BytesSource(b"0123456789"), FileSource(tmp_path / "f")):
        assert source.size == 10
        assert source.read(3, 7) == b"3456"
        assert source.read(5, 5) == b""


def test_a_file_that_shrinks_is_noticed(tmp_path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    source = FileSource(path)
    path.write_bytes(b"0123")
    with pytest.raises(ModelError, match="f: the file became shorter while it was read; try again"):
        source.read(0, 10)
