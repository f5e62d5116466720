"""What onnxinit promises of any model file, checked on one.

Nothing here uses the project's own reading of files: tensors are found by walking the messages of the onnx package.
"""

from __future__ import annotations

import hashlib
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto

import onnxinit
from onnxinit.analysis.weight import Kept, Weight

# Every promise, in the order of the table.
PROMISES = {
    "answers": "inspect and reinit answer, or refuse with an error of their own",
    "accepted": "a model that the checker or ONNX Runtime takes is not refused",
    "listed": "every float tensor of the file is listed",
    "valid": "onnx.checker takes the result where it took the input",
    "loads": "ONNX Runtime loads the result where it loaded the input",
    "untouched": "nothing but the weights of the plan has changed",
    "repeated": "a second run, with another number of threads, gives the same bytes",
    "unharmed": "the input and its folder are as they were, and a refusal leaves no output",
}

_T = TensorProto
_FLOATS = {kind for name, kind in _T.DataType.items() if "FLOAT" in name or name == "DOUBLE"}
_VALUES = (
    "raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data",
    "data_location",
)  # fmt: skip
_PLACE = {"location", "offset", "length", "checksum"}  # of external data; other entries have to stay
_OUT = "out.onnx"
_SHOWN = 300  # characters of a reason


@dataclass(slots=True)
class Checked:
    """What was found of one file.

    Attributes:
        held: The promises that were checked and held.
        broken: Those that did not, with the reason.
        refused: The error of onnxinit, "" where it took the file.
        weights: How many tensors were rewritten.
    """

    held: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    weights: int = 0

    def check(self, promise: str, trouble: str | None) -> None:
        if trouble:
            self.broken.setdefault(promise, trouble[-_SHOWN:])
        elif promise not in self.broken:
            self.held.append(promise)


def check_file(path: Path, work: Path) -> Checked:
    """Check every promise on a file.

    Args:
        path: The model.
        work: An empty folder for what is written.
    """
    checked = Checked()
    before = _surroundings(path)
    takers = [name for name, take in (("the checker", _invalid), ("ONNX Runtime", _fails_to_load)) if not take(path)]
    try:
        _answer(path, work, takers, checked)
    except onnxinit.OnnxinitError as error:
        checked.refused = str(error)
        checked.check("answers", None)
        checked.check("accepted", f"refused although {takers[0]} takes it: {error}" if takers else None)
        left = sorted(p.name for p in work.rglob("*") if p.is_file())
        checked.check("unharmed", f"left behind {left}" if left else None)
    except Exception:
        checked.check("answers", traceback.format_exc())
    changed = sorted(p.name for p, digest in before.items() ^ _surroundings(path).items())
    checked.check("unharmed", f"changed: {changed}" if changed else None)
    return checked


def _answer(path: Path, work: Path, takers: list[str], checked: Checked) -> None:
    inspection = onnxinit.inspect(path)
    model = onnx.load(str(path), load_external_data=False)
    checked.check("listed", _unlisted(model, inspection))
    outs = [work / str(threads) / _OUT for threads in (1, 3)]
    results = []
    for out in outs:
        out.parent.mkdir()
        results.append(onnxinit.reinit(path, out, scheme="auto", threads=int(out.parent.name)))
    checked.check("answers", None)
    checked.check("accepted", None)
    checked.weights = len(results[0].weights)
    one, other = ({p.name: p.read_bytes() for p in out.parent.iterdir()} for out in outs)
    differing = [name for name in one | other if one.get(name) != other.get(name)]
    checked.check("repeated", f"differ: {differing}" if differing else None)
    if "the checker" in takers:
        checked.check("valid", _invalid(outs[0]))
    if "ONNX Runtime" in takers:
        checked.check("loads", _fails_to_load(outs[0]))
    fresh = onnx.load(str(outs[0]), load_external_data=False)
    rewritten = {weight.path for weight in results[0].weights}
    checked.check("untouched", difference(model, fresh, rewritten, (path.parent, outs[0].parent)))


# ---------------------------------------------------------------- the judges


def _invalid(path: Path) -> str | None:
    """Why onnx.checker does not take a file."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        return f"the checker: {error}"
    return None


def _fails_to_load(path: Path) -> str | None:
    """Why ONNX Runtime does not load a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"ONNX Runtime: {error}"
    return None


def _surroundings(path: Path) -> dict[Path, str]:
    """The files of a model's folder: the model by what it holds, the others by their size and time."""
    found = {p: f"{(s := p.stat()).st_size} {s.st_mtime_ns}" for p in path.parent.iterdir() if p.is_file()}
    found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# ---------------------------------------------------------------- tensors


