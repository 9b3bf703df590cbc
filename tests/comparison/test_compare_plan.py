"""Test what a comparison runs: lengths, schedules, and what may be added later."""

import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers import photographs
from mmengine.config import Config

from xtra_toolkit.comparison import plan as planning
from xtra_toolkit.comparison import pretraining
from xtra_toolkit.comparison.pretraining import FOLDER, PACKED, run_options
from xtra_toolkit.visualization.objectives.build import build
from xtra_toolkit.visualization.objectives.cost import flops

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "mmconfigs" / "small"
NAMES = [str(SMALL / f"cifar10_{name}.py") for name in ("xtra", "aim", "mae")]
CONFIGS = planning.read_configs(planning.options_of_rows(NAMES, ()))
XTRA = CONFIGS["cifar10_xtra"]


def test_a_config_is_a_file_or_the_name_of_a_shipped_one():
    assert planning.find_config("cifar10_aim").samefile(SMALL / "cifar10_aim.py")
    assert planning.find_config("xtra_vit-b16").samefile(SMALL.parent / "xtra_vit-b16.py")
    with pytest.raises(ValueError, match="'xtra_vit' is neither a config file nor the name"):
        planning.find_config("xtra_vit")


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("1h30m", 5400), ("0.5h", 1800)])
def test_a_budget_is_minutes_hours_or_days(text, seconds):
    assert planning.parse_duration(text) == seconds


def test_a_budget_without_a_unit_is_refused():
    with pytest.raises(ValueError, match="'90' was given as a budget; write minutes"):
        planning.parse_duration("90")


def test_equal_compute_is_equal_flops_in_whole_batches():
    images = planning.images_for(CONFIGS, 2, 0, "compute", images=50_000)
    costs = {name: images[name] * sum(flops(build(config))) for name, config in CONFIGS.items()}
    assert all(count % 64 == 0 for count in images.values())
    for cost in costs.values():
        assert cost == pytest.approx(costs["cifar10_xtra"], rel=2e-3)
    assert set(planning.images_for(CONFIGS, 2, 0, "images", images=6400).values()) == {6400}


def test_a_stored_number_of_images_gives_the_plan_again():
    rows = planning.options_of_rows(NAMES, (), ["train_cfg.global_batch=16"])
    configs = planning.read_configs(rows)
    for equal in ("images", "compute"):
        planned = planning.images_for(configs, 2, 0, equal, images=50_040)
        again = planning.images_for(configs, 2, 0, equal, images=planned["cifar10_xtra"])
        assert again == planned and planned["cifar10_xtra"] == 49_984


def test_the_forward_pass_of_a_teacher_counts():
    plugin = ROOT / "plugins" / "latent_targets"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(plugin))
        rows = planning.options_of_rows([str(plugin / "cifar10_ijepa.py")], ())
        (config,) = planning.read_configs(rows).values()
        model, target = planning.training_flops(config)
    assert model == 3 * sum(flops(build(config)))
    assert 0.3 * model < target < 0.4 * model  # 64 tokens, where the student has 28
    assert planning.training_flops(XTRA)[1] == 0


def test_a_budget_becomes_images_by_what_one_image_costs(monkeypatch):
    monkeypatch.setattr(planning, "seconds_per_image", lambda config: 0.01)
    # 60 % of two hours, for three configs and two seeds, at a hundredth of a second an image
    assert set(planning.images_for(CONFIGS, 2, 7200, "images").values()) == {72_000}
    # 30 % of them, for ten fine-tuning runs with 5,000 labels
    assert planning.tune_epochs_for(XTRA, 10, [5000], 7200) == 4


def test_fine_tuning_with_fewer_labels_takes_as_many_steps_but_at_most_fifty_epochs():
    assert [planning.epochs_for(labels, [500, 5000], 4) for labels in (5000, 500)] == [4, 40]
    assert planning.epochs_for(500, [500, 5000], 10) == 50
    assert planning.epochs_for(500, [500], 100) == 100


def test_all_numbers_of_labels_share_the_budget(monkeypatch):
    monkeypatch.setattr(planning, "seconds_per_image", lambda config: 0.01)
    # 43,200 images for a pair of runs; four epochs are 20,000 images with either number of labels
    assert planning.tune_epochs_for(XTRA, 10, [500, 5000], 14400) == 4


@pytest.mark.parametrize(("images", "epochs"), [(150_000, 3), (100_032, 3), (32_000, 1)])
def test_warm_up_and_decay_keep_their_share_of_a_run(tmp_path, images, epochs):
    options = run_options(XTRA, {PACKED: "packed"}, 50_000, images, tmp_path)
    assert options["train_cfg.max_epochs"] == epochs
    assert options["param_scheduler.0.end"] == pytest.approx(0.1 * epochs)
    assert options["param_scheduler.1.end"] == pytest.approx(epochs)
    each = options.get("train_dataloader.dataset.indices", 50_000)
    assert each * epochs == pytest.approx(images, abs=64 * epochs)


