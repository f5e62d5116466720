"""What roles get when nothing is said, and what auto means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import numpy as np

from onnxinit.analysis.weight import Activation
from onnxinit.sampling import Stream
from onnxinit.schemes.distribution import Distribution
from onnxinit.schemes.fan import spread
from onnxinit.schemes.parameters import Range
from onnxinit.schemes.spec import Spec
from onnxinit.schemes.table import Block, Floats, scheme


@scheme("embedding")
def embedding(block: Block) -> Distribution:
    """A table of D-vectors of about unit length.

    Formula: w ~ N(0, 1/D), D = fan_in
    """
    return spread("normal", block.fan("fan_in"))


@scheme("positional", aliases={"token": {}})
def positional(block: Block, *, std: Annotated[float, Range(least=0)] = 0.02) -> Distribution:
    """Positional tables and class tokens: normal, cut at two sigma.

    Formula: w = std z, z ~ N(0, 1) given |z| <= 2

    Source: Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929, as implemented

    Args:
        block: What it is drawn for.
        std: The standard deviation before the cut.
    """
    return Distribution.truncated_normal(std)


@scheme("bias_uniform", aliases={"torch_bias": {}})
def bias_uniform(block: Block) -> Distribution:
    """Uniform by the fan_in of the bias's layer, PyTorch's default for biases.

    Formula: b ~ U[-1/sqrt(fan_in), 1/sqrt(fan_in)]

    Source: torch.nn.Linear, torch.nn.Conv2d
    """
    fan = block.fan("fan_in")
    limit = math.sqrt(1 / fan) if fan > 0 else 0.0
    return Distribution.uniform(-limit, limit)


@scheme("forget_bias", exact_to="bytes", moments=lambda block, *, value: (_forget(block, value), 0.0))
def forget_bias(block: Block, stream: Stream, *, value: float = 1.0) -> Floats:
    """Biases of an LSTM: zero, and one for the forget gate (its input half; the recurrent half is zero).

    Formula: Wb.f = value, all others 0

    Source: Jozefowicz, Zaremba, Sutskever: An Empirical Exploration of Recurrent Network Architectures, ICML 2015

    Args:
        block: What it is drawn for.
        stream: The random bits.
        value: The bias of the forget gate.
    """
    return np.full(block.shape, _forget(block, value), block.dtype)


def _forget(block: Block, value: float) -> float:
    return value if block.name == "Wb.f" else 0.0


@scheme("layer_scale", symmetric=True)
def layer_scale(block: Block, *, depth: Annotated[int, Range(least=0)] = 0) -> Distribution:
    """The scale of a residual branch, by the depth of the network.

    Formula: 0.1 to depth 18, 1e-5 to depth 24, 1e-6 beyond

    Source: Touvron, Cord, Sablayrolles, Synnaeve, Jegou: Going deeper with Image Transformers (CaiT), ICCV 2021,
    arXiv:2103.17239

    Args:
        block: What it is drawn for.
        depth: The number of blocks.
    """
    return Distribution.constant(0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6)


ROLE_DEFAULTS: Mapping[str, Spec] = MappingProxyType(
    {
        "weight": Spec.of("auto"),
        "input_weight": Spec.of("auto"),
        "recurrent_weight": Spec.of("orthogonal"),
        "bias": Spec.of("zeros"),
        "peephole": Spec.of("zeros"),
        "norm_scale": Spec.of("ones"),
        "norm_shift": Spec.of("zeros"),
        "running_mean": Spec.of("zeros"),
        "running_var": Spec.of("ones"),
        "embedding": Spec.of("embedding"),
        "positional": Spec.of("positional"),
        "token": Spec.of("positional"),
        "prelu_slope": Spec.of("constant", {"value": 0.25}),
        "layer_scale": Spec.of("layer_scale"),
    }
)
"""What each role gets where no rule names it; the plan adds what depends on the weight (depth, forget gates, 1 + w)."""

RECTIFIERS = frozenset(
    {"relu", "leaky_relu", "prelu", "relu6", "elu", "celu", "gelu", "gelu_tanh", "quick_gelu", "silu", "mish"}
    | {"hardswish", "softplus"}
)


def auto_spec(downstream: Sequence[Activation]) -> Spec:
    """What auto means for a weight: he:gain=exact, lecun or xavier, by its downstream activations.

    Args:
        block: What it is drawn for.
        downstream: The functions applied to the layer's output; one rectifier among them decides for he.
    """
    if any(_rectifies(a) for a in downstream):
        return Spec.of("he", gain="exact")
    return Spec.of("lecun" if any(a.name == "selu" for a in downstream) else "xavier")


def _rectifies(activation: Activation) -> bool:
    """Whether a function is zero or flat on one side; a clip is where it starts at zero or so, not where it is odd."""
    return activation.name in RECTIFIERS or (activation.name == "clip" and (activation.mean or 0.0) > 0)
