"""Warnings that speak of the whole network."""

from pathlib import Path

import pytest

import onnxinit

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.mark.parametrize(
    ("model", "scheme", "warned"),
    [
        ("mlp_tanh30", "sparse", True),
        ("mlp_tanh30", "sparse:std=0.37", False),
        ("mlp_tanh30", "he", False),
        ("resnet_bn", "sparse", False),
        ("bilstm_tagger", "sparse", False),
    ],
)
def test_sparse_layers_that_no_norm_holds_down(model: str, scheme: str, warned: bool) -> None:
    """The 30 layers of the MLP multiply the variance by up to 15 each; batch norm, or two layers, are no danger."""
    result = onnxinit.reinit(MODELS / f"{model}.onnx", scheme=scheme, dry_run=True)
    assert any("sparse:std=0.37 keeps it" in w for w in result.warnings) == warned
