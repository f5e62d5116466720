"""What the LSUV sweep costs and how exact it is, on a ResNet-50 and on a transformer of 24 layers.

    python benchmarks/lsuv.py                                     all figures of both networks
    python benchmarks/lsuv.py --model resnet50 --figure time      one of them

Needs PyTorch, which makes the networks (`lsuv_torch.py`). The figures:

error    The std of every layer's pre-activation less 1, by a separate run of the saved file in ONNX Runtime with the
         pre-activations as outputs: on the calibration batch, and on a batch of other samples of the same kind.
time     The sweep (planning, sessions, runs, statistics, rescaling; neither loading nor analysis nor drawing) against
         one forward pass of the same file in ONNX Runtime: all optimisations, same batch, same threads.
torch    The wall time of LSUV in PyTorch against the sweep's.
memory   The largest resident set of a process that runs `onnxinit reinit --scheme lsuv`, against its bound: the largest
         weight, the most activations that are alive at once, and 150 MB for Python and ONNX Runtime. A process
         that runs the file once as it comes stands beside it.

Runs are interleaved and their medians compared, since a shared machine is steady in ratios only.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

from collections.abc import Mapping
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODELS = ("resnet50", "resnet50_bn", "transformer")
RUNTIME = 150e6  # bytes that Python, its packages and ONNX Runtime take themselves

Feed = Mapping[str, np.ndarray]
