"""``xtra demo``: show what pretraining is for, on scikit-learn's digits, in a few minutes."""

from pathlib import Path

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="work_dirs/demo", show_default=True)
def demo(out: Path) -> None:
    """Train the same small network with few labels, pretrained and from scratch.

    Pretrains a small AIM on 1,297 handwritten digits without their labels. Then fine-tunes it with
    10, 30 and 100 labels a class, three draws of each, beside the same network from random weights
    and beside a logistic regression on the pixels. Prints tables and saves a plot. It downloads
    nothing. A demo that was stopped continues where it stopped.
    """
    with quiet_imports():
        from mmengine.config import Config
        from mmengine.logging import MMLogger

        from xtra_toolkit.comparison import demo as steps
        from xtra_toolkit.comparison.plan import find_config
        from xtra_toolkit.comparison.pretraining import pretrain

        MMLogger.get_instance("demo", log_level="ERROR")
        path = find_config("aim_digits")
        config, packed = Config.fromfile(path), steps.pack_digits(out)
        checkpoint = pretrain(path, out / "pretraining", {})
        accuracies = steps.train_with_few_labels(config, checkpoint, packed, out, click.echo)
        probed = steps.probe_frozen(config, checkpoint, packed)
        steps.plot(accuracies, out / "few_labels.png")
    click.echo(f"\nAccuracy in per cent on 500 digits\n\n{steps.table(accuracies, probed)}\n")
    click.echo(f"plot:       {out / 'few_labels.png'}\ncheckpoint: {checkpoint}")
