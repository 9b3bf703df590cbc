"""Test the data that the panels pass to matplotlib."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, Mask, RandomShown, TokenCausal, WithPrefix
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken
from xtra_toolkit.visualization.objectives import objective_panels as panels
from xtra_toolkit.visualization.objectives.figure import draw, single
from xtra_toolkit.visualization.objectives.grid_cells import arrows, connected, line
from xtra_toolkit.visualization.objectives.prediction import pick
from xtra_toolkit.visualization.objectives.summary import PANELS, Summary
from xtra_toolkit.visualization.objectives.view import View

GRID = PatchGrid(4, 4, (2, 2))


@pytest.fixture
def axis():
    return Figure(figsize=(5, 5)).subplots()


def colours(axis):
    """Return the colours of the cells in the order of their tokens."""
    cells = next(c for c in axis.collections if isinstance(c, PatchCollection))
    return [to_hex(colour) for colour in cells.get_facecolor()]


def labels(key):
    return [entry.get_label() for entry in key]


def prediction(mask, target, number=None):
    return pick(mask, target.links(mask, GRID), GRID, (1, 1), number)


def test_each_token_has_its_number_and_the_colour_of_its_step(axis):
    view = View.of(BlockCausal(2)(GRID), GRID)
    assert labels(panels.order_panel(axis, view)) == ["step 0", "step 1", "step 2", "step 3"]
    drawn = {tuple(text.get_position()): text.get_text() for text in axis.texts}
    assert drawn[2, 0] == "4" and drawn[0, 1] == "2" and drawn[3, 3] == "15"
    found = colours(axis)
    assert found[0] == found[5] == to_hex(panels.STEPS(0)) != found[2] == found[7]


def test_a_wider_line_runs_round_each_unit(axis):
    panels.order_panel(axis, View.of(BlockCausal(2)(GRID), GRID))
    frames = [c for c in axis.collections if isinstance(c, LineCollection)]
    assert [len(frame.get_segments()) for frame in frames] == [8] * 4  # sides of 2×2 cells
    assert all(frame.get_linewidth()[0] > 2 * line(axis, GRID) for frame in frames)


@pytest.mark.parametrize("unit", [[0, 0, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], None])
def test_disconnected_units_and_single_tokens_have_no_frame(axis, unit):
    raster = torch.arange(16)
    mask = Mask(raster, raster, unit and torch.tensor(unit))  # 3 and 4 are at opposite edges
    panels.order_panel(axis, View.of(mask, GRID))
    assert not [c for c in axis.collections if isinstance(c, LineCollection)]


def test_the_legend_begins_with_the_first_step_that_fills_a_cell(axis):
    mask = WithPrefix(BlockCausal(1), 4, 4)(GRID)
    key = panels.order_panel(axis, View.of(mask, GRID))
    assert labels(key) == ["step 1", "step 12", "context, never predicted"]
    assert to_hex(key[0].get_facecolor()) == colours(axis)[4]  # the first token after the prefix


def test_hidden_tokens_are_grey_and_context_tokens_framed(axis):
    view = View.of(RandomShown()(GRID), GRID)
    key = panels.order_panel(axis, view)
    assert labels(key) == ["hidden", "context, never predicted"]
    assert [c == panels.GREY for c in colours(axis)] == view.hidden.tolist()
    frames = axis.collections[1]
    assert len(frames.get_paths()) == 4
    left_corners = {tuple(path.vertices[0].round(2)) for path in frames.get_paths()}
    given = view.context.nonzero().flatten().tolist()
    assert left_corners == {(round(t % 4 - 0.42, 2), round(t // 4 - 0.42, 2)) for t in given}


def test_tokens_left_out_are_in_the_legend(axis):
    mask = Mask(torch.arange(8), torch.arange(8))
    assert labels(panels.order_panel(axis, View.of(mask, GRID)))[-1] == "not in the sequence"
    assert colours(axis)[8:] == [panels.PALE] * 8


@pytest.mark.parametrize(("side", "numbered"), [(8, True), (16, True), (48, False)])
def test_numbers_are_drawn_only_if_they_fit(axis, side, numbered):
    grid = PatchGrid(side, side)
    panels.order_panel(axis, View.of(TokenCausal()(grid), grid))
    assert len(axis.texts) == (side**2 if numbered else 0)


def test_an_arrow_leads_from_the_sources_to_the_targets(axis):
    found = prediction(BlockCausal(2)(GRID), NextBlock(), 1)
    assert labels(panels.prediction_panel(axis, GRID, found)) == ["reaches it", "source", "target"]
    (arrow,) = axis.texts
    assert arrow.xyann == (2.5, 0.5) and arrow.xy == (0.5, 2.5)  # the centres of the two blocks
    outline = next(c for c in axis.collections if isinstance(c, LineCollection))
    assert len(outline.get_segments()) == 8  # the sides of two by two cells
    assert [c == panels.TARGET for c in colours(axis)] == [t in (8, 9, 12, 13) for t in range(16)]
    assert [c == panels.READ for c in colours(axis)] == [t < 8 for t in range(16)]


def test_a_token_that_predicts_itself_has_no_arrow(axis):
    mask = RandomShown()(GRID)
    key = panels.prediction_panel(axis, GRID, prediction(mask, MaskedPatches()))
    assert not axis.texts and "target, its own source" in labels(key)


def test_a_leak_is_red(axis):
    found = prediction(BlockCausal(2)(GRID), NextToken(), 0)
    assert labels(panels.prediction_panel(axis, GRID, found))[-1] == "target that it sees"
    assert colours(axis)[1] == panels.LEAK and panels.TARGET not in colours(axis)


def test_each_connected_part_of_the_sources_has_an_arrow():
    assert len(connected({(0, 0), (0, 1), (2, 0)})) == 2
    assert arrows([0, 1, 3], [12], GRID) == [((0.5, 0), (0, 3)), ((3, 0), (0, 3))]


def test_many_arrows_are_replaced_by_one():
    sources, targets = [0, 2, 8, 10], [5, 7, 13, 15]
    assert len(arrows(sources, targets, GRID)) == 16
    assert arrows([*sources, 5], targets, GRID) == [((1, 1), (2, 2))]


def test_the_matrix_is_the_views_and_its_sides_mark_sources_and_targets(axis):
    view = View.of(BlockCausal(2)(GRID), GRID, 12)
    key = panels.attention_panel(axis, view.sequence, [4, 5], [8])
    (image,) = axis.images
    assert torch.equal(torch.as_tensor(image.get_array().data), view.sequence)
    assert labels(key) == ["may attend", "never computed", "sources", "targets"]
    rows, cols = ([b for b in axis.patches if to_hex(b.get_facecolor()) == c] for c in SIDES)
    assert [bar.get_y() + bar.get_height() / 2 for bar in rows] == [4, 5]
    assert [bar.get_x() + bar.get_width() / 2 for bar in cols] == [8]


def test_what_is_never_computed_is_darker_than_what_may_not_attend():
    """Compute the contrast as WCAG does; a single row of 256 must be visible."""
    light = []
    for kind in (panels.BLIND, panels.DEAD):
        linear = [((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(panels.PAIRS[kind][0])]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    assert light[0] / light[1] > 1.7


SIDES = (panels.SOURCE, panels.TARGET)


def test_encoder_and_decoder_pairs_differ_if_tokens_are_hidden(axis):
    key = panels.attention_panel(axis, View.of(RandomShown()(GRID), GRID).sequence)
    assert labels(key) == ["encoder and decoder", "decoder alone"]


def test_the_picture_has_both_matrices_and_marks_the_prediction_in_both_orders():
    mask = BlockCausal(2)(GRID)
    view, found = View.of(mask, GRID), prediction(mask, NextBlock(), 0)
    assert not torch.equal(view.sequence, view.raster)
    figure = draw([Summary("title", [("certificate", "caption")], view, found)])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        "order on the image, units framed",
        "prediction 0 of 0 to 2",
        "attention in sequence order",
        "attention in raster order",
    ]
    for axis, pairs in zip(figure.axes[2:], (view.sequence, view.raster), strict=True):
        assert torch.equal(torch.as_tensor(axis.images[0].get_array().data), pairs)
    sources = [
        [bar.get_y() + bar.get_height() / 2 for bar in axis.patches if bar.get_x() < -0.5]
        for axis in figure.axes[2:]
    ]
    assert sources == [[0, 1, 2, 3], [0, 1, 4, 5]]
    assert [text.get_text() for text in figure.texts] == ["title", f"on {GRID}", "caption"]


def summary(mask, target, name):
    notes = [("certificate", "caption; " * 30)]
    return Summary("title", notes, View.of(mask, GRID), prediction(mask, target), name=name)


def test_several_configs_are_columns_with_a_row_for_each_panel():
    shown = [
        summary(BlockCausal(2)(GRID), NextBlock(), "one"),
        summary(TokenCausal()(GRID), NextToken(), "two"),
        summary(RandomShown()(GRID), MaskedPatches(), "three"),
    ]
    figure = draw(shown, ["attention", "order"])
    boxes = [axis.get_position() for axis in figure.axes]
    assert [axis.get_title()[:5] for axis in figure.axes] == ["atten"] * 3 + ["order"] * 3
    assert boxes[0].x0 < boxes[1].x0 < boxes[2].x0 and boxes[0].y0 > boxes[3].y1
    assert [text.get_text() for text in figure.texts][::2][:3] == ["one", "two", "three"]
    for axis, one in zip(figure.axes, shown, strict=False):
        assert torch.equal(torch.as_tensor(axis.images[0].get_array().data), one.view.sequence)
        assert not axis.patches  # no marks without the prediction
    names = [text.get_text() for text in figure.axes[2].texts]
    assert names == ["4 visible", "12 hidden"]
    assert figure.axes[2].get_yticks().tolist() == [0, 4, 15]


def test_no_text_of_a_figure_is_cut_off_or_covers_another():
    for names in (PANELS, ["attention"]):
        figure = draw([summary(RandomShown()(GRID), MaskedPatches(), "")], names)
        FigureCanvasAgg(figure).draw()
        page = figure.bbox
        legends = [axis.get_legend().get_window_extent() for axis in figure.axes]
        titles = [axis.title.get_window_extent() for axis in figure.axes]
        heads = [text.get_window_extent() for text in figure.texts if text.get_text()]
        for box in (*legends, *titles, *heads):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
        assert not any(a.overlaps(b) for a in legends for b in (*titles, *heads))


def test_patches_keep_their_numbers_where_a_token_has_no_pixels():
    grid = PatchGrid(4, 4, (2, 2), extra=1)
    mask = TokenCausal()(grid)
    found = pick(mask, NextToken().links(mask, grid), grid, (1, 1), 5)
    raster = single(Summary("title", [], View.of(mask, grid), found), "raster").axes[0]
    (source,) = [bar for bar in raster.patches if to_hex(bar.get_facecolor()) == panels.SOURCE]
    assert source.get_y() + source.get_height() / 2 == found.from_tokens[0] == 4
    assert raster.images[0].get_extent() == [-1.5, 15.5, 15.5, -1.5]
    assert raster.get_ylabel() == "patch; below 0 without pixels"
