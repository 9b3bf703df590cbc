"""``xtra configs``: list the shipped pretraining configs."""

from collections.abc import Iterator
from pathlib import Path

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports

APART = ("_base_", "ablations", "benchmarks")  # folders listed with --all, or no pretraining


@click.command()
@click.option("--all", "everything", is_flag=True, help="The ablations of the paper too.")
def configs(everything: bool) -> None:
    """List the shipped pretraining configs with their size and cost.

    Any of the names is a CONFIG of xtra train, from any folder. A config of one's own begins with
    _base_ = ["FOLDER/NAME.py"], FOLDER as printed in the last line.
    """
    with quiet_imports():
        from mmengine.logging import MMLogger

        from xtra_toolkit.models.hub import configs as folder

        MMLogger.get_instance("xtra_configs", log_level="ERROR")
        click.echo(f"{'name':<28}{'px/patch':>9}{'encoder':>9}{'training':>10}{'an image':>13}")
        apart = [name for name in APART if not (everything and name == "ablations")]
        for path in sorted(folder().rglob("*.py")):
            if not set(path.relative_to(folder()).parts) & set(apart):
                for line in row(path):
                    click.echo(line)
    click.echo(f"\nmillions of parameters, and GFLOP of an image forward; in {folder()}")


def row(path: Path) -> Iterator[str]:
    """Yield the line of a config; no line if it is no pretraining config."""
    from xtra_toolkit.visualization.objectives.build import build, read_config
    from xtra_toolkit.visualization.objectives.cost import count, flops

    try:
        config = read_config(path)
    except ValueError:  # it probes, or is a part of other configs
        return
    backbone = config.model.backbone
    sides = f"{backbone.get('img_size', 224)}/{backbone.get('patch_size', 16)}"
    try:
        model = build(config)
    except ValueError as error:
        yield f"{path.stem:<28}{sides:>9}  {str(error).splitlines()[0]}"
        return
    encoder, whole = count(model.backbone) / 1e6, count(model) / 1e6
    cost = f"{sum(flops(model)) / 1e9:.2f} GFLOP"
    yield f"{path.stem:<28}{sides:>9}{encoder:>9.1f}{whole:>10.1f}{cost:>13}"
