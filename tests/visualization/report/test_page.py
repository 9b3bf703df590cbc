"""Test the page of ``xtra report`` in a browser."""

import base64
import hashlib
import math
import re
import shutil
import subprocess
from pathlib import Path

import mmengine
import pytest
from click.testing import CliRunner
from helpers import made_up_runs as made_up
from mmengine.config import Config
from mmengine.runner import Runner

from xtra_toolkit.cli import main
from xtra_toolkit.visualization.report import scaling
from xtra_toolkit.visualization.report.facts import columns, table
from xtra_toolkit.visualization.report.page import breakable
from xtra_toolkit.visualization.report.runs import find_runs

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium")
COUNT = """
function broken() {  // words of cells that lie in more than one line
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    if (!walker.currentNode.parentElement.closest("th, td, dd, h1, h3")) continue;
    for (const word of walker.currentNode.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
      const range = document.createRange();
      range.setStart(walker.currentNode, word.index);
      range.setEnd(walker.currentNode, word.index + word[0].length);
      const tops = [...range.getClientRects()].map(box => Math.round(box.top));
      count += new Set(tops).size > 1;
    }
  }
  return count;
}
const images = [...document.images];
document.documentElement.dataset.found = JSON.stringify({
  loaded: images.filter(image => image.naturalWidth > 0).length,
  images: images.length,
  drawings: [...document.querySelectorAll("figure > svg")].filter(
    drawing => drawing.getBoundingClientRect().height > 100).length,
  wide: document.documentElement.scrollWidth - window.innerWidth,
  shown: document.querySelectorAll("[data-step]:not([hidden])").length,
  ran: "evil" in window,
  broken: broken(),
  smallest: Math.floor(Math.min(...[...document.querySelectorAll("figure > svg text")].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))),
}).replaceAll('"', "'");
"""
EVIL = "<script>window.evil=1</script>"


def xtra(*args):
    result = CliRunner().invoke(main, ["report", *map(str, args)])
    return result.exit_code, result.output


def page(work_dir, *args):
    code, output = xtra(work_dir, *args)
    assert code == 0, output
    assert output.endswith(f"{work_dir / 'report.html'}: written\n")
    return (work_dir / "report.html").read_text()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Make a finished run, one resumed with another learning rate, one of another objective."""
    root = tmp_path_factory.mktemp("runs")
    config, faster = made_up.pretraining(), made_up.pretraining()
    faster["optim_wrapper"]["optimizer"]["lr"] = 2e-3
    first = made_up.start(root / "xtra", config, made_up.training(seed=1))
    made_up.pictures(first, range(0, 1001, 10))
    made_up.start(root / "faster", config, made_up.training(5, seed=2))
    again = made_up.training(seed=3, first=4)
    made_up.start(root / "faster", faster | dict(resume=True), again, "20250102_120000")
    other = made_up.pretraining(made_up.TOKEN, "NextToken")
    made_up.start(root / EVIL.replace("/", "∕"), other, made_up.training(7), MMEngine="0.10.8")
    return root, page(root)


def words(html):
    """Return the text of a page."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html.replace("<wbr>", "")))


