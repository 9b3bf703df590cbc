"""Measure by gradients which pixels move a prediction, and compare with the certificate."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiled import CompiledObjective
from xtra_toolkit.objective.draw import check_structure, compile_plan
from xtra_toolkit.targets import Target, build_target
from xtra_toolkit.testing.common import CPU, DRAWS, SEEDS, draw_many, explain_errors, gen, require

WIDTH = 24


@dataclass(frozen=True)
class Moved:
    """Hold one prediction of one draw, and the tokens that move it.

    Args:
        group: Index of its group.
        g: Index of the prediction in its group.
        source_positions: (S,) positions that it is read from.
        targets: (T,) tokens that it predicts.
        tokens: (N,) bool, the tokens whose pixels move it.
    """

    group: int
    g: int
    source_positions: Tensor
    targets: Tensor
    tokens: Tensor


def small_model(
    mask: dict, target: dict, grid: PatchGrid, mask_tokens: bool = False
) -> MaskTargetPretrainer:
    """Build a pretrainer of 2 + 2 narrow layers for a pair of configs.

    With ``mask_tokens`` the encoder holds mask tokens.

    Raises:
        ValueError: The pair is refused.
    """
    built = build_target(target)
    heads = [dict(type="xtra_toolkit.PredictionHead", loss=_loss_of(part)) for part in built.parts]
    shape = dict(embed_dims=WIDTH, num_layers=2, num_heads=2, feedforward_channels=2 * WIDTH)
    return MaskTargetPretrainer(
        mask=mask,
        target_generator=built,
        backbone=dict(
            type="xtra_toolkit.MaskedViT",
            arch=shape,
            img_size=grid.img_size,
            patch_size=grid.patch,
            in_channels=grid.channels,
            with_cls_token=bool(grid.placed),
            registers=grid.registers,
            mask_tokens=mask_tokens,
        ),
        neck=dict(type="xtra_toolkit.ViTDecoder", width=WIDTH, depth=2, heads=2),
        head=heads[0] if len(heads) == 1 else dict(type="xtra_toolkit.SumOfHeads", heads=heads),
    )


def _loss_of(target: Target) -> str:
    if target.classes:
        return "cross_entropy"
    return "soft_cross_entropy" if target.probabilities else "mse"


def images_of(grid: PatchGrid, batch: int) -> Tensor:
    """Return random images for a grid, (batch, C, height, width)."""
    return torch.randn(batch, grid.channels, *grid.img_size, generator=gen(0))


def moved_tokens(
    model: MaskTargetPretrainer, seed: int, most: int | None = None
) -> Iterator[Moved]:
    """Measure by gradients which tokens move each prediction of one draw.

    Predictions that do not count in the loss are left out. The weights of the model are drawn
    again, in float64, so that no gradient is nearly zero.

    Args:
        model: The model. It is changed.
        seed: Seed of the draw.
        most: Largest number of predictions of a group that are measured, evenly spread. Default:
            all.
    """
    _draw_weights(model.double().eval())
    grid, plan = model.backbone.grid, model.objective(1, CPU, gen(seed))
    images = images_of(grid, 1).double().requires_grad_()
    predictions = model.reconstruct(images, plan)
    for i, (group, out) in enumerate(zip(plan.groups, predictions, strict=True)):
        loss_mask = torch.ones(out.shape[:2], dtype=torch.bool)
        loss_mask = loss_mask if group.loss_mask is None else group.loss_mask.expand_as(loss_mask)
        counted = loss_mask.nonzero().tolist()
        for row, g in counted[:: -(-len(counted) // most)] if most else counted:
            (grad,) = torch.autograd.grad(out[row, g].square().sum(), images, retain_graph=True)
            sources = group.source_positions[row % len(group.source_positions), g]
            targets = group.tokens[row % len(group.tokens), g]
            yield Moved(i, g, sources, targets, grid.patchify(grad)[0].abs().sum(-1) != 0)


def check_draws(objective: CompiledObjective, name: str) -> None:
    """Check that ``DRAWS`` draws of a random mask stay within the certificate."""
    for seed in SEEDS if objective.random else ():
        with explain_errors(
            f"{name}: one of {DRAWS:,} draws leaves what was certified over other draws, under "
            f"seed {seed}; return the extreme draws from a method `extremes(grid)`, so that they "
            "are certified too"
        ):
            drawn = draw_many(objective.factory, objective.grid, seed)
            check_structure(replace(objective.structure, order=drawn.order), drawn)
            compile_plan(drawn, objective.links, objective.grid, objective.bounds)


def check_gradients(model: MaskTargetPretrainer, name: str) -> None:
    """Check that no pixel of a target moves its prediction, and that draws are as certified."""
    objective, grid = model.objective, model.backbone.grid
    check_draws(objective, name)
    for seed in SEEDS[:2]:
        for moved in moved_tokens(model, seed, most=16):
            if objective.links[moved.group].sees_target:
                continue
            leaks = moved.targets[moved.tokens[moved.targets]].tolist()
            where = grid.name(leaks[0]) if leaks else ""
            require(
                not leaks,
                f"{name}: the pixels of {where} move the prediction of {where} from positions "
                f"{moved.source_positions.tolist()}, though the certificate says that they cannot; "
                "a mask must be the same in every call, so keep no state in it or in its predicate",
            )


@torch.no_grad()
def _draw_weights(model: MaskTargetPretrainer) -> None:
    g = gen(0)
    for part in (model.backbone, *[model.neck] * model.with_neck, model.head):
        for name, p in part.named_parameters():
            drawn = 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype)
            p.copy_(drawn + (".ln" in name and p.ndim == 1))
