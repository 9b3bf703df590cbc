"""check_target: check what this package relies on in a target."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiler import draw_samples
from xtra_toolkit.targets import Target, build_target
from xtra_toolkit.testing.common import (
    CPU,
    GRID,
    build_from_json,
    explain_errors,
    one_thread,
    require,
)
from xtra_toolkit.testing.gradients import check_gradients, images_of, small_model
from xtra_toolkit.testing.masks import CUDA

METHODS = ("links", "width", "values")
TOLERANCE = 1e-4  # relative to the largest value: rounding depends on the batch size


@dataclass(frozen=True)
class TargetSubject:
    """Hold a target under test in a small pretrainer, with the mask and the grid of the test."""

    name: str
    config: dict
    mask: dict
    grid: PatchGrid
    model: MaskTargetPretrainer

    def new(self, config: dict | None = None) -> MaskTargetPretrainer:
        """Build a new pretrainer with this config of the target or another."""
        return small_model(self.mask, config or self.config, self.grid)

    def images(self, batch: int = 3) -> Tensor:
        """Return random images."""
        return images_of(self.grid, batch)

    @torch.no_grad()
    def values(self, images: Tensor, model: MaskTargetPretrainer | None = None) -> Tensor:
        """Compute the target's values, with the model under test or another."""
        return (model or self.model).target_generator.values(images, self.grid)


@one_thread()
def check_target(
    target: dict, mask: dict, grid: PatchGrid = GRID, *, seconds: float = 10.0
) -> None:
    """Check that a target keeps its contract.

    A target is local unless it sets ``local = False`` (see :class:`Target`). The check measures
    that the values of a local target depend only on the token's own pixels. A random mask is drawn
    a few thousand times (``DRAWS``), and each draw is checked against the certificate. The
    targets of a sum are checked one by one, then together.

    Args:
        target: Config of the target, ``dict(type='xtra_toolkit.MyTarget', ...)``.
        mask: Config of a mask for this target. The pair is certified, and the certificate is
            compared with measured gradients.
        grid: Grid on which the target is tested. Keep it small, since gradients are measured.
        seconds: Processor time that linking and certifying may take. The default is generous.

    Raises:
        AssertionError: The target violates the contract; the message tells what to do.
    """
    with explain_errors(f"{target}: no target can be built of this config"):
        built = build_target(target)
        name = type(built).__name__
    if len(built.parts) > 1:
        for part in target["targets"]:
            check_target(part, mask, grid, seconds=seconds)
        with explain_errors(f"{name} cannot be certified with {mask}"):
            model = small_model(mask, target, grid)
        check_gradients(model, name)
        return
    interface(name, target, mask, grid)
    start = time.process_time()
    with explain_errors(f"{name} cannot be certified with {mask}"):
        model = small_model(mask, target, grid)
    elapsed = time.process_time() - start
    require(
        elapsed <= seconds,
        f"{name}: linking and certifying on {grid} took {elapsed:.1f} s of processor time, more "
        f"than {seconds} s; use tensor operations in links(), and load nothing there",
    )
    subject = TargetSubject(name, target, mask, grid, model)
    for check in CHECKS:
        check(subject)
    check_gradients(model, name)


def interface(name: str, target: dict, mask: dict, grid: PatchGrid) -> None:
    """Check that the methods are implemented and that links are positions of the sequence."""
    built = build_target(target)
    absent = [m for m in METHODS if getattr(type(built), m) is getattr(Target, m)]
    require(
        not absent,
        f"{name}: a target implements {', '.join(METHODS)}; this one lacks "
        f"{', '.join(absent)}; derive it from xtra_toolkit.targets.PixelTarget or Target",
    )
    with explain_errors(f"{name} finds nothing to predict under {mask}"):
        drawn = draw_samples(build_mask(mask), grid)[0]
        links = built.links(drawn, grid)
    for link in links:
        for field in ("source_positions", "target_positions"):
            positions = getattr(link, field)
            require(
                positions.dtype == torch.long
                and positions.ndim == 3
                and positions.shape[1] == link.source_positions.shape[1],
                f"{name}: `{field}` of a link is {positions.dtype} of shape "
                f"{tuple(positions.shape)}; it must be torch.long of shape (1, predictions, "
                "positions), with as many predictions in both",
            )
            low, high = int(positions.min()), int(positions.max())
            require(
                low >= 0 and high < len(drawn),
                f"{name}: `{field}` names positions from {low} to {high} of a sequence of "
                f"{len(drawn)}; links hold sequence positions, not tokens",
            )


