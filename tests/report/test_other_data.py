"""What other data and repeated data are worth, of a planted law."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from scaling.cost import at_width
from scaling.plan import Analysis, Plan, Study, repeated, straight
from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.report import figure, findings, page, plots, table
from scaling.spec import EvalSpec, RunSpec
from tests.report.conftest import BASE, CLEAN_SHARE, MODEL, REPEATS
from tests.report.test_figures import labels_lie_apart

SIZES = [at_width(MODEL, d) for d in (16, 32, 64)]
UNIQUE = (100_000, 300_000)


def of_data(**data: float) -> RunSpec:
    return replace(BASE, data=replace(BASE.data, **data))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory, plant) -> Ledger:
    fresh = straight(BASE, SIZES, [2e5, 5e5, 1e6, 2e6, 4e6], group="fresh")
    seeds = repeated(straight(BASE, SIZES[:2], [1e6], group="fresh"), [1, 2])
    bad = straight(of_data(corrupted=0.2), SIZES[:2], [5e5, 1e6, 2e6, 4e6], group="corrupted", role="compare")
    again = Plan()
    for unique in UNIQUE:
        base = of_data(unique_tokens=unique, max_epochs=33)
        horizons = [unique * epochs for epochs in (2, 4, 8, 16, 32)]
        again += straight(base, SIZES, horizons, group="repeated", role="compare")
    study = Study(
        name="data", question="Which data count?", plan=fresh + seeds + bad + again,
        analysis=Analysis(
            laws=("chinchilla",), data={"corrupted": "a fifth of the bytes drawn anew"},
            repeated={"repeated": "without weight decay"},
        ),
    )  # fmt: skip
    assert study.faults() == []
    return plant(tmp_path_factory.mktemp("data"), study, noise=0.001)


@pytest.fixture(scope="module")
def found(ledger: Ledger) -> findings.Findings:
    return findings.find(ledger)


def test_a_token_of_worse_data_is_worth_what_was_planted(found: findings.Findings):
    (worse,) = found.data
    assert worse.multiplier and worse.multiplier.low < CLEAN_SHARE < worse.multiplier.high
    assert worse.multiplier.high - worse.multiplier.low < 0.1
    said = [answer.text for answer in found.answers if answer.text.startswith("corrupted (a fifth of the bytes")]
    assert len(said) == 1 and "a token is worth 0.7" in said[0] and "of one of fresh" in said[0]


def test_other_data_may_be_compared_with_a_group_of_its_own(ledger: Ledger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("against") / "data"
    shutil.copytree(ledger.folder, folder)
    document = json.loads((folder / "study.json").read_text())
    document["analysis"] |= {"data": {"fresh": "as it is"}, "against": {"fresh": "corrupted"}}
    commit_json(folder / "study.json", document)
    (better,) = findings.find(Ledger(folder)).data
    assert better.baseline == "corrupted" and better.multiplier
    assert better.multiplier.low < 1 / CLEAN_SHARE < better.multiplier.high


def test_repeated_tokens_have_the_planted_half_life(found: findings.Findings):
    (again,) = found.repeated
    assert again.half_life is not None
    assert again.half_life.low < REPEATS * 0.693 < again.half_life.high and again.half_life.high < 2 * REPEATS
    assert any("worth half of the first after" in answer.text for answer in found.answers)


def test_repeated_tokens_may_be_compared_with_a_group_of_their_own(found: findings.Findings):
    one_size = found.table.loc[found.table["d_model"] == "16"]  # tells no law, which is quick
    for against, fresh in (({}, "fresh"), ({"repeated": "corrupted"}, "corrupted")):
        (again,) = findings._repeated(one_size, found.study["analysis"] | {"against": against}, found.noise, [])
        assert set(again.observations.group) == {fresh, "repeated"}


def test_repeats_of_a_design_hold_the_known_entropy_as_often_as_they_say(tmp_path_factory, plant):
    base = of_data(source="zipf-facts")
    base = replace(base, model=replace(base.model, vocab_size=192, context=33), eval=EvalSpec(tokens=65_538))
    sizes = [at_width(base.model, d) for d in (8, 16, 32, 48)]
    design = straight(base, sizes, [5e5, 1e6, 2e6, 4e6], group="facts", role="compare")
    study = Study(
        name="facts", question="Is the floor the true one?", plan=design + repeated(design, range(1, 10)),
        analysis=Analysis(laws=("chinchilla",), known_entropy="facts"),
    )  # fmt: skip
    assert study.faults() == []
    found = findings.find(plant(tmp_path_factory.mktemp("facts"), study))
    assert found.floor and len(found.floor.repeats) == 10
    assert 6 <= found.floor.held <= len(found.floor.told) <= 10, "nine of ten, give or take"
    assert "of 10 repeats of the design by other seeds" in table.floor(found).text


def test_what_other_data_are_worth_is_drawn_with_labels_that_lie_apart(found: findings.Findings):
    with figure.matplotlib.rc_context(figure.RC):
        made = plots.other_data(found)
    assert made is not None
    labels_lie_apart({"other_data": made})


def test_repeated_tokens_are_drawn_with_their_law_and_that_of_fresh_ones(found: findings.Findings):
    with figure.matplotlib.rc_context(figure.RC):
        made = plots.PLOTS["repeated"](found)
        twice = plots.PLOTS["repeated"](replace(found, repeated=found.repeated * 2))
    labels_lie_apart({"one group": made, "two groups": twice})
    (again,), (axes,) = found.repeated, made.axes
    assert len(twice.axes) == 2
    mine = again.observations.pick([i for i, group in enumerate(again.observations.group) if group == "repeated"])
    shown = {(mark.x, mark.y, *mark.runs) for _, mark in made.marks}
    assert shown == set(zip((mine.d / mine.unique).tolist(), mine.loss.tolist(), mine.run_id, strict=True))
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 50]
    assert len(lines) == 2 * len(UNIQUE) * len(SIZES)
    for line in lines:
        epochs, loss = line.get_xdata(), line.get_ydata()
        n_and_u = [(n, u) for n in set(mine.n) for u in UNIQUE]
        law = again.fit.predict
        of_law = [law(n, u * epochs, u) for n, u in n_and_u]
        of_fresh = [law(n, u * epochs, u * epochs) for n, u in n_and_u]
        expected = of_fresh if line.is_dashed() else of_law
        assert any(np.allclose(loss, one, rtol=1e-9) for one in expected)
    untold = replace(again, fit=replace(again.fit, law=None))
    with figure.matplotlib.rc_context(figure.RC):
        made = plots.PLOTS["repeated"](replace(found, repeated=(untold,)))
    lines = [line for line in made.axes[0].get_lines() if len(line.get_xdata()) == 50]
    assert all(line.is_dashed() for line in lines) and lines, "without its law that of the fresh runs alone"


def test_the_page_and_the_files_say_so(found: findings.Findings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page.whatif, "section", lambda *_: "")  # takes seconds, and is asked elsewhere
    findings.write(found, ledger)
    assert "a token is worth" in page.write(found, ledger).read_text()
    assert (ledger.folder / "fits" / "data.json").is_file() and (ledger.folder / "fits" / "repeated.json").is_file()
