"""What is on the disk after a run that ends well, ends badly, or must not start."""

import builtins
import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxinit.errors import ModelError
from onnxinit.model import Chunk, ModelFile, write

W1, B1 = "graph.initializer[0]", "graph.initializer[1]"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Failing:
    """Fresh values whose second chunk raises."""

    def __init__(self, nbytes: int, error: BaseException) -> None:
        self.nbytes, self.error = nbytes, error

    def chunks(self) -> Iterator[Chunk]:
        half = self.nbytes // 2
        yield Chunk(0, half, lambda: bytes(half))
        yield Chunk(half, self.nbytes - half, self.fail)

    def fail(self) -> bytes:
        raise self.error


def refused(file: ModelFile, out: Path, fresh: Any, **options: Any) -> str:
    """The message of a run that must change nothing."""
    before = files(out.parent) if out.parent.is_dir() else {}
    with pytest.raises(ModelError) as caught:
        write(file, out, fresh, metadata=None, **options)
    assert (files(out.parent) if out.parent.is_dir() else {}) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def both(values: Callable[..., Any]) -> Callable[[ModelFile], dict[str, Any]]:
    return lambda file: {path: values(file, path) for path in (W1, B1)}


def test_an_existing_file(mlp_path: Path, both: Any) -> None:
    file, out = ModelFile.open(mlp_path), mlp_path.parent / "out.onnx"
    out.write_bytes(b"precious")
    assert refused(file, out, both(file)).endswith(
        "out.onnx: exists already; give another name, or --force to overwrite it"
    )
    write(file, out, both(file), metadata=None, force=True)
    onnx.checker.check_model(str(out))


def test_an_existing_data_file(external_path: Path, both: Any) -> None:
    file, out = ModelFile.open(external_path), external_path.parent / "out.onnx"
    data = external_path.parent / "out.onnx.data"
    data.write_bytes(b"precious")
    assert "out.onnx.data: exists already" in refused(file, out, both(file))
    out.write_bytes(b"old")
    write(file, out, both(file), metadata=None, force=True)
    onnx.checker.check_model(str(out))
    assert set(files(external_path.parent)) == {"mlp.onnx", "weights.bin", "out.onnx", "out.onnx.data"}


def test_the_input_under_any_name(mlp_path: Path, both: Any) -> None:
    file, link, hard = ModelFile.open(mlp_path), mlp_path.parent / "link", mlp_path.parent / "hard"
    link.symlink_to(mlp_path)
    os.link(mlp_path, hard)
    for out in (mlp_path, link, hard):
        for force in (False, True):
            line = f"{out}: is the input; give another name, or --in-place to write over it"
            assert refused(file, out, both(file), force=force) == line


def test_data_of_the_input(external_path: Path, both: Any) -> None:
    data = external_path.parent / "weights.bin"
    file = ModelFile.open(external_path)
    assert "weights.bin: holds data of the input" in refused(file, data, both(file), force=True)
    data.rename(external_path.parent / "new.onnx.data")
    external_path.write_bytes(external_path.read_bytes().replace(b"\x0bweights.bin", b"\x0b./././.data"))
    (external_path.parent / ".data").symlink_to("new.onnx.data")
    file = ModelFile.open(external_path)
    assert file.has_data(B1)
    out = external_path.parent / "new.onnx"
    assert "new.onnx.data: holds data of the input" in refused(file, out, both(file), force=True)


def test_impossible_targets(mlp_path: Path, both: Any) -> None:
    file, folder = ModelFile.open(mlp_path), mlp_path.parent
    assert "is a folder" in refused(file, folder, both(file), force=True)
    assert refused(file, folder / "no" / "o.onnx", both(file)).endswith("/no'; make it first")
    os.mkfifo(folder / "pipe")
    assert "pipe: is not a regular file" in refused(file, folder / "pipe", both(file), force=True)
    assert stat.S_ISFIFO(os.stat(folder / "pipe").st_mode)
    long = refused(file, folder / ("x" * 300), both(file))
    assert "cannot be written: File name too long" in long


def test_a_folder_without_permission(mlp_path: Path, both: Any, monkeypatch: Any) -> None:
    file = ModelFile.open(mlp_path)
    if os.geteuid() == 0:  # root may write anywhere
        opened = builtins.open

        def forbidden(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if "x" in mode:
                raise PermissionError(errno.EACCES, "Permission denied")
            return opened(path, mode, *rest, **options)

        monkeypatch.setattr("builtins.open", forbidden)
    mlp_path.parent.chmod(0o500)
    try:
        line = refused(file, mlp_path.parent / "o.onnx", both(file))
    finally:
        mlp_path.parent.chmod(0o700)
    assert line.endswith("o.onnx: cannot be written: Permission denied")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_disk(external_path: Path, both: Any, monkeypatch: Any, code: int, threads: int) -> None:
    file, written = ModelFile.open(external_path), os.pwrite

    def full(fd: int, data: Any, at: int) -> int:
        if at > 1000:
            raise OSError(code, os.strerror(code))
        return written(fd, data, at)

    monkeypatch.setattr("onnxinit.model.writer.os.pwrite", full)
    line = refused(file, external_path.parent / "o.onnx", both(file), threads=threads)
    assert f"o.onnx: the disk is full ({os.strerror(code)}); free some space or write elsewhere" in line


def test_short_writes_go_on(mlp_path: Path, both: Any, monkeypatch: Any) -> None:
    file, out, written = ModelFile.open(mlp_path), mlp_path.parent / "o.onnx", os.pwrite
    write(file, out, both(file), metadata=None)
    monkeypatch.setattr("onnxinit.model.writer.os.pwrite", lambda fd, data, at: written(fd, data[:5], at))
    write(file, mlp_path.parent / "p.onnx", both(file), metadata=None)
    assert out.read_bytes() == (mlp_path.parent / "p.onnx").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), ModelError("no")])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("in_place", [False, True])
