"""Measure which tokens of the input move each prediction, and with which tokens it is compared.

Shape legend: B inputs, P predictions, N tokens, V values of a prediction. Only the first input of a
batch is measured.
"""

import functools
import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid

# Relative to the largest value. Rounding in float64 stays below both, real dependences above.
GRADIENT, CHANGE = 1e-12, 1e-9
REPLACEMENTS = 2  # of each token in a draw; a step function may not change at the first
SPREAD = 0.1  # standard deviation of what is added to biases, scales and gates


class Draw(NamedTuple):
    """One measurement.

    Args:
        sees: (P, N) bool, tokens that move a prediction.
        compared: (P, N) bool, tokens that move what a prediction is compared with.
        random: Whether the predictions differ under another seed of the random generators.
    """

    sees: Tensor
    compared: Tensor
    random: bool


class TokenInputs:
    """Cut an input into tokens: patches of an image, or positions of a sequence.

    Args:
        example: (B, C, height, width) images, or a sequence (B, N) or (B, N, V). Integers are token
            numbers or grey levels.
        patch: Height and width of a patch in pixels; only for images.

    Raises:
        ValueError: The inputs cannot be divided into tokens.
    """

    def __init__(self, example: Tensor, patch: int | tuple[int, int] | None = None):
        shape = tuple(example.shape)
        if (example.ndim == 4) == (patch is None) or example.ndim not in (2, 3, 4):
            raise ValueError(
                f"inputs of shape {shape} and patch={patch} were given; give images (B, C, height, "
                "width) with the size of a patch in pixels, or sequences (B, N) or (B, N, V) "
                "without patch"
            )
        self.grid = None if patch is None else PatchGrid.of(shape[2:], patch, shape[1])
        self.count = shape[1] if self.grid is None else self.grid.tokens
        self.example = example.detach()
        self.low, self.range = 0, 0
        if not example.is_floating_point():
            self.low, high = int(example.min()), int(example.max())
            self.range = high - self.low + 1
            if self.range < 2:
                raise ValueError(
                    f"every token of the inputs is {self.low}; tokens are drawn between the "
                    "smallest and the largest that are given, so give two different ones or more"
                )

    def draw(self, generator: torch.Generator, count: int = 1) -> list[Tensor]:
        """Return drawn inputs; integers differ in every token from those of the first."""
        example = self.example
        if self.range:
            size = count, *example.shape
            shift = torch.randint(1, self.range, size, generator=generator)
            shift[0] = 0
            first = torch.randint(self.range, example.shape, generator=generator)
            return [x.to(example) for x in (first + shift) % self.range + self.low]
        mean, std = example.double().mean(), example.double().std(correction=0)
        if not std > 0:
            mean, std = 0.0, 1.0
        drawn = torch.randn(count, *example.shape, generator=generator, dtype=torch.float64)
        return list(mean + std * drawn.to(example.device))

    def cut(self, inputs: Tensor) -> Tensor:
        """Return the values of the tokens of the first input, (N, values)."""
        if self.grid is None:
            return inputs[0].reshape(self.count, -1)
        return self.grid.patchify(inputs[:1])[0]

    def replace(self, inputs: Tensor, other: Tensor, token: int) -> Tensor:
        """Return inputs in which one token of the first input is that of other inputs."""
        values = self.cut(inputs).clone()
        values[token] = self.cut(other)[token]
        first = (
            values.view(inputs[:1].shape)
            if self.grid is None
            else self.grid.unpatchify(values[None])
        )
        return torch.cat([first, inputs[1:]])

    def name(self, token: int) -> str:
        """Return a token in the terms of the input: 'patch (row, column)' or 'token 3'."""
        return f"token {token}" if self.grid is None else self.grid.name(token)


