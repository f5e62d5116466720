"""Rules, and the plan: for every weight its scheme, gain and seed, or the reason why it is kept."""

from onnxinit.plan.advice import stale
from onnxinit.plan.asked import Asked, several
from onnxinit.plan.blocks import asked_moments, asked_std, block_means, block_of, label, parts_of, sampled, work_type
from onnxinit.plan.defaults import SIGNAL_ROLES, STARTS_SO
from onnxinit.plan.donors import Donors
from onnxinit.plan.fit import fit_plan
from onnxinit.plan.make import base_entry, entry_of, make_plan
from onnxinit.plan.measured import Aside, Measured, aside_path
from onnxinit.plan.pairing import Pairing
from onnxinit.plan.patterns import Pattern
from onnxinit.plan.plan import Entry, Gain, Left, Plan, Vector
from onnxinit.plan.refit import REFIT, moves_codes
from onnxinit.plan.rules import Rule

__all__ = [
    "REFIT",
    "SIGNAL_ROLES",
    "STARTS_SO",
    "Aside",
    "Asked",
    "Donors",
    "Entry",
    "Gain",
    "Left",
    "Measured",
    "Pairing",
    "Pattern",
    "Plan",
    "Rule",
    "Vector",
    "aside_path",
    "asked_moments",
    "asked_std",
    "base_entry",
    "block_means",
    "block_of",
    "entry_of",
    "fit_plan",
    "label",
    "make_plan",
    "moves_codes",
    "parts_of",
    "sampled",
    "several",
    "stale",
    "work_type",
]
