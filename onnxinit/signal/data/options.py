"""What a user says of the data that a model is fed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxinit.errors import DataError

if TYPE_CHECKING:
    from onnxinit.signal.data.feeds import Feeds
    from onnxinit.signal.data.inputs import Input


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How images become arrays.

    Attributes:
        size: Height and width; None for the model's, or where it leaves them free the images' own.
        mean: Subtracted from values in 0 ... 1, one number or one per channel; nothing where empty.
        std: Divided by, as `mean`.
        layout: "nchw" or "nhwc"; None for the one whose channel axis has a length of 1, 3 or 4 in the model.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class DataOptions:
    """All that says which data a model is fed, as commands and functions pass it on.

    Attributes:
        data: As `open_feeds` takes it, or what it gave.
        batch_size: Samples a batch; None for what `open_feeds` says.
        samples: Take the first so many; None for all.
        dims: Lengths of symbolic dimensions by name.
        images: How images become arrays.
    """

    data: Any = None
    batch_size: int | None = None
    samples: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    images: ImageOptions = field(default_factory=ImageOptions)

    def open(self, inputs: Sequence[Input], seed: int = 0) -> Feeds:
        """`open_feeds` with these options; data that is open already as it is."""
        from onnxinit.signal.data.feeds import Feeds, open_feeds

        if isinstance(self.data, Feeds):
            return self.data
        return open_feeds(
            self.data,
            inputs,
            batch_size=self.batch_size,
            samples=self.samples,
            dims=self.dims,
            images=self.images,
            seed=seed,
        )


def parse_dims(texts: Iterable[str]) -> dict[str, int]:
    """Read `NAME=LENGTH`, several with commas between them or one after another.

    Raises:
        DataError: A text is of another form, or a name has two lengths.
    """
    dims: dict[str, int] = {}
    for text in (part for given in texts for part in given.split(",")):
        name, _, length = (part.strip() for part in text.rpartition("="))
        if not name or not length.isdecimal():
            raise DataError(f"--dim {text!r} is not of the form NAME=LENGTH, such as batch=8")
        if dims.setdefault(name, int(length)) != int(length):
            raise DataError(f"--dim gives {name!r} two lengths, {dims[name]} and {length}")
    return dims
