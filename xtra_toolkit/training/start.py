"""``xtra train``, step by step: read, derive, check, write, summarise, train, and say what is next.

The config that runs is written into the work folder, so ``mim train`` repeats the run.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

import xtra_toolkit.models  # noqa: F401, registers them
from xtra_toolkit.engine.config_keys import refuse_unknown_keys
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.training import folder as folders
from xtra_toolkit.training import recipe
from xtra_toolkit.training.console import ERROR_FILE, FLAG
from xtra_toolkit.training.memory import images_that_fit
from xtra_toolkit.utils.newest_checkpoint import named_in
from xtra_toolkit.visualization.objectives.build import build
from xtra_toolkit.visualization.objectives.cost import count, parts
from xtra_toolkit.visualization.objectives.title import pair

PROGRESS = dict(type="xtra_toolkit.ProgressHook")


@dataclass
class Run:
    """Hold a run that is ready to start.

    Args:
        cfg: The whole config.
        file: Where it is written, in the work folder.
        images: Images of the training set.
        notes: Sentences on what differs from the run that is resumed.
        model: The pretrainer on the meta device; None for a model of another kind.
        arguments: Of :func:`xtra_toolkit.train.main`.
    """

    cfg: Config
    file: Path
    images: int
    notes: list[str]
    model: MaskTargetPretrainer | None
    arguments: list[str]

    def summary(self) -> Iterator[str]:
        """Yield what is printed before the first step, at most 15 lines."""
        cfg, batch = self.cfg, recipe.global_batch(self.cfg)
        steps, total = recipe.run_length(cfg, self.images)
        if self.model is not None:
            _, *certified = self.model.objective.certificate.split("; ")
            yield f"objective    {pair(cfg.model)}"
            yield f"certificate  {'; '.join(certified)}"
            sizes = parts(self.model, "cpu")
            flops = sum(part.flops for part in sizes)
            arch = cfg.model.backbone.arch
            name = arch if isinstance(arch, str) else f"{arch['embed_dims']} wide"
            yield (
                f"model        {name}, {count(self.model.backbone) / 1e6:.1f} M parameters in the "
                f"encoder, {count(self.model) / 1e6:.1f} M in training; "
                f"{flops / 1e9:.1f} GFLOP an image forward, of {self.model.backbone.grid}"
            )
        else:
            yield f"model        {cfg.model.type}"
        where = cfg.train_dataloader.dataset.get("data_root") or cfg.train_dataloader.dataset.type
        yield f"data         {self.images:,} images of {where}"
        micro = cfg.train_dataloader.batch_size
        yield (
            f"steps        {total:,} of {batch} images ({micro} at once), {steps} an epoch; "
            f"learning rate {cfg.optim_wrapper.optimizer.lr:g}"
        )
        yield f"output       {self.file.parent}: checkpoints, pictures, the log, {self.file.name}"
        if len(self.notes) > 8:
            self.notes[7:] = [f"and {len(self.notes) - 7} more keys, which the run so far decides"]
        yield from (f"resumed      {note}" for note in self.notes)


def prepare(
    config: Path,
    out: Path | None,
    numbers: recipe.Numbers,
    options: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Derive the config of a run and write it; see the options of ``xtra train``.

    Raises:
        ValueError: An option cannot be followed; the sentence says which and why.
    """
    out = out or Path("work_dirs") / config.stem
    if not (resume or overwrite):
        folders.refuse_used(out)
    file, notes = out / f"{config.stem}.py", []
    goes_on = resume and file.exists() and bool(folders.checkpoints(out))
    # what is not given again stays as it was
    cfg, images, model = derive(file if goes_on else config, numbers, options)
    cfg.work_dir = str(out)
    if goes_on:
        notes = list(folders.keep_resumed(cfg, Config.fromfile(file)))
        model = _build(cfg)
    elif overwrite:
        folders.remove_run(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / ERROR_FILE).unlink(missing_ok=True)
    cfg.dump(file)
    arguments = [str(file), "--work-dir", str(out), FLAG, *["--resume"] * resume]
    if numbers.processes > 1:
        arguments += ["--gpus", str(numbers.processes)]
    return Run(cfg, file, images, notes, model, arguments)


