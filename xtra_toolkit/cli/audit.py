"""``xtra audit``: test whether a model sees what it predicts."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import click

from xtra_toolkit.cli.show import check_picture
from xtra_toolkit.utils.quiet_imports import quiet_imports


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--draws", type=click.IntRange(1), help="Draws of weights and inputs; default: 4.")
@click.option("--seed", type=int, help="Of the draws; default: 0.")
@click.option("--predict", type=int, metavar="N", help="Which prediction to draw on the image.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw into this file: .pdf, .png or .svg.",
)
def audit(
    function: str, draws: int | None, seed: int | None, predict: int | None, out: Path | None
) -> None:
    """Measure whether the predictions of a model see what they are compared with.

    MODULE:FUNCTION is a function without arguments that returns a dict with the arguments of
    xtra_toolkit.testing.audit: model, inputs, and what the predictions are compared with. It is
    executed. Modules in the current folder are found.

    Prints how many predictions leak, what they see besides, and the matrix; the exit code is 1 if
    one leaks.
    """
    if out is not None:
        check_picture(out)
    make = find(function)
    with quiet_imports():
        from xtra_toolkit.testing import audit as measure

    arguments = make()
    if not isinstance(arguments, dict):
        raise click.UsageError(
            f"{function} returned {type(arguments).__name__}; it must return a dict with the "
            "arguments of xtra_toolkit.testing.audit: dict(model=..., inputs=..., targets=...)"
        )
    given = dict(draws=draws, seed=seed)
    report = measure(**arguments | {k: v for k, v in given.items() if v is not None})
    if out is not None:  # before the text, whose reader (head) may stop early
        report.save(out, predict)
    for line in report.lines():
        click.echo(line)
    if out is not None:
        click.echo(f"\n{out}: drawn")
    if report.leaking:
        click.get_current_context().exit(1)


def find(function: str) -> Callable[[], dict]:
    """Return the function that ``module:function`` names; raise a usage error if there is none."""
    module, _, name = function.partition(":")
    if not module or not name:
        raise click.UsageError(f"{function!r} was given; name a function as MODULE:FUNCTION")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise
        raise click.UsageError(
            f"there is no module {module!r}, neither installed nor in the current folder"
        ) from error
    if not callable(getattr(found, name, None)):
        raise click.UsageError(f"{module} has no function {name!r}")
    return getattr(found, name)
