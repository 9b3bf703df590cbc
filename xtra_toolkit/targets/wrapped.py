"""Wrap a target in another one, which keeps the links and changes the values."""

from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.target import Target
from xtra_toolkit.targets.build import build_target


class WrappedTarget(Target):
    """Hand every member on to an inner target; a subclass overrides some.

    The values of the inner target must not depend on the plan (``values_in_plan``).

    Args:
        target: Config of the inner target, which says what predicts what (NextBlock,
            MaskedPatches, ...).

    Raises:
        ValueError: The values of the inner target depend on the plan.
    """

    def __init__(self, target: dict | Target):
        super().__init__()
        self.target = build_target(target)
        if type(self.target).values_in_plan is not Target.values_in_plan:
            raise ValueError(
                f"{type(self.target).__name__} computes values that depend on what the plan hides, "
                f"which {type(self).__name__} would lose; take it alone, or in a SumOfTargets"
            )

    @property
    def classes(self) -> bool:
        """Return whether the inner target's values are class ids."""
        return self.target.classes

    @property
    def probabilities(self) -> bool:
        """Return whether the inner target's values are probabilities of classes."""
        return self.target.probabilities

    @property
    def local(self) -> bool:
        """Return whether the inner target's values are local."""
        return self.target.local

    @property
    def gives_weights(self) -> bool:
        """Return whether the inner target gives weights."""
        return self.target.gives_weights

    @property
    def normalises(self) -> bool:
        """Return whether the inner target normalises."""
        return self.target.normalises

    @property
    def needs_hooks(self) -> tuple[str, ...]:
        """Return the names of the hooks that the inner target needs."""
        return self.target.needs_hooks

    @property
    def pixels(self) -> bool:
        """Return whether the inner target's values are pixels."""
        return self.target.pixels

    def bind(self, backbone: nn.Module) -> None:
        """Hand the encoder on."""
        self.target.bind(backbone)

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return the inner target's predictions."""
        return self.target.links(mask, grid)

    def width(self, grid: PatchGrid) -> int:
        """Return how many values the head predicts for one token."""
        return self.target.width(grid)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Compute (B, tokens, V) in raster order from images (B, C, height, width)."""
        return self.target.values(images, grid)

    def weights(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the weights by which a mask draws, (B, tokens)."""
        return self.target.weights(images, grid)

    def normalise(self, values: Tensor) -> Tensor:
        """Return the values of links, (B, G, T * V), as the loss compares them."""
        return self.target.normalise(values)

    def restore(self, prediction: Tensor, like: Tensor) -> Tensor:
        """Invert :meth:`normalise`, with the mean and deviation of the values ``like``."""
        return self.target.restore(prediction, like)

    def filter(self, images: Tensor) -> Tensor:
        """Return the images whose pixels the inner target predicts, such as blurred ones."""
        return self.target.filter(images)