def derive(
    config: Path, numbers: recipe.Numbers, options: Sequence[str] = ()
) -> tuple[Config, int, MaskTargetPretrainer | None]:
    """Return the whole config, the number of images, and the model on the meta device."""
    from xtra_toolkit.visualization.objectives.build import open_config

    cfg = open_config(config)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    MMLogger.get_instance("xtra_train", log_level="ERROR")  # building prints the certificate
    refuse_unknown_keys(cfg._cfg_dict, [option.partition("=")[0] for option in options])
    _refuse_unfit(cfg, config, options)
    epochs = cfg.train_cfg.get("max_epochs") or 1
    steps_given = [
        (numbers.data, recipe.apply_data),
        (numbers.arch, recipe.apply_arch),
        (numbers.size, recipe.apply_size),
    ]
    for value, apply in steps_given:
        if value is not None:
            apply(cfg, value)
    _merge(cfg, options)
    if numbers.epochs is not None:
        cfg.train_cfg.max_epochs = numbers.epochs
    images = recipe.count_images(cfg)
    recipe.apply_batch(cfg, images, numbers)
    steps, total = recipe.run_length(cfg, images)
    recipe.apply_schedule(cfg, epochs, total)
    recipe.apply_intervals(cfg, steps, total)
    model = _build(cfg)
    fits = cfg.train_dataloader.get("batch_size", 1)
    fits = images_that_fit(model, numbers.processes) if model is not None else fits
    recipe.apply_machine(cfg, numbers.processes, fits)
    recipe.apply_processes(cfg, numbers.processes)
    _merge(cfg, options)  # what is given by its key has the last word
    hooks = list(cfg.get("custom_hooks") or ())
    cfg.custom_hooks = hooks if PROGRESS in hooks else [*hooks, PROGRESS]
    return cfg, images, model


def _refuse_unfit(cfg: Config, config: Path, options: Sequence[str]) -> None:
    """Raise a ValueError for a config that trains nothing, or has no steps to stop at."""
    absent = [
        n for n in ("model", "train_dataloader", "train_cfg", "optim_wrapper") if not cfg.get(n)
    ]
    if absent:
        raise ValueError(
            f"{config} has no {absent[0]}, so there is nothing to train; a kNN or test config runs "
            "with mim test, and xtra probe probes an encoder."
        )
    loop = str(cfg.train_cfg.get("type", ""))
    if not loop.endswith("GlobalBatchLoop") and any("train_cfg.max_iters=" in o for o in options):
        raise ValueError(
            f"train_cfg.max_iters was given, and the loop of {config} counts epochs alone; give "
            "--epochs, or set -o train_cfg.type=xtra_toolkit.GlobalBatchLoop and its global_batch."
        )


def _merge(cfg: Config, options: Sequence[str]) -> None:
    import argparse

    from mmengine.config import DictAction

    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise ValueError(f"-o {wrong[0]} was given; an override is KEY=VALUE.")
    if options:
        parser = argparse.ArgumentParser()
        parser.add_argument("--cfg-options", nargs="+", action=DictAction)
        cfg.merge_from_dict(parser.parse_args(["--cfg-options", *options]).cfg_options)


def _build(cfg: Config) -> MaskTargetPretrainer | None:
    kind = cfg.model.type
    if isinstance(kind, str) and (kind := MODELS.get(kind)) is None:
        raise ValueError(f"model.type={cfg.model.type!r} was given; no such model is registered.")
    if not isinstance(kind, type) or not issubclass(kind, MaskTargetPretrainer):
        return None
    try:
        return build(cfg)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the model cannot be built: {error.args[0]}") from error


def train(run: Run, goes_on: str = "--resume goes on from") -> None:
    """Train in a process of its own, and raise ValueError with its sentence if it fails.

    Args:
        run: The run.
        goes_on: What to say before the name of the last checkpoint if the run is interrupted.

    Raises:
        SystemExit: The run was interrupted and saved; the exit code says so.
        ValueError: The run failed.
    """
    command = [sys.executable, "-m", "xtra_toolkit.train", *run.arguments]
    # -m would also look for the package in the current folder, which may be above a clone
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONSAFEPATH": "1"}
    child = subprocess.Popen(command, env=environment)
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:  # the terminal has told the child too, which saves
            continue
    if code in (75, 130):  # saved, or not begun; a second Ctrl-C leaves without saving
        last = named_in(run.file.parent)
        saved = f"{goes_on} {run.file.parent / last}" if last else "nothing is saved yet"
        print(f"interrupted; {saved}", file=sys.stderr)
        raise SystemExit(code)
    if code:
        failed = run.file.parent / ERROR_FILE
        reason = failed.read_text() if failed.exists() else f"The training ended with code {code}."
        raise ValueError(f"{reason.rstrip('.')}. The whole log is in {run.file.parent}.")


def closing(run: Run, write_report: Callable[[Path], Path | None]) -> Iterator[str]:
    """Yield where everything is, and the command to type next."""
    out = run.file.parent
    checkpoint = out / named_in(out)
    yield f"checkpoint   {checkpoint}"
    pictures = sorted(out.glob("*/vis_data/vis_image/*.*"), key=lambda p: p.stat().st_mtime)
    if pictures:
        yield f"pictures     {pictures[-1]}"
    if report := write_report(out):
        yield f"report       {report}"
    data = run.cfg.train_dataloader.dataset.get("data_root") or "FOLDER"
    if run.model is not None:
        yield f"next         xtra features {checkpoint} {data} --out features.safetensors"
        yield f'in Python    encoder, transform = xtra_toolkit.load("{checkpoint}")'
