"""What is measured beside onnxinit, each in a process of its own: `contestants.py NAME ARGUMENT...`.

A function imports what it needs itself, since what a process imports counts as its memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def make(path: str, layers: str, side: str, external: str) -> None:
    """Write the model: `layers` square matrices with ReLUs between them, embedded or in a data file beside it."""
    import numpy as np
    from onnx import TensorProto, helper

    values = np.random.default_rng(0).standard_normal(int(side) ** 2, np.float32)
    nodes, tensors = [], []
    with open(path + ".data", "wb") if external == "True" else open(os.devnull, "wb") as data:
        for i in range(int(layers)):
            nodes += [
                helper.make_node("MatMul", [f"y{i}", f"w{i}"], [f"h{i}"]),
                helper.make_node("Relu", [f"h{i}"], [f"y{i + 1}"]),
            ]
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[int(side)] * 2)
            tensors.append(tensor)
            if external == "True":
                place = {"location": Path(path).name + ".data", "offset": i * values.nbytes, "length": values.nbytes}
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                data.write(np.roll(values, i).tobytes())
            else:
                tensor.raw_data = np.roll(values, i).tobytes()
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", int(side)]) for n in ("y0", f"y{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Path(path).write_bytes(model.SerializeToString())


def load_save(path: str, out: str, external: str) -> None:
    """Load the model with the onnx package and save it unchanged."""
    import onnx

    if external == "True":
        onnx.save(onnx.load(path), out, save_as_external_data=True, location=Path(out).name + ".data")
    else:
        onnx.save(onnx.load(path), out)


def write(out: str, size: str) -> None:
    """Write that many bytes and flush them to the disk."""
    block, left = bytes(1 << 20), int(size)
    with open(out, "wb", buffering=0) as file:
        while left > 0:
            left -= file.write(block[:left])
        os.fsync(file.fileno())


def draw(size: str) -> None:
    """Draw as many float32 normals as fit into `size` bytes, with numpy's ziggurat, and scale them."""
    import numpy as np

    source, block, left = np.random.default_rng(0), np.empty(1 << 18, np.float32), int(size) // 4
    while left > 0:
        source.standard_normal(out=block, dtype=np.float32)
        block *= np.float32(0.02)
        left -= block.size


def forward(path: str, data: str, threads: str) -> None:
    """Run the model once in ONNX Runtime, as it comes, on what an .npz holds."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, dict(np.load(data)))


def peak(*command: str) -> None:
    """Run a command of Python's and print its largest resident set in megabytes.

    For a caller that is large itself: a process starts with the peak of the one that starts it.
    """
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *command])
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    print(usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


if __name__ == "__main__":
    contestants = {f.__name__: f for f in (make, load_save, write, draw, forward, peak)}
    contestants[sys.argv[1]](*sys.argv[2:])
