"""Data that does not fit: each message says what is wrong, of which file and input, and the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxinit.errors import DataError
from onnxinit.signal import DataOptions, Input, model_inputs, open_feeds, parse_dims

Array = npt.NDArray[Any]


def inputs(declared: str) -> tuple[Input, ...]:
    text = f'<ir_version: 10, opset_import: ["": 17]> g ({declared}) => () {{}}'
    return model_inputs(onnx.parser.parse_model(text))


def refused(data: Any, declared: str, **options: Any) -> str:
    """The message, which is one line."""
    with pytest.raises(DataError) as caught:
        for _ in open_feeds(data, inputs(declared), **options):
            pass
    message = str(caught.value)
    assert "\n" not in message
    return message


F = np.float32
X = "float[N,3] x"
XY = "float[N,3] x, int64[N,L] ids"


def ones(*shape: int, dtype: Any = F) -> Array:
    return np.ones(shape, dtype)


DICTS: dict[str, tuple[Any, str, str]] = {
    "missing": ({"x": ones(2, 3)}, XY, "the data: misses input 'ids' (int64 [N, L]); it has 'x'"),
    "nothing": ({}, X, "the data: misses input 'x' (float [N, 3]); it has nothing"),
    "extra": (
        {"x": ones(2, 3), "y": ones(2)},
        X,
        "the data: has 'y', which is no input of the model; it takes 'x'",
    ),
    "element type": (
        {"x": ones(2, 3, dtype=np.int64)},
        X,
        "the data: holds int64 for input 'x' (float [N, 3]); convert it to float32 first",
    ),
    "floats for integers": (
        {"x": ones(2, 3)},
        "int64[N,3] x",
        "the data: holds float32 for input 'x' (int64 [N, 3]); convert it to int64 first",
    ),
    "rank": (
        {"x": ones(3)},
        X,
        "the data: has shape [3] for input 'x' (float [N, 3]): 2 dimensions are wanted; axis 0 holds the samples, so "
        "one sample has a first axis of 1",
    ),
    "more rank": (
        {"x": ones(2, 3, 4)},
        X,
        "the data: has shape [2, 3, 4] for input 'x' (float [N, 3]): 2 dimensions are wanted",
    ),
    "fixed dimension": (
        {"x": ones(2, 4)},
        X,
        "the data: has shape [2, 4] for input 'x' (float [N, 3]): dimension 1 must be 3",
    ),
    "numbers of samples": (
        {"x": ones(2, 3), "ids": ones(3, 5, dtype=np.int64)},
        XY,
        "the data: the dimension 'N' is 2 in 'x' and 3 in 'ids': one name is one length (axis 0 holds the samples, as "
        "many for every input)",
    ),
    "numbers of samples without a name": (
        {"x": ones(4, 3), "y": ones(6, 3)},
        "float[2,3] x, float[2,3] y",
        "the data: the inputs have different numbers of samples (axis 0): 4 for input 'x' (float [2, 3]), 6 for input "
        "'y' (float [2, 3])",
    ),
    "symbolic dimension": (
        {"x": ones(2, 4), "y": ones(2, 5)},
        "float[N,L] x, float[N,L] y",
        "the data: the dimension 'L' is 4 in 'x' and 5 in 'y': one name is one length",
    ),
    "NaN": (
        {"x": np.array([[1, 2, np.nan], [np.nan, 0, 0]], F)},
        X,
        "the data: input 'x' (float [N, 3]) holds NaN (2 such values, the first at [0, 2])",
    ),
    "infinity": (
        {"x": np.array([[1, 2, 3], [-np.inf, 0, 0]])},
        X,
        "the data: input 'x' (float [N, 3]) holds infinity (1 such values, the first at [1, 0])",
    ),
    "overflow": (
        {"x": np.full((1, 3), 7e4, F)},
        "float16[N,3] x",
        "the data: input 'x' (float16 [N, 3]) has values of up to 70000, too large for float16",
    ),
    "integers out of range": (
        {"x": np.array([[1, 2, 1 << 40]])},
        "int32[N,3] x",
        "the data: input 'x' (int32 [N, 3]) cannot hold 1 to 1099511627776",
    ),
    "no samples": ({"x": ones(0, 3)}, X, "the data: holds no samples"),
    "too few for a fixed batch": (
        {"x": ones(3, 3)},
        "float[4,3] x",
        "the data: holds 3 samples; the model takes batches of 4",
    ),
    "objects": ({"x": object()}, X, "the data: the value for 'x' is a object, not an array of numbers"),
    "ragged": ({"x": [[1.0], [1.0, 2.0]]}, X, "the data: the value for 'x' is no array ("),
    "keys": ({3: ones(2, 3)}, X, "the data: has the key 3; a feed maps the names of inputs to arrays"),
    "in an iterable": (
        [{"x": ones(2, 3)}, {"x": ones(2, 4)}],
        X,
        "the data, feed 1: has shape [2, 4] for input 'x' (float [N, 3]): dimension 1 must be 3",
    ),
    "no dicts": ([ones(2, 3)], X, "the data, feed 0: is a ndarray, not a dict of arrays by input"),
    "no data": (
        3.5,
        X,
        "the data: is a float; give a dict of arrays, an iterable of such dicts, or an object with get_next()",
    ),
    "an array": (
        ones(2, 3),
        X,
        "the data: is a ndarray; give a dict of arrays, an iterable of such dicts, or an object with get_next()",
    ),
    "an empty iterable": ([], X, "the data: holds no samples"),
    "an empty generator": (iter(()), X, "the data: holds no samples"),
}


@pytest.mark.parametrize("case", DICTS)
def test_python_data_that_does_not_fit(case: str) -> None:
    data, declared, message = DICTS[case]
    assert refused(data, declared).startswith(message)


def test_code_that_fails_is_one_line() -> None:
    def broken() -> Iterator[dict[str, Array]]:
        yield {"x": ones(2, 3)}
        raise KeyError("gone")

    assert refused(broken(), X) == "the data: its code failed (KeyError: 'gone')"
    assert refused(lambda: 1 / 0, X) == "the data: its code failed (ZeroDivisionError: division by zero)"


def test_options_out_of_range() -> None:
    assert refused({"x": ones(2, 3)}, X, batch_size=0) == "--batch-size is 0: give 1 or more"
    assert refused(None, X, samples=-1) == "--samples is -1: give 1 or more"
    assert refused({"x": ones(2, 3)}, X, dims={"M": 3}) == "no input of the model has a dimension named 'M': it has N"
    fixed = refused({"x": ones(2, 3)}, "float[2,3] x", dims={"M": 3})
    assert fixed == "no input of the model has a dimension named 'M': it has none"
    pinned = refused({"x": ones(2, 3)}, "float[N,L] x", dims={"L": 4})
    assert pinned == "the data: has shape [2, 3] for input 'x' (float [N, 4]): dimension 1 must be 4"
    assert parse_dims(["batch=8, length = 5", "a=b=3"]) == {"batch": 8, "length": 5, "a=b": 3}
    for text, message in (
        ("batch", "--dim 'batch' is not of the form NAME=LENGTH, such as batch=8"),
        ("batch=x", "--dim 'batch=x' is not of the form NAME=LENGTH, such as batch=8"),
        ("=3", "--dim '=3' is not of the form NAME=LENGTH, such as batch=8"),
        ("batch=2,batch=3", "--dim gives 'batch' two lengths, 2 and 3"),
    ):
        with pytest.raises(DataError) as caught:
            parse_dims([text])
        assert str(caught.value) == message


# ---------------------------------------------------------------- files


def make_pickled_npy(p: Path) -> Path:
    np.save(p / "x.npy", np.array([{}], object), allow_pickle=True)
    return p / "x.npy"


def make_pickled_npz(p: Path) -> Path:
    np.savez(p / "x.npz", x=np.array([{}], object))
    return p / "x.npz"


def make_text(name: str) -> Callable[[Path], Path]:
    def make(p: Path) -> Path:
        (p / name).write_text("nothing of the kind")
        return p / name

    return make


def make_nan(p: Path) -> Path:
    (p / "d").mkdir()
    np.savez(p / "d" / "0.npz", x=ones(2, 3))
    np.savez(p / "d" / "1.npz", x=np.full((2, 3), np.nan, F))
    return p / "d"


def make_empty(p: Path) -> Path:
    (p / "d").mkdir()
    return p / "d"


def make_other(p: Path) -> Path:
    make_empty(p)
    (p / "d" / "readme.txt").write_text("")
    return p / "d"


def make_mixed(p: Path) -> Path:
    make_empty(p)
    (p / "d" / "a.png").write_text("")
    np.save(p / "d" / "b.npy", ones(2, 3))
    return p / "d"


def make_pb(*contents: bytes) -> Callable[[Path], Path]:
    def make(p: Path) -> Path:
        folder = p / "test_data_set_0"
        folder.mkdir()
        for k, content in enumerate(contents):
            (folder / f"input_{k}.pb").write_bytes(content)
        return p

    return make


TENSOR = numpy_helper.from_array(ones(2, 3)).SerializeToString()
LIST = "takes .npz, .npy, a folder of either, ONNX test_data_set_* folders, a folder of images, or module:callable"

FILES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "absent": (lambda p: p / "no.npz", X, f"no.npz: there is no such file or folder; --data {LIST}"),
    "unknown form": (make_text("x.csv"), X, f"x.csv: is of no known form; --data {LIST}"),
    "empty folder": (make_empty, X, f"d: holds nothing; --data {LIST}"),
    "other folder": (make_other, X, f"d: holds only readme.txt and the like; --data {LIST}"),
    "mixed folder": (make_mixed, X, "d: holds arrays (b.npy) and images (a.png): give one of them"),
    "pickled .npy": (
        make_pickled_npy,
        X,
        "x.npy: holds pickled objects; they are not read, since that could run code: save plain arrays",
    ),
    "pickled .npz": (
        make_pickled_npz,
        X,
        "x.npz: holds pickled objects under 'x'; they are not read, since that could run code: save plain arrays",
    ),
    "damaged .npy": (make_text("x.npy"), X, "x.npy: cannot be read as numpy's .npy ("),
    "damaged .npz": (make_text("x.npz"), X, "x.npz: cannot be read as numpy's .npz ("),
    "NaN in a file": (make_nan, X, "1.npz: input 'x' (float [N, 3]) holds NaN (6 such values, the first at [0, 0])"),
    "test data of other inputs": (
        make_pb(TENSOR, TENSOR),
        X,
        "test_data_set_0: holds 2 input_N.pb, the model has 1 inputs ('x')",
    ),
    "damaged test data": (make_pb(b"\xff\xff"), X, "input_0.pb: is no TensorProto, or damaged ("),
    "no tensor": (
        make_pb(b""),
        X,
        "input_0.pb: holds no tensor; sequences and optionals cannot be fed",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_read(case: str, tmp_path: Path) -> None:
    make, declared, message = FILES[case]
    said = refused(make(tmp_path), declared)
    assert said.startswith(str(tmp_path))
    assert Path(said).name.startswith(message) or message in said


def test_one_array_for_several_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ones(2, 3))
    assert refused(tmp_path / "x.npy", XY).endswith(
        "x.npy: holds one array, the model has 2 inputs ('x', 'ids'): give a .npz with them"
    )


def test_inputs_that_are_no_tensors() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> g (seq(float[N]) x) => () {}'
    with pytest.raises(DataError, match=r"^input 'x' is of the kind sequence: only models that take tensors can be"):
        model_inputs(onnx.parser.parse_model(text))


# ---------------------------------------------------------------- module:callable

MODULE = """
import numpy as np

