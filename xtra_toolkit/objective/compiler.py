"""Compile a mask and a target for a grid, and certify that no prediction can see its target.

``compile_objective(mask, target, grid)`` gives an ``Outline``: what follows from the links alone,
which is what the models are built from. ``outline.certify(depth)`` then gives the
``CompiledObjective``. Either step may give a ``Refusal`` in its place; ``or_raise()`` turns that
into an error.
"""

from dataclasses import dataclass, field

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.bounds import compute_bounds
from xtra_toolkit.objective.draw import STRUCTURE, check_structure, compile_plan
from xtra_toolkit.objective.leak_check import Leak, check_positioned, describe_leak, find_leak
from xtra_toolkit.objective.links import Links, drop_context
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.objective.plan import Bounds, Plan
from xtra_toolkit.objective.reach import Depth
from xtra_toolkit.objective.target import Target

SAMPLED_DRAWS = 8


class ObjectiveRefusedError(ValueError):
    """Refuse a pair of mask and target that cannot be certified; ``refusal`` says why."""

    def __init__(self, refusal: "Refusal"):
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True)
class Refusal:
    """Hold the reason why a pair is refused, and what is needed to draw it.

    Args:
        reason: A sentence, in image coordinates.
        grid: The grid of the images.
        mask: The refused draw of one image; None if the mask itself could not be made.
        links: The predictions; empty if the target refused the mask.
        leak: The prediction that sees its target; None if the pair is refused for another reason.
        depth: Layers of the encoder and of the decoder, as far as they are known.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.
    """

    reason: str
    grid: PatchGrid
    mask: Mask | None = None
    links: list[Links] = field(default_factory=list)
    leak: Leak | None = None
    depth: Depth = (1, 1)
    mask_tokens: bool = False

    def or_raise(self) -> "Refusal":
        """Raise an :class:`ObjectiveRefusedError`."""
        raise ObjectiveRefusedError(self)


