"""Check that a whole model trains."""

from collections.abc import Callable

import torch

from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.testing.common import require


def check_steps(
    model: MaskTargetPretrainer, steps: int = 2, before: Callable[[int], object] | None = None
) -> None:
    """Initialise a model and train it on two random images, by AdamW.

    Args:
        model: A pretrainer.
        steps: Number of steps.
        before: A function that is called with the number of each step before it.

    Raises:
        AssertionError: A parameter gets no gradient, or the loss is not finite.
    """
    model.init_weights()
    model.train()
    grid, optimizer = model.backbone.grid, torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        if before:
            before(step)
        optimizer.zero_grad()
        loss = model.loss(torch.randn(2, grid.channels, *grid.img_size))["loss"]
        loss.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        require(not without, f"these parameters get no gradient: {', '.join(without)}")
        require(bool(loss.isfinite()), f"the loss of step {step} is {float(loss)}")
        optimizer.step()
