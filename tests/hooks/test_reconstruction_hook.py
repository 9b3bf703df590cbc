"""Test the pictures of predictions, and that drawing them does not change the training."""

import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import photographs
from helpers.builds import AIM, MAE, XTRA, pretrainer, randomise
from helpers.processes import on_two
from helpers.tiny_runs import PIPELINE, flat, run
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmpretrain.registry import MODELS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtra_toolkit.data import Digits
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.hooks import ReconstructionHook
from xtra_toolkit.visualization.predictions.fixed_images import fixed_images
from xtra_toolkit.visualization.predictions.image_columns import cells, columns
from xtra_toolkit.visualization.predictions.pixels import predicted
from xtra_toolkit.visualization.predictions.sheet import rgb, sheet

ROOT = Path(__file__).parents[2]
sys.path += [str(folder) for folder in (ROOT / "plugins").iterdir()]
import frequency_targets  # noqa: E402, F401, they register
import latent_targets  # noqa: E402, F401
import multiscale_blocks  # noqa: E402, F401
import sliding_window  # noqa: E402, F401

PIXELS = dict(mean=[120.0, 110.0, 100.0], std=[58.0, 57.0, 56.0])
BLOCK, TOKEN = dict(type="xtra_toolkit.NextBlock"), dict(type="xtra_toolkit.NextToken")
MASKED = dict(type="xtra_toolkit.MaskedPatches")
RAGGED = dict(type="xtra_toolkit.BlockCausal", block_size=3, ragged=True)
SEVERAL = dict(type="xtra_toolkit.MultiBlock", block_size=2, blocks=3)
SIZES = dict(type="xtra_toolkit.MultiscaleBlocks", sizes=[2, 1])
WINDOW = dict(type="xtra_toolkit.SlidingWindow", window=9)
PAIRS = {
    "XTRA": XTRA,
    "AIM": AIM,
    "MAE": MAE,
    "raw": ("block", BLOCK | dict(normalise=False)),
    "look-ahead": ("block_orders", BLOCK | dict(look_ahead=2)),
    "ragged": (RAGGED, BLOCK),
    "told": ("token", TOKEN | dict(positioned=True)),
    "low": ("block", dict(type="xtra_toolkit.LowPass", target=BLOCK, cutoff=0.1)),
    "blurred": ("shown", dict(type="xtra_toolkit.Blur", target=MASKED, sigma=2)),
    "sizes": (SIZES, BLOCK),
    "window": (WINDOW, TOKEN),
    "several masks": (SEVERAL, MASKED),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def built(mask, target, image=(32, 48), patch=(4, 8), **rest):
    model = randomise(pretrainer(mask, target, image=image, patch=patch, **rest))
    model.data_preprocessor = MODELS.build(
        dict(type="mmpretrain.SelfSupDataPreprocessor", to_rgb=True, **PIXELS)
    )
    return model


def pictures(model, count=2):
    """Return normalised images of whole grey levels, as files have them."""
    grid = model.objective.grid
    size = count, grid.channels, *grid.img_size
    inputs = torch.randint(256, size, generator=torch.Generator().manual_seed(0))
    return model.data_preprocessor(dict(inputs=inputs, data_samples=None))["inputs"]


def by_token(column, grid):
    """Return (B, N) bool: which patches are not transparent."""
    alpha = torch.from_numpy(column.pixels[..., 3]).float()[:, None] / 255
    of_one = PatchGrid(grid.rows, grid.cols, grid.patch, 1)
    share = of_one.patchify(alpha).mean(-1)
    assert ((share == 0) | (share == 1)).all()
    return share > 0


def predicted_tokens(plan, batch):
    """Return the tokens that a plan predicts, found by going through its links."""
    tokens = [set() for _ in range(batch)]
    for group in plan.groups:
        rows = batch * plan.masks_per_image
        loss_mask = (
            torch.ones(1, group.tokens.shape[1]) if group.loss_mask is None else group.loss_mask
        )
        wanted, loss_mask = group.tokens.expand(rows, -1, -1), loss_mask.expand(rows, -1)
        for row in range(rows):
            for link, counts in zip(wanted[row].tolist(), loss_mask[row].tolist(), strict=True):
                tokens[row % batch] |= set(link) if counts else set()
    return tokens


@pytest.mark.parametrize("name", PAIRS)
def test_a_perfect_prediction_is_the_truth_where_something_is_predicted(name):
    model = built(*PAIRS[name])
    model.reconstruct = model.target_values
    images, grid = pictures(model), model.objective.grid
    given, _, guess, error, truth = columns(model, images, "these")
    plan = model.objective(2, images.device)
    there = by_token(guess, grid)
    assert [set(row.nonzero().flatten().tolist()) for row in there] == predicted_tokens(plan, 2)
    drawn = guess.pixels[..., 3] > 0
    off = np.abs(guess.pixels[drawn].astype(int) - truth.pixels[drawn])
    assert off.max() <= (1 if name in ("low", "blurred") else 0)  # two roundings to whole levels
    assert error.pixels[drawn][..., :3].max() <= 2 and not error.pixels[~drawn][:, 3].any()
    seen = given.pixels[..., 3] > 0
    filtered = name in ("low", "blurred")
    assert np.array_equal(given.pixels[seen], truth.pixels[seen]) != filtered
    assert ("as the target filters it" in truth.note) == filtered


@pytest.mark.parametrize("name", PAIRS)
def test_the_difference_in_the_picture_is_that_of_the_predictions(name):
    model = built(*PAIRS[name])
    images = pictures(model)
    _, mask, guess, error, truth = columns(model, images, "these")
    drawn = guess.pixels[..., 3] > 0
    off = np.abs(guess.pixels[..., :3].astype(float) - truth.pixels[..., :3]).mean(-1)
    assert f"mean {off[drawn].mean():.1f} of 255" in error.note and off[drawn].mean() > 10
    grey = error.pixels[drawn][:, 0]
    assert np.array_equal(grey == 255, off[drawn] > 127.74)
    assert ("target's own mean and std" in guess.note) == (name != "raw")
    assert mask.pixels.shape == (2, 64, 96, 4)


def test_the_first_block_of_xtra_is_not_predicted_and_the_last_is_no_input():
    model = built(*XTRA)
    given, mask, guess, *_ = columns(model, pictures(model), "validation images")
    seen, made = by_token(given, model.objective.grid), by_token(guess, model.objective.grid)
    grid = seen.unflatten(1, (8, 6)), made.unflatten(1, (8, 6))
    assert not grid[0][:, -2:, -2:].any() and grid[0].sum() == 2 * 44
    assert not grid[1][:, :2, :2].any() and grid[1].sum() == 2 * 44
    assert given.note == "validation images\n44 of 48 patches seen"
    grey, dark, light = mask.pixels[0, 2, 2], mask.pixels[0, 2, 40], mask.pixels[0, 60, 90]
    assert grey.tolist() == [217, 217, 217, 255] and dark.sum() < light.sum()


def test_the_visible_patches_of_mae_are_those_of_the_plan():
    model = built(*MAE)
    images = pictures(model)
    given, mask, guess, *_ = columns(model, images, "these")
    tokens = model.objective(2, images.device).encoded_tokens
    seen = by_token(given, model.objective.grid)
    assert torch.equal(seen, torch.zeros(2, 48).scatter(1, tokens, 1).bool())
    assert torch.equal(by_token(guess, model.objective.grid), ~seen)
    grey = (mask.pixels[:, 4::8, 8::16] == [217, 217, 217, 255]).all(-1)
    assert np.array_equal(grey.reshape(2, 48), seen.numpy())
    assert mask.note == "grey: context, never predicted\ndark: predicted"


def test_blocks_of_one_are_token_causal():
    one = built(dict(type="xtra_toolkit.BlockCausal", block_size=1), BLOCK)
    token = built("token", TOKEN)
    token.load_state_dict(one.state_dict())
    pairs = zip(*(columns(m, pictures(m), "these") for m in (one, token)), strict=True)
    for ours, theirs in pairs:
        assert np.array_equal(ours.pixels, theirs.pixels) and ours.note == theirs.note


def test_the_nearest_prediction_of_look_ahead_is_drawn():
    model = built("block", BLOCK | dict(look_ahead=2, normalise=False))
    images = pictures(model)
    plan, grid = model.objective(2, images.device), model.objective.grid
    with torch.no_grad():
        near, far = model.reconstruct(images, plan)
    made = predicted(model, images, plan)
    second, third = (made[:, grid.blocks(2)[i]].flatten(1) for i in (1, 2))
    assert torch.equal(second, near[:, 0]) and torch.equal(third, near[:, 1])
    assert not torch.allclose(third, far[:, 0])


def test_lines_separate_units_that_are_predicted_separately():
    unit = torch.tensor([[0.0, 0, 1, 1]])
    made = cells(torch.full((1, 4, 4), 7, dtype=torch.uint8), unit, PatchGrid(2, 2, (8, 8)))
    assert (made[0, 7] == 255).all() and (made[0, :7] == 7).all() and (made[0, 8:] == 7).all()


TINY = dict(_delete_=True, embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=24)


PRETRAINER = "xtra_toolkit.MaskTargetPretrainer"


@functools.cache
def configs():
    """Return the path and the content of every shipped config."""
    paths = sorted((ROOT / "mmconfigs").rglob("*.py"))
    paths = [p for p in paths if "_base_" not in p.parts and "def main" not in p.read_text()]
    return [(path, Config.fromfile(path)) for path in paths]


def shipped():
    """Return each pair and grid of the shipped configs once, with narrow and shallow models."""
    found = {}
    for path, config in configs():
        model = config.model
        if model.type == PRETRAINER and model.neck:
            if model.head.type == "xtra_toolkit.DiffusionHead":  # it predicts no values
                continue
            backbone = model.backbone
            size = backbone.img_size, backbone.patch_size, backbone.get("with_cls_token")
            key = repr((model.mask, model.target_generator, size))
            found.setdefault(key, (path.stem, model))
    return list(found.values())


@pytest.mark.parametrize(("name", "model"), [pytest.param(*x, id=x[0]) for x in shipped()])
def test_every_shipped_objective_is_drawn(name, model):
    model = Config(dict(model=model)).model
    model.backbone.pop("init_cfg", None), model.neck.pop("init_cfg", None)
    model.head.pop("init_cfg", None)
    model.backbone.arch = {k: v for k, v in TINY.items() if k != "_delete_"}
    heads = model.neck.get("heads") and 2
    model.neck.update(width=16, depth=1, heads=heads)
    if model.neck.get("projection"):
        model.neck.projection = 16
    model.head.hidden = 4
    if model.neck.get("memory_layers"):
        model.neck.memory_layers = [0, 1]
    model.backbone.pop("fused_layers", None)  # TINY has one layer
    model = MODELS.build(model).eval()
    images, grid = pictures(model, 1), model.objective.grid
    made = columns(model, images, "these")
    there = by_token(made[2], grid)[0].nonzero().flatten().tolist()
    assert [set(there)] == predicted_tokens(model.objective(1, images.device), 1) and len(there) > 8
    assert made[0].pixels.shape == made[2].pixels.shape == made[4].pixels.shape
    assert rgb(sheet(made)).shape[1] == 1350


@pytest.mark.parametrize("kind", ["LatentPatches", "NextColour"])
def test_targets_other_than_pixels_are_logged_and_not_drawn(kind, tmp_path):
    np.save(tmp_path / "colours.npy", np.random.default_rng(0).uniform(-1, 1, (3, 3)))
    target = dict(type=f"xtra_toolkit.{kind}")
    if kind == "NextColour":  # as many classes as a pixel has values
        target["clusters"] = str(tmp_path / "colours.npy")
        model = pretrainer("token", target, image=4, patch=1, head=dict(loss="cross_entropy"))
    else:  # as wide as a patch has values
        model = pretrainer("shown", target, image=32, patch=4)
    assert model.target_generator.width(model.objective.grid) == model.objective.grid.values
    hook, runner = ReconstructionHook(), stub(model, train=images_of(model))
    hook.before_train(runner)
    hook.after_train(runner)
    (said,) = runner.logger.said
    assert said.startswith(f"No reconstructions are drawn: {kind} predicts something else than")


def test_other_models_are_left_alone():
    hook, runner = ReconstructionHook(), stub(torch.nn.Linear(2, 2))
    hook.before_train(runner)
    hook.after_train(runner)
    assert not runner.logger.said


class Log(SimpleNamespace):
    def info(self, line):
        self.said.append(line)

    warning = info


def stub(model, val=None, train=None, step=0):
    """Build the parts of a runner that the hook reads; loaders are given by their data sets."""
    val, train = (d and torch.utils.data.DataLoader(d) for d in (val, train))
    loop = val and SimpleNamespace(dataloader=val)
    logger = Log(said=[])
    return SimpleNamespace(
        model=model, iter=step, val_loop=loop, train_dataloader=train, logger=logger
    )


def images_of(model):
    grid = model.objective.grid
    size = grid.channels, *grid.img_size
    return [dict(inputs=torch.full(size, i, dtype=torch.uint8)) for i in range(20)]


def test_validation_images_are_preferred_if_they_fit():
    model = built(*XTRA)
    grid, fitting = model.objective.grid, images_of(model)
    other = [dict(inputs=torch.zeros(3, 8, 8))]
    split, images = fixed_images(stub(model, fitting, other), grid, 4)
    assert split == "validation images" and images[:, 0, 0, 0].tolist() == [0, 5, 10, 15]
    assert fixed_images(stub(model, other, fitting), grid, 4)[0] == "training images"
    assert len(fixed_images(stub(model, None, fitting[:3]), grid, 4)[1]) == 3
    with pytest.raises(ValueError, match=r"no data set of the run has images of shape \(3, 32, 48"):
        fixed_images(stub(model, other, other), grid, 4)
    with pytest.raises(ValueError, match="images of 4 channels are neither grey nor in colour"):
        fixed_images(stub(model, other), PatchGrid(8, 8, (1, 1), 4), 4)


@pytest.mark.parametrize("options", [dict(interval=0), dict(images=-1)])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(ValueError, match=r"ReconstructionHook\(.*interval is at least 1"):
        ReconstructionHook(**options)


def test_a_failing_tracker_does_not_stop_the_run():
    model = built(*XTRA)
    runner, hook = stub(model, train=images_of(model)), ReconstructionHook()

    def refuse(*args):
        raise OSError("no route to host")

    runner.visualizer = SimpleNamespace(add_image=refuse)
    hook.before_train(runner)
    runner.iter = 7
    hook.after_train(runner)
    assert runner.logger.said == [
        "The reconstructions of step 7 are not recorded: no route to host"
    ]


# --- whole runs ---------------------------------------------------------------------------------

LOCAL, BOARD = dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")


def hooks(interval):
    drawing = dict(type="xtra_toolkit.ReconstructionHook", interval=interval, images=2)
    return dict(
        logger=dict(type="LoggerHook", interval=1),
        checkpoint=dict(type="CheckpointHook", interval=7, by_epoch=False),
        **(dict(reconstruction=drawing) if interval else {}),
    )


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("vis_image/*.png"))