@dataclass(frozen=True)
class Step:
    """Run what is audited: inputs go in, predictions and their loss come out.

    Args:
        model: Called with the inputs.
        loss: Called with predictions and inputs. None: see :func:`~xtra_toolkit.testing.audit`.
        head: The part whose outputs are the predictions; ``model`` then returns the loss.
    """

    model: Callable[[Tensor], Any]
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    head: nn.Module | None = None

    def __call__(
        self, inputs: Tensor, seed: int, replacement: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the predictions (B, P, …), and the loss with a replacement in their place."""
        with seeded(seed, inputs.device):
            if self.head is not None:
                return self._through_head(inputs, replacement)
            out = self.model(inputs)
            truth = None
            if isinstance(out, tuple | list) and len(out) == 2 and self.loss is None:
                out, truth = out
            predictions = _checked(out)
            if replacement is None:
                return predictions, None
            if self.loss is not None:
                return predictions, scalar(self.loss(replacement, inputs))
            if truth is None:
                return predictions, None
            return predictions, _distance(replacement, truth)

    def _through_head(
        self, inputs: Tensor, replacement: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        caught = []

        def catch(module: nn.Module, args: tuple, out: Any) -> Tensor | None:
            caught.append(_checked(out))
            return replacement

        handle = self.head.register_forward_hook(catch)
        try:
            out = self.model(inputs)
        finally:
            handle.remove()
        if len(caught) != 1:
            raise ValueError(
                f"the head {type(self.head).__name__} was called {len(caught)} times in a call of "
                "the model; name a part that is called once and returns all predictions"
            )
        return caught[0], None if replacement is None else scalar(out)


def measure(step: Step, tokens: TokenInputs, seed: int, targets: Tensor | None) -> Draw:
    """Measure one draw of inputs and of the random numbers of the model.

    A token is seen if the gradient of the prediction with respect to it is not zero, or if the
    prediction changes when the token is replaced. The second finds what has no gradient, such as
    an argmax.

    Args:
        step: The model and its loss.
        tokens: The inputs.
        seed: Seed of the inputs and of the model's random numbers.
        targets: (P, N) bool, what each prediction is compared with; None: it is measured as what
            moves the gradient of the loss with respect to the prediction, which is held constant.

    Raises:
        ValueError: Nothing can be measured; the message says why.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, *others = tokens.draw(generator, 1 + REPLACEMENTS)
    sees = _by_gradient(step, tokens, inputs, seed)
    noise = None
    with torch.no_grad():
        first, again = (step(inputs, seed)[0] for _ in range(2))
        other_seeds = range(seed + 1, seed + 4)  # two short draws may be equal
        is_random = not all(torch.equal(first, step(inputs, s)[0]) for s in other_seeds)
    if not torch.equal(first, again):
        raise ValueError(
            "the model gives different predictions for the same inputs and the same seed; let it "
            "take random numbers from torch's, NumPy's or Python's global generator, and keep no "
            "state from call to call"
        )
    if targets is None:
        noise = torch.randn(first.shape, generator=generator, dtype=torch.float64).to(first)
    before, slope = _predict(step, inputs, seed, noise)
    compared = torch.zeros_like(sees) if targets is None else targets
    for token, other in product(range(tokens.count), others):
        after, slope_after = _predict(step, tokens.replace(inputs, other, token), seed, noise)
        sees[:, token] |= _moved(before, after)
        if targets is None:
            compared[:, token] |= _moved(slope, slope_after)
    return Draw(sees, compared, is_random)


def _by_gradient(step: Step, tokens: TokenInputs, inputs: Tensor, seed: int) -> Tensor:
    leaf = inputs.clone().requires_grad_(inputs.is_floating_point())
    predictions = step(leaf.clone(), seed)[0][0]
    if not predictions.isfinite().all():
        p = int((~predictions.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"prediction {p} is infinite or NaN in float64; a row of the attention mask that "
            "allows nothing is a common cause"
        )
    sees = torch.zeros(len(predictions), tokens.count, dtype=torch.bool)
    if not predictions.requires_grad or not leaf.requires_grad:
        return sees
    weights = torch.randn(predictions.shape, generator=torch.Generator().manual_seed(seed))
    weights = weights.to(predictions)
    for p, prediction in enumerate(predictions):
        (grad,) = torch.autograd.grad(
            (prediction * weights[p]).sum(), leaf, retain_graph=True, allow_unused=True
        )
        if grad is None:
            continue
        size = tokens.cut(grad).abs().amax(1).cpu()
        if not size.isfinite().all():
            raise ValueError(f"the gradient of prediction {p} is infinite or NaN in float64")
        sees[p] = size > GRADIENT * size.max()
    return sees


def _predict(
    step: Step, inputs: Tensor, seed: int, noise: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the predictions (P, V), and the gradient of the loss at noise in their place."""
    if noise is None:
        with torch.no_grad():
            return step(inputs, seed)[0][0], None
    noise = noise.clone().requires_grad_()
    predictions, loss = step(inputs, seed, noise)
    if loss is None:
        raise ValueError(
            "nothing tells what the predictions are compared with; pass targets= (a token for each "
            "prediction), loss= (a function of predictions and inputs), or head= (the part of the "
            "model that predicts, if the model returns its loss), or return (predictions, targets)"
        )
    grad = None
    if loss.requires_grad:
        (grad,) = torch.autograd.grad(loss, noise, allow_unused=True)
    if grad is None:
        raise ValueError("the loss does not depend on the predictions; name the part that predicts")
    return predictions[0].detach(), grad[0]


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """Return (P,) bool: which rows differ by more than rounding."""
    difference = (after.double() - before.double()).abs().flatten(1).amax(1)
    return (difference > CHANGE * before.double().abs().max()).cpu()


def _checked(predictions: Any) -> Tensor:
    if isinstance(predictions, Tensor) and predictions.ndim in (2, 3):
        return predictions if predictions.ndim == 3 else predictions[..., None]
    given = type(predictions).__name__
    if isinstance(predictions, Tensor):
        given = f"a tensor of shape {tuple(predictions.shape)}"
    raise ValueError(
        f"the predictions are {given}; they must be a tensor (B, P) or (B, P, V): one row for each "
        "prediction (for pixels, cut the image into patches)"
    )


def _distance(predictions: Tensor, truth: Tensor) -> Tensor:
    if truth.ndim == predictions.ndim - 1:  # class numbers
        truth = truth[..., None]
    if truth.ndim != predictions.ndim or truth.shape[:2] != predictions.shape[:2]:
        raise ValueError(
            f"the model returned predictions of shape {tuple(predictions.shape)} and targets of "
            f"shape {tuple(truth.shape)}; a target is needed for each prediction"
        )
    return (predictions - truth).square().sum()


def scalar(out: Any) -> Tensor:
    """Return the loss that a model returned: a tensor, a dict with losses, or with ``.loss``.

    Raises:
        ValueError: There is no loss.
    """
    if isinstance(out, dict):
        losses = [value for name, value in out.items() if "loss" in name]
        out = sum(losses) if losses else out
    out = getattr(out, "loss", out)
    if isinstance(out, Tensor) and out.numel() == 1:
        return out.sum()
    raise ValueError(f"a loss must be a tensor with one value; {type(out).__name__} was returned")


def modules_of(model: Any) -> list[nn.Module]:
    """Return the modules that a callable refers to: itself, of a method, a closure or a global."""
    if isinstance(model, nn.Module):
        return [model]
    if isinstance(model, functools.partial):
        parts = model.func, *model.args, *model.keywords.values()
    elif inspect.ismethod(model):
        parts = (model.__self__,)
    elif inspect.isfunction(model):
        found = inspect.getclosurevars(model)
        parts = (*found.nonlocals.values(), *found.globals.values())
        parts = [getattr(part, "__self__", part) for part in parts]
    else:
        parts = getattr(model, "__dict__", {}).values()
    return [part for part in parts if isinstance(part, nn.Module)]


@contextmanager
def drawn_weights(modules: Iterable[nn.Module], seed: int) -> Iterator[None]:
    """Draw the weights of modules in float64 within the block; after it they are as before.

    Matrices are drawn by their width; biases, scales and gates are moved by ``SPREAD``, so that
    none stays at zero. Parameters that are not trained are only converted.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [part for module in modules for part in module.modules()]
    parameters = {p: p.data for part in parts for p in part.parameters(recurse=False)}
    buffers = [
        (part, name, value)
        for part in parts
        for name, value in part._buffers.items()
        if value is not None
    ]
    try:
        for p, data in parameters.items():
            if p.is_floating_point():
                p.data = _drawn(data, generator) if p.requires_grad else data.double()
        for part, name, value in buffers:
            floating = value.is_floating_point()
            part._buffers[name] = value.double() if floating else value.clone()
        yield
    finally:
        for p, data in parameters.items():
            p.data = data
        for part, name, value in buffers:
            part._buffers[name] = value


def _drawn(data: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(data.shape, generator=generator, dtype=torch.float64).to(data.device)
    if data.ndim < 2:
        return data.double() + SPREAD * noise
    return noise / max(1, data[0].numel()) ** 0.5


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python within the block."""
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(pythons)
