"""Folders of images to feeds. Pillow reads them: the extra `onnxinit[images]`.

An image becomes an array of one sample: resized as a whole to the model's height and width (bilinear), grey, RGB or
RGBA by the number of channels, and for a model of floats scaled to 0 ... 1 and normalised to (x - mean) / std per
channel; a model of bytes gets the bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxinit.errors import DataError
from onnxinit.signal.data.inputs import Dim, Input
from onnxinit.signal.data.options import ImageOptions
from onnxinit.signal.data.pieces import Array, Head, Piece, Pieces

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CHANNEL_AXIS = {"nchw": 1, "nhwc": 3}


@dataclass(frozen=True, slots=True)
class _Form:
    """What every image is brought to."""

    name: str
    dtype: np.dtype[Any]
    size: tuple[int, int]
    channels: int
    layout: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        inner = (self.channels, *self.size) if self.layout == "nchw" else (*self.size, self.channels)
        return (1, *inner)


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image of a kind that is read."""
    return path.suffix.lower() in _SUFFIXES


def read_images(
    source: Path, files: Sequence[Path], inputs: tuple[Input, ...], options: ImageOptions, samples: int | None
) -> Pieces:
    """Images, one sample each, in the order given.

    Args:
        source: What to call all of them.
        files: The images.
        inputs: The model's: one, of four dimensions.
        options: How they become arrays.
        samples: How many are asked for at most.

    Raises:
        DataError: Pillow is not installed, a file is no image, or the model's input or the options fit no images.
    """
    _pillow()  # its absence is said before a file is blamed
    files = files[:samples]
    sizes = [_size(path) for path in files]
    form, notes = _form(source, inputs, options, dict(zip(files, sizes, strict=True)))
    head = {form.name: Head(form.dtype, form.shape)}
    pieces = [Piece(str(p), head, functools.partial(_load, p, form)) for p in files]
    return Pieces(str(source), pieces, batched=False, notes=notes)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("images are read with Pillow, which is not installed: pip install 'onnxinit[images]'") from None
    return Image


def _open(path: Path) -> Any:
    return _decoded(path, lambda: _pillow().open(path))


def _decoded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # a decoder that meets damage raises whatever it comes upon
        raise DataError(f"{path}: is not an image, or damaged ({error})") from error


def _size(path: Path) -> tuple[int, int]:
    """Height and width as they are seen: a camera's note that the picture stands on its side is followed."""
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{path}: has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
        # Asked only where the header has it: for a PNG the question would decode the whole image.
        turned = "exif" in image.info and _decoded(path, image.getexif).get(0x0112, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def _form(
    source: Path, inputs: tuple[Input, ...], options: ImageOptions, sizes: dict[Path, tuple[int, int]]
) -> tuple[_Form, tuple[str, ...]]:
    if len(inputs) != 1 or inputs[0].dims is None or len(inputs[0].dims) != 4:
        has = ", ".join(map(str, inputs)) or "no input"
        raise DataError(f"{source}: images feed a model of one input with four dimensions; this one has {has}")
    (wanted,) = inputs
    dims: tuple[Dim, ...] = wanted.dims or ()
    layout = options.layout or _layout(source, wanted, dims)
    at = _CHANNEL_AXIS[layout]
    channels = dims[at] if isinstance(dims[at], int) else 3
    if channels not in _MODES:
        raise DataError(f"{source}: {wanted} wants {channels} channels in the layout {layout}; images have 1, 3 or 4")
    height, width = dims[2:] if at == 1 else dims[1:3]
    size = _resolve(source, wanted, (height, width), options.size, sizes)
    dtype = wanted.numpy_dtype
    is_byte = dtype == np.uint8
    if not is_byte and dtype.kind != "f" and dtype.name != "bfloat16":
        raise DataError(f"{source}: {wanted} takes no images: they are floats, or bytes (uint8)")
    if is_byte and (options.mean or options.std):
        raise DataError(f"{source}: {wanted} takes the bytes as they are: leave out --mean and --std")
    for name, given in (("--mean", options.mean), ("--std", options.std)):
        if len(given) not in (0, 1, channels):
            raise DataError(
                f"{name} has {len(given)} numbers, the images have {channels} channels: give 1 or {channels}"
            )
    if 0 in options.std:
        raise DataError("--std is divided by: it cannot be 0")
    kept = dtype if dtype.kind == "f" or is_byte else np.dtype(np.float32)
    form = _Form(wanted.name, kept, size, int(channels), layout, options.mean, options.std)
    resized = sum(s != size for s in sizes.values())
    note = f"{resized} of {len(sizes)} images are resized to {size[0]}x{size[1]}"
    return form, (note,) if resized else ()


def _layout(source: Path, wanted: Input, dims: tuple[Dim, ...]) -> str:
    for layout, axis in _CHANNEL_AXIS.items():
        if dims[axis] in _MODES:
            return layout
    raise DataError(f"{source}: which axis of {wanted} holds the channels is not clear: give --layout nchw or nhwc")


def _resolve(
    source: Path,
    wanted: Input,
    dims: tuple[Dim, ...],
    given: tuple[int, int] | None,
    sizes: dict[Path, tuple[int, int]],
) -> tuple[int, int]:
    """Height and width: the model's where it fixes them, then those given, then those that all images share."""
    own = list(dict.fromkeys(sizes.values()))
    found: list[int] = []
    for k, dim in enumerate(dims):
        if isinstance(dim, int):
            if given is not None and given[k] != dim:
                raise DataError(f"--image-size {given[0]}x{given[1]} does not fit {wanted}")
            found.append(dim)
        elif given is not None:
            found.append(given[k])
        elif len({s[k] for s in own}) == 1:
            found.append(own[0][k])
        else:
            a, b = (next(p.name for p, s in sizes.items() if s == size) for size in own[:2])
            raise DataError(
                f"{source}: the images differ in size ({a} is {own[0][0]}x{own[0][1]}, {b} {own[1][0]}x{own[1][1]}) "
                f"and {wanted} leaves it free: give --image-size"
            )
    return found[0], found[1]


def _load(path: Path, form: _Form) -> dict[str, Array]:
    from PIL import ImageOps

    pillow = _pillow()
    with _open(path) as image:
        turned = _decoded(path, lambda: ImageOps.exif_transpose(image).convert(_MODES[form.channels]))
    height, width = form.size
    if turned.size != (width, height):
        turned = turned.resize((width, height), pillow.Resampling.BILINEAR)
    array: Array = np.asarray(turned).reshape(height, width, form.channels)
    if form.dtype.kind == "f":
        scaled = array.astype(np.float64) / 255
        if form.mean:
            scaled -= np.array(form.mean)
        if form.std:
            scaled /= np.array(form.std)
        array = scaled.astype(form.dtype)
    array = array[None]
    return {form.name: np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if form.layout == "nchw" else array}
