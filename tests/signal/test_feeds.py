"""Calibration data in every form: the same samples come out, in batches that the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxinit.errors import DataError
from onnxinit.signal import Feeds, Input, model_inputs, open_feeds

Array = npt.NDArray[Any]


def inputs(declared: str) -> tuple[Input, ...]:
    """The inputs of a model, as the text form of ONNX declares them."""
    text = f'<ir_version: 10, opset_import: ["": 17]> g ({declared}) => () {{}}'
    return model_inputs(onnx.parser.parse_model(text))


def samples(n: int, *inner: int) -> Array:
    return np.arange(n * int(np.prod(inner)), dtype=np.float32).reshape(n, *inner)


def lengths(feeds: Feeds, name: str = "x") -> list[int]:
    return [len(feed[name]) for feed in feeds]


def whole(feeds: Feeds, name: str = "x") -> Array:
    return np.concatenate([feed[name] for feed in feeds])


X = "float[batch,3] x"


class Reader:
    """ONNX Runtime's convention."""

    def __init__(self, feeds: Sequence[dict[str, Array]]):
        self.feeds, self.at = feeds, 0

    def get_next(self) -> dict[str, Array] | None:
        self.at += 1
        return self.feeds[self.at - 1] if self.at <= len(self.feeds) else None


class Rewinding(Reader):
    def rewind(self) -> None:
        self.at = 0


class Again:
    """An iterable that is no sequence and starts again."""

    def __init__(self, feeds: Sequence[dict[str, Array]]):
        self.feeds = feeds

    def __iter__(self) -> Iterator[dict[str, Array]]:
        yield from self.feeds


def forms(x: Array, folder: Path) -> dict[str, Any]:
    """The same 6 samples in every form that holds one array after another."""
    np.savez(folder / "stored.npz", x=x)
    np.savez_compressed(folder / "packed.npz", x=x)
    np.save(folder / "array.npy", x)
    for name in ("npys", "npzs"):
        (folder / name).mkdir()
    for k in range(3):
        np.save(folder / "npys" / f"{k}.npy", x[2 * k : 2 * k + 2])
        np.savez(folder / "npzs" / f"{k}.npz", x=x[2 * k : 2 * k + 2])
    pairs = [{"x": x[k : k + 2]} for k in (0, 2, 4)]
    return {
        "stored.npz": folder / "stored.npz",
        "packed.npz": str(folder / "packed.npz"),
        "npy": folder / "array.npy",
        "folder of npy": folder / "npys",
        "folder of npz": folder / "npzs",
        "dict": {"x": x},
        "dict of lists": {"x": [[float(v) for v in row] for row in x]},
        "list": pairs,
        "generator": (f for f in pairs),
        "iterable": Again(pairs),
        "reader": Reader(pairs),
        "rewinding reader": Rewinding(pairs),
        "callable": lambda: iter(pairs),
    }


FORMS = (
    "stored.npz,packed.npz,npy,folder of npy,folder of npz,dict,dict of lists,list,generator,iterable,reader,"
    "rewinding reader,callable"
).split(",")
IN_ONE = ("stored.npz", "packed.npz", "npy", "dict", "dict of lists")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples_every_time(form: str, tmp_path: Path) -> None:
    x = samples(6, 3)
    feeds = open_feeds(forms(x, tmp_path)[form], inputs(X))
    for _ in range(2):
        np.testing.assert_array_equal(whole(feeds), x)
    assert lengths(feeds) == ([6] if form in IN_ONE else [2, 2, 2])
    assert not feeds.synthetic
    assert {str(f["x"].dtype) for f in feeds} == {"float32"}


@pytest.mark.parametrize("form", FORMS)
def test_batches_and_samples_are_as_asked_for(form: str, tmp_path: Path) -> None:
    x = samples(6, 3)
    feeds = open_feeds(forms(x, tmp_path)[form], inputs(X), batch_size=4, samples=5)
    assert lengths(feeds) == lengths(feeds) == [4, 1]
    np.testing.assert_array_equal(whole(feeds), x[:5])


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 20), st.integers(0, 3))
def test_any_pieces_make_any_batches(pieces: list[int], size: int, most: int, fixed: int) -> None:
    n = min(sum(pieces), most)
    x = samples(sum(pieces), 2)
    ends = np.cumsum(pieces)
    given_ = [{"x": x[e - p : e]} for e, p in zip(ends, pieces, strict=True)]
    wanted = inputs(f"float[{fixed or 'N'},2] x")
    if n < max(1, fixed):
        with pytest.raises(DataError, match="holds"):
            open_feeds(given_, wanted, batch_size=size, samples=most)
        return
    step = fixed or size
    feeds = open_feeds(given_, wanted, batch_size=size, samples=most)
    left = n % step if not fixed else 0
    assert lengths(feeds) == [step] * (n // step) + ([left] if left else [])
    np.testing.assert_array_equal(whole(feeds), x[: n // step * step + left])


def test_a_large_file_is_mapped_and_cut_by_32(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", samples(70, 3))
    assert lengths(open_feeds(tmp_path / "x.npy", inputs(X))) == [32, 32, 6]


def test_an_endless_generator_is_pulled_as_far_as_needed() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[dict[str, Array]]:
        while True:
            pulled.append(1)
            yield {"x": samples(2, 3)}

    feeds = open_feeds(endless(), inputs(X), samples=5)
    assert lengths(feeds) == lengths(feeds) == [2, 2, 1]
    assert len(pulled) == 3
