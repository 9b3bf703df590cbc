"""Make the plan of a batch from a certified pair, and say what was certified."""

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.draw import check_structure, compile_plan
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.objective.plan import Bounds, Plan
from xtra_toolkit.objective.registers import with_registers
from xtra_toolkit.objective.target import Target

SAMPLED_DRAWS = 8


class CompiledObjective:
    """Hold a certified pair. Call it to get the plan of a batch.

    Args:
        mask, target, grid: The pair and the grid of the images.
        structure: The first sampled draw: the fields that all draws share.
        links: The predictions that can count in the loss.
        bounds: What holds for all draws.
        order_is_hidden: Whether the order is drawn and the model is not told which it is.
    """

    def __init__(
        self,
        mask: MaskFactory,
        target: Target,
        grid: PatchGrid,
        structure: Mask,
        links: list[Links],
        bounds: Bounds,
        order_is_hidden: bool = False,
    ):
        self.mask, self.grid, self.structure, self.links = mask, grid, structure, links
        self.bounds, self.order_is_hidden = bounds, order_is_hidden
        self.weighted = mask.weighted
        self.name, self.random, self.local = pair_name(mask, target), mask.random, target.local
        self.values_per_token = [part.width(grid) for part in target.parts]
        self.length, self.has_masked_tokens = len(structure), structure.visible is not None
        self._plans: dict[torch.device, Plan] = {}
        self._on_device: dict[torch.device, tuple[Mask, list[Links]]] = {}

    @property
    def factory(self) -> MaskFactory:
        """Return the mask with the registers of the grid."""
        return with_registers(self.mask, self.grid)

    def or_raise(self) -> "CompiledObjective":
        """Return the objective itself."""
        return self

    def head_shapes(self, width: int) -> list[tuple[int, int]]:
        """Return the (in, out) widths of the predictor of each group.

        Args:
            width: Width of the outputs that the head reads.
        """
        return [
            (
                group.source_positions.shape[-1] * width,
                group.target_positions.shape[-1] * self.values_per_token[group.part],
            )
            for group in self.links
        ]

    @torch.inference_mode(False)  # training may use the cached plan later
    def __call__(
        self,
        batch: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> Plan:
        """Return the plan of a batch.

        Args:
            batch: Number of images.
            device: Where the plan is needed.
            generator: What a random mask draws from. None: the draw of evaluation.
            weights: (batch, tokens) by which the mask draws, if it is weighted.
        """
        if self.random:
            given = () if weights is None else (weights,)
            return self.compile(self.factory(self.grid, batch, generator, *given), device)
        if device not in self._plans:
            self._plans[device] = self.compile(self.factory(self.grid), device)
        return self._plans[device]

    def compile(self, mask: Mask, device: torch.device) -> Plan:
        """Compile a draw of the mask; assertions on the device hold it to the certificate."""
        if device not in self._on_device:  # copied once, since a copy to a GPU makes the host wait
            links = [group.to(device) for group in self.links]
            self._on_device[device] = self.structure.to(device), links
        structure, links = self._on_device[device]
        mask = mask.to(device)
        if self.random:
            check_structure(structure, mask)
        return compile_plan(mask, links, self.grid, self.bounds)

    @property
    def certificate(self) -> str:
        """Return what was certified, in clauses separated by '; '."""
        clauses = [f"{self.name} on {self.grid}"]
        for sees_target in (False, True):
            links = [group for group in self.links if group.sees_target == sees_target]
            if links:
                says = "may see its target, as the target declares"
                count = _count(links, self.structure.masks_per_image)
                clauses.append(f"{count}, {says if sees_target else 'none sees its target'}")
        if not self.local:
            clauses.append(
                "the values of a target depend on pixels of other tokens, which the prediction "
                "may see"
            )
        if self.grid.registers:
            clauses.append(f"registers: {self.grid.registers}, which see what position 0 sees")
        as_tokens = ", the hidden ones as mask tokens" if self.bounds.mask_tokens else ""
        clauses.append(
            f"{self.bounds.num_computed} of {self.length} positions computed, "
            f"{self.bounds.num_encoded} in the encoder{as_tokens}"
        )
        if self.structure.own_decoder:
            clauses.append("the decoder follows a mask of its own")
        if self.order_is_hidden:
            clauses.append("the order is drawn for each batch, and the model is not told which")
        if self.random:
            clauses.append(
                f"certified over {SAMPLED_DRAWS} sampled and all extreme draws, and asserted in "
                "each step"
            )
        return "; ".join(clauses)


def pair_name(mask: MaskFactory, target: Target) -> str:
    """Return the name of a pair, for example 'BlockCausal × NextBlock'."""
    return f"{type(mask).__name__} × {type(target).__name__}"


def _count(links: list[Links], masks_per_image: int) -> str:
    """Return '15 predictions, each of 16 tokens from 16 outputs', '4 × 9 predictions, ...'."""
    count = sum(group.source_positions.shape[1] for group in links)
    sizes = (
        ("token", {group.target_positions.shape[-1] for group in links}),
        ("output", {group.source_positions.shape[-1] for group in links}),
    )
    tokens, outputs = (
        f"{min(s)} to {max(s)} {what}s" if len(s) > 1 else f"{max(s)} {what}{'s' * (max(s) > 1)}"
        for what, s in sizes
    )
    heads = f" in {len(links)} groups" if len(links) > 1 else ""
    times = f"{masks_per_image} × " if masks_per_image > 1 else ""
    return f"{times}{count} prediction{'s' * (count > 1)}{heads}, each of {tokens} from {outputs}"