def opened(html, tmp_path, *options):
    """Open a page in a browser; return what it counts there and its error messages."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    digest = base64.b64encode(hashlib.sha256(COUNT.encode()).digest()).decode()
    counted = html.replace("</body>", f"<script>{COUNT}</script></body>")
    counted = counted.replace("script-src", f"script-src 'sha256-{digest}'", 1)
    (tmp_path / "page.html").write_text(counted)
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=3000", *options, (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    found = re.search(r'data-found="\{([^"]*)\}"', done.stdout)[1]
    numbers = {k: v for k, v in re.findall(r"'(\w+)':([-\w]+)", found)}
    return numbers, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("options", [(), ("--blink-settings=preferredColorScheme=0",)])
def test_a_browser_shows_every_picture_without_errors(three, tmp_path, options):
    numbers, complaints = opened(three[1], tmp_path, *options, "--window-size=500,900")
    assert not complaints
    assert int(numbers["images"]) == int(numbers["loaded"]) == 24 + 8  # of 101, and two masks
    assert int(numbers["drawings"]) == 8 + 6 + 2 + 3  # curves, splits, scaling, throughput
    assert numbers["shown"] == "1"  # only the step of the slider
    assert int(numbers["wide"]) <= 0 and numbers["ran"] == "false"


def test_the_browser_reports_errors(three, tmp_path):
    broken = re.sub("data:image/webp;base64,.{9}", "data:image/webp;base64,", three[1], count=1)
    broken = broken.replace("<main>", "<script>throw 1</script><main>")
    numbers, complaints = opened(broken, tmp_path)
    assert int(numbers["loaded"]) == int(numbers["images"]) - 1 and complaints


def test_the_page_needs_no_network_and_escapes_text(three):
    _, html = three
    loaded = re.findall(
        r"""(?:src|href|action|poster|data)=["']?([^"'\s>]+)|url\(([^)]+)\)""", html
    )
    assert loaded and all(re.match("data:|#", a or b) for a, b in loaded)
    assert "@import" not in html and "http-equiv" in html
    assert EVIL.replace("/", "∕") not in html and "&lt;script&gt;window.evil" in html
    assert len(re.findall("<script", html)) == 1 and len(html) < 3e6


def test_the_page_shows_the_differences_of_the_runs(three):
    text = words(three[1])
    assert "3 runs side by side" in text
    for part in (
        "objective TokenCausal × NextToken BlockCausal(block_size=2) × NextBlock BlockCausal",
        "logged up to step 700 of 1,000 1,000 of 1,000 1,000 of 1,000",
        "state not finished finished finished",
        "optim_wrapper.optimizer.lr 0.001 0.002 0.001",
        "faster: changed on resuming key 20250101_120000 20250102_120000",
        "certificate 15 predictions, each of 4 tokens from 4 outputs, none sees its target",
        "MMEngine 0.10.8 0.10.7 0.10.7",
        "all objectives none is given",
    ):
        assert part in text
    assert "model.head" not in text.split("The config of")[0]  # it is the same in all runs


def test_runs_are_in_the_order_of_the_command_line(three, tmp_path):
    root, _ = three
    assert [run.folder.parent.name for run in find_runs([root])][1:] == ["faster", "xtra"]
    names = [run.folder.parent.name for run in find_runs([root / "xtra", root / "faster", root])]
    assert names == ["xtra", "faster", EVIL.replace("/", "∕")]
    assert len(find_runs([root / "faster" / "20250102_120000", root])) == 3  # it resumes the other


def test_probes_are_in_the_first_table_under_the_name_of_their_data(tmp_path):
    records = made_up.training(2)
    records[-1] |= {"probe/rankme": 17.25}
    made_up.start(tmp_path / "xtra", made_up.pretraining(), records)
    made_up.start(tmp_path / "mae", made_up.pretraining(made_up.TOKEN), made_up.training(1))
    backbone = dict(frozen_stages=2, init_cfg=dict(checkpoint=str(tmp_path / "xtra/epoch_2.pth")))
    config = dict(benchmark="my cats", model=dict(backbone=backbone, head=dict(num_classes=9)))
    accuracy = {"accuracy/top1": 81.25}
    made_up.start(
        tmp_path / "p", config, [made_up.step(10, 1.0), made_up.validation(1, **accuracy)]
    )
    shown = columns([run for run in find_runs([tmp_path]) if run.pretrains])
    (benchmark,) = [run for run in find_runs([tmp_path]) if not run.pretrains]
    rows = dict(table(shown, scaling.last(scaling.measured(shown, [benchmark]))))
    assert rows["my cats, no head, 9 classes (%)"] == ["not measured", "81.25"]
    linear = [column.history.last("probe/linear_top1") for column in shown]
    assert rows["birds, linear probe (%)"] == [f"{value:.2f}" for value in linear]
    assert rows["RankMe"] == ["not logged", "17.25"]


def test_no_word_is_broken_on_a_narrow_screen(three, tmp_path):
    """Every word of a table lies in one line, and no picture is scaled below its captions."""
    numbers, _ = opened(three[1], tmp_path, "--window-size=500,900")  # Chromium's least width
    assert numbers["broken"] == "0" and int(numbers["smallest"]) >= 9


