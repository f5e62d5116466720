from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from onnxinit.cli import progress

Run = Callable[..., Any]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_main_job(onnxinit: Run, lstm: Path) -> None:
    done = onnxinit("reinit", lstm, "--scheme", "he", "--seed", 7, "--rule", "tags.bias=constant:value=0.5")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["tensor", "role", "shape", "fan", "in/out", "activation", "std", "scheme"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:8]}
    assert rows["lstm.W"] == ["input_weight", "2x128x24", "24/32", "linear", "0.2887", "he"]
    assert rows["tags.bias"] == ["bias", "12", "0", "constant:value=0.5"]
    assert re.search(r"^kept as it is: 1 tensor\n     1  int64: .* \(\w+\)$", done.out, re.MULTILINE)
    assert re.search(r"^6 tensors, 22,828 parameters, 91.3 kB, seed 7$", done.out, re.MULTILINE)
    assert re.fullmatch(rf"wrote {lstm.with_name('lstm.reinit.onnx')} in \d+\.\d\d s", lines[-1])
    onnx.checker.check_model(str(lstm.with_name("lstm.reinit.onnx")))


def test_output_options(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    before = sha(lstm)
    out = tmp_path / "out.onnx"
    assert onnxinit("reinit", lstm, "-o", out).status == 0
    first = sha(out)
    done = onnxinit("reinit", lstm, "--output", out, "--seed", 1)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"onnxinit: error: {out}: exists already; give another name, or --force to overwrite it\n"
    assert sha(out) == first
    assert onnxinit("reinit", lstm, "-o", out, "--seed", 1, "--force").status == 0
    assert sha(out) != first
    done = onnxinit("reinit", lstm, "-o", lstm, "--force")
    assert done.status == 1
    assert "is the input; give another name, or --in-place" in done.err
    assert sha(lstm) == before
    assert onnxinit("reinit", lstm, "--in-place").status == 0
    assert sha(lstm) != before
    assert sorted(os.listdir(tmp_path)) == ["lstm.onnx", "out.onnx"]


def test_selection_and_quiet(onnxinit: Run, lstm: Path) -> None:
    done = onnxinit("reinit", lstm, "--include", "tags.*", "--exclude", "role:bias", "--quiet")
    assert done == (0, "", "")
    done = onnxinit("reinit", lstm, "--include", "tags.*", "--exclude", "role:bias", "--force")
    assert re.search(r"^     4  not selected by --include tags\.\* \(.*lstm\.R\)$", done.out, re.MULTILINE)
    assert re.search(r"^     1  --exclude role:bias \(tags\.bias\)$", done.out, re.MULTILINE)
    assert "1 tensor, 768 parameters" in done.out


def test_dry_run(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    done = onnxinit("reinit", lstm, "--dry-run")
    assert done.status == 0
    assert done.out.endswith("dry run: nothing was written\n")
    assert os.listdir(tmp_path) == ["lstm.onnx"]
    assert done.out == onnxinit("reinit", lstm, "--dry-run").out


def test_a_random_seed_is_printed(onnxinit: Run, lstm: Path) -> None:
    seeds = {
        re.search(r"seed (\d+)$", onnxinit("reinit", lstm, "--dry-run", "--seed", "random").out, re.M)[1] for _ in "ab"
    }  # type: ignore[index]
    assert len(seeds) == 2


def test_threads_and_metadata(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    for threads in (1, 4):
        assert onnxinit("reinit", lstm, "-o", tmp_path / f"{threads}.onnx", "--threads", threads).status == 0
    assert sha(tmp_path / "1.onnx") == sha(tmp_path / "4.onnx")
    assert [p.key for p in onnx.load(tmp_path / "1.onnx").metadata_props] == ["onnxinit"]
    onnxinit("reinit", lstm, "-o", tmp_path / "no.onnx", "--no-metadata")
    assert list(onnx.load(tmp_path / "no.onnx").metadata_props) == []


def test_a_report_and_the_plan_in_it(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    report, out = tmp_path / "report.json", tmp_path / "a.onnx"
    args = ["--no-metadata", "--quiet", "--force"]
    assert onnxinit("reinit", lstm, "-o", out, "--scheme", "he", "--seed", 3, "--report", report, *args).status == 0
    data = json.loads(report.read_text())
    assert list(data) == [
        "format", "version", "model", "output", "tensors", "parameters", "bytes", "plan", "signal", "warnings",
        "written",
    ]  # fmt: skip
    assert (data["format"], data["model"], data["output"]) == ("onnxinit.report/1", str(lstm), str(out))
    assert (data["tensors"], data["parameters"], data["bytes"]) == (6, 22828, 91312)
    assert data["plan"]["seed"] == 3
    arrays = {t.name: t.raw_data for t in onnx.load(out).graph.initializer}
    assert {w["id"]: w["sha256"] for w in data["written"]} == {
        w["id"]: hashlib.sha256(arrays[w["id"]]).hexdigest() for w in data["written"]
    }
    again = onnxinit("reinit", lstm, "-o", tmp_path / "b.onnx", "--plan", report, *args)
    assert again == (0, "", "")
    assert sha(tmp_path / "b.onnx") == sha(out)
    # The report of a dry run is a plan, too.
    onnxinit("reinit", lstm, "--dry-run", "--scheme", "he", "--seed", 3, "--report", report, "--quiet")
    assert json.loads(report.read_text())["written"] is None
    onnxinit("reinit", lstm, "-o", tmp_path / "c.onnx", "--plan", report, *args)
    assert sha(tmp_path / "c.onnx") == sha(out)


def test_json_is_the_report_and_nothing_else(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    done = onnxinit("reinit", lstm, "--json", "--report", tmp_path / "r.json")
    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out) == json.loads((tmp_path / "r.json").read_text())
    assert done.out.count("\n{") == 0


def test_nothing_to_rewrite_is_no_error(onnxinit: Run, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    onnx.save(
        helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])),
        tmp_path / "m.onnx",
    )
    done = onnxinit("reinit", tmp_path / "m.onnx")
    assert done.status == 0
    assert done.out.startswith("nothing to rewrite: the plan draws no tensor of this model\nwrote ")


def test_warnings_are_told(onnxinit: Run, lstm: Path) -> None:
    done = onnxinit("reinit", lstm, "--dry-run", "--scheme", "zeros", "--include", "x", "--allow-unmatched")
    assert done.status == 0
    assert "warning: --include 'x' matches no weight\n" in done.out


BAD = [
    (["--scheme", "hee"], "there is no scheme named 'hee'.*'he'"),
    (["--scheme", "he:mod=fan_in"], "the scheme 'he' has no parameter 'mod'.*'mode'"),
    (["--scheme", "he:mode=fan_inn"], "he: mode must be one of fan_in, fan_out, not 'fan_inn'"),
    (["--scheme", "normal:std=-0.1"], "normal: std must be a number, at least 0, not '-0.1'"),
    (["--scheme", "normal:std=nan"], "normal: std must be a number, at least 0, not 'nan'"),
    (["--scheme", "sparse:sparsity=1.5"], "sparse: sparsity must be a number, from 0 to 1, not '1.5'"),
    (["--scheme", ""], "there is no scheme named ''"),
    (["--rule", "zeros"], "the rule 'zeros' is not of the form PATTERN=SPEC, such as 'role:bias=zeros'$"),
    (["--rule", "nothing=zeros"], "the rule 'nothing=zeros' matches no weight of the model"),
    (["--rule", "role:bias=zeroes"], "in the rule 'role:bias=zeroes': there is no scheme named 'zeroes'.*'zeros'"),
    (["--rule", "tags.bias=constant:value=1e99"], r"the weight 'tags.bias' \(Add, float\[12\]\) cannot hold"),
    (["--rule", "role:bias=xavier"], r"the weight 'lstm.B' \(LSTM, float\[2, 256\]\) cannot be drawn by xavier"),
    (["--include", "nothing"], "--include 'nothing' matches no weight of the model"),
    (["--exclude", "role:"], "the pattern 'role:' is empty"),
    (["--seed", "many"], "the seed 'many' is neither a whole number nor 'random'$"),
    (["--seed", "-1"], "the seed -1 is below 0: give a whole number from 0 on, or 'random'$"),
    (["--threads", "0"], "0 threads cannot draw anything: give at least 1$"),
    (["--plan", "none.json"], "the plan none.json cannot be read: No such file or directory$"),
    (["--plan", "lstm.onnx"], "the plan lstm.onnx is not JSON"),
    (["--report", "no/where.json"], "the report no/where.json cannot be written: No such file or directory$"),
    (["--report", "."], "the report . cannot be written: Is a directory$"),
    (["--report", "lstm.onnx"], "the report lstm.onnx would overwrite the model: give it another name$"),
    (["--report", "lstm.reinit.onnx"], "the report lstm.reinit.onnx would overwrite the model: give it another name$"),
    (["-o", "no/where.onnx"], "no/where.onnx: there is no folder 'no'; make it first$"),
    (["-o", "."], ".: is a folder; give the name of a file$"),
]


@pytest.mark.parametrize(("args", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_arguments(
    onnxinit: Run, lstm: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(lstm.parent)
    before = sha(lstm)
    done = onnxinit("reinit", "lstm.onnx", *args)
    assert (done.status, done.out) == (1, "")
    assert re.match("onnxinit: error: " + message, done.err), done.err
    assert done.err.count("\n") == 1
    assert os.listdir(lstm.parent) == ["lstm.onnx"]
    assert sha(lstm) == before


@pytest.mark.parametrize("name", ["none.onnx", ".", "text.onnx", "empty.onnx", "half.onnx"])
@pytest.mark.parametrize("command", ["reinit", "inspect"])
def test_bad_models(onnxinit: Run, lstm: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> None:
    monkeypatch.chdir(lstm.parent)
    Path("text.onnx").write_text("this is no model")
    Path("empty.onnx").touch()
    Path("half.onnx").write_bytes(lstm.read_bytes()[:5000])
    before = sorted(os.listdir())
    done = onnxinit(command, name)
    assert (done.status, done.out) == (1, "")
    assert re.match(rf"onnxinit: error: {re.escape(name)}: ", done.err), done.err
    assert done.err.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["reinit"], "Missing argument 'MODEL'"),
        (["reinit", "lstm.onnx", "--sheme", "he"], "No such option.*--sheme.*--scheme"),
        (["reinit", "lstm.onnx", "--threads", "two"], "'two' is not a valid integer"),
        (["reinit", "lstm.onnx", "--in-place", "-o", "x"], "--in-place writes over MODEL: leave out --output"),
        (["reinit", "lstm.onnx", "--quiet", "--json"], "--quiet prints nothing: leave out --json"),
        (["reinti", "lstm.onnx"], "No such command 'reinti'"),
    ],
)
def test_wrong_usage(onnxinit: Run, lstm: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str) -> None:
    monkeypatch.chdir(lstm.parent)
    done = onnxinit(*args)
    assert (done.status, done.out) == (2, "")
    assert re.search(message, done.err), done.err
    assert os.listdir(lstm.parent) == ["lstm.onnx"]


def test_a_plan_and_what_it_says_already(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    onnxinit("reinit", lstm, "--dry-run", "--report", report)
    done = onnxinit("reinit", lstm, "--plan", report, "--seed", 0, "--scheme", "he")
    assert done.status == 1
    assert done.err == "onnxinit: error: a plan is given, which says it all: leave out scheme and seed\n"
    other = Path(__file__).parent.parent.parent / "models" / "resnet_bn.onnx"
    done = onnxinit("reinit", other, "-o", tmp_path / "x.onnx", "--plan", report)
    assert (done.status, (tmp_path / "x.onnx").exists()) == (1, False)
    assert "which the model lacks: make a plan for this model" in done.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("patience", "seen"), [(0.0, True), (60.0, False)])
def test_progress_is_for_terminals_and_for_what_lasts(
    monkeypatch: pytest.MonkeyPatch, patience: float, seen: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with progress.bar() as told:
        assert told is not None
        told(50, 100)
        told(100, 100)
    assert ("writing" in terminal.getvalue()) == seen


def test_no_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.bar() as told:
        assert told is None


def test_external_data_elsewhere_needs_leave(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    for name in ("model", "blobs"):
        (tmp_path / name).mkdir()
    model = tmp_path / "model" / "m.onnx"
    onnx.save(onnx.load(lstm), model, save_as_external_data=True, location="m.bin", size_threshold=0)
    (tmp_path / "model" / "m.bin").rename(tmp_path / "blobs" / "m.bin")
    (tmp_path / "model" / "m.bin").symlink_to("../blobs/m.bin")
    for command in (["inspect", model], ["reinit", model, "--quiet"]):
        done = onnxinit(*command)
        assert (done.status, done.out) == (1, "")
        assert "--external-root" in done.err
        assert done.err.count("\n") == 1
        assert onnxinit(*command, "--external-root", tmp_path / "blobs").status == 0
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.bin", "m.onnx", "m.reinit.onnx", "m.reinit.onnx.data"]


def test_a_cascade_from_the_output_down(onnxinit: Run, lstm: Path) -> None:
    done = onnxinit("reinit", lstm, "--cascade", 1, "--json")
    record = json.loads(done.out)
    assert [e["id"] for e in record["plan"]["entries"]] == ["tags.weight", "tags.bias"]
    assert {k["reason"] for k in record["plan"]["kept"] if k["id"].startswith("lstm")} == {
        "further from the output than --cascade 1 goes"
    }
    note = onnx.load(record["output"]).metadata_props
    assert json.loads(next(p.value for p in note if p.key == "onnxinit"))["arguments"] == {"cascade": 1}
    listed = onnxinit("inspect", lstm, "--cascade", 2, "--json")
    drawn = [w["id"] for w in json.loads(listed.out)["weights"] if w["scheme"]]
    assert sorted(drawn) == ["lstm.B", "lstm.R", "lstm.W", "tags.bias", "tags.weight"]
    refused = onnxinit("reinit", lstm, "--cascade", "-1")
    assert refused.status == 1 and refused.err.startswith("onnxinit: error: a cascade of -1 layers is below 0")


def test_weights_of_another_model(onnxinit: Run, lstm: Path, tmp_path: Path) -> None:
    donor = tmp_path / "big.onnx"
    model = onnx.load(lstm)
    for tensor in model.graph.initializer:
        if tensor.name == "tags.bias":
            tensor.name = "out.bias"
    model.graph.node[-1].input[:] = ["out.bias" if n == "tags.bias" else n for n in model.graph.node[-1].input]
    onnx.save(model, donor)
    done = onnxinit("reinit", lstm, "--scheme", f"donor:path={donor}", "--rule", "lstm.R=orthogonal")
    assert (done.status, done.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[2:8]}
    assert rows["lstm.W"][-1] == "donor"  # by its own id
    assert rows["tags.bias"][-2:] == ["donor:", "out.bias"]
    assert rows["lstm.R"][-1] == "orthogonal"
    missing = onnxinit("inspect", lstm, "--rule", "lstm.R=donor:path=nowhere.onnx")
    assert (missing.status, missing.out) == (1, "")
    assert missing.err == "onnxinit: error: the donor nowhere.onnx: there is no such file\n"