def drawing(runner):
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ReconstructionHook))
    return hook


def plain(workers):
    """Train with MMEngine's own loop, whose random state continues from step to step."""
    data = Digits("train", indices=44, pipeline=PIPELINE)
    loader = dict(dataset=data, batch_size=8, num_workers=workers)
    loader.update(sampler=dict(type="DefaultSampler"), collate_fn=dict(type="default_collate"))
    loop = dict(by_epoch=True, max_epochs=1)
    return dict(train_dataloader=loader, train_cfg=loop, param_scheduler=None)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_hook_does_not_change_the_training(workers, tmp_path):
    """Drop path, random masks and crops all draw from torch's own random state."""
    weights, seen = {}, {}
    for interval in (0, 2):
        options = dict(default_hooks=hooks(interval), **plain(workers))
        runner, noted = run(tmp_path / str(interval), "MAE", **options)
        weights[interval], seen[interval] = flat(runner.model.state_dict()), noted.losses
    assert weights[0] == weights[2] and seen[0] == seen[2] and len(seen[0]) == 6
    assert files(tmp_path) == [f"reconstruction_{step}.png" for step in (2, 4, 6)]


def test_local_files_and_tensorboard_hold_the_same_pictures(tmp_path):
    visualizer = dict(type="UniversalVisualizer", vis_backends=[LOCAL, BOARD])
    run(tmp_path, "XTRA", default_hooks=hooks(5), visualizer=visualizer)
    steps = [5, 10, 15]  # the last step is due at the end of training and is drawn once
    assert set(files(tmp_path)) == {f"reconstruction_{step}.png" for step in steps}
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events))
    board.Reload()
    found = board.Images("reconstruction")
    (local,) = tmp_path.rglob("reconstruction_15.png")
    assert [image.step for image in found] == steps
    assert (found[-1].width, found[-1].height) == Image.open(local).size