def test_lines_break_between_the_parts_of_a_name_alone():
    parts = str(breakable("a.b_c/d(e=1, 0.25) <x>")).split("<wbr>")
    assert parts == ["a.", "b_", "c/", "d(", "e=", "1, 0.25) &lt;x&gt;"]


def test_an_almost_empty_run_has_a_page(tmp_path):
    made_up.start(tmp_path / "empty", made_up.pretraining())
    records = [made_up.step(n, math.nan) for n in (10, 20)]
    made_up.start(tmp_path / "nan", made_up.pretraining(), records)
    bare = made_up.start(tmp_path / "bare", made_up.pretraining(), [{"loss": 1.0, "step": 5}])
    (bare / f"{bare.name}.log").write_text("")
    html = page(tmp_path)
    for part in ("no step in its log", "loss not finite from the start", "not in its log"):
        assert part in html
    assert "No checkpoint has both a pretraining loss and an accuracy" in html
    numbers, complaints = opened(html, tmp_path)
    assert not complaints and numbers["loaded"] == "4"


def test_without_its_plugin_the_certificate_is_read_from_the_log(tmp_path):
    config = made_up.pretraining(dict(type="gone.Mask"))
    config["custom_imports"] = dict(imports=["a_plugin_that_is_gone"])
    made_up.start(tmp_path, config, [made_up.step(10, 1.0)])
    html = page(tmp_path)
    assert "from its log: BlockCausal × NextBlock on a grid of 8×8 tokens" in html
    assert "its model cannot be built here" in html and "<img" not in html


def test_benchmarks_are_still_a_table_and_have_a_page_when_asked(tmp_path):
    config = dict(benchmark="DTD", model=dict(backbone={}), train_cfg=dict(max_epochs=1))
    records = [made_up.step(10, 1.0), made_up.validation(1, **{"accuracy/top1": 50.0})]
    made_up.start(tmp_path / "dtd", config, records)
    output = xtra(tmp_path)[1]
    assert "| 50.0 |" in output and not list(tmp_path.rglob("*.html"))
    assert xtra(tmp_path, "--html", tmp_path / "b.html")[0] == 0
    html = (tmp_path / "b.html").read_text()
    assert "DTD, fine-tuning (%) 50.00" in words(html) and "top-1 accuracy (%)" in html
    made_up.start(tmp_path / "xtra", made_up.pretraining(), [made_up.step(10, 1.0)])
    output = xtra(tmp_path, "--html", tmp_path / "b.html")[1]
    assert "| 50.0 |" in output and "- DTD" in output and "- unnamed" not in output


def test_several_folders_make_a_page_here_and_nothing_else_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        made_up.start(tmp_path / name, made_up.pretraining(dict(type="gone.Mask")))
    assert xtra("a", "b")[0] == 0 and (tmp_path / "report.html").exists()
    assert xtra("a", "b")[0] == 0  # replaces the page that it wrote
    (tmp_path / "report.html").write_text("mine")
    code, output = xtra("a", "b")
    assert code == 1 and "no page of xtra report" in output
    assert (tmp_path / "report.html").read_text() == "mine"
    assert "cannot be written" in xtra("a", "--html", "nowhere/report.html")[1]


@pytest.mark.slow  # takes seconds; the logs of hooks are tested beside the hooks
def test_a_real_run_has_its_page(tmp_path):
    config = Config.fromfile(ROOT / "mmconfigs" / "demo" / "xtra_digits.py")
    config.merge_from_dict(
        {
            "work_dir": str(tmp_path),
            "train_dataloader.dataset.indices": 192,
            "val_dataloader.dataset.indices": 20,
            "train_cfg.max_epochs": 2,
            "train_cfg.val_interval": 1,
            "default_hooks.logger.interval": 1,
            "experiment_name": "page",
        }
    )
    Runner.from_cfg(config).train()
    html = page(tmp_path)
    text = words(html)
    for part in (
        "objective BlockCausal(block_size=2) × NextBlock(normalise=False) started 20",
        "logged up to step 6 of 6 state finished training loss",
        "15 predictions, each of 4 tokens from 4 outputs",
        "validation loss",
        "images a second",
        f"MMEngine {mmengine.__version__}",
    ):
        assert part in text
