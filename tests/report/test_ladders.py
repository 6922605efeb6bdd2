"""A study of ladders: what it answers, forecasts and draws, of a planted law."""

from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.cost import at_width, count_params
from scaling.plan import Analysis, Study, straight
from scaling.record import Ledger
from scaling.report import figure, findings, overview, page, plots, table
from scaling.report.checklist import checklist
from tests.report.conftest import BASE, MODEL
from tests.report.test_figures import labels_lie_apart

SIZES = [at_width(MODEL, d) for d in (8, 16, 24, 32, 48, 64, 96)]
DEPTHS = [replace(MODEL, n_layers=layers) for layers in (1, 2, 4, 8, 16)]
LARGE = at_width(MODEL, 320)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, plant) -> Ledger:
    study = Study(
        name="ladders", question="What does size buy?",
        plan=straight(BASE, SIZES, [4e6], group="width") + straight(BASE, DEPTHS, [4e6], group="depth", role="compare"),
        held_out=straight(BASE, [LARGE], [4e6], group="width", role="held_out"),
        analysis=Analysis(laws=(), ladders={"width": "n", "depth": "n"}),
    )  # fmt: skip
    assert study.faults() == []
    return plant(tmp_path_factory.mktemp("ladders"), study, noise=0.002)


@pytest.fixture(scope="module")
def found(ledger: Ledger) -> findings.Findings:
    return findings.find(ledger)


def test_a_study_of_ladders_answers_of_size_and_scores_its_forecast(ledger: Ledger, found: findings.Findings):
    assert [answer.concept for answer in found.answers] == ["model scale", "model scale"] and not found.fits
    assert "ten times the parameters" in found.answers[0].text and "non-embedding parameters" in found.answers[0].text
    (width, depth) = found.ladders
    alpha = width.law.estimates()["alpha"]
    assert alpha.low < 0.38 < alpha.high
    (said,) = found.registered
    (held,) = ledger.study()["plan"][-1:]
    assert said.run_id == held["id"] and said.score and said.score.inside and abs(said.score.error) < 0.02
    assert said.forecast.n == count_params(LARGE).matmul > 10 * width.top
    shown = {line.label: line.text for line in table.checks(found)}
    assert "forecast" in shown and all("fits no law of N and D" in line.text for line in table.answers(found)[2:4])


def test_its_points_name_their_runs_and_its_checklist_its_laws(ledger: Ledger, found: findings.Findings):
    with figure.matplotlib.rc_context(figure.RC):
        marks = [mark for _, _, mark in plots.ladder_of_sizes(found).placed()]
    (width, depth) = found.ladders
    assert {*width.observations.run_id, *depth.observations.run_id, found.registered[0].run_id} == {
        run for mark in marks for run in mark.runs
    }
    assert sum(any(name == "power law" for name, _ in mark.facts) for mark in marks) == sum(
        len(ladder.observations) for ladder in found.ladders
    )
    assert overview.headline(found)[0] == "ladder_of_sizes"
    assert found.answers[0].runs == width.observations.run_id
    told = {line.label: line.text for lines in checklist(found, ledger).values() for line in lines}
    assert "power in N of width" in told["laws"] and "alpha of width with N as n_params_kaplan" in told["sensitivity"]


def test_its_page_and_files_hold_the_ladders(ledger: Ledger, found: findings.Findings):
    findings.write(found, ledger)
    text = page.write(found, ledger).read_text()
    assert 'id="ladder_of_sizes"' in text and 'id="loss_against_n"' not in text and "ten times the parameters" in text
    assert sorted(path.name for path in (ledger.folder / "fits").glob("ladder_*")) == [
        "ladder_depth.json",
        "ladder_width.json",
    ]


def test_its_figure_has_labels_that_lie_apart(found: findings.Findings):
    with figure.matplotlib.rc_context(figure.RC):
        made, none = plots.ladder_of_sizes(found), plots.ladder_of_horizons(found)
    assert made is not None and none is None
    labels_lie_apart({"ladder_of_sizes": made})


def test_a_ladder_that_is_none_says_so_and_forecasts_nothing(tmp_path: Path, plant):
    uneven = straight(BASE, SIZES[:2], [4e6], group="width") + straight(BASE, SIZES[2:], [2e6], group="width")
    study = Study(name="none", question="?", plan=uneven, analysis=Analysis(laws=(), ladders={"width": "n"}))
    found = findings.find(plant(tmp_path, study))
    assert not found.answers and not found.ladders and "must be the same on every rung" in "".join(found.warnings)


@pytest.mark.parametrize(
    "analysis, said",
    [
        (Analysis(laws=()), "must name a law of N and D, or analysis.ladders a group"),
        (Analysis(laws=(), ladders={"width": "c"}), "must be n or d"),  # type: ignore[dict-item]
        (Analysis(laws=(), ladders={"length": "n"}), "no group of the plan has this name"),
    ],
)
def test_what_cannot_be_asked_of_a_ladder_is_refused(analysis: Analysis, said: str):
    study = Study(name="s", question="?", plan=straight(BASE, SIZES, [4e6], group="width"), analysis=analysis)
    assert any(said in fault for fault in study.faults())


def test_a_plan_says_how_far_its_ladders_reach(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "ladders.py").write_text(
        "from tests.report.test_ladders import BASE, LARGE, SIZES, Analysis, Study, straight\n"
        "STUDY = Study(name='l', question='?', plan=straight(BASE, SIZES, [4e6], group='width'),\n"
        "              held_out=straight(BASE, [LARGE], [4e6], group='width', role='held_out'),\n"
        "              analysis=Analysis(laws=(), ladders={'width': 'n'}))\n"
    )
    assert main(["plan", str(tmp_path / "ladders.py")]) == 0
    said = capsys.readouterr().out
    assert (
        "ladder width: 7 values of N over 1.8 decades; forecast at 10 times the largest" in said
        and "design:" not in said
    )