def test_a_resumed_run_draws_the_same_images(tmp_path):
    runner, _ = run(tmp_path, "AIM", default_hooks=hooks(15))
    kept = dict(load_from=str(tmp_path / "iter_7.pth"), resume=True)
    torch.manual_seed(9)
    again, _ = run(tmp_path / "rest", "AIM", default_hooks=hooks(15), **kept)
    first, second = drawing(runner), drawing(again)
    assert torch.equal(first.images, second.images) and first.split == "training images"
    (one, other) = (next(Path(f).rglob("*_15.png")) for f in (tmp_path / "rest", tmp_path))
    assert np.array_equal(np.array(Image.open(one)), np.array(Image.open(other)))


def _rank(rank, folder):
    wrapper = dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None))
    options = dict(default_hooks=hooks(6), launcher="pytorch", cfg=wrapper)
    runner, _ = run(folder / f"of_{rank}", "MAE", **options)
    weights = flat(runner.model.module.state_dict())
    return drawing(runner).images is None, files(folder / f"of_{rank}"), weights


def test_only_the_first_process_draws(tmp_path):
    (none, drawn, weights), (also, nothing, others) = on_two(_rank, tmp_path)
    assert (none, also) == (False, True) and nothing == [] and len(drawn) == 3
    assert weights == others


