"""The page of all studies: every answer, every forecast with its misses, and what it cost."""

import json
import math
import re
from pathlib import Path

import pytest

from scaling.cli.main import main
from scaling.record.files import commit_json
from scaling.report import concepts, findings, overview, provenance, table
from scaling.report.members import Member, folders, gather, verdict
from tests.report.test_page import Reader, plain


@pytest.fixture(scope="module")
def folder(planted_ledger, planted_html, plant, small, tmp_path_factory) -> Path:
    """Studies side by side: a whole one, published; one below whose forecast missed; one without a law."""
    home = tmp_path_factory.mktemp("results")
    whole = home / "published"
    whole.mkdir()
    for name in ("study.json", "runs.csv", "forecast.json", "cost.json"):
        (whole / name).write_bytes((planted_ledger.folder / name).read_bytes())
    (whole / "report.html").write_text(planted_html, encoding="utf-8")
    missed = home / "below" / "missed"
    missed.mkdir(parents=True)
    for name in ("study.json", "runs.csv", "forecast.json"):
        (missed / name).write_bytes((planted_ledger.folder / name).read_bytes())
    said = json.loads((missed / "forecast.json").read_text())
    twice = [one | {name: 2 * one[name] for name in ("loss", "low", "high")} for one in said]
    commit_json(missed / "forecast.json", twice)
    plant(home / "bare", small(groups=("one", "two")))
    (home / "notes").mkdir()
    return home


@pytest.fixture(scope="module")
def members(folder) -> list[Member]:
    found, faults = gather(folder)
    assert not faults
    return found


@pytest.fixture(scope="module")
def read(members, folder) -> Reader:
    return Reader(overview.write(members, folder).read_text(encoding="utf-8"))


def test_every_study_below_is_found_once_and_none_inside_another(folder, members):
    assert [member.at for member in members] == ["bare", "below/missed", "published"]
    (folder / "twice").symlink_to(folder / "published")
    inner = folder / "published" / "tuning"
    inner.mkdir()
    (inner / "study.json").write_bytes((folder / "published" / "study.json").read_bytes())
    assert len(folders(folder)) == 3
    (folder / "twice").unlink()
    nearer = folder / "missed"
    nearer.symlink_to(folder / "published")
    assert [each.relative_to(folder).as_posix() for each in folders(folder)] == ["bare", "missed"]
    nearer.unlink()
    (inner / "study.json").unlink()
    inner.rmdir()


def test_every_answer_stands_under_its_concept_and_every_forecast_in_the_table(members, read):
    for member in members:
        for line in table.answers(member.found):
            assert plain(line.text) in read.text or not line.known
        for one in member.found.registered:
            assert one.run_id in read.text and f"{one.score.measured:.3f}" in read.text
    assert "OUTSIDE" in read.text and read.text.count("inside") >= 1


def test_the_share_inside_and_the_median_error_are_those_of_the_scores(members):
    said = verdict(members)
    errors = [abs(one.score.error) for member in members for one in member.found.registered]
    assert len(errors) == 2 and "1 of 2 forecasts (50 %)" in said
    assert f"median error is {sum(errors) / 2:.1%}".replace("%", " %") in said
    assert f"largest {max(errors):.1%}".replace("%", " %") in said
    assert verdict(members[:1]) == "No study here has registered a forecast."


def test_the_table_of_scores_ends_with_all_of_them(members):
    html = overview._scores(members)
    rows = [re.sub(r"<[^>]+>", "|", row).strip("|").split("||") for row in re.findall(r"<tr.*?</tr>", html)]
    names, every = [row[0] for row in rows], rows[-1]
    assert names == ["study", *(member.at for member in members), "all"]
    errors = sorted(abs(one.score.error) for member in members for one in member.found.registered)
    assert every[1:5] == ["2", "1 (50 %)", *(f"{e:.1%}".replace("%", " %") for e in (sum(errors) / 2, errors[1]))]
    assert every[5] == f"{sum(member.cost.runs for member in members):,}"
    hours = [member.cost.hours for member in members if member.cost.hours is not None]
    assert every[7] == f"{sum(hours):.3g}" and "where they were kept" in html


def test_the_study_of_most_runs_speaks_first_and_is_said_to_be_as_sure_as_it_is(members, read):
    html = concepts.cards(members)
    model = html[html.index("<h3>model scale") : html.index("<h3>data scale")]
    assert model.count("twice the parameters") == 2 and "the same by 1 other law" in model
    assert model.index("twice the parameters") < model.index("<details")
    sure = plain(re.sub("<[^>]+>", "", model[model.index("How sure") :]))
    (speaks,) = [member for member in members if member.at in sure]
    (one,) = speaks.found.registered
    assert table.forecast(one).rsplit(": ", 1)[1].split(",")[0] in sure
    assert f"predicted {speaks.found.headline.holdout['error']:.2%} off" in sure


