"""The networks that `lsuv.py` measures, and LSUV as LSUV-pytorch does it, in PyTorch.

    python benchmarks/lsuv_torch.py export NAME FILE.onnx [--dynamo]    resnet50, resnet50_bn or transformer
    python benchmarks/lsuv_torch.py feed NAME DATA.npz SEED BATCHES     inputs
    python benchmarks/lsuv_torch.py lsuv NAME DATA.npz THREADS          prints what it took, as JSON

Both are written here in plain `torch.nn`, so that nothing but torch is needed. Weights are torch's own random ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    sys.exit("this benchmark needs PyTorch, for the networks and to compare with: pip install torch")
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, TOKENS, VOCABULARY = 384, 6, 128, 1000


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut (arXiv 1512.03385), the stride at the 3x3."""

    def __init__(self, inputs: int, width: int, stride: int, norm: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.a = conv(inputs, width, 1, 1, norm)
        self.b = conv(width, width, 3, stride, norm)
        self.c = conv(width, outputs, 1, 1, norm)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.b(self.a(x).relu()).relu())
        return (y + self.shortcut(x)).relu()


def conv(inputs: int, outputs: int, kernel: int, stride: int, norm: bool) -> nn.Module:
    """A convolution and its BatchNormalization, or with a bias as if that had been folded in."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs)) if norm else layer


class ResNet50(nn.Module):
    """53 convolutions and a classifier."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.stem = conv(3, 64, 7, 2, norm)
        blocks, inputs = [], 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            for i in range(depth):
                blocks.append(Bottleneck(inputs, 64 << stage, 2 if stage and not i else 1, norm))
                inputs = 256 << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x).relu(), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Layer(nn.Module):
    """Attention and a GELU MLP, each after a LayerNorm and beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = (q @ k.transpose(2, 3)) * (WIDTH / HEADS) ** -0.5
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """24 pre-norm encoder layers over an embedding: 144 linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(24)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.layers(self.token(ids) + self.position))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNet50(norm=False),
    "resnet50_bn": lambda: ResNet50(norm=True),
    "transformer": Transformer,
}


@torch.no_grad()
def network(name: str) -> nn.Module:
    """The network for inference, its norms as if trained: the older exporter stores equal tensors once."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.LayerNorm):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.1)
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return model


def feed(name: str, seed: int, batches: int = 1) -> dict[str, np.ndarray]:
    """Batches of 8 images of 128 x 128 standard normals, or of 4 sequences of 128 token ids."""
    random = np.random.default_rng(seed)
    if name == "transformer":
        return {"input": random.integers(0, VOCABULARY, (4 * batches, TOKENS))}
    return {"input": random.standard_normal((8 * batches, 3, 128, 128), np.float32)}


def export(name: str, path: Path, dynamo: bool) -> None:
    """Write the network as a file that holds its weights; BatchNormalization stays a node of its own."""
    model, x = network(name), torch.from_numpy(feed(name, 0)["input"])
    if dynamo:
        batch = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            model, (x,), input_names=["input"], dynamic_shapes=batch, dynamo=True, optimize=False, verbose=False
        )
        program.save(path, external_data=False)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter, which needs onnxscript
        torch.onnx.export(
            model,
            (x,),
            path,
            input_names=["input"],
            dynamic_axes={"input": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,  # as it is, which is eval(), and without folding
            opset_version=17,
            dynamo=False,
        )


@torch.no_grad()
def lsuv(model: nn.Module, x: Tensor, tolerance: float = 0.02, attempts: int = 10, base: bool = False) -> int:
    """Layer by layer `W /= std(output)` until |Var - 1| < `tolerance`, with a whole forward pass for each look.

    The algorithm of arXiv 1511.06422 as LSUV-pytorch runs it: a hook holds the layer's output while the whole
    network runs on the data; layers go by order of registration. Unlike there, the first layer is scaled as well.

    Args:
        model: Changed in place; its biases are set to zero first.
        x: The calibration data, one batch.
        tolerance: On the variance.
        attempts: Corrections of one layer at most.
        base: Draw orthonormal weights first.

    Returns:
        How many times the network ran.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if layer.bias is not None:
            layer.bias.zero_()
        if base:
            nn.init.orthogonal_(layer.weight)
    runs = 0
    for layer in layers:
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _x, y, seen=seen: seen.append(y))
        for _ in range(attempts + 1):
            seen.clear()
            model(x)
            runs += 1
            variance = seen[0].var().item()
            if abs(variance - 1) < tolerance:
                break
            layer.weight /= variance**0.5
        hook.remove()
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export")
    command.add_argument("name", choices=NETWORKS)
    command.add_argument("path", type=Path)
    command.add_argument("--dynamo", action="store_true", help="by torch's newer exporter; needs onnxscript")
    command = commands.add_parser("feed")
    command.add_argument("name", choices=NETWORKS)
    command.add_argument("path", type=Path)
    command.add_argument("seed", type=int)
    command.add_argument("batches", type=int)
    command = commands.add_parser("lsuv")
    command.add_argument("name", choices=NETWORKS)
    command.add_argument("data", type=Path)
    command.add_argument("threads", type=int)
    args = parser.parse_args()
    if args.command == "export":
        export(args.name, args.path, args.dynamo)
        return
    if args.command == "feed":
        np.savez(args.path, **feed(args.name, args.seed, args.batches))
        return
    torch.set_num_threads(args.threads)
    model, x = network(args.name), torch.from_numpy(np.load(args.data)["input"])
    with torch.no_grad():
        model(x)
    wall, processor = time.perf_counter(), time.process_time()
    runs = lsuv(model, x)
    took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    print(json.dumps({"runs": runs, **took}))


if __name__ == "__main__":
    main()
