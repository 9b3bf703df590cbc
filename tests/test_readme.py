"""Test that configs, commands and files in README and docs exist and work."""

import difflib
import importlib
import re

import click
import pytest
import torch
from helpers.builds import pretrainer
from helpers.pages import DOCS, PAGES, README, ROOT, block, commands, expand
from mmengine.registry import Registry
from mmpretrain.registry import MODELS
from test_mmpretrain_benchmarks import AT_256, OURS, POOLED

from xtra_toolkit import registry
from xtra_toolkit.cli import main
from xtra_toolkit.comparison.results import PROBES, RANDOM, RAW, SCRATCH, Results
from xtra_toolkit.registry import MASKS

CONFIGS = ROOT / "mmconfigs"
BEING_BUILT = set()  # commands that the pages name and that may not exist yet


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page, name", [(README, "xtra"), (DOCS / "pretrain.md", "mae")])
def test_the_compositions_of_the_readme_train(page, name):
    space = {}
    exec(block(page, f"# mmconfigs/{name}_vit-b16.py"), space)
    with torch.device("meta"):
        model = MODELS.build(space["model"])
    grid = model.backbone.grid
    images = torch.empty(2, 3, 16 * grid.rows, 16 * grid.cols, device="meta")
    model.loss(images)["loss"].backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_the_readme_shows_the_lines_that_differ_between_xtra_and_aim():
    shown = block(README, "aim_vit-b16.py", "diff").splitlines()[1:]
    files = [(CONFIGS / f"{n}_vit-b16.py").read_text().splitlines() for n in ("xtra", "aim")]
    changed = [line for line in difflib.unified_diff(*files, n=0) if re.match(r"[+-] ", line)]
    assert shown == changed


def test_the_line_for_the_linear_probe_of_mmpretrain_is_tested():
    text = block(DOCS / "evaluate.md", "vit-base-p16_8xb2048-linear", "")
    given = dict(re.findall(r"([\w.]+\.[\w.]+)=(\S+)", text.split("--cfg-options")[1]))
    checkpoint = given.pop("model.backbone.init_cfg.checkpoint")
    tested = {key: str(value) for key, value in (OURS | POOLED | AT_256).items()}
    val = {k.replace("val", "test"): v for k, v in tested.items() if k.startswith("val_")}
    assert given == tested | val and checkpoint.endswith(".pth")


def test_the_mask_of_the_readme_takes_twelve_lines(monkeypatch):
    monkeypatch.setattr(MASKS, "_module_dict", dict(MASKS.module_dict))
    code = block(README, "class RowCausal")
    assert len([line for line in code.splitlines() if line]) <= 12
    exec(code, {"__name__": "my_masks"})
    objective = pretrainer(dict(type="RowCausal"), "block").objective
    assert objective.bounds.num_computed == 56 and "7 predictions" in objective.certificate


def test_the_mask_of_contributing_compiles(monkeypatch):
    monkeypatch.setattr(MASKS, "_module_dict", dict(MASKS.module_dict))
    (code,) = re.findall(r"   ```python\n(.*?)   ```", PAGES[1].read_text(), re.DOTALL)
    exec(re.sub(r"^   ", "", code, flags=re.MULTILINE), {"__name__": "my_masks"})
    objective = pretrainer(dict(type="Checkerboard"), "block").objective
    assert "1 prediction, each of 32 tokens from 32 outputs" in objective.certificate


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_and_folder_that_is_named_exists(page):
    text = page.read_text()
    named = re.findall(r"(?:mmconfigs|xtra_toolkit|tests|plugins)/[\w./{},*-]*[\w/]", text)
    names = [full for name in named for full in expand(name)]
    assert not [n for n in names if not n.isupper() and "NAME" not in n and not found(n)]


def found(name):
    return any(ROOT.glob(name.rstrip("/"))) or any(ROOT.glob(f"{name}.*"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists_with_its_options(page):
    for name, *words in commands(page.read_text()):
        if name in BEING_BUILT and name not in main.list_commands(None):
            continue
        command = main.get_command(click.Context(main), name)
        assert command is not None, f"xtra {name}"
        if isinstance(command, click.Group):
            continue
        known = {o for parameter in command.params for o in parameter.opts} | {"--help"}
        given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known, f"xtra {name}: {given - known}"


@pytest.mark.parametrize(
    "page", [*PAGES, *ROOT.glob("plugins/**/*.md")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_file_that_is_linked_exists(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [a for a in links if "://" not in a and not (page.parent / a).exists()] == []


@pytest.fixture(scope="module")
def registered():
    """Return the names of all parts that a config may give with the prefix xtra_toolkit."""
    ours = [value for value in vars(registry).values() if isinstance(value, Registry)]
    for one in ours:
        one.import_from_location()
    return {name for one in ours for name in one.module_dict}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_the_package_that_is_given_exists(page, registered):
    defined = "".join(file.read_text() for file in [*PAGES, *ROOT.glob("plugins/*/*.py")])
    for name in set(re.findall(r"\bxtra_toolkit(?:\.\w+)+", page.read_text())):
        module, _, last = name.rpartition(".")
        known = last in registered or f"class {last}(" in defined or last == "mmconfigs"
        if not (known or hasattr(importlib.import_module(module), last)):
            importlib.import_module(name)


def test_the_tables_of_the_page_on_comparisons_are_those_of_the_files():
    probes = {title: probe for probe, title in PROBES.items()}
    columns, results, checked = [], None, 0
    for line in (DOCS / "compare.md").read_text().splitlines():
        if link := re.search(r"\]\(comparisons/(\w+)\.md\)", line):
            results = Results(DOCS / "comparisons" / f"{link[1]}.json")
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "linear" in cells:
            columns = cells
        elif line.startswith("|") and set(line) != set("|-"):
            for column, cell in zip(columns, cells, strict=True):
                labels = re.search(r"tuned, ([\d,]+) labels", column)
                value = (
                    results.tuned(name, int(labels[1].replace(",", "")))
                    if labels
                    else results.probe(name, probes[column])
                )
                assert cell == (f"{value.mean:.1f}" if value else ""), (name, column)
                checked += 1
    assert checked > 50


def test_the_figures_of_cifar10_are_those_of_the_comparison():
    results = Results(DOCS / "comparisons" / "cifar10.json")
    text = " ".join(README.read_text().split())
    for label, name in (("MAE", "mae"), ("AIM", "aim"), ("XTRA", "xtra")):
        assert f"{label} {results.probe(f'cifar10_{name}', 'linear').mean:.1f} %" in text
    random, raw = (results.probe(name, "linear").mean for name in (RANDOM, RAW))
    nearest = results.probe(RAW, "nearest").mean
    sentence = f"a random encoder {random:.1f} %, raw pixels {raw:.1f} % (kNN: {nearest:.1f} %"
    assert sentence in text
    aim, scratch = (
        results.tuned(name, 5000).mean for name in ("cifar10_aim", f"{SCRATCH}, full attention")
    )
    assert f"AIM {aim:.1f} %, from scratch {scratch:.1f} %" in text
