"""Compile a mask and a target into the plan that the models read, and refuse pairs that leak."""

from xtra_toolkit.objective.compiled import CompiledObjective
from xtra_toolkit.objective.compiler import (
    ObjectiveRefusedError,
    Outline,
    Refusal,
    certify_objective,
    compile_objective,
)
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.objective.plan import Bounds, Features, Group, Plan
from xtra_toolkit.objective.target import Target

__all__ = [
    "Bounds",
    "CompiledObjective",
    "Features",
    "Group",
    "Links",
    "Mask",
    "MaskFactory",
    "ObjectiveRefusedError",
    "Outline",
    "Plan",
    "Refusal",
    "Target",
    "certify_objective",
    "compile_objective",
]