def tensors(message: Any, path: str = "") -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of a message with its place, whatever is around it."""
    for kind, value in message.ListFields():
        if kind.message_type is None:
            continue
        parts = enumerate(value) if hasattr(value, "add") else [(-1, value)]
        for i, part in parts:
            step = f"{path}.{kind.name}".lstrip(".") + (f"[{i}]" if i >= 0 else "")
            if isinstance(part, TensorProto):
                yield step, part
            else:
                yield from tensors(part, step)


def _unlisted(model: onnx.ModelProto, inspection: onnxinit.Inspection) -> str | None:
    """Float tensors of the file that an inspection does not list."""
    listed: list[Weight | Kept] = [*inspection.weights, *inspection.kept]
    count = Counter((item.dtype, item.shape) for item in listed)
    for path, tensor in tensors(model):
        if tensor.data_type in _FLOATS:
            key = _T.DataType.Name(tensor.data_type).lower(), tuple(tensor.dims)
            count[key] -= 1
            if count[key] < 0:
                return f"{path} {tensor.name!r} {key} is not listed"
    names = {item.name for item in listed}
    missing = [t.name for t in model.graph.initializer if t.data_type in _FLOATS and t.name and t.name not in names]
    ids = Counter(item.id for item in listed)
    twice = [name for name, n in ids.items() if n > 1]
    return f"not listed: {missing[:5]}; ids used twice: {twice[:5]}" if missing or twice else None


def difference(
    old: onnx.ModelProto, new: onnx.ModelProto, rewritten: Set[str], folders: tuple[Path, Path]
) -> str | None:
    """What has changed in a model besides the values of the weights that were rewritten.

    Args:
        old: The input, without its external data.
        new: The output, likewise.
        rewritten: The places of those weights.
        folders: Where the external data of each lies.
    """
    before, after = dict(tensors(old)), dict(tensors(new))
    if before.keys() != after.keys():
        return f"tensors appeared or went: {sorted(before.keys() ^ after.keys())[:5]}"
    unknown = rewritten - before.keys()
    if unknown:
        return f"the plan names what is not there: {sorted(unknown)[:5]}"
    copies = [onnx.ModelProto.FromString(m.SerializeToString()) for m in (old, new)]
    ends = [dict(tensors(copy)) for copy in copies]
    for path, tensor in before.items():
        external = _T.EXTERNAL in (tensor.data_location, after[path].data_location)
        if external and path not in rewritten and _held(tensor, folders[0]) != _held(after[path], folders[1]):
            return f"{path} {tensor.name!r} is kept, but its external data has changed"
        if external or path in rewritten:
            for end in ends:
                _forget(end[path])
    for copy in copies:
        own = [p for p in copy.metadata_props if p.key != "onnxinit"]
        del copy.metadata_props[:]
        copy.metadata_props.extend(own)
    if copies[0].SerializeToString(deterministic=True) == copies[1].SerializeToString(deterministic=True):
        return None
    return f"changed: {_first_difference(*copies) or 'something that the onnx package does not know'}"


def _held(tensor: TensorProto, folder: Path) -> bytes:
    """The raw bytes of an external tensor."""
    entries = {e.key: e.value for e in tensor.external_data}
    if tensor.data_location != _T.EXTERNAL:
        return bytes(tensor.raw_data)
    offset, length = int(entries.get("offset", 0)), entries.get("length")
    with open(folder / entries["location"], "rb") as file:
        file.seek(offset)
        return file.read(int(length) if length is not None else os.fstat(file.fileno()).st_size - offset)


def _forget(tensor: TensorProto) -> None:
    """Take the values of a tensor away, and where they are."""
    for name in _VALUES:
        tensor.ClearField(name)
    stay = [e for e in tensor.external_data if e.key not in _PLACE]
    del tensor.external_data[:]
    tensor.external_data.extend(stay)


def _first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The place of the first field that differs between two messages of a type."""
    fields = {kind.name: kind for message in (old, new) for kind, _ in message.ListFields()}
    for name, kind in fields.items():
        one, other = getattr(old, name), getattr(new, name)
        step = f"{path}.{name}".lstrip(".")
        if kind.message_type is None:
            if one != other:
                return step
        elif not hasattr(one, "add"):
            if found := _first_difference(one, other, step):
                return found
        elif len(one) != len(other):
            return f"{step}: {len(one)} became {len(other)}"
        else:
            for i, (a, b) in enumerate(zip(one, other, strict=True)):
                if found := _first_difference(a, b, f"{step}[{i}]"):
                    return found
    return None
