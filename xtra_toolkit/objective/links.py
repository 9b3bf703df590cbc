"""Links: which outputs of the sequence predict which of its tokens."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xtra_toolkit.objective.mask import Mask


@dataclass(frozen=True)
class Links:
    """Hold a group of predictions of one shape, served by one predictor of the head.

    G is the number of predictions, S the number of outputs that one prediction reads, T the number
    of tokens that it predicts.

    Args:
        source_positions: (B or 1, G, S) positions whose outputs are concatenated and read.
        target_positions: (B or 1, G, T) positions whose tokens are predicted.
        sees_target: Set this if the target is meant to predict what is seen (for example a
            teacher's features at visible tokens). The certificate then says so and does not refuse.
        positioned: Tell each source the position of its target, the first source that of the first
            target and so on, by an embedding that the decoder adds (a positioned query; σ-GPT,
            arXiv 2404.09562). An order that differs between images needs this.
        part: Index of the target whose values are predicted, in ``Target.parts``.
    """

    source_positions: Tensor
    target_positions: Tensor
    sees_target: bool = False
    positioned: bool = False
    part: int = 0

    def to(self, device: torch.device | str) -> "Links":
        """Return the same links on another device."""
        return replace(
            self,
            source_positions=self.source_positions.to(device),
            target_positions=self.target_positions.to(device),
        )

    def select(self, which: Tensor) -> "Links":
        """Return the predictions that ``which`` (G,) bool selects."""
        return replace(
            self,
            source_positions=self.source_positions[:, which],
            target_positions=self.target_positions[:, which],
        )

    @property
    def at_own_position(self) -> bool:
        """Return whether every prediction is read at the position of its own target."""
        sources, targets = self.source_positions, self.target_positions
        return sources.shape == targets.shape and bool((sources == targets).all())


def gather_positions(values: Tensor, index: Tensor) -> Tensor:
    """Gather values (B or 1, N) at index (B or 1, ...); return them in the shape of the index."""
    batch = max(len(values), len(index))
    index = index.expand(batch, *index.shape[1:])
    return values.expand(batch, -1).gather(1, index.flatten(1)).view(index.shape)


def compute_loss_mask(mask: Mask, links: Links) -> Tensor:
    """Return (B or 1, G) bool: False where all tokens of a prediction are context.

    A target that predicts what it sees predicts context, too.
    """
    if mask.context is None or links.sees_target:
        return torch.ones_like(links.target_positions[..., 0], dtype=torch.bool)
    return ~gather_positions(torch.atleast_2d(mask.context), links.target_positions).all(-1)


def drop_context(mask: Mask, links: list[Links]) -> list[Links]:
    """Remove predictions of a fixed mask whose tokens are all context: the loss ignores them."""
    counted = ((group, compute_loss_mask(mask, group).any(0)) for group in links)
    return [group.select(counts) for group, counts in counted if counts.any()]
