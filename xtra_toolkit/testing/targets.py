"""check_target: what the rest of this package relies on, of a target factory."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiler import draw_samples
from xtra_toolkit.targets import Target, build_target
from xtra_toolkit.testing.common import CPU, GRID, carried, explain_errors, one_thread, require
from xtra_toolkit.testing.gradients import check_gradients, images_of, small_model
from xtra_toolkit.testing.masks import CUDA

METHODS = ("links", "width", "values")
TOLERANCE = 1e-4  # of the largest value: a batch of another size rounds otherwise


@dataclass(frozen=True)
class TargetSubject:
    """A target under test in a small pretrainer, the mask and the grid that it is tested on."""

    name: str
    config: dict
    mask: dict
    grid: PatchGrid
    model: MaskTargetPretrainer

    def new(self, config: dict | None = None) -> MaskTargetPretrainer:
        """A fresh pretrainer, of this config or another."""
        return small_model(self.mask, config or self.config, self.grid)

    def images(self, batch: int = 3) -> Tensor:
        """Drawn images."""
        return images_of(self.grid, batch)

    @torch.no_grad()
    def values(self, images: Tensor, model: MaskTargetPretrainer | None = None) -> Tensor:
        """What is predicted of images, by the model under test or another."""
        return (model or self.model).target_generator.values(images, self.grid)


@one_thread()
def check_target(
    target: dict, mask: dict, grid: PatchGrid = GRID, *, seconds: float = 10.0
) -> None:
    """Hold a target to its contract; AssertionError with a sentence that says what to do.

    A target is local unless it says ``local = False`` (see :class:`PixelTarget`); that the values
    of a local one follow from the token's own pixels is measured. A mask that draws is drawn some
    thousand times (``DRAWS``), and each draw is held against the certificate.

    Args:
        target: its config, ``dict(type='xtra_toolkit.MyTarget', ...)``.
        mask: config of a mask that it is meant for; the pair is certified, and the certificate
            held against measured gradients.
        grid: on which. Keep it small: gradients are measured.
        seconds: of processor time that linking and certifying may take; generous, no benchmark.
    """
    with explain_errors(f"{target}: no target can be built of this config"):
        name = type(build_target(target)).__name__
    interface(name, target, mask, grid)
    started = time.process_time()
    with explain_errors(f"{name} cannot be certified with {mask}"):
        model = small_model(mask, target, grid)
    took = time.process_time() - started
    require(
        took <= seconds,
        f"{name}: linking and certifying on {grid} took {took:.1f} s of processor time, more than "
        f"{seconds} s; link with tensor operations, and load nothing in links()",
    )
    subject = TargetSubject(name, target, mask, grid, model)
    for check in CHECKS:
        check(subject)
    check_gradients(model, name)


def interface(name: str, target: dict, mask: dict, grid: PatchGrid) -> None:
    """A module with the four methods, whose links are whole numbers within the sequence."""
    built = build_target(target)
    absent = [m for m in METHODS if getattr(type(built), m) is getattr(Target, m)]
    require(
        not absent,
        f"{name}: a target implements {', '.join(METHODS)}; this one lacks "
        f"{', '.join(absent)}: derive from xtra_toolkit.targets.PixelTarget or Target",
    )
    with explain_errors(f"{name} finds nothing to predict under {mask}"):
        drawn = draw_samples(build_mask(mask), grid)[0]
        links = built.links(drawn, grid)
    for link in links:
        for field in ("source_positions", "target_positions"):
            at = getattr(link, field)
            require(
                at.dtype == torch.long
                and at.ndim == 3
                and at.shape[1] == link.source_positions.shape[1],
                f"{name}: `{field}` of a link is {at.dtype} of shape {tuple(at.shape)}; it must be "
                "torch.long of shape (1, predictions, positions), as many predictions in both",
            )
            require(
                bool((at >= 0).all() and (at < len(drawn)).all()),
                f"{name}: `{field}` names position {int(at.max())} and {int(at.min())} of a "
                f"sequence of {len(drawn)}; links hold sequence positions, not tokens",
            )


def shapes(it: TargetSubject) -> None:
    """(B, tokens, V) in raster order, V as wide as the head or class ids; normalise keeps it."""
    values, width = it.values(it.images()), it.model.target_generator.width(it.grid)
    require(
        values.shape[:2] == (3, it.grid.tokens) and values.ndim == 3,
        f"{it.name}: values() of 3 images has shape {tuple(values.shape)}; it must be "
        f"(3, {it.grid.tokens}, V), the tokens in raster order",
    )
    ids = it.model.target_generator.classes
    require(
        values.is_floating_point() if not ids else values.dtype == torch.long,
        f"{it.name}: values() gives {values.dtype}, and `classes` is {ids}; class ids are of "
        "torch.long and say classes = True, numbers are floating and say classes = False",
    )
    if not ids:
        right, wanted = values.shape[-1] == width, f"{width} values of each token"
    else:
        right = values.shape[-1] == 1 and bool((values >= 0).all() and (values < width).all())
        wanted = f"one class id of each token, 0 to {width - 1}"
    require(
        right,
        f"{it.name}: width() says {width}, so values() must give {wanted}; given: shape "
        f"{tuple(values.shape)}, {values.min():.3g} to {values.max():.3g}",
    )
    flat = it.values(torch.zeros_like(it.images()))
    for kind, given in (("drawn images", values), ("images of one colour", flat)):
        out = it.model.target_generator.normalise(given.flatten(1)[:, None])
        require(
            out.shape == (3, 1, given[0].numel()) and bool(out.isfinite().all()),
            f"{it.name}: normalise() of {kind} gives shape {tuple(out.shape)}, finite: "
            f"{bool(out.isfinite().all())}; it must keep (B, G, T * V) and be finite, so add an "
            "epsilon to what it divides by",
        )


def repeatable(it: TargetSubject) -> None:
    """The same images have the same values, in training mode too, and after a resume."""
    it.model.train()
    first, again = it.values(it.images()), it.values(it.images())
    require(
        torch.equal(first, again),
        f"{it.name}: values() gives other values when it is called again on the same images, in "
        "training mode; keep a teacher in evaluation mode (train() too) and draw nothing",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        resumed = it.new()
    resumed.load_state_dict(it.model.state_dict())
    require(
        close(it.values(it.images(), resumed), first),
        f"{it.name}: a run that is resumed from a checkpoint predicts other values; what they "
        "follow from must be a parameter or a persistent buffer (register_buffer)",
    )


def alone(it: TargetSubject) -> None:
    """What is predicted of an image does not follow from the others of its batch."""
    images = it.images()
    it.model.train()
    for i, together in enumerate(it.values(images)):
        require(
            close(it.values(images[i : i + 1])[0], together),
            f"{it.name}: the values of image {i} depend on the other images of its batch; "
            "normalise within an image, and keep a teacher in evaluation mode",
        )


def by_token(it: TargetSubject) -> None:
    """A token's values follow from its own pixels, unless the target says ``local = False``."""
    target, grid = it.model.target_generator, it.grid
    if not target.local:
        return
    image = it.images(1).expand(grid.tokens, -1, -1, -1)
    patches = grid.patchify(image).clone()
    own = torch.eye(grid.tokens, dtype=torch.bool)
    patches[own] = -patches[own] + 1
    pair = it.values(image), it.values(grid.unpatchify(patches))
    for before, after in (pair, map(target.normalise, pair)):  # also as links of a token each
        scale = before.abs().max().clamp(min=1e-12)
        moved = ((after - before).abs().amax(-1) > TOLERANCE * scale) & ~own
        pixel, token = moved.nonzero().tolist()[0] if moved.any() else (0, 0)
        require(
            not moved.any(),
            f"{it.name}: the values of {grid.name(token)} depend on pixels of {grid.name(pixel)}, "
            "and the certificate would say that no prediction sees any of what it has to produce; "
            "compute them within the token, or declare local = False in the class",
        )


