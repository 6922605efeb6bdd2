"""Many comparisons are rows of one axis: each at both ends of the scale that it shares, in order, and all legible."""

import math
from dataclasses import replace

import numpy as np
import pytest

from scaling.fitting.compare import Comparison, Noise
from scaling.fitting.uncertainty import Interval
from scaling.report import figure, findings, forest, plots
from scaling.report.caption import CAPTIONS
from scaling.report.summary import summary
from tests.report.test_figures import labels_lie_apart

WORDS = "what is done otherwise here, in more words than one line of a figure can hold"
WORTH = (3.0, 2.1, 1.6, 1.35, 1.15, 1.1, 1.04, 1.0, 0.97, 0.9, 0.7, 0.45, 0.2)  # 1.0 is the baseline again


def interval(value: float | np.ndarray, spread: float = 1.06) -> Interval:
    return Interval(value=value, se=0.03 * value, low=value / spread, high=value * spread)


def comparison(name: str, worth: float, baseline: str = "grid", slope: float = 0.0) -> Comparison:
    """Gains that grow by `slope` for each e-fold of compute, over two decades."""
    flops = np.geomspace(1e10, 1e12, 9)
    along = worth * (flops / 1e11) ** slope
    return Comparison(
        algorithm=name, baseline=baseline, level=0.9, multiplier=interval(worth),
        slope=Interval(value=slope, se=0.01, low=slope - 0.02, high=slope + 0.02), ends=interval(along[[0, -1]]),
        bound=None, loss=np.linspace(3, 2, 9), flops=flops, by_loss=interval(along), sizes=("16", "32"),
        noise=Noise(sd=0.003, dof=6.0, replicates=8, cells=4), verdict=f"{name} against {baseline}", warnings=(),
    )  # fmt: skip


def bound(name: str, side: str, value: float) -> Comparison:
    known = {"multiplier": None, "slope": None, "ends": None, "by_loss": None, "bound": (side, value)}
    return replace(comparison(name, 1.0), **known)


@pytest.fixture(scope="module")
def many(found: findings.Findings) -> findings.Findings:
    """Thirteen gains and losses out of order, two bounds, and one against another baseline."""
    order = np.random.default_rng(3).permutation(len(WORTH))
    made = [comparison(f"group {WORTH[i]:g}", WORTH[i], slope=0.05) for i in order]
    made += [bound("hopeless", "<", 0.01), bound("boundless", ">", 40.0), comparison("int4", 0.8, baseline="int8")]
    asked = found.study["analysis"] | {"algorithms": {c.algorithm: WORDS for c in made}}
    return replace(found, study={**found.study, "analysis": asked}, comparisons=tuple(made))


@pytest.fixture(scope="module")
def drawn(many):
    with figure.matplotlib.rc_context(figure.RC):
        return plots.algorithms(many)


def test_every_row_is_legible_and_the_words_of_each_are_whole(drawn):
    labels_lie_apart({"algorithms": drawn})
    written = " ".join(text.get_text() for text in drawn.axes[0].texts)
    assert written.count(WORDS.split(",")[0]) == len(WORTH) + 3 and "against int8" in written
    tall = drawn.get_figheight() * 72 * 358 / forest.WIDTH  # pixels, where a phone of 390 leaves 358 for a figure
    assert tall < 16 * 70, "sixteen rows are a screen and a half of a phone"


def test_a_row_has_the_multiplier_at_either_end_of_the_shared_scale(drawn, many):
    marks = {}
    for _, mark in drawn.marks:
        marks.setdefault(mark.title.removesuffix(" against grid"), []).append(mark)
    for c in many.comparisons:
        if c.ends is not None and c.baseline == "grid":
            assert [mark.x for mark in marks[c.algorithm]] == c.ends.value.tolist()
            assert marks[c.algorithm][0].y < marks[c.algorithm][1].y
            assert all(c.algorithm in mark.title and mark.runs for mark in marks[c.algorithm])


def test_rows_go_from_the_best_to_the_worst_the_repeated_baseline_among_them(drawn):
    rows = {mark.title.removesuffix(" against grid"): mark.y for _, mark in drawn.marks}
    in_order = ["boundless", *(f"group {worth:g}" for worth in WORTH), "hopeless"]
    heights = [rows[name] for name in in_order]
    assert heights == sorted(heights)


def test_what_is_not_told_from_one_is_grey_and_the_rest_is_not(drawn):
    line = {float(line.get_xdata()[0]): line.get_color() for line in drawn.axes[0].lines if len(line.get_xdata()) == 1}
    ends = comparison("", 1.0, slope=0.05).ends.value
    assert {line[float(end)] for end in ends} == {figure.SOFT}
    assert line[float(comparison("", 3.0, slope=0.05).ends.value[0])] == figure.ACCENT


def test_a_bound_far_off_does_not_squeeze_the_rest(drawn):
    low, high = drawn.axes[0].get_xlim()
    assert 0.01 < low < 0.2 and 3.3 < high < 40, "both bounds lie beyond what is drawn"
    assert len(drawn.placed()) == 2 * (len(WORTH) + 1) + 2, "and can be pointed at all the same"


def test_few_are_curves_and_without_noise_nothing_is_said_to_be_resolved(many):
    few = replace(many, comparisons=many.comparisons[:5])
    assert not plots.in_rows(few.comparisons) and plots.in_rows(many.comparisons)
    unknown = [
        replace(c, multiplier=forest._only(c.multiplier.value), ends=interval(c.ends.value, math.nan), noise=None)
        for c in many.comparisons
        if c.multiplier is not None
    ]
    bare = replace(many, comparisons=tuple(unknown), noise=None)
    with figure.matplotlib.rc_context(figure.RC):
        made = plots.algorithms(bare)
    colours = {line.get_color() for line in made.axes[0].lines if line.get_marker() == "o" and line.get_clip_on()}
    assert colours == {figure.SOFT}
    assert "the noise between seeds is unknown" in CAPTIONS["algorithms"](bare).lower()


def test_together_they_are_counted_as_their_intervals_say(many):
    said = summary(many, "algorithms")
    above = sum(worth / 1.06 > 1 for worth in WORTH) + 1
    below = sum(worth * 1.06 < 1 for worth in WORTH) + 2
    assert said.startswith(f"16 are compared at equal loss: {above} gain, {below} lose, and of {16 - above - below} ")
    assert "group 3's, worth ×3.00 [2.83, 3.18] the compute of grid" in said
    assert f"Of 16, {above} lie above 1, {below} lie below 1" in CAPTIONS["algorithms"](many)


def test_no_number_in_a_row_is_without_a_place(many):
    row = forest._multiplier(many, bound("x", "<", 0.3), "")
    (dot,) = row.dots
    assert dot.bound and dot.item.low == 0 and row.said == "< ×0.3" and row.label == "x"
    assert not forest.Dot(item=interval(1.0)).bound and not forest.Dot(item=forest._only(1.0)).bound
    assert math.isnan(forest._only(1.0).low)
