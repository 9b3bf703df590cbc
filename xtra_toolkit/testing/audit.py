"""audit: find out whether the predictions of any model see what they are compared with.

    from xtra_toolkit.testing import assert_no_leak, audit

    print(audit(model, images, targets=range(1, 16), patch=16))

The model may be anybody's. See ``docs/audit.md``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xtra_toolkit.testing.common import one_thread
from xtra_toolkit.testing.dependence import (
    Step,
    TokenInputs,
    drawn_weights,
    measure,
    modules_of,
)

MOST = 64  # most predictions or tokens of a matrix in print
LEGEND = "x: sees; o: is compared with; !: sees what it is compared with"


@dataclass(frozen=True)
class Audit:
    """Hold what the audit of a model measured.

    Shape legend: D draws, P predictions, N tokens.

    Args:
        tokens: The tokens of the input.
        sees: (D, P, N) bool, tokens that move a prediction.
        compared: (D, P, N) bool, tokens that a prediction is compared with.
        random: Whether the model draws random numbers, such as a mask. A matrix is then that of
            the first draw; otherwise it is the union of all draws.
    """

    tokens: TokenInputs
    sees: Tensor
    compared: Tensor
    random: bool

    @property
    def leaks(self) -> Tensor:
        """(P, N) bool: tokens that a prediction sees and is compared with in the same draw."""
        if not self.random:
            return self.sees.any(0) & self.compared.any(0)
        return (self.sees & self.compared).any(0)

    @property
    def leaking(self) -> list[int]:
        """Return the predictions that see what they are compared with."""
        return self.leaks.any(1).nonzero().flatten().tolist()

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return ``sees`` and ``compared`` as (P, N): the union, or the first draw if random."""
        both = self.sees, self.compared
        return tuple(x[0] if self.random else x.any(0) for x in both)

    def before_and_after(self) -> tuple[int, int, int, int]:
        """Count tokens before and after the targets, in the order of the input.

        Returns:
            Tokens before the first target that are seen; all of them; tokens after the last target
            that are seen; all of them. They are summed over the predictions.
        """
        sees, compared = self.matrices()
        sees, compared = sees[compared.any(1)], compared[compared.any(1)].int()
        before = compared.cummax(1).values == 0
        after = compared.flip(1).cummax(1).values.flip(1) == 0
        regions = (sees & before, before, sees & after, after)
        return tuple(int(x.sum()) for x in regions)

    def verdict(self) -> str:
        """Return a sentence: how many predictions see what they are compared with."""
        counted = int(self.compared.any(0).any(1).sum())
        if not self.leaking:
            return f"None of {counted} predictions sees what it is compared with."
        first = self.leaking[0]
        token = self.tokens.name(int(self.leaks[first].nonzero()[0]))
        return (
            f"{len(self.leaking)} of {counted} predictions see what they are compared with. The "
            f"first: prediction {first} is compared with {token} and sees it."
        )

    def lines(self) -> list[str]:
        """Return the verdict, what else is seen, and the matrix if it is not too large."""
        sees, compared = self.matrices()
        seen, before, later, after = self.before_and_after()
        where = " in the first draw" if self.random else ""
        lines = [
            self.verdict(),
            f"Of the tokens before their targets, the predictions see {seen} of {before}{where}; "
            f"of those after them, {later} of {after}.",
        ]
        if compared.all(1).any():
            lines.append(
                "A prediction is compared with every token, as with a teacher's features or with "
                "pixels less their mean; pass targets= to tell which token it is a prediction of."
            )
        if max(sees.shape) <= MOST:
            marks = sees + 2 * compared
            width = len(str(len(sees) - 1))
            lines += ["", f"{LEGEND}; a row is a prediction, a column a token"]
            lines += [
                f"{p:{width}} " + "".join(".xo!"[mark] for mark in row)
                for p, row in enumerate(marks.tolist())
            ]
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def save(self, path: str | Path, prediction: int | None = None) -> None:
        """Draw the matrix, and for images one prediction, into a file (.pdf, .png or .svg).

        Args:
            path: The file.
            prediction: Which prediction. None: the first that leaks, or a middle one.
        """
        from xtra_toolkit.visualization.objectives.audit_figure import draw

        sees, compared = self.matrices()
        if prediction is None:
            counted = compared.any(1).nonzero().flatten().tolist()
            leaking = [p for p in counted if (sees[p] & compared[p]).any()]
            prediction = leaking[0] if leaking else counted[len(counted) // 2]
        if not 0 <= prediction < len(sees):
            raise ValueError(
                f"prediction {prediction} was asked for; the model makes predictions 0 to "
                f"{len(sees) - 1}"
            )
        figure = draw(sees, compared, self.tokens.grid, prediction, self.verdict())
        figure.savefig(path, dpi=160)


@one_thread()
def audit(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    targets: Sequence | Mapping | None = None,
    *,
    patch: int | tuple[int, int] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    head: nn.Module | str | None = None,
    modules: Sequence[nn.Module] = (),
    draws: int = 4,
    seed: int = 0,
) -> Audit:
    """Measure whether the predictions of a model see what they are compared with.

    Weights, inputs and the model's own random numbers are drawn ``draws`` times. In each draw it is
    measured in float64, by gradients and by replacing tokens, which tokens move which prediction.
    The weights are put back afterwards. The model stays in the mode (training or evaluation) in
    which it is given.

    What a prediction is compared with is told in one of four ways: ``targets``; ``loss``; ``head``
    with a model that returns its loss; or by a model that returns (predictions, targets).

    Args:
        model: A module or a function of ``inputs`` that returns predictions (B, P) or (B, P, V).
        inputs: An example of the inputs: images (B, C, height, width), or sequences (B, N) or
            (B, N, V). Inputs of the same shape, mean and deviation are drawn; integers between the
            smallest and the largest that are given. Only the first of a batch is measured.
        targets: The token that each prediction is compared with: a sequence or a dict of a token
            number, several, or None if the prediction is not in the loss. Patches are numbered in
            raster order.
        patch: Size of a patch in pixels, for images.
        loss: A function of predictions and inputs. What a prediction is compared with is found out
            from it.
        head: The part of the model whose outputs are the predictions, or its name. The model then
            returns its loss: a tensor, a dict, or an object with ``loss``.
        modules: More modules whose weights are drawn. Those that ``model`` itself refers to are
            found.
        draws: Number of draws. More draws find what shows only in some, such as a hard gate.
        seed: Seed of the draws.

    Raises:
        ValueError: The model cannot be audited; the message says why.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} was given; it must be 1 or more")
    if isinstance(head, str):
        head = _submodule(model, head)
    step, tokens = Step(model, loss, head), TokenInputs(inputs, patch)
    found = {*modules_of(model), *modules_of(loss), *modules_of(head), *modules}
    measured = []
    for each in range(seed, seed + draws):
        with _explained(), drawn_weights(found, each):
            given = None if targets is None else _target_matrix(targets, step, tokens)
            measured.append(measure(step, tokens, each, given))
    shapes = {tuple(draw.sees.shape) for draw in measured}
    if len(shapes) > 1:
        raise ValueError(
            f"the number of predictions differs from draw to draw: {sorted(shapes)} (predictions, "
            "tokens); return a row for each, and leave those that do not count out of the loss"
        )
    sees, compared = (torch.stack([draw[i] for draw in measured]) for i in (0, 1))
    if not compared.any():
        raise ValueError(
            "no prediction is compared with a token of the inputs: changing a token changes no "
            "target; check that targets are computed from the inputs that the model is called with"
        )
    return Audit(tokens, sees, compared, any(draw.random for draw in measured))


def assert_no_leak(
    model: Callable[[Tensor], Any], inputs: Tensor, *args: Any, **kwargs: Any
) -> Audit:
    """Assert that no prediction sees what it is compared with; the arguments are those of audit.

    Raises:
        AssertionError: A prediction leaks; the message has the matrix.
        ValueError: The model cannot be audited.
    """
    report = audit(model, inputs, *args, **kwargs)
    if report.leaking:
        raise AssertionError(str(report))
    return report


def _submodule(model: Any, name: str) -> nn.Module:
    """Return the part of a module, or of the module of a method, by its name."""
    for module in modules_of(model):
        parts = dict(module.named_modules())
        if name in parts:
            return parts[name]
    raise ValueError(
        f"head={name!r} was given, and the model has no part of this name; pass the part itself, "
        "or a name as of model.named_modules()"
    )


def _target_matrix(targets: Sequence | Mapping, step: Step, tokens: TokenInputs) -> Tensor:
    """Return (P, N) bool: what each prediction is compared with."""
    with torch.no_grad():
        count = step(*tokens.draw(torch.Generator().manual_seed(0)), 0)[0].shape[1]
    if not isinstance(targets, Mapping):
        if len(targets) != count:
            raise ValueError(
                f"targets has {len(targets)} entries and the model returns {count} predictions; "
                "give an entry for each prediction (None: not in the loss), or a dict"
            )
        targets = dict(enumerate(targets))
    matrix = torch.zeros(count, tokens.count, dtype=torch.bool)
    for prediction, entry in targets.items():
        entries = [] if entry is None else torch.as_tensor(entry).reshape(-1).tolist()
        wrong = [token for token in entries if not 0 <= token < tokens.count]
        if wrong or not 0 <= prediction < count:
            raise ValueError(
                f"targets compares prediction {prediction} with {entry}; predictions are numbered "
                f"0 to {count - 1} and tokens 0 to {tokens.count - 1}"
            )
        matrix[prediction, entries] = True
    return matrix


@contextmanager
def _explained() -> Iterator[None]:
    """Turn an error of the audited model into a ValueError that says what it ran on."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # anybody's model may raise anything
        raise ValueError(
            f"the model could not be audited: {type(error).__name__}: {error}. It runs in float64; "
            "pass modules= if it uses modules that it does not itself refer to"
        ) from error
