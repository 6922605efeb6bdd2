"""How what is counted or done otherwise moves the exponent of the best split, of a planted law."""

import pytest

from scaling.cost import at_width
from scaling.plan import Analysis, Study, trunks
from scaling.record import Ledger
from scaling.report import findings
from tests.report.conftest import BASE, LATE, MODEL

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
