"""Weights that the graph makes at run time, or that are stored sparse, stored so that all of them can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Collection

from onnx import TensorProto

from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.model import Generated, ModelFile, materialised, unused_initializers, without


def with_stored(
    file: ModelFile,
    read: Callable[[ModelFile], Analysis],
    *,
    generated: bool,
    sparse: bool,
    spare: Collection[Weight] = (),
) -> tuple[ModelFile, Analysis]:
    """The file with dense stored tensors, as yet without values, for weights that it holds otherwise; what is in that.

    Args:
        file: The model.
        read: Analyses a model.
        generated: Whether the weights become such that the graph makes.
        sparse: Whether those do that are stored sparse.
        spare: Weights of an earlier answer that stay what they are.
    """
    analysis, spared = read(file), {(w.scope, w.name) for w in spare}
    made = [m.stored for m in analysis.generated if generated and (m.kept.scope, m.kept.name) not in spared]
    held = [w for w in analysis.weights if sparse and w.pattern and (w.scope, w.name) not in spared]
    made += [
        Generated(_holder(w), w.name, w.shape, TensorProto.DataType.Value(w.dtype.upper()), "sparse") for w in held
    ]
    if not made:
        return file, analysis
    file = materialised(file, made)
    return file, read(file)


def without_unused(
    file: ModelFile, analysis: Analysis, read: Callable[[ModelFile], Analysis]
) -> tuple[ModelFile, Analysis, tuple[str, ...]]:
    """The file without the initializers that nothing uses; what is in that; and the ids of what was left out.

    Args:
        file: The model.
        analysis: What is in it.
        read: Analyses a model.
    """
    unused = unused_initializers(file.proto)
    if not unused:
        return file, analysis, ()
    paths = {path for tensors in unused.values() for path in tensors}
    file = without(file, unused)
    return file, read(file), tuple(kept.id for kept in analysis.kept if kept.path in paths)


def _holder(weight: Weight) -> str:
    """The path of the sparse initializer, or of the Constant node, that holds a sparse weight."""
    return weight.path.removesuffix(".values").partition(".attribute[")[0]
