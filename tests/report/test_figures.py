"""Figures show the data that were fitted and the law that was found, and every label can be read."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from scaling.report import curves, figure, plots
from scaling.report.caption import CAPTIONS
from scaling.report.page import TITLES


@pytest.fixture(scope="module")
def drawn(found):
    with figure.matplotlib.rc_context(figure.RC):
        return {name: plot(found) for name, plot in plots.PLOTS.items()}


def points(axes, marker="o") -> set[tuple[float, float]]:
    return {
        (float(x), float(y))
        for line in axes.get_lines()
        if line.get_marker() == marker
        for x, y in zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True)
    }


@pytest.mark.parametrize("name, column", [("loss_against_n", "n"), ("loss_against_d", "d"), ("frontier", "flops")])
def test_every_run_of_the_fit_is_a_point(drawn, found, name, column):
    o = found.observations
    assert points(drawn[name].axes[0]) == set(zip(getattr(o, column).tolist(), o.loss.tolist(), strict=True))


def test_curves_are_the_law_at_each_horizon(drawn, found):
    horizons = sorted(set(found.observations.d))
    curves = [line for line in drawn["loss_against_n"].axes[0].get_lines() if len(line.get_xdata()) > 50]
    assert len(curves) == len(horizons)
    for line, d in zip(curves, horizons, strict=True):
        np.testing.assert_allclose(line.get_ydata(), found.headline.predict(line.get_xdata(), d), rtol=1e-12)


def test_a_law_is_dashed_beyond_its_runs(drawn, found):
    top = found.observations.d.max()
    curves = [line for line in drawn["loss_against_d"].axes[0].get_lines() if line.get_marker() == "None"]
    solid = [line for line in curves if not line.is_dashed() and len(line.get_xdata()) > 2]
    dashed = [line for line in curves if line.is_dashed()]
    assert len(solid) == len(dashed) == len(set(found.observations.n))
    assert all(line.get_xdata()[-1] <= top * (1 + 1e-9) for line in solid)
    assert all(line.get_xdata()[1] > top and line.get_xdata()[-1] == found.registered[0].forecast.d for line in dashed)


def test_the_held_out_run_is_a_diamond_where_it_was_measured(drawn, found):
    one = found.registered[0]
    for name, x in (
        ("loss_against_n", one.forecast.n),
        ("loss_against_d", one.forecast.d),
        ("frontier", one.forecast.flops),
    ):
        assert points(drawn[name].axes[0], "D") == {(x, one.score.measured)}


def test_valleys_have_their_vertex_marked_unless_it_is_at_an_edge(drawn, found):
    inside = [v for v in found.isoflop.valleys if not v.edge]
    assert points(drawn["isoflop"].axes[0], "X") == {(v.n, v.loss) for v in inside}
    assert points(drawn["allocation"].axes[0], "X") == {(v.slice.flops, y) for v in inside for y in (v.n, v.d)}


def test_multipliers_are_those_of_the_comparison(drawn, found):
    sgd = next(c for c in found.comparisons if c.by_loss is not None)
    shown = points(drawn["algorithms"].axes[0])
    assert shown == set(zip(sgd.flops.tolist(), np.asarray(sgd.by_loss.value).tolist(), strict=True))


def test_no_label_lies_over_another_or_leaves_the_figure(drawn):
    labels_lie_apart({name: made for name, made in drawn.items() if made is not None})


def labels_lie_apart(drawn: Mapping[str, Figure]) -> None:
    for name, made in drawn.items():
        made.draw_without_rendering()
        page = made.bbox
        texts = [
            text
            for axes in made.axes
            for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label)
        ]
        # The words of an annotation, without its leader.
        boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts if t.get_text()]
        for i, (text, box) in enumerate(boxes):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, (name, text)
            for other, second in boxes[:i]:
                assert not box.padded(-1).overlaps(second.padded(-1)), (name, text, other)


def test_without_a_law_the_data_are_drawn_alone(found):
    bare = replace(found, fits={}, registered=(), isoflop=None, comparisons=(), floor=None)
    with figure.matplotlib.rc_context(figure.RC):
        made = {name: plot(bare) for name, plot in plots.PLOTS.items()}
    assert {name for name, one in made.items() if one} == {"loss_against_n", "loss_against_d", "frontier"}
    lines = made["loss_against_n"].axes[0].get_lines()  # type: ignore[union-attr]
    assert all(line.get_linestyle() == "None" for line in lines)


def test_many_horizons_are_gathered_into_few_curves():
    values = np.geomspace(1e5, 1e7, 40)
    distinct, nearest = curves.levels(values)
    assert len(distinct) <= curves.MOST_CURVES and set(nearest) == set(range(len(distinct)))
    assert curves.levels(np.array([1e5, 1.01e5, 4e5]))[0] == [1e5, 4e5]


def test_figures_are_files_on_white_and_what_is_gone_is_removed(found, tmp_path):
    made = plots.draw(found, tmp_path)
    assert list(plots.PLOTS) == list(CAPTIONS) == list(TITLES)
    others = ("ladder_of_sizes", "ladder_of_horizons", "exponents", "other_data", "repeated")
    assert list(made) == [name for name in plots.PLOTS if name not in others], "the study asks for none of these"
    for name in made:
        root = ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())
        assert root.tag.endswith("svg") and "#ffffff" in (tmp_path / f"{name}.svg").read_text()
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.fromstring(made[name].svg)
    plots.draw(replace(found, floor=None), tmp_path)
    assert not list(tmp_path.glob("known_entropy.*"))


def test_a_mark_lies_on_what_is_drawn_and_names_its_run(drawn, found):
    o = found.observations
    for name, column in (("loss_against_n", o.n), ("loss_against_d", o.d), ("frontier", o.flops)):
        shapes = ElementTree.fromstring(figure.inline(drawn[name], name)).iter()
        uses = {
            (round(float(e.get("x")), 1), round(float(e.get("y")), 1)) for e in shapes if e.tag == "use" and e.get("y")
        }
        placed = drawn[name].placed()
        of_runs = {mark.runs[0]: (x, y, mark) for x, y, mark in placed if not mark.title}
        assert set(o.run_id) | {one.run_id for one in found.registered} == set(of_runs)
        for i, run in enumerate(o.run_id):
            x, y, mark = of_runs[run]
            assert (mark.x, mark.y) == (column[i], o.loss[i])
            assert min(np.hypot(x - a, y - b) for a, b in uses) < 0.2
    sgd = next(c for c in found.comparisons if c.by_loss is not None)
    behind = {mark.runs for _, _, mark in drawn["algorithms"].placed() if "SGD" in mark.title}
    table = found.table.set_index("run_id")
    assert len(behind) == 1 and set(table.loc[list(*behind), "group"]) == {sgd.algorithm, sgd.baseline}


def test_what_is_written_in_a_figure_stands_in_the_page(drawn):
    """Places are rounded to save room; numbers that are read are not."""
    for name, made in drawn.items():
        if made is None:
            continue
        written = "".join(ElementTree.fromstring(figure.inline(made, name)).itertext())
        for text in [*made.axes[0].texts, *made.axes[0].get_xticklabels(), *made.axes[0].get_yticklabels()]:
            assert all(line in written for line in text.get_text().split("\n")), (name, text)


def test_ticks_are_few_and_inside():
    rng = np.random.default_rng(1)
    for _ in range(400):
        low = 10 ** rng.uniform(-3, 20)
        high = low * 10**10 ** rng.uniform(-1.5, 1)
        at = figure.ticks(low, high)
        assert 2 <= len(at) <= 8 and low <= at[0] and at[-1] <= high
        assert len({figure._plain(v) for v in at}) == len(at)


def test_labels_are_pushed_apart_and_not_away():
    rng = np.random.default_rng(2)
    for _ in range(100):
        want = np.sort(rng.uniform(0, 60, size=6))
        at = np.array(figure._apart(want.tolist(), 10))
        assert (np.diff(at) >= 10 - 1e-9).all()
        np.testing.assert_allclose(at.mean(), want.mean())
    np.testing.assert_allclose(figure._apart([0, 20, 40], 10), [0, 20, 40])
