"""Target: the contract of a target, which says what is predicted, and from where."""

from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import Plan


class Target(nn.Module):
    """Declare every member of a target that the toolkit uses, as the base class of all targets.

    A subclass implements :meth:`links`, :meth:`width` and :meth:`values`; the other members have
    defaults. A target is an ``nn.Module``, so that it may hold buffers (colour clusters) or a
    teacher. Register it in ``xtra_toolkit.registry.MODELS``.
    """

    classes: bool = False
    """Set this to True if :meth:`values` returns class ids, for the loss 'cross_entropy'."""

    probabilities: bool = False
    """Set this to True if :meth:`values` returns the probabilities of V classes for each token, for
    the loss 'soft_cross_entropy'."""

    gives_weights: bool = False
    """Set this to True if :meth:`weights` is implemented, by which a mask may draw (MILAN)."""

    normalises: bool = False
    """Set this to True if :meth:`normalise` removes the statistics of a unit. Continuation, which
    has to put them back (:meth:`restore`), reads it."""

    local: bool = True
    """Set this to False if the values of a token depend on the pixels of other tokens too. The
    certificate compares tokens, and then says that a prediction may see a part of its target
    through other tokens."""

    needs_hooks: tuple[str, ...] = ()
    """Name the hooks without which the target is wrong (for example a teacher's update). The
    training loop refuses to start without them."""

    pixels: bool = False
    """Set this to True if the values of a token are the pixels of its patch in the image that
    :meth:`filter` returns. Pictures, continuation and the loss by spatial frequency need this."""

    @property
    def parts(self) -> "list[Target]":
        """Return the targets whose values are predicted: this one, or those that it adds up."""
        return [self]

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return the groups of predictions.

        It is called once, when the objective is compiled, with one draw of the mask. Links are
        sequence positions, so they hold for every draw.

        Raises:
            ValueError: The mask cannot serve this target.
        """
        raise NotImplementedError

    def width(self, grid: PatchGrid) -> int:
        """Return how many values the head predicts for one token; the head's shape follows."""
        raise NotImplementedError

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Compute what is predicted.

        It is called in each step, without gradients.

        Args:
            images: (B, C, height, width), as they leave the data preprocessor.
            grid: The grid of the images.

        Returns:
            (B, tokens, V) in raster order; (B, tokens, 1) class ids if :attr:`classes` is set.
        """
        raise NotImplementedError

    def values_in_plan(self, images: Tensor, grid: PatchGrid, plan: Plan) -> Tensor:
        """Compute what is predicted under a plan, if it depends on what the plan hides (CAE).

        The shape is that of :meth:`values`, which this calls by default.
        """
        return self.values(images, grid)

    def weights(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return (B, tokens) weights of the patches, not below 0, by which a mask draws (MILAN).

        It is called in each step, without gradients, if the mask sets ``MaskFactory.weighted``,
        which needs :attr:`gives_weights`.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no weights")

    def normalise(self, values: Tensor) -> Tensor:
        """Return the values of links, (B, G, T * V), as the loss compares them."""
        return values

    def restore(self, prediction: Tensor, like: Tensor) -> Tensor:
        """Invert :meth:`normalise`, with the statistics of ``like``; pictures call this.

        Args:
            prediction: (..., T * V) as the loss compares it.
            like: (..., values) pixels whose mean and standard deviation are used.

        Raises:
            NotImplementedError: The values are not pixels (see :attr:`pixels`).
        """
        raise NotImplementedError(f"{type(self).__name__} predicts no pixels")

    def filter(self, images: Tensor) -> Tensor:
        """Return the images that the predictions reconstruct: filtered ones for a filtered target.

        Pictures call this; (B, C, height, width) in and out.
        """
        return images

    def bind(self, backbone: nn.Module) -> None:
        """Receive the encoder, once, before :meth:`links` is called (a teacher copies it)."""
