"""Add up the losses of several targets, of which each has its own links and head."""

from dataclasses import replace

from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.target import Target
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.build import build_target


@MODELS.register_module()
class SumOfTargets(Target):
    """Predict several targets from the same outputs; the loss is the weighted sum of their losses.

    The head is a ``SumOfHeads``, which has a head for each target, and the weights.

    Args:
        targets: Configs of the targets, two or more.

    Raises:
        ValueError: Fewer than two targets were given, or a target is a sum itself.
    """

    def __init__(self, targets: list[dict | Target]):
        super().__init__()
        self.targets = nn.ModuleList(map(build_target, targets))
        if len(self.targets) < 2 or any(len(target.parts) > 1 for target in self.targets):
            raise ValueError(
                f"{len(self.targets)} targets were given; a sum needs two or more, and none of "
                "them may be a sum: name all targets in one list"
            )

    @property
    def parts(self) -> list[Target]:
        """Return the targets."""
        return list(self.targets)

    @property
    def local(self) -> bool:
        """Return whether the values of all targets are local."""
        return all(target.local for target in self.targets)

    @property
    def gives_weights(self) -> bool:
        """Return whether a target gives weights for the mask."""
        return any(target.gives_weights for target in self.targets)

    @property
    def needs_hooks(self) -> tuple[str, ...]:
        """Return the names of the hooks that the targets need."""
        return tuple(name for target in self.targets for name in target.needs_hooks)

    def bind(self, backbone: nn.Module) -> None:
        """Hand the encoder on."""
        for target in self.targets:
            target.bind(backbone)

    def weights(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the weights of the first target that gives some, (B, tokens)."""
        return next(t for t in self.targets if t.gives_weights).weights(images, grid)

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return the predictions of all targets, in their order."""
        return [
            replace(group, part=part)
            for part, target in enumerate(self.targets)
            for group in target.links(mask, grid)
        ]
