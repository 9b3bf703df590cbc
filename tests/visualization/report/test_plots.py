"""Test the drawings, pictures and differences of a page."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from helpers import made_up_runs as made_up
from PIL import Image

from xtra_toolkit.visualization.report import charts, plots
from xtra_toolkit.visualization.report.differences import ABSENT, differences
from xtra_toolkit.visualization.report.facts import columns
from xtra_toolkit.visualization.report.pictures import MOST, kinds, thinned
from xtra_toolkit.visualization.report.runs import find_runs
from xtra_toolkit.visualization.report.scaling import Point


def read(*work_dirs):
    return columns(find_runs(work_dirs))


def titles(found):
    """Return the texts in charts that are not numbers."""
    return [re.findall(r">([a-zA-Z][^<]*)</text>", chart.drawing) for chart in found]


def test_a_drawing_is_svg_in_the_page_s_colours_and_font():
    x = np.arange(2000.0)
    text = plots.curves([plots.Line(1, x, x)], "iteration", "loss of <a> & $b$", smooth=True)
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "width" not in root.attrib
    assert not re.search("#0[0-4]0[0-9]0", text) and "font-family" not in text
    assert {"var(--ink)", "var(--muted)", "var(--rule)", "var(--series-1)"} <= set(
        re.findall(r"var\(--[\w-]+\)", text)
    )
    assert 'class="run-1"' in text and 'class="run-1 raw"' in text
    assert "loss of &lt;a&gt; &amp; $b$" in text
    drawn = re.findall(r'd="(M [^"]*)"', text)
    assert max(path.count("\n") for path in drawn) <= plots.RAW + 2


def test_ids_of_different_drawings_are_distinct():
    one, two = (
        plots.curves([plots.Line(0, np.arange(n), np.arange(n))], "x", "y") for n in (9.0, 70.0)
    )
    for text in (one, two):
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(set(ids)) == len(ids)
        assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) <= set(ids)


def test_smoothing_is_a_centred_mean_also_near_the_ends():
    y = np.arange(400.0)
    np.testing.assert_allclose(plots.smoothed(y), y)  # a straight line is unchanged
    spike = np.zeros(401)
    spike[200] = 21.0
    np.testing.assert_allclose(plots.smoothed(spike)[190:211], 1.0)  # of 21 values
    assert plots.smoothed(spike)[189] == plots.smoothed(spike)[211] == 0


def test_smoothing_leaves_out_what_is_not_finite():
    y = np.ones(200)
    y[50:53], y[100:] = np.inf, np.nan
    smooth = plots.smoothed(y)
    np.testing.assert_allclose(smooth[:104], 1.0)
    assert np.isnan(smooth[110:]).all()


def test_an_envelope_keeps_every_spike():
    x = np.arange(100_000.0)
    y = np.sin(x)
    y[[4321, 77_777]] = 50, -50
    at, values = plots.envelope(x, y)
    assert len(at) <= plots.RAW and (np.diff(at) > 0).all()
    assert {(4321.0, 50.0), (77_777.0, -50.0)} <= set(zip(at, values, strict=True))


def test_every_logged_value_is_drawn_once(tmp_path):
    records = [*made_up.training(2), made_up.step(210, 0.5, loss_pixels=0.2)]
    made_up.start(tmp_path, made_up.pretraining(), records)
    shown = read(tmp_path)
    drawn = titles(charts.training(shown))
    assert [title for _, title in drawn] == [
        "training loss",
        "validation loss",
        "linear probe, top-1 (%)",
        "kNN probe, top-1 (%)",
        "linear probe on its training batches, top-1 (%)",
        "loss of the linear probe",
        "learning rate",
        "gradient norm, before clipping",
        "loss_pixels",
    ]
    assert {along for along, _ in drawn} == {"iteration"}
    assert [title for _, title in titles(charts.throughput(shown))] == [
        "images a second",
        "share of a step that waits for images (%)",
        "peak GPU memory (GiB)",
    ]
    by_step, bands = charts.splits(shown)
    assert "loss by step of the sequence" in by_step.drawing and by_step.run == 0
    names = re.findall(r">(\d+(?:-\d+)?)</text>", by_step.drawing)[-16:]
    assert names == [f"{n}-{n + 3}" for n in range(0, 64, 4)]  # 4-7 before 12-15
    shades = [re.findall(r"var\(--last\) (\d+)%", chart.drawing) for chart in (by_step, bands)]
    assert [len(set(found)) for found in shades] == [16, 4]  # from the first to the last
    assert all({"0", "100"} <= set(found) for found in shades)


def test_runs_of_different_batches_are_drawn_over_images_seen(tmp_path):
    config = made_up.pretraining()
    made_up.start(tmp_path / "a", config, [made_up.step(10, 1.0), made_up.step(20, 1.0)])
    config["train_cfg"]["global_batch"] = 128
    made_up.start(tmp_path / "b", config, [made_up.step(10, 1.0)])
    shown = read(tmp_path)
    lines = charts.lines_of(shown, lambda column: column.history.series("loss"))
    assert charts.axis(shown)[0] == "images seen"
    assert [line.x.tolist() for line in lines] == [[640, 1280], [1280]]


@pytest.mark.parametrize("losses", [[float("nan")] * 3, [0.5], [1.0, float("inf"), 2.0]])
def test_losses_of_any_kind_are_drawn_or_left_out(tmp_path, losses):
    records = [made_up.step(10 * n, loss) for n, loss in enumerate(losses, 1)]
    made_up.start(tmp_path, made_up.pretraining(), records)
    drawn = [title for _, title in titles(charts.training(read(tmp_path)))]
    assert ("training loss" in drawn) == any(map(np.isfinite, losses)) and "learning rate" in drawn


@pytest.mark.parametrize("count", [1, 2, 24, 25, 100, 1001])
def test_pictures_are_thinned_evenly_from_the_first_to_the_last(count):
    steps = list(range(0, 10 * count, 10))
    kept = thinned(steps)
    assert len(kept) == min(count, MOST) and (kept[0], kept[-1]) == (steps[0], steps[-1])
    assert np.ptp(np.diff(kept)) <= 10 if count > 1 else True


def test_pictures_are_small_and_a_truncated_one_is_left_out(tmp_path):
    folder = made_up.start(tmp_path, made_up.pretraining(), [made_up.step(10, 1.0)])
    made_up.pictures(folder, (1, 2, 3), size=(2400, 1200))
    path = folder / "vis_data" / "vis_image" / "reconstruction_2.png"
    path.write_bytes(path.read_bytes()[:1000])
    ((drawn,),) = kinds(read(tmp_path)).values()
    assert [picture.step for picture in drawn] == [1, 3]
    data = base64.b64decode(drawn[0].uri.removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(data)).size == (1200, 600)


def test_only_keys_that_differ_are_listed():
    one = dict(
        work_dir="a",
        optimizer=dict(lr=1e-3, betas=(0.9, 0.95)),
        schedule=[dict(end=4), dict(begin=4)],
    )
    two = dict(
        work_dir="b",
        optimizer=dict(lr=1e-3, betas=(0.9, 0.99)),
        schedule=[dict(end=4), dict(begin="4")],
        compile=True,
    )
    assert differences([one, one]) == []
    assert differences([one, two, one]) == [
        ("compile", [ABSENT, "True", ABSENT]),
        ("optimizer.betas", ["(0.9, 0.95)", "(0.9, 0.99)", "(0.9, 0.95)"]),
        ("schedule.1.begin", ["4", "4", "4"]),  # a number and a word
    ]


def test_a_run_has_one_colour_in_all_plots_and_an_objective_one_marker():
    found = [
        Point("m", objective, run, step, 10.0 * step, 1.0 / step, "training loss")
        for run, objective in ((0, "xtra"), (1, "mae"), (2, "xtra"))
        for step in (1, 2)
    ]
    line = r'class="run-(\d)">\s*<path [^>]*stroke: var\(--series-(\d)\)'
    colours = re.findall(line, charts.scatter(found))
    assert colours == [("0", "0"), ("1", "1"), ("2", "2")]
    assert charts.objectives_of(found) == ["xtra", "mae"]
    assert len({charts.glyph(n) for n in range(8)}) == 8


def test_losses_of_different_objectives_are_said_not_to_compare():
    assert charts.comparable(["XTRA", "MAE", "XTRA"]) == "; objectives differ: do not compare"
    assert charts.comparable(["XTRA", "XTRA"]) == ""
