"""What onnxinit promises of any model file, checked on one.

Nothing here uses the project's own reading of files: tensors are found by walking the messages of the onnx package.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Set
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
_REWRITTEN = "\n(rewritten)"
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
    checked.check("untouched", difference(model, fresh, results[0].weights, (path.parent, outs[0].parent)))


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


def tensors(message: Any, path: str = "", aside: Set[str] = frozenset()) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of a message with its place, whatever is around it.

    Args:
        message: The message.
        path: Its place.
        aside: Names of what nodes make that are not looked into.
    """
    if aside and isinstance(message, onnx.NodeProto) and aside & set(message.output):
        return
    for kind, value in message.ListFields():
        if kind.message_type is None:
            continue
        parts = enumerate(value) if hasattr(value, "add") else [(-1, value)]
        for i, part in parts:
            step = f"{path}.{kind.name}".lstrip(".") + (f"[{i}]" if i >= 0 else "")
            if isinstance(part, TensorProto):
                yield step, part
            else:
                yield from tensors(part, step, aside)


def _unlisted(model: onnx.ModelProto, inspection: onnxinit.Inspection) -> str | None:
    """Float tensors of the file that an inspection does not list."""
    listed: list[Weight | Kept] = [*inspection.weights, *inspection.kept]
    count = Counter((item.dtype, item.shape) for item in listed)
    made = {weight.name for weight in inspection.weights if weight.where == "generated"}
    for path, tensor in tensors(model, aside=made):
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
    old: onnx.ModelProto, new: onnx.ModelProto, weights: Collection[Weight], folders: tuple[Path, Path]
) -> str | None:
    """What has changed in a model besides the values of the weights that were rewritten.

    Nodes that made such weights are gone, and initializers or Constants are in their place.

    Args:
        old: The input, without its external data.
        new: The output, likewise.
        weights: Those weights.
        folders: Where the external data of each lies.
    """
    before, after = (onnx.ModelProto.FromString(m.SerializeToString()) for m in (old, new))
    lists = {w.path for w in weights if w.path.endswith((".floats", ".f"))}
    for path, model in itertools.product(lists, (before, after)):
        _forget_list(model, path)
    rewritten, found = {w.path for w in weights} - lists, dict(tensors(after))
    if not rewritten <= found.keys():
        return f"the plan names what is not there: {sorted(rewritten - found.keys())[:5]}"
    for path in rewritten:
        found[path].doc_string += _REWRITTEN
    _take_out_made(before, after, {w.name for w in weights if w.where == "generated"})
    there, here = dict(tensors(before)), dict(tensors(after))
    if there.keys() != here.keys():
        return f"tensors appeared or went: {sorted(there.keys() ^ here.keys())[:5]}"
    for path, tensor in there.items():
        fresh = here[path]
        if fresh.doc_string.endswith(_REWRITTEN):
            fresh.doc_string = fresh.doc_string.removesuffix(_REWRITTEN)
            if not tensor.HasField("doc_string"):
                fresh.ClearField("doc_string")
        elif _T.EXTERNAL not in (tensor.data_location, fresh.data_location):
            continue
        elif _held(tensor, folders[0]) != _held(fresh, folders[1]):
            return f"{path} {tensor.name!r} is kept, but its external data has changed"
        _forget(tensor)
        _forget(fresh)
    for model in (before, after):
        own = [p for p in model.metadata_props if p.key != "onnxinit"]
        del model.metadata_props[:]
        model.metadata_props.extend(own)
    if before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True):
        return None
    return f"changed: {_first_difference(before, after) or 'something that the onnx package does not know'}"


def _forget_list(model: onnx.ModelProto, path: str) -> None:
    """Make zeros of the floats that an attribute holds."""
    *way, field = path.split(".")
    at: Any = model
    for step in way:
        name, _, index = step.partition("[")
        at = getattr(at, name)
        at = at[int(index[:-1])] if index else at
    if field == "f":
        at.f = 0.0
    else:
        at.floats[:] = [0.0] * len(at.floats)


def _take_out_made(old: Any, new: Any, names: Set[str]) -> None:
    """Take the nodes that made weights out of a graph or model, and what stands for them out of the new one."""
    if isinstance(old, onnx.ModelProto):
        _take_out_made(old.graph, new.graph, names)
        for one, other in zip(old.functions, new.functions, strict=False):
            _take_out_made(one, other, names)
        return
    if isinstance(old, onnx.GraphProto):
        stored = {t.name for t in new.initializer} - {t.name for t in old.initializer}
        made = {n.output[0] for n in old.node if n.output} & stored & names
        inputs = {info.name for info in old.input}
        _drop(old.node, lambda node: bool(node.output) and node.output[0] in made)
        _drop(new.initializer, lambda tensor: tensor.name in made)
        _drop(new.input, lambda info: info.name in made - inputs)
    places = enumerate(zip(old.node, new.node, strict=False))
    changed = [i for i, (a, b) in places if b.op_type == "Constant" and a.output == b.output]
    for i in reversed([i for i in changed if old.node[i].output[0] in names]):
        del old.node[i], new.node[i]
    for one, other in zip(old.node, new.node, strict=False):
        for a, b in zip(one.attribute, other.attribute, strict=False):
            for inner, outer in zip([a.g, *a.graphs], [b.g, *b.graphs], strict=False):
                if inner.node:
                    _take_out_made(inner, outer, names)


def _drop(messages: Any, unwanted: Callable[[Any], bool]) -> None:
    for i in reversed(range(len(messages))):
        if unwanted(messages[i]):
            del messages[i]


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
