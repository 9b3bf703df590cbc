"""A target of a target: its links, and values that a subclass makes otherwise."""

from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import Links
from xtra_toolkit.targets.build import build_target


class WrappedTarget(nn.Module):
    """Base: everything is the inner target's; a subclass overrides what is its own.

    Args:
        target: config of the inner target, which says what predicts what (NextBlock,
            MaskedPatches, ...).
    """

    def __init__(self, target: dict | nn.Module):
        super().__init__()
        self.target = build_target(target)

    @property
    def classes(self) -> bool:
        """Are its values class ids?"""
        return getattr(self.target, "classes", False)

    @property
    def local(self) -> bool:
        """Whether the values of a token follow from its own pixels alone."""
        return getattr(self.target, "local", True)

    @property
    def normalises(self) -> bool:
        """Are they compared without their mean, by their standard deviation?"""
        return getattr(self.target, "normalises", False)

    def bind(self, backbone: nn.Module) -> None:
        """Hand on the encoder, which some targets ask for."""
        if hasattr(self.target, "bind"):
            self.target.bind(backbone)

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """The groups of predictions."""
        return self.target.links(mask, grid)

    def width(self, grid: PatchGrid) -> int:
        """Values that the head puts out for one token."""
        return self.target.width(grid)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, height, width) to what is predicted, (B, N, V) in raster order."""
        return self.target.values(images, grid)

    def normalise(self, values: Tensor) -> Tensor:
        """The values of links, (B, G, T * V), as the loss compares them."""
        return self.target.normalise(values)

    def restore(self, prediction: Tensor, like: Tensor) -> Tensor:
        """The inverse of ``normalise``, with the statistics of ``like``."""
        return self.target.restore(prediction, like)
