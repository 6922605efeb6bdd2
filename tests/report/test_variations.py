"""How what is counted or done otherwise moves the exponent of the best split, of a planted law."""

import json
import math

import pytest

from scaling.cost import at_width
from scaling.fitting.published.exponents import REFERENCES
from scaling.fitting.uncertainty import Interval
from scaling.plan import Analysis, Study, trunks
from scaling.record import Ledger
from scaling.report import figure, findings, page, plots, words
from scaling.report.summary import summary
from tests.report.conftest import BASE, LATE, MODEL
from tests.report.test_figures import labels_lie_apart
from tests.report.test_page import Reader, plain, written

ALPHA, BETA = 0.38, 0.46  # of the planted law


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, plant) -> Ledger:
    sizes, horizons = [at_width(MODEL, d) for d in (8, 16, 32, 64)], [2.5e5, 5e5, 1e6, 2e6, 4e6]
    late = trunks(BASE, sizes, [1.1 * d for d in horizons], group="late", role="compare")
    study = Study(
        name="varied", question="What moves the exponent?", plan=trunks(BASE, sizes, horizons, group="grid") + late,
        analysis=Analysis(laws=("chinchilla",), varied={"late": "a warm-up as long as the small runs"}),
    )  # fmt: skip
    assert study.faults() == []
    return plant(tmp_path_factory.mktemp("varied"), study, noise=0.0005)


@pytest.fixture(scope="module")
def found(ledger: Ledger) -> findings.Findings:
    return findings.find(ledger)


def test_each_variation_has_the_exponent_that_was_planted(found: findings.Findings):
    exponent = {one.name: one.exponent for one in found.varied}
    assert [*exponent] == ["6ND", "head left out", "late"] and all(exponent.values())
    assert exponent["6ND"].value == pytest.approx(BETA / (ALPHA + BETA), abs=0.01), "C is 6 N D by the law's own N"
    late = LATE * ALPHA
    # Under exact FLOPs, which grow a little less than N: between the exponent under 6 N D and that over k N^p.
    p = found.observations.cost[1]
    assert exponent["late"].value == pytest.approx(BETA / (late + BETA * p), abs=0.02)


def test_what_leaves_the_head_out_takes_small_models_for_smaller(found: findings.Findings):
    head_out = next(one for one in found.varied if one.name == "head left out")
    plain = found.headline.optimum_intervals(found.headline.flops_max)["exponent_n"]
    assert head_out.exponent.value > plain.value + 0.05, "as in arXiv:2406.19146"


def test_the_answers_and_the_files_say_so(found: findings.Findings, ledger: Ledger):
    findings.write(found, ledger)
    said = [answer.text for answer in found.answers if answer.concept == "compute"]
    assert any(text.startswith("late (a warm-up as long as the small runs): N* ~ C^") for text in said)
    assert (ledger.folder / "fits" / "varied.json").is_file()
    frontier = json.loads((ledger.folder / "fits" / "frontier.json").read_text())
    assert [split["approach"] for split in frontier] == ["1", "2", "3", "chinchilla"]


def test_the_approaches_agree_on_a_law_that_holds(found: findings.Findings):
    """Of a planted law, to a few hundredths: parabolas and envelopes of a coarse grid do no better."""
    one, two, three, own = found.splits
    assert own.exponent_n is not None and three.exponent_n is not None
    assert three.exponent_n.value == pytest.approx(own.exponent_n.value, abs=0.01)
    assert two.exponent_n is not None and two.exponent_n.value == pytest.approx(own.exponent_n.value, abs=0.08)
    assert one.why and one.exponent_n is None, "two sizes between the smallest and the largest make no envelope"
    for split in (two, three, own):
        least = split.loss.value if isinstance(split.loss, Interval) else split.loss
        assert least == pytest.approx(float(found.headline.optimum(split.flops).loss), rel=0.01)
        assert split.exponent_n.value + split.exponent_d.value == pytest.approx(1, abs=0.1)


def test_a_shift_is_the_difference_and_has_an_interval_for_other_runs_alone(found: findings.Findings):
    own = found.headline.optimum_intervals(found.headline.flops_max)["exponent_n"]
    for one in found.varied:
        shift = one.shift(own, one.exponent)
        assert shift.value == pytest.approx(one.exponent.value - own.value)
        assert math.isfinite(shift.low) is (one.name == "late")
    late = found.varied[-1].shift(own, found.varied[-1].exponent)
    arms = [(own.high - own.low) / 2, (found.varied[-1].exponent.high - found.varied[-1].exponent.low) / 2]
    assert (late.high - late.low) / 2 == pytest.approx(math.hypot(*arms), rel=0.05)
    assert late.low > 0, "the warm-up moves it"
    assert found.varied[0].shift(own, None) is None


def test_the_figure_has_every_exponent_and_what_was_published(found: findings.Findings):
    with figure.matplotlib.rc_context(figure.RC):
        made = plots.PLOTS["exponents"](found)
    labels_lie_apart({"exponents": made})
    drawn = {(mark.title, mark.x) for _, mark in made.marks}
    for one in found.varied:
        told = [item.value for item in (one.exponent, one.by_valleys) if item]
        assert {(f"{one.name}: {one.words}", value) for value in told} <= drawn
        assert all(mark.runs == one.runs for _, mark in made.marks if mark.title.startswith(f"{one.name}:"))
    assert {(one.paper, one.value) for one in REFERENCES} <= drawn
    assert len(made.placed()) == len(made.marks), "all of them are inside"


def test_the_page_tells_each_with_its_shift_and_the_runs_behind_it(found: findings.Findings, ledger: Ledger):
    _, read = written(ledger, found)
    rows = page.tables.variations(found, page.Behind())
    assert isinstance(read, Reader)
    for one in found.varied:
        assert one.words in read.text and plain(words.interval(one.exponent)) in read.text
        assert f">{len(one.runs)}<" in rows
    own = found.headline.optimum_intervals(found.headline.flops_max)["exponent_n"]
    counted, late = found.varied[0], found.varied[-1]
    assert f"{counted.exponent.value - own.value:+.3g}".replace("-", "−") in rows
    assert words.interval(late.shift(own, late.exponent)) in rows
    ids = {attributes["id"] for _, attributes in read.elements if attributes.get("id")}
    links = [a["href"] for tag, a in read.elements if tag == "a" and (a.get("href") or "").startswith("#behind-")]
    assert links and {link[1:] for link in links} <= ids


def test_together_they_are_named_by_how_far_they_move_it(found: findings.Findings):
    exponents = {one.name: one.exponent.value for one in found.varied}
    said = summary(found, "varied")
    least, *_, most = sorted(exponents, key=lambda name: exponents[name])
    assert "3 other ways to count or to train" in said
    assert said.index(f"({least})") < said.index(f"({most})")