SIZE = 3

def feeds():
    for k in range(3):
        yield {"x": np.full((2, 3), k, np.float32)}

class Group:
    @staticmethod
    def one():
        return {"x": np.ones((5, 3), np.float32)}

def number():
    return 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "feeds_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_of_a_test.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield "feeds_of_a_test"
    assert sys.path == path
    for name in ("feeds_of_a_test", "broken_of_a_test"):
        sys.modules.pop(name, None)


def test_a_callable_of_a_module_in_the_working_folder(module: str) -> None:
    feeds = open_feeds(f"{module}:feeds", inputs(X))
    assert feeds.source == f"{module}:feeds"
    for _ in range(2):
        assert [float(f["x"][0, 0]) for f in feeds] == [0, 1, 2]
    assert [len(f["x"]) for f in DataOptions(f"{module}:Group.one", batch_size=4).open(inputs(X))] == [4, 1]


def test_what_a_module_does_not_hold(module: str) -> None:
    assert refused(f"{module}:nothing", X) == f"{module}:nothing: '{module}' has no 'nothing'"
    assert refused(f"{module}:SIZE", X) == f"{module}:SIZE: 'SIZE' is a int, nothing that could be called"
    assert refused(f"{module}:number", X).startswith(f"{module}:number: is a int; give a dict of arrays, ")
    absent = refused("no_such_module:feeds", X)
    assert absent.startswith("no_such_module:feeds: the module 'no_such_module' cannot be imported (ModuleNotFoundErr")
    broken = refused("broken_of_a_test:feeds", X)
    assert broken.endswith("cannot be imported (ZeroDivisionError: division by zero)")


