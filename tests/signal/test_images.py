"""Images: what Pillow reads, scaled, normalised and laid out as the model wants them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest

from onnxinit.errors import DataError
from onnxinit.signal import ImageOptions, Input, model_inputs, open_feeds

Image = pytest.importorskip("PIL.Image")
Array = npt.NDArray[Any]


def inputs(declared: str) -> tuple[Input, ...]:
    return model_inputs(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 17]> g ({declared}) => () {{}}'))


def pixels(height: int = 6, width: int = 8, channels: int = 3, seed: int = 0) -> Array:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(folder: Path, **arrays: Array) -> Path:
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / name.replace("_", "."))
    return folder


def fed(data: Any, declared: str, **options: Any) -> Array:
    feeds = open_feeds(data, inputs(declared), images=ImageOptions(**options))
    return np.concatenate([feed["x"] for feed in feeds])


def refused(data: Any, declared: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        fed(data, declared, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


NCHW = "float[N,3,H,W] x"


@pytest.mark.parametrize(("declared", "layout"), [(NCHW, "nchw"), ("float[N,H,W,3] x", "nhwc"), (NCHW, None)])
def test_pixels_become_values_in_the_models_layout(declared: str, layout: str | None, tmp_path: Path) -> None:
    b, a = pixels(seed=1), pixels(seed=2)
    save(tmp_path, b_png=b, a_bmp=a)
    (tmp_path / "notes.txt").write_text("not an image, and does not say so")
    made = fed(tmp_path, declared, mean=(0.5, 0.25, 0.125), std=(0.5, 2.0, 4.0), layout=layout)
    truth = (np.stack([a, b]) / 255.0 - [0.5, 0.25, 0.125]) / [0.5, 2.0, 4.0]
    if "3,H" in declared:
        truth = np.moveaxis(truth, 3, 1)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, truth, rtol=1e-6, atol=1e-7)


def test_channels_are_the_models(tmp_path: Path) -> None:
    grey = pixels(channels=1)
    save(tmp_path, a_png=grey)
    np.testing.assert_allclose(fed(tmp_path, "float[N,1,6,8] x")[0, 0], grey / 255.0, rtol=1e-6)
    np.testing.assert_allclose(fed(tmp_path, NCHW), np.broadcast_to(grey / 255.0, (1, 3, 6, 8)), rtol=1e-6)
    assert (fed(tmp_path, "float[N,4,6,8] x")[:, 3] == 1).all()
    np.testing.assert_array_equal(fed(tmp_path / "a.png", "uint8[N,6,8,1] x")[0, :, :, 0], grey)


def test_sizes_are_the_models_then_those_asked_for(tmp_path: Path) -> None:
    flat = np.full((6, 8, 3), 100, np.uint8)
    save(tmp_path, a_png=flat, b_png=np.full((5, 4, 3), 100, np.uint8))
    for declared, size, shape in (
        ("float[N,3,12,10] x", None, (2, 3, 12, 10)),
        (NCHW, (3, 7), (2, 3, 3, 7)),
        ("float[N,3,12,W] x", (12, 7), (2, 3, 12, 7)),
    ):
        made = fed(tmp_path, declared, size=size)
        assert made.shape == shape
        np.testing.assert_allclose(made, 100 / 255, rtol=1e-6)
    assert refused(tmp_path, NCHW).endswith(
        ": the images differ in size (a.png is 6x8, b.png 5x4) and input 'x' (float [N, 3, H, W]) leaves it free: "
        "give --image-size"
    )
    assert refused(tmp_path, "float[N,3,12,12] x", size=(12, 7)) == (
        "--image-size 12x7 does not fit input 'x' (float [N, 3, 12, 12])"
    )
    (note,) = open_feeds(tmp_path, inputs("float[N,3,6,8] x")).notes
    assert note == "1 of 2 images are resized to 6x8"


def test_a_picture_on_its_side_is_turned(tmp_path: Path) -> None:
    picture = pixels(channels=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(fed(tmp_path, "float[N,1,H,W] x")[0, 0], np.rot90(picture, -1) / 255.0, rtol=1e-6)


def test_batches_of_32_and_the_first_samples_only(tmp_path: Path) -> None:
    for k in range(40):
        Image.fromarray(pixels(2, 2, seed=k)).save(tmp_path / f"{k:02d}.jpeg")
    assert [len(f["x"]) for f in open_feeds(tmp_path, inputs(NCHW))] == [32, 8]
    assert [len(f["x"]) for f in open_feeds(tmp_path, inputs("float[4,3,2,2] x"), samples=9)] == [4, 4]
    (tmp_path / "40.png").write_text("is not opened")
    assert len(list(open_feeds(tmp_path, inputs(NCHW), samples=40))) == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    save(tmp_path, a_png=pixels())
    for declared, message in (
        (
            "float[N,3] x",
            ": images feed a model of one input with four dimensions; this one has input 'x' (float [N, 3])",
        ),
        (
            "float[N,6,8,8] x",
            ": which axis of input 'x' (float [N, 6, 8, 8]) holds the channels is not clear: give --layout",
        ),
        ("int64[N,3,6,8] x", ": input 'x' (int64 [N, 3, 6, 8]) takes no images: they are floats, or bytes (uint8)"),
    ):
        assert message in refused(tmp_path, declared)
    six = refused(tmp_path, "float[N,6,8,8] x", layout="nchw")
    assert six.endswith("wants 6 channels in the layout nchw; images have 1, 3 or 4")
    assert refused(tmp_path, NCHW, mean=(1.0, 2.0)) == "--mean has 2 numbers, the images have 3 channels: give 1 or 3"
    assert refused(tmp_path, NCHW, std=(1.0, 0.0, 1.0)) == "--std is divided by: it cannot be 0"
    assert refused(tmp_path, "uint8[N,3,6,8] x", mean=(1.0,)).endswith(
        "takes the bytes as they are: leave out --mean and --std"
    )


def test_what_is_no_image_is_refused_before_anything_runs(tmp_path: Path) -> None:
    save(tmp_path, a_png=pixels())
    (tmp_path / "b.jpg").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"b\.jpg: is not an image, or damaged \("):
        open_feeds(tmp_path, inputs(NCHW))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[: len(data) - 60])
    assert "b.jpg: is not an image, or damaged (" in refused(tmp_path, NCHW)
    Image.fromarray(pixels(channels=1).astype(np.uint16)).save(tmp_path / "b.png")
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.png: has more than 8 bits a channel \(mode I(;16)?\): convert it"):
        open_feeds(tmp_path, inputs(NCHW))  # Pillow 9 calls that mode I


def test_without_pillow_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, a_png=pixels())
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert refused(tmp_path, NCHW) == (
        "images are read with Pillow, which is not installed: pip install 'onnxinit[images]'"
    )
