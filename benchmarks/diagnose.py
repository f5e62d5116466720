"""Are the gradients that `onnxinit diagnose` tells right? `python benchmarks/diagnose.py [--probes N] [--networks N]`.

Needs PyTorch, whose exact Jacobians are the yardstick: from the input, and from the output of every layer, to the
output of the network, the mean over a batch of |J|_F^2 / n. The networks are an MLP and a CNN of 3 layers, and an MLP
of 12, each with relu, tanh and gelu, with random weights and biases. Told is how far the estimates are off, in percent
(root mean square over the networks, and over their layers), and how many of them lie within two of their own standard
errors of the truth.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence

import onnx

import onnxinit

try:
    import torch
except ImportError:
    sys.exit("this benchmark needs PyTorch, to compare with: pip install torch")
from torch import Tensor, nn
from torch.func import jacrev, vmap

BATCH, WIDTH, CHANNELS, SIDE = 16, 64, 8, 8
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "relu": (nn.ReLU, 2**0.5),
    "tanh": (nn.Tanh, 5 / 3),
    "gelu": (nn.GELU, 1.5),
}


def mlp(depth: int) -> tuple[list[nn.Module], tuple[int, ...]]:
    return [nn.Linear(WIDTH, WIDTH) for _ in range(depth)], (WIDTH,)


def cnn(depth: int) -> tuple[list[nn.Module], tuple[int, ...]]:
    layers = [nn.Conv2d(CHANNELS if i else 3, CHANNELS, 3, padding=1) for i in range(depth)]
    return list(layers), (3, SIDE, SIDE)


SHAPES = {"MLP of 3": (mlp, 3), "CNN of 3": (cnn, 3), "MLP of 12": (mlp, 12)}


def network(shape: str, activation: str, seed: int) -> tuple[nn.Sequential, Tensor]:
    """A network and a batch of inputs."""
    torch.manual_seed(seed)
    build, depth = SHAPES[shape]
    function, gain = ACTIVATIONS[activation]
    layers, inputs = build(depth)
    with torch.no_grad():
        for layer in layers:
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0, gain * fan_in**-0.5)
            layer.bias.normal_(0, 0.1)
    steps = [step for layer in layers for step in (layer, function())]
    return nn.Sequential(*steps[:-1]), torch.randn(BATCH, *inputs)


def exact(model: nn.Sequential, x: Tensor) -> list[float]:
    """|J|_F^2 / n to the output: from the input, then from the output of every layer but the last."""
    found = []
    for at, step in enumerate(model):
        if at == 0 or not list(step.parameters()):
            jacobian = vmap(jacrev(model[at:]))(x)
            found.append(float(jacobian.detach().double().square().sum()) / x.numel())
        x = step(x).detach()
    return found


def estimates(model: nn.Sequential, x: Tensor, probes: int) -> list[tuple[float, float]]:
    """The same by onnxinit, and their standard errors."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter, which needs onnxscript
        torch.onnx.export(model, (x,), file, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, dynamo=False)
    found = onnxinit.diagnose(
        onnx.load_from_string(file.getvalue()),
        data={"x": x.numpy()},
        batch_size=BATCH,
        probes=probes,
        gradient_layers=len(model),
        threads=1,
    )
    gradients = [found.input, *(layer.gradient for layer in found.layers[:-1])]
    return [(g.mean_square, g.error) for g in gradients]


def rms(values: Sequence[float]) -> float:
    return statistics.fmean(v * v for v in values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--networks", type=int, default=10, help="of each kind")
    args = parser.parse_args()

    print(f"{args.networks} networks each, {args.probes} probes, batches of {BATCH}; how far the estimates are off\n")
    print(f"{'':20}{'from the input':>16}{'from all layers':>17}{'told error':>12}{'within 2 errors':>17}")
    for shape in SHAPES:
        for activation in ACTIVATIONS:
            first, every, told, within = list[float](), list[float](), list[float](), list[bool]()
            for seed in range(args.networks):
                model, x = network(shape, activation, seed)
                found = estimates(model, x, args.probes)
                for at, (true, (value, error)) in enumerate(zip(exact(model, x), found, strict=True)):
                    off = 100 * (value / true - 1)
                    (first if at == 0 else every).append(off)
                    told.append(100 * error / true)
                    within.append(abs(value - true) <= 2 * error)
            row = f"{rms(first):14.1f} %{rms(every):15.1f} %{rms(told):10.1f} %{100 * statistics.fmean(within):15.0f} %"
            print(f"{shape + ', ' + activation:20}{row}")


if __name__ == "__main__":
    main()
