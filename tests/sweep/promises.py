"""What onnxinit promises of any model file, checked on one.

Nothing here uses the project's own reading of files: tensors are found by walking the messages of the onnx package.
"""

from __future__ import annotations

import hashlib
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


def tensors(message: Any) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of a message with its place, whatever is around it."""
    yield from ((path, held) for path, held in _holders(message) if isinstance(held, TensorProto))


def _holders(message: Any, path: str = "", aside: Set[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Every tensor and attribute of a message with its place: whatever may hold the values of a weight.

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
        for i, part in enumerate(value) if hasattr(value, "add") else [(-1, value)]:
            step = f"{path}.{kind.name}".lstrip(".") + (f"[{i}]" if i >= 0 else "")
            if isinstance(part, TensorProto | onnx.AttributeProto):
                yield step, part
            if not isinstance(part, TensorProto):
                yield from _holders(part, step, aside)


def _unlisted(model: onnx.ModelProto, inspection: onnxinit.Inspection) -> str | None:
    """Float tensors of the file that an inspection does not list."""
    listed: list[Weight | Kept] = [*inspection.weights, *inspection.kept]
    count = Counter((item.dtype, item.shape) for item in listed)
    made = {weight.name for weight in inspection.weights if weight.where == "generated"}
    for path, held in _holders(model, aside=made):
        key = _form(held)
        if key is not None:
            count[key] -= 1
            if count[key] < 0:
                return f"{path} {held.name!r} {key} is not listed"
    names = {item.name for item in listed}
    missing = [t.name for t in model.graph.initializer if t.data_type in _FLOATS and t.name and t.name not in names]
    ids = Counter(item.id for item in listed)
    twice = [name for name, n in ids.items() if n > 1]
    return f"not listed: {missing[:5]}; ids used twice: {twice[:5]}" if missing or twice else None


def _form(held: Any) -> tuple[str, tuple[int, ...]] | None:
    """Type and shape of a float tensor, or of the floats of a Constant; None for anything else."""
    if isinstance(held, TensorProto):
        return (_T.DataType.Name(held.data_type).lower(), tuple(held.dims)) if held.data_type in _FLOATS else None
    shapes = {"value_float": (), "value_floats": (len(held.floats),)}
    return ("float", shapes[held.name]) if held.name in shapes and not held.ref_attr_name else None


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
    for weight in weights:  # places are those of the output, and nodes before them may be gone
        found = _at(after, weight.path.removesuffix(".floats").removesuffix(".f"))
        if found is None:
            return f"the plan names what is not there: {weight.path}"
        found.doc_string += _REWRITTEN
    _take_out_made(before, after, {w.name for w in weights if w.where == "generated"})
    there, here = (list(_holders(model)) for model in (before, after))
    if [path for path, _ in there] != [path for path, _ in here]:
        return f"tensors appeared or went: {sorted({p for p, _ in there} ^ {p for p, _ in here})[:5]}"
    for (path, holder), (_, fresh) in zip(there, here, strict=True):
        if fresh.doc_string.endswith(_REWRITTEN):
            fresh.doc_string = fresh.doc_string.removesuffix(_REWRITTEN)
            if not holder.HasField("doc_string"):
                fresh.ClearField("doc_string")
        elif isinstance(holder, onnx.AttributeProto) or _T.EXTERNAL not in (holder.data_location, fresh.data_location):
            continue
        elif _held(holder, folders[0]) != _held(fresh, folders[1]):
            return f"{path} {holder.name!r} is kept, but its external data has changed"
        if len(getattr(holder, "floats", ())) != len(getattr(fresh, "floats", ())):
            return f"{path} has another number of floats"
        _forget(holder)
        _forget(fresh)
    for model in (before, after):
        own = [p for p in model.metadata_props if p.key != "onnxinit"]
        del model.metadata_props[:]
        model.metadata_props.extend(own)
    if before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True):
        return None
    return f"changed: {_first_difference(before, after) or 'something that the onnx package does not know'}"


def _at(model: onnx.ModelProto, path: str) -> Any:
    """What stands at a place of a model, None where nothing does."""
    at: Any = model
    for step in path.split("."):
        name, _, index = step.partition("[")
        at = getattr(at, name)
        if index and int(index[:-1]) >= len(at):
            return None
        at = at[int(index[:-1])] if index else at
    return at


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


def _forget(holder: Any) -> None:
    """Take the values of a tensor away, and where they are, or the floats of an attribute."""
    if isinstance(holder, onnx.AttributeProto):
        holder.ClearField("floats")
        holder.ClearField("f")
        return
    for name in _VALUES:
        holder.ClearField(name)
    stay = [e for e in holder.external_data if e.key not in _PLACE]
    del holder.external_data[:]
    holder.external_data.extend(stay)


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
