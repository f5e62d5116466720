"""Write a model with fresh values: into a file, safely, or into memory."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import onnx

from onnxinit.errors import ModelError
from onnxinit.model import edits, external, skeleton
from onnxinit.model.draft import draft
from onnxinit.model.edits import DataFile
from onnxinit.model.external import Region
from onnxinit.model.file import ModelFile
from onnxinit.model.splice import Segment, splice
from onnxinit.model.stream import BLOCK, Fresh, jobs, run

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write(
    model: ModelFile,
    out: str | os.PathLike[str],
    fresh: Mapping[str, Fresh],
    *,
    metadata: Mapping[str, str] | None,
    force: bool = False,
    in_place: bool = False,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a model file with fresh values; all else stays as it is, byte for byte.

    Embedded tensors stay embedded, external ones go to one data file beside the output, `<name of out>.data`. Tensors
    that share a place of an external file share one in the output: fresh values for them must be equal, and those of
    the first are written. A result that protobuf could not read for its size gets its larger tensors external.

    Everything is written to temporary files in the target folder, which are renamed when they are complete: the data
    file first, the model last. Written over the input, the data gets a name that is not in use
    (`<name>.1.data`, say), so that the old model keeps its data until the new one takes its place; the old data is
    removed then if it lay beside the model under such a name. A link is replaced, not what it points to.

    External tensors of a model given in memory become embedded if they get fresh values; the others still refer to
    the same location, relative to the output.

    Args:
        model: The model.
        out: The file to write.
        fresh: Fresh values by the path of the tensor.
        metadata: Entries of the model's metadata to add, or to replace where a key is there. An old entry of our own
            key is removed in any case, as it speaks of other weights.
        force: Whether an existing file may be overwritten.
        in_place: Whether the input may be overwritten.
        threads: How many threads draw and write.
        progress: Gets the number of fresh bytes just written.

    Raises:
        ModelError: A file exists, is the input or cannot be written, or values that are kept are missing.
    """
    out = Path(out)
    _check_sizes(model, fresh)
    target = _Target(model, out, force, in_place)
    target.check(out)
    data, segments, size = _layout(model, fresh, metadata, target.data_name())
    if data.segments:
        target.check(target.folder / data.name)
    _check_kept(model, data)
    try:
        with draft(target.folder) as data_draft, draft(target.folder) as model_draft:
            if data.segments:
                with open(data_draft, "x+b", buffering=0) as file:
                    _fill(file, data.size, data.segments, model, fresh, threads, progress)
                    segments = _with_sums(model, fresh, metadata, data, file, segments)
            with open(model_draft, "x+b", buffering=0) as file:
                _fill(file, size, segments, model, fresh, threads, progress)
            target.publish(model_draft, data_draft if data.segments else None, data.name)
    except OSError as error:
        if error.errno in _FULL:
            raise ModelError(
                f"{out}: the disk is full ({error.strerror}); free some space or write elsewhere"
            ) from error
        raise ModelError(f"{out}: cannot be written: {error.strerror or error}") from error


def build(
    model: ModelFile, fresh: Mapping[str, Fresh], *, metadata: Mapping[str, str] | None, threads: int = 1
) -> onnx.ModelProto:
    """Make a model with fresh values in memory.

    External tensors that get fresh values become embedded; the others still refer to the same location.

    Args:
        model: The model.
        fresh: Fresh values by the path of the tensor.
        metadata: As for `write`.
        threads: How many threads draw.

    Raises:
        ModelError: The model would have more than 2 GB.
    """
    _check_sizes(model, fresh)
    segments, size = splice(model.source.size, edits.model_edits(model, fresh, DataFile(""), metadata))
    if size > skeleton.PROTOBUF_LIMIT:
        raise ModelError(f"the model would have {size} bytes, more than protobuf takes; write it to a file instead")
    buffer = bytearray(size)
    view = memoryview(buffer)

    def put(at: int, piece: memoryview) -> None:
        view[at : at + piece.nbytes] = piece

    run(jobs(segments, model.source, fresh), put, threads, None)
    built: onnx.ModelProto = onnx.ModelProto.FromString(view)
    return built


def _check_sizes(model: ModelFile, fresh: Mapping[str, Fresh]) -> None:
    for path, values in fresh.items():
        if values.nbytes != model.tensors[path].nbytes:
            raise ValueError(f"{path} has {model.tensors[path].nbytes} bytes, its fresh values {values.nbytes}")


def _check_kept(model: ModelFile, data: DataFile) -> None:
    """See that the values are there that must be copied, before anything is written."""
    for path, segment in data.of.items():
        if isinstance(segment.content, Region) and not external.is_there(segment.content):
            external.open_region(segment.content, f"{model.label(path)}, which is kept")


