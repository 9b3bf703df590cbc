"""The command ``xtra``. Each module here is a subcommand and holds a click command of its name.

They import torch and MMPretrain only when they run, so that ``xtra --help`` is fast.
"""

import importlib
import pkgutil
import traceback
from typing import Any

import click

from xtra_toolkit import __version__


class Commands(click.Group):
    """Offer the modules of this package as subcommands; show our errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return sorted(module.name for module in pkgutil.iter_modules(__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the subcommand of that name; None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show a ValueError of this package as an error, with exit code 1."""
        try:
            return super().invoke(ctx)
        except ValueError as error:
            if not _ours(error):
                raise
            raise click.ClickException(str(error)) from error


def _ours(error: Exception) -> bool:
    """Return whether this package raised the error; other errors are bugs and keep a traceback."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].startswith("xtra_toolkit")


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="xtra_toolkit")
def main() -> None:
    """Composable masks and targets for pretraining image models."""