def test_every_pretraining_config_has_the_hook():
    pretraining = [config for _, config in configs() if config.model.type == PRETRAINER]
    assert len(pretraining) >= 30
    for config in pretraining:
        hook = config.default_hooks.reconstruction
        assert hook.type == "xtra_toolkit.ReconstructionHook", config.filename
        assert hook.interval > 0 and hook.get("images", 6) > 0, config.filename


def _sharded(rank, folder, photos):
    config = Config.fromfile(ROOT / "tests" / "configs" / "xtra_tiny_fsdp.py")
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
    changes = {f"train_dataloader.{key}": value for key, value in loader.items()}
    changes |= {"train_dataloader.dataset.data_root": str(photos), "work_dir": str(folder / "run")}
    changes |= {"train_cfg": dict(max_epochs=1, global_batch=4), "param_scheduler": []}
    changes |= {"default_hooks.reconstruction": dict(interval=2, images=2), "launcher": "pytorch"}
    config.merge_from_dict(changes)
    runner = RUNNERS.build(config)
    runner.train()
    return drawing(runner).images


@pytest.mark.slow  # two processes at 256 px
def test_the_whole_of_a_sharded_model_is_drawn(tmp_path):
    photos = photographs.write(tmp_path / "photos", 8)
    images, same = on_two(_sharded, tmp_path, photos)
    assert torch.equal(images, same) and files(tmp_path) == ["reconstruction_2.png"]
    model = MODELS.build(Config.fromfile(ROOT / "tests" / "configs" / "xtra_tiny.py").model)
    state = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=True)["state_dict"]
    model.eval().load_state_dict(state)
    inputs = model.data_preprocessor(dict(inputs=images, data_samples=None))["inputs"]
    expected = rgb(sheet(columns(model, inputs, "training images"))).astype(int)
    drawn = np.array(Image.open(next(tmp_path.rglob("reconstruction_2.png"))))
    assert np.abs(drawn - expected).max() <= 3