# ---------------------------------------------------------------- what is converted, and what cannot be cut

CONVERTED = [
    (np.float64, "float", "'x' is converted from float64 to float32"),
    (np.float16, "float", "'x' is converted from float16 to float32"),
    (np.float32, "float16", "'x' is converted from float32 to float16"),
    (np.float32, "bfloat16", "'x' is converted from float32 to bfloat16"),
    (np.int32, "int64", "'x' is converted from int32 to int64"),
    (np.int64, "int32", "'x' is converted from int64 to int32"),
    (np.bool_, "int64", "'x' is converted from bool to int64"),
    (">f4", "float", "'x' is converted from >f4 to float32"),
]


@pytest.mark.parametrize(("has", "wants", "note"), CONVERTED)
def test_what_loses_nothing_is_converted_and_said(has: Any, wants: str, note: str) -> None:
    feeds = open_feeds({"x": ones(2, 3).astype(has)}, inputs(f"{wants}[N,3] x"))
    assert feeds.notes == (note,)
    (feed,) = feeds
    assert feed["x"].dtype == inputs(f"{wants}[N,3] x")[0].numpy_dtype
    assert (feed["x"].astype(F) == 1).all()


def test_what_cannot_be_cut_is_said() -> None:
    (a, b) = (feeds := open_feeds({"x": ones(5, 3)}, inputs("float[2,3] x"), batch_size=3))
    assert a["x"].shape == b["x"].shape == (2, 3)
    assert feeds.notes == (
        "the model takes batches of 2, not of 3",
        "the last 1 of 5 samples are left out: the model takes batches of 2",
    )
    graph = {"x": ones(40, 3), "adjacency": ones(40, 40)}
    (feed,) = (feeds := open_feeds(graph, inputs("float[n,3] x, float[n,n] adjacency"), batch_size=8))
    assert feed["adjacency"].shape == (40, 40)
    assert feeds.notes == (
        "the data cannot be cut into samples: 'n' is the length of another axis too; each piece of it is one feed",
    )
    edges = {"x": ones(40, 3), "edges": np.zeros((2, 99), np.int64)}
    (feed,) = open_feeds(edges, inputs("float[n,3] x, int64[2,e] edges"))
    assert feed["x"].shape == (40, 3)
    single = open_feeds({"x": ones(6, 3), "k": np.array(3.0, F)}, inputs("float[N,3] x, float k"), batch_size=4)
    assert [(f["x"].shape, f["k"].shape) for f in single] == [((4, 3), ()), ((2, 3), ())]


def test_test_data_of_onnx_is_fed_in_order(tmp_path: Path) -> None:
    for k in range(11):
        folder = tmp_path / f"test_data_set_{k}"
        folder.mkdir()
        for j in range(11):
            proto = numpy_helper.from_array(np.full((1, 2), 100 * k + j, F))
            (folder / f"input_{j}.pb").write_bytes(proto.SerializeToString())
    wanted = inputs(", ".join(f"float[N,2] x{j}" for j in range(11)))
    feeds = list(open_feeds(tmp_path, wanted))
    assert [f"{f['x0'][0, 0]:.0f} {f['x10'][0, 1]:.0f}" for f in feeds] == [
        f"{100 * k} {100 * k + 10}" for k in range(11)
    ]
    (one,) = open_feeds(tmp_path / "test_data_set_3", wanted)
    assert one["x2"][0, 0] == 302