def test_interrupted(external_path: Path, error: BaseException, threads: int, in_place: bool) -> None:
    file = ModelFile.open(external_path)
    out = external_path if in_place else external_path.parent / "o.onnx"
    before = files(external_path.parent)
    with pytest.raises(type(error)):
        fresh = {W1: Failing(2400, error)}
        write(file, out, fresh, metadata=None, threads=threads, in_place=in_place)
    assert files(external_path.parent) == before


@pytest.mark.parametrize("name", ["o.onnx", "mlp.onnx"])
def test_interrupted_before_the_last_rename(external_path: Path, both: Any, monkeypatch: Any, name: str) -> None:
    file, replace = ModelFile.open(external_path), os.replace
    before = files(external_path.parent)

    def interrupted(source: Any, target: Any) -> None:
        if not str(target).endswith(".data"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("onnxinit.model.writer.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(file, external_path.parent / name, both(file), metadata=None, in_place=True)
    assert files(external_path.parent) == before


def interrupted_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """Raise what a signal means right after the step-th call of those that change what is on the disk."""
    done = count()

    def interrupting(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            if next(done) == step:
                raise KeyboardInterrupt
            return result

        return run

    patch.setattr(builtins, "open", interrupting(open))
    for name in ("unlink", "replace", "pwrite", "fsync"):
        patch.setattr(os, name, interrupting(getattr(os, name)))


@pytest.mark.parametrize("name", ["o.onnx", "mlp.onnx"])
def test_interrupted_after_any_step(external_path: Path, both: Any, monkeypatch: Any, name: str) -> None:
    folder = external_path.parent
    before, fresh, states = files(folder), both(ModelFile.open(external_path)), set()
    for step in count():
        file = ModelFile.open(external_path)
        try:
            with monkeypatch.context() as patch:
                interrupted_after(step, patch)
                write(file, folder / name, fresh, metadata=None, in_place=True)
            break
        except KeyboardInterrupt:
            pass
        found = files(folder)
        assert not [other for other in found if other.endswith(".tmp")], step
        states.add(found == before)
        if found != before:
            assert onnx.load(folder / name).graph.initializer[0].raw_data == fresh[W1].raw
        for other in found:
            (folder / other).unlink()
        for other, held in before.items():
            (folder / other).write_bytes(held)
    assert states == {True, False}


def test_in_place(mlp_path: Path, both: Any) -> None:
    file = ModelFile.open(mlp_path)
    write(file, mlp_path, both(file), metadata=None, in_place=True)
    assert set(files(mlp_path.parent)) == {"mlp.onnx"}
    assert onnx.load(mlp_path).graph.initializer[0].raw_data == both(file)[W1].raw


def test_in_place_with_external_data(external_path: Path, both: Any) -> None:
    folder, fresh = external_path.parent, both(ModelFile.open(external_path))
    other = (folder / "weights.bin").read_bytes()
    names = []
    for _ in range(3):
        write(ModelFile.open(external_path), external_path, {W1: fresh[W1]}, metadata=None, in_place=True)
        names.append(sorted(files(folder)))
        loaded = onnx.load(external_path)
        assert loaded.graph.initializer[0].raw_data == fresh[W1].raw
    # A file under another name may be someone else's and stays; our own of before goes.
    assert names == [
        ["mlp.onnx", "mlp.onnx.data", "weights.bin"],
        ["mlp.onnx", "mlp.onnx.1.data", "weights.bin"],
        ["mlp.onnx", "mlp.onnx.data", "weights.bin"],
    ]
    assert (folder / "weights.bin").read_bytes() == other


def test_in_place_does_not_follow_links(external_path: Path, both: Any, tmp_path: Path) -> None:
    cache, here = tmp_path / "cache", tmp_path / "here"
    cache.mkdir()
    here.mkdir()
    external_path.rename(cache / "blob1")
    (external_path.parent / "weights.bin").rename(cache / "blob2")
    data = (cache / "blob1").read_bytes().replace(b"weights.bin", b"m.onnx.data")
    (cache / "blob1").write_bytes(data)
    (here / "m.onnx").symlink_to("../cache/blob1")
    (here / "m.onnx.data").symlink_to("../cache/blob2")
    before = files(cache)
    file = ModelFile.open(here / "m.onnx", external_root=cache)
    write(file, here / "m.onnx", both(file), metadata=None, in_place=True)
    assert files(cache) == before
    assert sorted(os.listdir(here)) == ["m.onnx", "m.onnx.1.data", "m.onnx.data"]
    assert not (here / "m.onnx").is_symlink()
    assert onnx.load(here / "m.onnx").graph.initializer[1].raw_data == both(file)[B1].raw


def test_permissions_are_those_of_a_new_file(external_path: Path, both: Any) -> None:
    file, out = ModelFile.open(external_path), external_path.parent / "o.onnx"
    old = os.umask(0o027)
    try:
        write(file, out, both(file), metadata=None)
    finally:
        os.umask(old)
    for path in (out, external_path.parent / "o.onnx.data"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_name_alone_is_a_file_here(mlp_path: Path, both: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(mlp_path.parent)
    file = ModelFile.open("mlp.onnx")
    write(file, "o.onnx", both(file), metadata=None)
    assert Path("o.onnx").exists()