def round_trip(it: TargetSubject) -> None:
    """The config survives JSON."""
    back = carried(it.name, it.config, it.new)
    back.load_state_dict(it.model.state_dict())
    require(
        close(it.values(it.images(), back), it.values(it.images())),
        f"{it.name}: after its config {it.config} has been through JSON it predicts other values; "
        "JSON makes lists of tuples and strings of keys, so treat them alike",
    )


def devices(it: TargetSubject) -> None:
    """It moves with the model: to float64, to the meta device, to a GPU where there is one."""
    loose = [
        name
        for module in it.model.target_generator.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    require(
        not loose,
        f"{it.name}: `{', '.join(loose)}` is a plain tensor, and stays behind when the model moves "
        "to a GPU; use self.register_buffer(name, tensor)",
    )
    for place, dtype in ((CPU, torch.float64), *((device, torch.float32) for device in CUDA)):
        with explain_errors(
            f"{it.name}: a training step fails on {place} in {dtype}; follow the images'"
        ):
            model = it.new().to(place, dtype)
            loss = model.loss(it.images().to(place, dtype))["loss"]
            loss.backward()
        require(bool(loss.isfinite()), f"{it.name}: the loss is {loss} on {place} in {dtype}")
        values = it.values(it.images().to(place, dtype), model)
        require(
            values.dtype in (dtype, torch.long),
            f"{it.name}: of {dtype} images values() gives {values.dtype}; follow the images, or "
            "give class ids of torch.long",
        )
    with explain_errors(
        f"{it.name}: a step fails on the meta device, where large models are inspected without "
        "memory; make tensors on the images' device and ask for no value (.item(), if tensor:)"
    ):
        with torch.device("meta"):
            model = it.new()
        model.loss(it.images().to("meta"))["loss"].backward()


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding, or equal class ids."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = other.abs().max().clamp(min=1e-12)
    return one.shape == other.shape and bool(((one - other).abs() <= TOLERANCE * scale).all())


CHECKS = (shapes, repeatable, alone, by_token, round_trip, devices)