def test_the_cost_outlives_the_records(planted_ledger, found, members):
    by_records = provenance.cost(found, planted_ledger)
    seconds = sum(r.clock.train + r.clock.evaluate + r.clock.compile for r in planted_ledger if r.status == "finished")
    published, bare_table = members[2].cost, members[1].cost
    assert published == by_records and bare_table.hours is None
    assert math.isclose(by_records.hours, seconds / 3600, rel_tol=0.05)
    assert bare_table.flops == pytest.approx(by_records.flops, rel=1e-9)
    assert bare_table.runs == by_records.runs


def test_links_lead_to_pages_that_are_there(folder, read):
    links = [a["href"] for tag, a in read.elements if tag == "a" and not (a.get("href") or "#").startswith("#")]
    assert links
    for link in links:
        name, _, fragment = link.partition("#")
        target = (folder / name).read_text(encoding="utf-8")
        assert not fragment or f'id="{fragment}"' in target
    ids = [a["id"] for _, a in read.elements if a.get("id")]
    assert len(ids) == len(set(ids)), "figures of two studies share an id"


@pytest.mark.parametrize("damage", ["{", "cost"])
def test_a_study_that_cannot_be_read_is_named_and_the_others_are_shown(folder, tmp_path, capsys, damage):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("study.json", "runs.csv", "forecast.json"):
            (tmp_path / name / file).write_bytes((folder / "published" / file).read_bytes())
    if damage == "cost":
        (tmp_path / "two" / "cost.json").write_text('{"runs": "<b>", "flops": 1, "hours": 1, "device": ""}')
    else:
        (tmp_path / "two" / "study.json").write_text(damage)
    assert main(["report", str(tmp_path)]) == (0 if damage == "cost" else 1)
    assert (damage == "cost") is ("left out" not in capsys.readouterr().out)
    shown = Reader((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert ("not the study of a results folder" in shown.text) is (damage != "cost")
    assert "<b>" not in shown.text


def test_a_folder_without_any_study_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert "no study.json" in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()


def test_hostile_names_are_only_text(folder, tmp_path):
    attack = "a\"'><img src=x onerror=alert(1)> &amp;"
    inner = tmp_path / attack.replace("/", "")
    inner.mkdir()
    for file in ("runs.csv", "forecast.json", "report.html"):
        (inner / file).write_bytes((folder / "published" / file).read_bytes())
    cells = (inner / "runs.csv").read_text().replace(",grid,", ',"' + attack.replace('"', '""') + '",')
    (inner / "runs.csv").write_text(cells)
    study = json.loads((folder / "published" / "study.json").read_text()) | {"name": attack, "question": attack}
    commit_json(inner / "study.json", study)
    found, _ = gather(tmp_path)
    html = overview.write(found, tmp_path).read_text(encoding="utf-8")
    shown = Reader(html)
    assert not {"img"} & {tag for tag, _ in shown.elements} and not any("onerror" in a for _, a in shown.elements)
    assert attack in shown.text and not re.search(r'href="[^"]*[<>]', html)


def test_the_figure_is_of_what_the_study_varies(found, plant, small, tmp_path):
    assert overview.headline(found)[0] == "frontier"
    wide = findings.find(plant(tmp_path / "n", small(widths=(8, 16, 24, 32, 48, 64), tokens=(5e5, 1e6))))
    long = findings.find(plant(tmp_path / "d", small(widths=(8, 16), tokens=tuple(5e5 * 1.6**k for k in range(6)))))
    assert overview.headline(wide)[0] == "loss_against_n" and overview.headline(long)[0] == "loss_against_d"


def test_the_same_in_markdown_for_a_readme(members, folder, capsys):
    """Every study, forecast and score of the page; a whole table in each row; nothing is written."""
    before = sorted(folder.rglob("*"))
    assert main(["report", str(folder), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before and verdict(members) in text
    for member in members:
        assert f"[{member.at}]({member.at}/)" in text
        for one in member.found.registered:
            row = next(line for line in text.splitlines() if line.startswith(f"| {member.at} | {one.run_id}"))
            assert f"| {one.score.measured:.3f} |" in row and ("**outside**" in row) != one.score.inside
        for answer in member.found.answers if len(member.found.answers) <= 3 else ():
            assert answer.text in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert main(["report", str(folder / "published"), "--markdown"]) == 2
    assert "brings several together" in capsys.readouterr().err
