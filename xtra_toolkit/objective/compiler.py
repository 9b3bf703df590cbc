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
from xtra_toolkit.objective.compiled import SAMPLED_DRAWS, CompiledObjective, pair_name
from xtra_toolkit.objective.draw import STRUCTURE
from xtra_toolkit.objective.leak_check import Leak, check_positioned, describe_leak, find_leak
from xtra_toolkit.objective.links import Links, drop_context
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.objective.reach import Depth
from xtra_toolkit.objective.registers import remove_registers, shift_links, with_registers
from xtra_toolkit.objective.target import Target


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
        return pair_name(self.mask, self.target)

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

    def certify(self, depth: Depth) -> CompiledObjective | Refusal:
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

    def _compile(self, depth: Depth) -> CompiledObjective:
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


def compile_objective(
    mask: MaskFactory, target: Target, grid: PatchGrid, mask_tokens: bool = False
) -> Outline | Refusal:
    """Draw the mask and link it to the target.

    Args:
        mask: The mask factory.
        target: The target.
        grid: The grid of the images.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder. By default they
            are left out of it.
    """
    samples: list[Mask] = []
    try:
        if mask.weighted and not target.gives_weights:
            raise ValueError(
                f"{type(mask).__name__} draws by weights that the target computes of the images, "
                f"and {type(target).__name__} gives none; take a target that gives weights, or the "
                "mask RandomShown"
            )
        with torch.device("cpu"):
            samples = draw_samples(mask, grid, mask_tokens)
            if mask_tokens and samples[0].masks_per_image > 1:
                raise ValueError(
                    f"{type(mask).__name__} makes {samples[0].masks_per_image} masks of an image, "
                    "which share one pass of the encoder, but mask tokens in the encoder need a "
                    "pass for each mask; set backbone.mask_tokens=False"
                )
            links = target.links(remove_registers(samples[0], grid), grid.without_registers())
            links = shift_links(links, grid)
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
    name, mask = type(mask).__name__, with_registers(mask, grid)
    if not mask.random:
        fixed = mask(grid).check(grid, name, mask_tokens)
        fields = fixed.order, fixed.step, fixed.visible, fixed.decoder_step
        if any(value is not None and value.ndim > 1 for value in fields):
            raise ValueError(f"{name} has random = False, but its fields differ between images")
        return [fixed]
    drawn = [mask(grid, 2, torch.Generator().manual_seed(seed)) for seed in range(SAMPLED_DRAWS)]
    drawn += [mask(grid, 2, None), *mask.extremes(grid)]
    if any(m.has_predicate for m in drawn):
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
        rows = max(len(torch.atleast_2d(field)) for field in (mask.order, mask.step))
        images = max(rows // mask.masks_per_image, 1)
        image = leak.row % images
        leak = Leak(leak.group, leak.row // images, leak.prediction, leak.target)
    reason = f"{outline.name}: {reason}"
    drawn = mask.of_image(image)
    return Refusal(reason, outline.grid, drawn, links, leak, depth, outline.mask_tokens)
