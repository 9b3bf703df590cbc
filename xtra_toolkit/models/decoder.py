"""Decoder: the contract of a neck, which maps outputs of the encoder to what the head reads."""

from mmengine.model import BaseModule
from torch import Tensor

from xtra_toolkit.attention import Pattern
from xtra_toolkit.objective.plan import Plan


class Decoder(BaseModule):
    """Declare every member of a decoder that the toolkit uses, as the base class of all decoders.

    The pretrainer builds it with the keyword arguments ``in_channels``, ``grid``,
    ``has_masked_tokens`` and ``positioned`` (see :class:`ViTDecoder`). A subclass sets
    :attr:`width` and :attr:`num_layers`, and implements :meth:`forward`.
    """

    width: int
    """Width of the outputs."""

    num_layers: int
    """Number of layers through which one position can reach another; the certificate follows as
    many. 0: each token is processed alone."""

    cross: bool = False
    """Set this to True if what the head reads attends to the encoder alone (CrossMAE)."""

    follows_decoder_mask: bool = True
    """Set this to False if the layers do not attend by the decoder's pattern of the plan. Such a
    decoder is refused with a mask that gives the decoder a mask of its own."""

    memory_layers: tuple[int, ...] = ()
    """Name the outputs of the encoder that are read: 0 the embedded tokens, i the output of layer
    i. Empty: the last output, after the final norm."""

    outputs: int = 1
    """Number of outputs. If there are several, :meth:`forward` returns a list of them, of which
    each head reads one (``SumOfHeads(reads=...)``)."""

    def pattern(self, plan: Plan) -> Pattern:
        """Return the attention that the layers follow under a plan; ``xtra show`` reads it."""
        return plan.decoder

    def forward(self, x: Tensor | list[Tensor], plan: Plan) -> Tensor | list[Tensor]:
        """Map encoder outputs (B, E, D) to (B, R, W) at the positions that the head reads.

        ``x`` is a list of the embedded tokens and the outputs of all layers if
        :attr:`memory_layers` is set.
        """
        raise NotImplementedError