def test_a_config_that_reads_files_gets_a_list_of_a_part_of_them(tmp_path, monkeypatch):
    photographs.write(tmp_path / "photos", 12)
    monkeypatch.setattr(pretraining, "MIN_STEPS", 1)
    config = Config.fromfile(SMALL.parent / "xtra_vit-b16.py")
    config.train_cfg.global_batch = 1
    options = run_options(config, {FOLDER: str(tmp_path / "photos")}, 12, 5, tmp_path)
    lines = Path(options["train_dataloader.dataset.ann_file"]).read_text().splitlines()
    assert len(set(lines)) == 5
    assert all((tmp_path / "photos" / line).is_file() for line in lines)


@pytest.mark.parametrize(
    ("data", "images", "sentence"),
    [
        ({FOLDER: "x"}, 50_000, "reads its images with xtra_toolkit.PackedImages"),
        ({PACKED: "x"}, 640, "takes 64 images a step.*at least 20 steps.*global_batch=32"),
    ],
)
def test_a_run_with_the_wrong_data_or_too_few_images_is_refused(tmp_path, data, images, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_options(XTRA, data, 50_000, images, tmp_path)


def test_each_config_has_a_row_for_each_variation():
    varied = ["optim_wrapper.optimizer.lr=0.001 model.mask.block_size=4", "model.mask.block_size=1"]
    rows = planning.options_of_rows([NAMES[0]], ["randomness.seed=1"], varied)
    assert list(rows) == [
        "cifar10_xtra",
        "cifar10_xtra, lr=0.001, block_size=4",
        "cifar10_xtra, block_size=1",
    ]
    assert rows["cifar10_xtra"] == (Path(NAMES[0]), ["randomness.seed=1"])
    configs = planning.read_configs(rows)
    assert [config.model.mask.block_size for config in configs.values()] == [2, 4, 1]
    lrs = [config.optim_wrapper.optimizer.lr for config in configs.values()]
    assert lrs == [2e-3, 1e-3, 2e-3]


@pytest.mark.parametrize(
    ("varied", "sentence"),
    [
        (["model.mask.block_size"], "'model.mask.block_size' was given to vary; write KEY=VALUE"),
        (["a.lr=1", "b.lr=1"], "Two rows have the name 'cifar10_xtra, lr=1'"),
        (["a.x=1,2", "a.x=1/2"], "Two rows have the name 'cifar10_xtra, x=1/2'"),
        (["a.x=[1, 2]"], r"'2\]' was given to vary; write KEY=VALUE, and lists without blanks"),
    ],
)
def test_a_variation_that_is_unclear_is_refused(varied, sentence):
    with pytest.raises(ValueError, match=sentence):
        planning.options_of_rows([NAMES[0]], (), varied)


def test_seeds_and_configs_may_be_added_and_nothing_else_changed(tmp_path):
    plan = planning.Plan("photos", 2, dict(xtra=6400), 1000, [100], 5)
    more = planning.Plan("photos", 4, dict(xtra=6400, aim=6400), 1000, [100], 5)
    more.check(asdict(plan), tmp_path)
    changed = dict(options=dict(xtra=["a=1"]))
    other = planning.Plan("photos", 2, dict(xtra=3200), 1000, [100], 6, **changed)
    with pytest.raises(ValueError, match="differs in tune_epochs, images of xtra"):
        other.check(asdict(plan), tmp_path)
    without = {key: value for key, value in asdict(plan).items() if key != "held_out"}
    held_out = replace(plan, held_out=10)
    for stored in (asdict(plan), without):
        with pytest.raises(ValueError, match=r"differs in held_out\. "):
            held_out.check(stored, tmp_path)
    with pytest.raises(ValueError, match="tune_epochs, images of xtra, options of xtra"):
        plan.check(asdict(other), tmp_path)


def test_a_failed_run_is_reported_by_its_own_error(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("Traceback\nValueError: no images.\nsubprocess.CalledProcessError: mim\n")
    assert pretraining._last_error(log) == "ValueError: no images"


def test_the_cost_of_an_image_is_measured_on_this_machine():
    config = Config.fromfile(SMALL.parent / "demo" / "xtra_digits.py")
    config.train_dataloader.batch_size = 4
    assert 0 < planning.seconds_per_image(config) < 10


def test_an_interrupted_command_lets_its_run_save(tmp_path):
    """The run receives SIGTERM, on which trainings save, and not the interrupt."""
    run = (
        "import signal, pathlib, time\n"
        f"saved = pathlib.Path({str(tmp_path / 'saved')!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (saved.touch(), exit(75)))\n"
        f"pathlib.Path({str(tmp_path / 'started')!r}).touch()\n"
        "time.sleep(60)\n"
    )

    def interrupt(*_):
        signal.setitimer(signal.ITIMER_REAL, 0 if (tmp_path / "started").exists() else 0.1)
        if (tmp_path / "started").exists():
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            pretraining._call([sys.executable, "-c", run], tmp_path / "log")
    finally:
        signal.signal(signal.SIGALRM, former)
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("named", ["epoch_3.pth", "/elsewhere/run/epoch_3.pth"])
def test_a_finished_run_is_not_run_again_and_may_be_moved(tmp_path, named):
    (tmp_path / "done").touch()
    (tmp_path / "last_checkpoint").write_text(named)
    assert pretraining.pretrain(SMALL, tmp_path, {}) == tmp_path / "epoch_3.pth"
