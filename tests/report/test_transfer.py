"""The figure of a tuning shows every run and its optimum, and what is said is what was found."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from scaling.fitting.tuning import tune
from scaling.report import figure, transfer, tuning
from tests.fitting.test_tuning import valley


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(3)
    cells = valley(rng, noise=0.002, seeds=2)
    other = [replace(c, group="standard") for c in valley(rng, noise=0.002, drift_n=-0.3)]
    other[-1].loss[-1] = math.nan  # diverged
    return tune([*cells, *other])


@pytest.fixture(scope="module")
def drawn(found):
    with figure.matplotlib.rc_context(figure.RC):
        return transfer.transfer(found)


def points(axes, marker: str) -> list[tuple[float, float]]:
    return sorted(
        (float(x), float(y))
        for line in axes.get_lines()
        if line.get_marker() == marker
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )


def test_a_panel_for_each_group_and_horizon_has_every_rate_once(drawn, found):
    assert len(drawn.axes) == 4
    for axes, (group, d) in zip(drawn.axes, [(g, d) for g in found for d in (1e6, 4e6)], strict=True):
        shown = points(axes, "o") + points(axes, "^")
        optima = [one for one in group.optima if one.cell.d == d]
        assert sorted(x for x, _ in shown) == sorted(x for one in optima for x in np.unique(one.cell.rate))
        for x, y in points(axes, "o"):
            means = [np.exp(np.log(one.cell.loss[one.cell.rate == x]).mean()) for one in optima if x in one.cell.rate]
            assert min(abs(y / mean - 1) for mean in means) < 1e-12
        resolved = [(one.rate.value, one.loss) for one in optima if one.status == "resolved"]
        assert points(axes, "X") == sorted(resolved)
        assert axes.get_title(loc="left").startswith(group.group)


def test_a_run_that_diverged_is_at_the_top(drawn):
    last = drawn.axes[-1]
    assert (0.02, last.get_ylim()[1]) in points(last, "^")


def test_no_label_lies_over_another_or_leaves_the_figure(drawn):
    drawn.draw_without_rendering()
    boxes = []
    for axes in drawn.axes:
        texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.title]
        boxes += [(t.get_text(), Text.get_window_extent(t)) for t in [*texts, axes._left_title] if t.get_text()]
    for i, (text, box) in enumerate(boxes):
        assert drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1 and box.y1 <= drawn.bbox.y1 and box.y0 >= 0, text
        for other, second in boxes[:i]:
            assert not box.padded(-1).overlaps(second.padded(-1)), (text, other)


def test_words_follow_the_numbers(found):
    first, second = (" ".join(tuning.verdicts(group)) for group in found)
    assert "sizes: transfers" in first and "sizes: drifts" in second
    assert f"{found[1].sizes.factor.value:.2f}" in second
    exponent = found[1].sizes.exponent.value * math.log(100) / math.log(10)  # N ~ d_model^2 in these cells
    assert f"d_model^{exponent:.2f}" in second
    for group in found:
        for one in group.optima:
            cells = tuning.row(group.group, one)
            assert len(cells) == 7 and (one.status == "resolved" or cells[3] == one.status)


def test_nothing_is_drawn_of_runs_that_all_diverged(found, tmp_path):
    cells = [replace(one.cell, loss=np.full(len(one.cell.loss), np.nan)) for one in found[1].optima]
    lost = tune(cells)
    assert transfer.draw(lost, tmp_path) == [] and not list(tmp_path.iterdir())
    assert any("every rate diverged" in line for line in tuning.verdicts(lost[0]))
