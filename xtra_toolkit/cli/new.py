"""``xtra new``: write a working plugin to start from."""

import importlib.util
import keyword
import re
from pathlib import Path

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports

SKELETONS = Path(__file__).parents[1] / "templates"


@click.group()
def new() -> None:
    """Write a working plugin that you can change into yours: code, test, config, README."""


@new.command()
@click.argument("name")
def mask(name: str) -> None:
    """Write a mask into the new folder NAME: which tokens attend to which, in which order."""
    write("mask", name)


@new.command()
@click.argument("name")
def target(name: str) -> None:
    """Write a target into the new folder NAME: what is predicted, and from where."""
    write("target", name)


def write(kind: str, name: str) -> None:
    """Copy a template into a new folder under its name; ValueError if the name is taken."""
    cls = "".join(part.title() for part in name.split("_"))
    check(name, cls)
    Path(name).mkdir()
    for source in sorted(p for p in (SKELETONS / kind).iterdir() if p.is_file()):
        text = source.read_text().replace(f"my_{kind}", name).replace(f"My{kind.title()}", cls)
        (Path(name) / source.name.replace(f"my_{kind}", name)).write_text(text)
        click.echo(Path(name) / source.name.replace(f"my_{kind}", name))
    click.echo(f"now: cd {name}; pip install -e . && python -m pytest")


def check(name: str, cls: str) -> None:
    """Raise a ValueError unless the name is valid and free, for the module and for the class."""
    if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} was given; the name becomes a Python module, so it must be of lower-case "
            "letters, digits and single underscores, for instance spiral_blocks"
        )
    if Path(name).exists():
        raise ValueError(f"{Path(name).resolve()} exists; choose another name or folder")
    if importlib.util.find_spec(name):
        raise ValueError(f"a module {name!r} is installed already; choose another name")
    with quiet_imports():
        from xtra_toolkit.registry import MASKS, MODELS

        for registry in (MASKS, MODELS):
            registry.import_from_location()
            if cls in registry.module_dict:
                raise ValueError(
                    f"{name!r} would make the class {cls}, which is registered already; choose "
                    "another name"
                )
