"""Old weights are never in memory, new ones a chunk at a time: resident memory, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from onnxinit.model.wire import bytes_head, encode_varint

MEGABYTES = 200

SCRIPT = """
import sys
from onnxinit.model import Chunk, ModelFile, write

class Constant:
    def __init__(self, nbytes):
        self.nbytes = nbytes
    def chunks(self):
        for at in range(0, self.nbytes, 1 << 20):
            size = min(1 << 20, self.nbytes - at)
            yield Chunk(at, size, lambda size=size: b"\\x3c" * size)

source, out, some, threads = sys.argv[1:]
file = ModelFile.open(source)
paths = [p for i, p in enumerate(file.tensors) if some == "all" or i % 2]
write(file, out, {p: Constant(file.tensors[p].nbytes) for p in paths}, metadata=None, threads=int(threads))
# Not getrusage: its peak begins with that of the process that forked this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def embedded(path: Path) -> None:
    """A model of `MEGABYTES` in four tensors, written without having it in memory."""
    size = MEGABYTES << 18
    heads = []
    for i in range(4):
        head = b"\x08" + encode_varint(size // 4) + b"\x10\x01\x42\x02w%d" % i  # dims, data_type, name
        heads.append(bytes_head(5, len(head) + len(bytes_head(9, size)) + size) + head + bytes_head(9, size))
    total = sum(map(len, heads)) + 4 * size
    with open(path, "wb") as file:
        file.write(b"\x08\x08" + bytes_head(7, total))
        for head in heads:
            file.write(head)
            file.truncate(file.tell() + size)
            file.seek(size, 1)


def external(path: Path) -> None:
    """The same with external data."""
    size = MEGABYTES << 18
    tensors = []
    for i in range(4):
        tensor = onnx.TensorProto(name=f"w{i}", dims=[size // 4], data_type=1, data_location=1)
        for key, value in {"location": "w.bin", "offset": str(i * size), "length": str(size)}.items():
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], tensors)).SerializeToString())
    with open(path.parent / "w.bin", "wb") as file:
        file.truncate(4 * size)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("make", [embedded, external])
@pytest.mark.parametrize("some", ["all", "half"])
def test_resident_memory(make, some: str, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx")
    arguments = [sys.executable, "-c", SCRIPT, tmp_path / "m.onnx", tmp_path / "o.onnx", some, "2"]
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150
    written = sum(path.stat().st_size for path in tmp_path.glob("o.onnx*"))
    assert MEGABYTES << 20 <= written < (MEGABYTES << 20) + 20_000
