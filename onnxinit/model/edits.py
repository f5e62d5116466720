"""What must change in a file so that it holds fresh values: the edits of each tensor, and the external data file."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import onnx

from onnxinit.model.external import Region
from onnxinit.model.file import ModelFile, Place
from onnxinit.model.scan import SMALL
from onnxinit.model.splice import Edit, Hole, Segment
from onnxinit.model.tensor import LISTS, StoredTensor
from onnxinit.model.wire import bytes_head, fields

METADATA_KEY = "onnxinit"

# Field numbers.
_RAW_DATA, _EXTERNAL_DATA, _METADATA_PROPS = 9, 13, 14
_IS_EXTERNAL = b"\x70\x01"  # data_location: EXTERNAL

_IN_PLACE = {"raw_data", "float_data", "double_data", *LISTS}  # packed, these are the raw bytes of their types
_LIST, _NUMBER = 7, b"\x15"  # AttributeProto: floats, packed, and the tag of f
_PAGE, _LINE = 4096, 64


@dataclass(slots=True)
class DataFile:
    """The external data file of a model to be written.

    Attributes:
        name: Its name, beside the model.
        segments: What it holds, in order.
        of: The segment of every tensor that has its values there, by path.
        size: Bytes of the file.
        sums: Checksums by position, for those who state one.
    """

    name: str
    segments: list[Segment] = field(default_factory=list)
    of: dict[str, Segment] = field(default_factory=dict)
    size: int = 0
    sums: dict[int, str] = field(default_factory=dict)


def data_file(file: ModelFile, fresh: Container[str], name: str, *, spill: bool) -> DataFile:
    """Lay out the external data file: one region for each place of the old files, in the order of the model.

    Large regions start at a page, so that they can be mapped, others at a cache line.

    Args:
        file: The model.
        fresh: Paths of the tensors that get fresh values.
        name: Name of the data file.
        spill: Whether embedded tensors above 1 KiB become external, too.
    """
    data = DataFile(name)
    regions: dict[tuple[object, ...], Segment] = {}
    for path, tensor in file.tensors.items():
        content = _external_content(tensor, file.places[path], path in fresh, spill)
        if content is None:
            continue
        # A kept and a fresh tensor that shared a place part here.
        key = (path in fresh, *tensor.identity)
        if key not in regions:
            step = _PAGE if tensor.nbytes >= _PAGE else _LINE
            at = -(-data.size // step) * step
            regions[key] = Segment(at, tensor.nbytes, content)
            data.segments.append(regions[key])
            data.size = at + tensor.nbytes
        data.of[path] = regions[key]
    return data


def _external_content(tensor: StoredTensor, place: Place, fresh: bool, spill: bool) -> int | Hole | Region | None:
    """What the data file holds for a tensor; None where it has nothing to do with the data file."""
    hole = Hole(tensor.path, tensor.nbytes)
    if place.region is not None and place.region.file is not None:
        return hole if fresh else place.region
    if not spill or tensor.nbytes <= SMALL or tensor.storage in LISTS:
        return None
    if fresh:
        return hole
    return place.span.runs[0].body if is_raw(tensor, place) else None


def is_raw(tensor: StoredTensor, place: Place) -> bool:
    """Whether the raw bytes of a tensor lie in the file as they are, in one piece."""
    runs = place.span.runs
    return tensor.storage in _IN_PLACE and len(runs) == runs[0].pieces == 1 and runs[0].nbytes == tensor.nbytes


def model_edits(
    file: ModelFile, fresh: Container[str], data: DataFile, metadata: Mapping[str, str] | None
) -> list[Edit]:
    """The edits that turn the old model file into the new one."""
    edits = _metadata_edits(file, metadata)
    for path, tensor in file.tensors.items():
        place, slot = file.places[path], data.of.get(path)
        if slot is not None:
            edits += _refer(file, place, data, slot)
            edits += _without_values(place) if path in fresh or place.region is None else []
        elif path in fresh and tensor.nbytes:
            edits += _embed(tensor, place)
    return edits


def _without_values(place: Place) -> list[Edit]:
    return [Edit(place.span.message, run.start, run.end) for run in place.span.runs]


def _embed(tensor: StoredTensor, place: Place) -> list[Edit]:
    """Make room for the raw bytes in the file: where the old ones are if they fit, else in a raw_data field."""
    span, hole = place.span, Hole(tensor.path, tensor.nbytes)
    if is_raw(tensor, place):
        return [Edit(span.message, span.runs[0].body, span.runs[0].end, (hole,))]
    heads = {"floats": bytes_head(_LIST, tensor.nbytes), "f": _NUMBER}
    raw = (heads.get(tensor.storage) or bytes_head(_RAW_DATA, tensor.nbytes), hole)
    edits = _without_values(place)
    if edits:
        edits[0] = Edit(span.message, edits[0].start, edits[0].end, raw)
    else:
        edits = [Edit(span.message, span.message.end, span.message.end, raw)]
    if place.region is not None:
        edits += [Edit(span.message, start, end) for start, end in span.external]
    return edits


def _refer(file: ModelFile, place: Place, data: DataFile, slot: Segment) -> list[Edit]:
    """Let a tensor refer to its region of the data file; entries that do not change are left as they are."""
    message, spans = place.span.message, place.span.external
    values = {"location": data.name, "offset": str(slot.at), "length": str(slot.nbytes)}
    if place.region is None:
        new = b"".join(_entry(_EXTERNAL_DATA, key, value) for key, value in values.items()) + _IS_EXTERNAL
        edits = [Edit(message, start, end) for start, end in spans]
        return [*edits, Edit(message, message.end, message.end, (new,))]
    if place.region.checksum:
        values["checksum"] = data.sums.get(slot.at, "0" * 40)
    edits, missing, last = [], dict(values), message.end
    for start, end in spans:
        old = file.source.read(start, end)
        number, _, _, body, _ = next(fields(old))
        if number != _EXTERNAL_DATA:
            continue
        last = end
        entry = onnx.StringStringEntryProto.FromString(old[body:])
        missing.pop(entry.key, None)
        if entry.key in values and entry.value != values[entry.key]:
            entry.value = values[entry.key]
            new = entry.SerializeToString()
            edits.append(Edit(message, start, end, (bytes_head(_EXTERNAL_DATA, len(new)) + new,)))
    if missing:
        added = b"".join(_entry(_EXTERNAL_DATA, key, value) for key, value in missing.items())
        edits.append(Edit(message, last, last, (added,)))
    return edits


def _metadata_edits(file: ModelFile, metadata: Mapping[str, str] | None) -> list[Edit]:
    """Replace the entries of our keys where the first of them is, or add them after the last entry of all."""
    root, wanted = file.scan.root, dict(metadata or {})
    ours = {METADATA_KEY, *wanted}
    edits: list[Edit] = []
    last = root.end
    for message in file.scan.metadata:
        last = message.end
        key = onnx.StringStringEntryProto.FromString(file.source.read(message.start, message.end)).key
        if key in ours:
            new = _entry(_METADATA_PROPS, key, wanted.pop(key)) if key in wanted else b""
            edits.append(Edit(root, message.tag, message.end, (new,)))
    new = b"".join(_entry(_METADATA_PROPS, key, value) for key, value in wanted.items())
    return [*edits, Edit(root, last, last, (new,))] if new else edits


def _entry(number: int, key: str, value: str) -> bytes:
    body: bytes = onnx.StringStringEntryProto(key=key, value=value).SerializeToString()
    return bytes_head(number, len(body)) + body
