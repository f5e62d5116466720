"""The command line as processes: exit statuses, signals, pipes, encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import onnxinit

COMMAND = [sys.executable, "-m", "onnxinit"]


def run(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, args)]
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")} | environment
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=env)


def test_version_and_help() -> None:
    assert run("--version").stdout == f"onnxinit {onnxinit.__version__}\n"
    for args in ([], ["reinit"], ["inspect"], ["schemes"]):
        done = run(*args, "-h")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: onnxinit {' '.join([*args, ''])}")


def test_the_main_job_and_what_one_would_do_next(lstm: Path) -> None:
    done = run("reinit", lstm, "--scheme", "he")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() or "─" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 100
    found = json.loads(run("inspect", lstm.with_name("lstm.reinit.onnx"), "--json").stdout)
    assert len(found["weights"]) == 6
    assert run("reinit", lstm, "--scheme", "he").returncode == 1
    assert run("reinit", lstm, "--scheme").returncode == 2


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xy")
    w = helper.make_tensor("gewicht_ß_重", TensorProto.FLOAT, [2, 2], [0.0] * 4)
    node = helper.make_node("MatMul", ["x", w.name], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y], [w])), tmp_path / "m.onnx")
    assert "gewicht_ß_重" in run("inspect", tmp_path / "m.onnx", PYTHONIOENCODING="utf-8").stdout
    done = run("inspect", tmp_path / "m.onnx", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert r"gewicht_\xdf_\u91cd" in done.stdout


def test_a_reader_that_has_read_enough(lstm: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        for args in (["schemes"], ["schemes", "--json"], ["inspect", str(lstm)], ["inspect", str(lstm), "--json"]):
            done = subprocess.run([*COMMAND, *args], stdout=pipe, stderr=subprocess.PIPE, text=True)
            assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose weights take a while to draw; the old ones are not there."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 40000])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40000])
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[40000, 40000], data_location=TensorProto.EXTERNAL)
    w.external_data.add(key="location", value="none.bin")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = tmp_path / "large.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [x], [y], [w])).SerializeToString())
    return path


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(large: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(
        [*COMMAND, "reinit", str(large)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # what a shell runs in the background ignores SIGINT
    )
    while len(os.listdir(large.parent)) == 1:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out, err.strip()) == (status, "", "")
    assert os.listdir(large.parent) == ["large.onnx"]