@dataclass(frozen=True)
class Outline:
    """Hold what follows from the mask and the links alone, before the models are built.

    Args:
        mask, target, grid: The pair and the grid of the images.
        samples: Draws of the mask, see :func:`draw_samples`.
        links: The predictions.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.
    """

    mask: MaskFactory
    target: Target
    grid: PatchGrid
    samples: list[Mask]
    links: list[Links]
    mask_tokens: bool = False

    @property
    def name(self) -> str:
        """Return the name of the pair, for example 'BlockCausal × NextBlock'."""
        return _name(self.mask, self.target)

    @property
    def has_masked_tokens(self) -> bool:
        """Return whether the mask hides tokens, so that a model needs a mask token."""
        return self.samples[0].visible is not None

    @property
    def positioned(self) -> bool:
        """Return whether a source is told the position of its target."""
        return any(group.positioned for group in self.links)

    def or_raise(self) -> "Outline":
        """Return the outline itself."""
        return self

    def certify(self, depth: Depth) -> "CompiledObjective | Refusal":
        """Check every sampled draw for leaks, and compute what holds for all of them.

        Args:
            depth: Layers of the encoder and of the decoder: how far a mask with a predicate is
                followed.
        """
        mask, reason, leak = self.samples[0], None, None
        try:
            with torch.device("cpu"):  # also where the models are built on the meta device
                check_positioned(self.links)
                for mask in self.samples:
                    if leak := find_leak(mask, self.links, self.grid, depth, self.mask_tokens):
                        reason = describe_leak(
                            leak, mask, self.links, self.grid, depth, self.mask_tokens
                        )
                        break
                else:
                    return self._compile(depth)
        except ValueError as error:
            reason = str(error)
        return _refuse(self, reason, mask, self.links, leak, depth)

    def _compile(self, depth: Depth) -> "CompiledObjective":
        links = self.links if self.mask.random else drop_context(self.samples[0], self.links)
        bounds = compute_bounds(
            self.samples, links, self.grid, depth, self.mask.random, self.mask_tokens
        )
        orders = [torch.atleast_2d(mask.order)[:1] for mask in self.samples]
        drawn = any(not torch.equal(orders[0], order) for order in orders)
        known = all(group.at_own_position or group.positioned for group in links)
        return CompiledObjective(
            self.mask, self.target, self.grid, self.samples[0], links, bounds, drawn and not known
        )


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
        self.name, self.random, self.local = _name(mask, target), mask.random, target.local
        self.values_per_token = target.width(grid)
        self.length, self.has_masked_tokens = len(structure), structure.visible is not None
        self._plans: dict[torch.device, Plan] = {}
        self._on_device: dict[torch.device, tuple[Mask, list[Links]]] = {}

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
                group.target_positions.shape[-1] * self.values_per_token,
            )
            for group in self.links
        ]

    @torch.inference_mode(False)  # training may use the cached plan later
    def __call__(
        self, batch: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Plan:
        """Return the plan of a batch.

        Args:
            batch: Number of images.
            device: Where the plan is needed.
            generator: What a random mask draws from. None: the draw of evaluation.
        """
        if self.random:
            return self.compile(self.mask(self.grid, batch, generator), device)
        if device not in self._plans:
            self._plans[device] = self.compile(self.mask(self.grid), device)
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
        as_tokens = ", the hidden ones as mask tokens" if self.bounds.mask_tokens else ""
        clauses.append(
            f"{self.bounds.num_computed} of {self.length} positions computed, "
            f"{self.bounds.num_encoded} in the encoder{as_tokens}"
        )
        if self.order_is_hidden:
            clauses.append("the order is drawn for each batch, and the model is not told which")
        if self.random:
            clauses.append(
                f"certified over {SAMPLED_DRAWS} sampled and all extreme draws, and asserted in "
                "each step"
            )
        return "; ".join(clauses)


def compile_objective(
    mask: MaskFactory, target: Target, grid: PatchGrid, mask_tokens: bool = False
) -> Outline | Refusal:
    """Draw the mask and link it to the target.

    Args:
        mask: What may be seen.
        target: What is predicted, from where.
        grid: The grid of the images.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder. By default they
            are left out of it.
    """
    samples: list[Mask] = []
    try:
        with torch.device("cpu"):
            samples = draw_samples(mask, grid, mask_tokens)
            if mask_tokens and samples[0].masks_per_image > 1:
                raise ValueError(
                    f"{type(mask).__name__} makes {samples[0].masks_per_image} masks of an image, "
                    "which share one pass of the encoder, but mask tokens in the encoder need a "
                    "pass for each mask; set backbone.mask_tokens=False"
                )
            links = target.links(samples[0], grid)
            return Outline(mask, target, grid, samples, links, mask_tokens)
    except ValueError as error:
        drawn = samples[0].of_image(0) if samples else None
        return Refusal(str(error), grid, drawn)


def certify_objective(
    mask: MaskFactory,
    target: Target,
    grid: PatchGrid,
    depth: Depth = (1, 1),
    mask_tokens: bool = False,
) -> CompiledObjective:
    """Compile and certify in one call.

    Raises:
        ObjectiveRefusedError: The pair is refused.
    """
    outline = compile_objective(mask, target, grid, mask_tokens).or_raise()
    return outline.certify(depth).or_raise()


def draw_samples(mask: MaskFactory, grid: PatchGrid, mask_tokens: bool = False) -> list[Mask]:
    """Return the draws to certify: one of a fixed mask, sampled and extreme ones of a random one.

    Raises:
        ValueError: A draw breaks a rule of :class:`Mask`, or the draws differ in what is compiled
            once.
    """
    name = type(mask).__name__
    if not mask.random:
        fixed = mask(grid).check(grid, name, mask_tokens)
        if any(v is not None and v.ndim > 1 for v in (fixed.order, fixed.step, fixed.visible)):
            raise ValueError(f"{name} has random = False, but its fields differ between images")
        return [fixed]
    drawn = [mask(grid, 2, torch.Generator().manual_seed(seed)) for seed in range(SAMPLED_DRAWS)]
    drawn += [mask(grid, 2, None), *mask.extremes(grid)]
    if any(m.attend is not None for m in drawn):
        raise ValueError(
            f"{name} has a predicate (`attend`) and is random; a predicate is followed once, when "
            "the model is built, so it must be fixed (random = False)"
        )
    for m in drawn:
        m.check(grid, name, mask_tokens)
        for name_of_field in STRUCTURE:
            first, other = getattr(drawn[0], name_of_field), getattr(m, name_of_field)
            if (first is None) != (other is None) or (
                first is not None and first.ndim == 1 and not torch.equal(first, other)
            ):
                raise ValueError(
                    f"{name}: `{name_of_field}` differs from draw to draw; what is predicted from "
                    "where is compiled once, so draw the `order` instead (visible tokens first)"
                )
    return drawn


def _refuse(
    outline: Outline,
    reason: str,
    mask: Mask,
    links: list[Links],
    leak: Leak | None,
    depth: Depth,
) -> Refusal:
    """Refuse one draw; keep the masks of the image that leaks."""
    image = 0
    if leak is not None:
        rows = len(torch.atleast_2d(mask.order)) if mask.order.ndim > 1 else 1
        rows = max(rows, len(torch.atleast_2d(mask.step)))
        images = max(rows // mask.masks_per_image, 1)
        image = leak.row % images
        leak = Leak(leak.group, leak.row // images, leak.prediction, leak.target)
    reason = f"{outline.name}: {reason}"
    drawn = mask.of_image(image)
    return Refusal(reason, outline.grid, drawn, links, leak, depth, outline.mask_tokens)


def _name(mask: MaskFactory, target: Target) -> str:
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