def _layout(
    model: ModelFile, fresh: Mapping[str, Fresh], metadata: Mapping[str, str] | None, name: str
) -> tuple[DataFile, list[Segment], int]:
    size = 0
    for spill in (False, True):
        data = edits.data_file(model, fresh, name, spill=spill)
        segments, size = splice(model.source.size, edits.model_edits(model, fresh, data, metadata))
        if size <= skeleton.PROTOBUF_LIMIT:
            return data, segments, size
    raise ModelError(
        f"{model.path or 'the model'}: without its tensors the result has {size} bytes, more than protobuf takes"
    )


def _with_sums(
    model: ModelFile,
    fresh: Mapping[str, Fresh],
    metadata: Mapping[str, str] | None,
    data: DataFile,
    file: FileIO,
    segments: list[Segment],
) -> list[Segment]:
    """The segments of the model with the checksums of what was written to the data file, where it states any."""
    stating = [data.of[p] for p, place in model.places.items() if place.region and place.region.checksum]
    for segment in stating:
        digest = hashlib.sha1(usedforsecurity=False)
        for at in range(segment.at, segment.at + segment.nbytes, BLOCK):
            digest.update(os.pread(file.fileno(), min(BLOCK, segment.at + segment.nbytes - at), at))
        data.sums[segment.at] = digest.hexdigest()
    if stating:
        segments, _ = splice(model.source.size, edits.model_edits(model, fresh, data, metadata))
    return segments


def _fill(
    file: FileIO,
    size: int,
    segments: list[Segment],
    model: ModelFile,
    fresh: Mapping[str, Fresh],
    threads: int,
    progress: Callable[[int], None] | None,
) -> None:
    def put(at: int, piece: memoryview) -> None:
        while piece.nbytes:
            done = os.pwrite(file.fileno(), piece, at)  # asked anew: of a file that was closed meanwhile there is none
            piece, at = piece[done:], at + done

    file.truncate(size)
    run(jobs(segments, model.source, fresh), put, threads, progress)
    os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the output goes, and what may be overwritten."""

    model: ModelFile
    out: Path
    force: bool
    in_place: bool

    @property
    def folder(self) -> Path:
        return self.out.parent

    @property
    def over_input(self) -> bool:
        return self.in_place and _same(self.out, self.model.path)

    def data_name(self) -> str:
        """`<name>.data`, over the input the first such name that nothing has."""
        name, i = f"{self.out.name}.data", 0
        while self.over_input and os.path.lexists(self.folder / name):
            i += 1
            name = f"{self.out.name}.{i}.data"
        return name

    def check(self, path: Path) -> None:
        """Refuse to write where it would harm something."""
        if os.path.isdir(path):
            raise ModelError(f"{path}: is a folder; give the name of a file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ModelError(f"{path}: is not a regular file; give another name")
        if not os.path.isdir(self.folder):
            raise ModelError(f"{path}: there is no folder {str(self.folder)!r}; make it first")
        if _same(path, self.model.path):
            if not self.in_place or path != self.out:
                raise ModelError(f"{path}: is the input; give another name, or --in-place to write over it")
            return
        if any(_same(path, used) for used in self._input_data()):
            raise ModelError(f"{path}: holds data of the input; give the output another name")
        if os.path.lexists(path) and not self.force:
            raise ModelError(f"{path}: exists already; give another name, or --force to overwrite it")

    def _input_data(self) -> set[Path]:
        return {region.file or self.folder / region.location for region in self.model.regions}

    def publish(self, model_draft: Path, data_draft: Path | None, data_name: str) -> None:
        """Rename the complete files, the model last, so that there is never a model with other data."""
        old = self._stale(data_name) if self.over_input else []
        data = self.folder / data_name
        if data_draft is not None and os.path.lexists(data):
            self.out.unlink(missing_ok=True)
        try:
            if data_draft is not None:
                os.replace(data_draft, data)
            os.replace(model_draft, self.out)
        except BaseException:  # an interruption can come after the renaming that it interrupts
            if data_draft is not None and not os.path.lexists(data_draft) and os.path.lexists(model_draft):
                data.unlink(missing_ok=True)
            raise
        for path in old:
            with suppress(OSError):
                path.unlink()

    def _stale(self, data_name: str) -> list[Path]:
        """Data files of the old model that carry its name, lie beside it and are no links."""
        ours = re.compile(re.escape(self.out.name) + r"(\.[1-9][0-9]*)?\.data")
        here = self.folder.resolve()
        return [
            path
            for path in self._input_data()
            if path.parent == here and ours.fullmatch(path.name) and path.name != data_name
        ]


def _same(path: Path, other: Path | None) -> bool:
    try:
        return other is not None and os.path.samefile(path, other)
    except (OSError, ValueError):
        return False
