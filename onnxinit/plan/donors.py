"""Other models that weights are taken from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnxinit.analysis import analyse
from onnxinit.analysis.operators import Operators
from onnxinit.analysis.weight import Analysis, Weight
from onnxinit.errors import ModelError, SchemeError
from onnxinit.model import ModelFile
from onnxinit.plan.alignment import Matches, align
from onnxinit.plan.blocks import label
from onnxinit.plan.pairing import Form, Pairing, pair
from onnxinit.schemes import Spec

NO_DONOR = "no donor in "


@dataclass(frozen=True, slots=True)
class Donor:
    """A model that gives weights.

    Attributes:
        file: The model file.
        analysis: What its tensors are.
    """

    file: ModelFile
    analysis: Analysis
    _matches: dict[bool, tuple[Analysis, Matches]] = field(default_factory=dict, repr=False)

    def matches(self, model: Analysis, *, tile: bool) -> Matches:
        """The matches with a model, worked out once."""
        if tile not in self._matches or self._matches[tile][0] is not model:
            self._matches[tile] = model, align(model, self.analysis, tile=tile)
        return self._matches[tile][1]


class Donors:
    """The donors of a run, each opened when it is asked for, once.

    Args:
        external_root: A folder besides a donor's own that its external data may lie in.
        operators: Operators that a user describes.
    """

    def __init__(self, external_root: Path | None = None, operators: Operators | None = None):
        self._root, self._operators = external_root, operators
        self._open: dict[str, Donor] = {}

    def open(self, path: str) -> Donor:
        """The donor of a path.

        Raises:
            ModelError: It cannot be read.
        """
        if path not in self._open:
            try:
                file = ModelFile.open(path, external_root=self._root)
                self._open[path] = Donor(file, analyse(file, self._operators))
            except ModelError as e:
                raise ModelError(f"the donor {e}") from None
        return self._open[path]

    def give(self, weight: Weight, spec: Spec) -> tuple[Donor, Weight, Pairing]:
        """What a weight takes by a spec that names the donor's weight.

        Raises:
            ModelError: The donor cannot be read, or its values are not there.
            SchemeError: The spec names no weight, one that the donor lacks, or one that cannot give the values.
        """
        path, ident = str(spec.values["path"]), spec.values["weight"]
        donor = self.open(path)
        found = donor.analysis.by_id.get(str(ident)) if ident is not None else None
        if found is None:
            lacks = "names no weight of the donor" if ident is None else f"names '{ident}', which {path} lacks"
            raise SchemeError(
                f"{label(weight)} cannot be drawn by {spec}: it {lacks}; `onnxinit inspect {path}` lists its weights"
            )
        pairing = pair(Form.of(weight), Form.of(found), tile=bool(spec.values["tile"]))
        if isinstance(pairing, str):
            way_out = "; tile=true repeats it" if "smaller" in pairing or "fewer" in pairing else ""
            raise SchemeError(f"{label(weight)} cannot be drawn by {spec}: {label(found)} of {path} {pairing}{way_out}")
        if not donor.file.has_data(found.path):
            raise ModelError(
                f"the donor {donor.file.label(found.path)} has no values: put the external data beside the donor, or "
                "take another"
            )
        return donor, found, pairing

    def choose(self, model: Analysis, weight: Weight, spec: Spec) -> tuple[Spec, str] | str:
        """Find what a weight takes.

        Args:
            model: The model that the weight is of.
            weight: The weight.
            spec: A spec of a scheme that takes weights from another model.

        Returns:
            The spec that names the donor's weight, and in words what is taken; or why nothing is.

        Raises:
            ModelError: The donor cannot be read, or its values are not there.
            SchemeError: The spec names a weight itself that the donor lacks or that cannot give the values.
        """
        path, tile = str(spec.values["path"]), bool(spec.values["tile"])
        named, how = spec.values["weight"], "as named"
        if named is None:
            donor = self.open(path)
            found = donor.matches(model, tile=tile).get(weight.id)
            if found is None:
                return f"{NO_DONOR}{path}"
            named, how = found[0], f"matched by {found[1]}"
            fault = pair(Form.of(weight), Form.of(donor.analysis.by_id[named]), tile=tile)
            if isinstance(fault, str):
                return f"{NO_DONOR}{path}: '{named}' {fault}"
        params = {k: v for k, v in spec.params if k != "fallback"} | {"weight": named}
        chosen = Spec.of(spec.name, params)
        _, other, pairing = self.give(weight, chosen)
        evenly = {"": "", "subsampled": ", evenly subsampled", "repeated": ", repeated"}[pairing.how]
        return chosen, f"from '{other.id}' {list(other.shape)} of {path}, {how}{evenly}"