def shapes(it: TargetSubject) -> None:
    """Check that values are (B, tokens, V), V fits the head, and ``normalise`` keeps the shape."""
    values, width = it.values(it.images()), it.model.target_generator.width(it.grid)
    require(
        values.shape[:2] == (3, it.grid.tokens) and values.ndim == 3,
        f"{it.name}: values() of 3 images has shape {tuple(values.shape)}; it must be "
        f"(3, {it.grid.tokens}, V), the tokens in raster order",
    )
    ids = it.model.target_generator.classes
    require(
        values.is_floating_point() if not ids else values.dtype == torch.long,
        f"{it.name}: values() returns {values.dtype}, and `classes` is {ids}; return class ids in "
        "torch.long with classes = True, or floating-point values with classes = False",
    )
    if not ids:
        valid, required = values.shape[-1] == width, f"{width} values of each token"
    else:
        valid = values.shape[-1] == 1 and bool((values >= 0).all() and (values < width).all())
        required = f"one class id of each token, 0 to {width - 1}"
    require(
        valid,
        f"{it.name}: width() returns {width}, so values() must return {required}; given: shape "
        f"{tuple(values.shape)}, {values.min():.3g} to {values.max():.3g}",
    )
    require(
        not it.model.target_generator.probabilities
        or bool((values >= 0).all() and ((values.sum(-1) - 1).abs() < TOLERANCE).all()),
        f"{it.name}: it sets probabilities = True, and values() returns other numbers; return 0 or "
        "more for each class, and 1 in total for each token",
    )
    flat = it.values(torch.zeros_like(it.images()))
    for kind, given in (("drawn images", values), ("images of one colour", flat)):
        out = it.model.target_generator.normalise(given.flatten(1)[:, None])
        require(
            out.shape == (3, 1, given[0].numel()) and bool(out.isfinite().all()),
            f"{it.name}: normalise() of {kind} returns shape {tuple(out.shape)}, finite: "
            f"{bool(out.isfinite().all())}; it must keep (B, G, T * V) and be finite, so add an "
            "epsilon to the divisor",
        )


def repeatable(it: TargetSubject) -> None:
    """Check that values repeat: when called again, in training mode, and after a resume."""
    it.model.train()
    first, again = it.values(it.images()), it.values(it.images())
    require(
        torch.equal(first, again),
        f"{it.name}: values() returns other values when it is called again on the same images, in "
        "training mode; keep a teacher in evaluation mode (override train()) and draw nothing",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        resumed = it.new()
    resumed.load_state_dict(it.model.state_dict())
    require(
        close(it.values(it.images(), resumed), first),
        f"{it.name}: a run that is resumed from a checkpoint predicts other values; what the "
        "values depend on must be a parameter or a persistent buffer (register_buffer)",
    )


def alone(it: TargetSubject) -> None:
    """Check that the values of an image do not depend on the other images of its batch."""
    images = it.images()
    it.model.train()
    for i, together in enumerate(it.values(images)):
        require(
            close(it.values(images[i : i + 1])[0], together),
            f"{it.name}: the values of image {i} depend on the other images of its batch; "
            "normalise within an image, and keep a teacher in evaluation mode",
        )


def by_token(it: TargetSubject) -> None:
    """Check that a token's values depend on its own pixels alone, unless ``local = False``."""
    target, grid = it.model.target_generator, it.grid
    if not target.local:
        return
    image = it.images(1).expand(grid.tokens, -1, -1, -1)
    patches = grid.patchify(image).clone()
    own = torch.eye(grid.tokens, dtype=torch.bool)
    patches[own] = -patches[own] + 1
    pair = it.values(image), it.values(grid.unpatchify(patches))
    for before, after in (pair, map(target.normalise, pair)):  # also normalised, token by token
        scale = before.abs().max().clamp(min=1e-12)
        moved = ((after - before).abs().amax(-1) > TOLERANCE * scale) & ~own
        pixel, token = moved.nonzero().tolist()[0] if moved.any() else (0, 0)
        require(
            not moved.any(),
            f"{it.name}: the values of {grid.name(token)} depend on pixels of {grid.name(pixel)}, "
            "but the certificate would say that no prediction sees any of what it has to produce; "
            "compute them within the token, or set local = False in the class",
        )


def round_trip(it: TargetSubject) -> None:
    """Check that the config gives the same target after JSON."""
    model = build_from_json(it.name, it.config, it.new)
    model.load_state_dict(it.model.state_dict())
    require(
        close(it.values(it.images(), model), it.values(it.images())),
        f"{it.name}: after its config {it.config} has been through JSON it predicts other values; "
        "JSON turns tuples into lists and keys into strings, so accept both",
    )


def devices(it: TargetSubject) -> None:
    """Check that a target moves with the model: to float64, the meta device and a GPU, if any."""
    unregistered = [
        name
        for module in it.model.target_generator.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    require(
        not unregistered,
        f"{it.name}: `{', '.join(unregistered)}` is a plain tensor, which does not move to a GPU "
        "with the model; use self.register_buffer(name, tensor)",
    )
    for device, dtype in ((CPU, torch.float64), *((device, torch.float32) for device in CUDA)):
        with explain_errors(
            f"{it.name}: a training step fails on {device} in {dtype}; use the device and dtype of "
            "the images"
        ):
            model = it.new().to(device, dtype)
            loss = model.loss(it.images().to(device, dtype))["loss"]
            loss.backward()
        require(bool(loss.isfinite()), f"{it.name}: the loss is {loss} on {device} in {dtype}")
        values = it.values(it.images().to(device, dtype), model)
        require(
            values.dtype in (dtype, torch.long),
            f"{it.name}: for {dtype} images values() returns {values.dtype}; return the dtype of "
            "the images, or class ids in torch.long",
        )
    with explain_errors(
        f"{it.name}: a step fails on the meta device, where large models are inspected without "
        "memory; create tensors on the images' device and read no value (.item(), if tensor:)"
    ):
        with torch.device("meta"):
            model = it.new()
        model.loss(it.images().to("meta"))["loss"].backward()


def close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding, or are equal class ids."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = other.abs().max().clamp(min=1e-12)
    return one.shape == other.shape and bool(((one - other).abs() <= TOLERANCE * scale).all())


CHECKS = (shapes, repeatable, alone, by_token, round_trip, devices)
