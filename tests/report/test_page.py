"""The page says what the fits say, nothing that they do not, and needs nothing but itself."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.record.seal import sealed
from scaling.report import findings, page, table, words


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside of style."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return plain("".join(self.words))


def plain(text: str) -> str:
    """Without the typography of numbers: the minus sign, powers of ten and raised exponents."""
    text = text.replace("−", "-").replace("^", "").replace("×", "x")
    text = text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
    text = re.sub(r"(\d)e(?:\+|(-))0?(\d)", r"\1x10\2\3", text)
    return " ".join(text.split())


@pytest.fixture(scope="module")
def path(found, planted_ledger) -> Path:
    return page.write(found, planted_ledger)


@pytest.fixture(scope="module")
def html(path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(html) -> Reader:
    return Reader(html)


def written(ledger: Ledger) -> tuple[findings.Findings, Reader]:
    found = findings.find(ledger)
    return found, Reader(page.write(found, ledger).read_text(encoding="utf-8"))


def test_every_answer_and_every_check_is_on_the_page(found, read):
    for line in [*table.answers(found), *table.checks(found)]:
        assert plain(line.text) in read.text, line


def test_every_parameter_and_exponent_is_on_the_page_with_its_interval(found, read):
    for fit in found.fits.values():
        best = fit.optimum_intervals(fit.flops_max)
        for item in (*fit.estimates().values(), best["exponent_n"], best["exponent_d"]):
            assert plain(words.interval(item)) in read.text
    assert words.interval(found.isoflop.exponent_n) in read.text


def test_the_run_of_greatest_compute_is_scored_on_the_page(found, read):
    one = found.registered[0]
    assert one.score is not None
    assert f"measured {one.score.measured:.4f}" in read.text
    assert f"{abs(one.score.error):.1%}".replace("%", " %") in read.text
    for p in one.forecast.predictions:
        assert f"{p.loss:.4f} [{p.low:.4f}, {p.high:.4f}]".replace(" ", "") in read.text.replace(" ", "")


def test_the_planted_entropy_stands_beside_the_fitted_floor(found, read):
    assert f"exact {found.floor.entropy:.4f} nats per token" in read.text


def test_every_evaluated_run_has_its_row_and_a_lost_one_its_reason(found, read):
    for row in found.table.to_dict("records"):
        assert row["run_id"] in read.text
    assert "the training loss was not finite at step 900" in read.text
    assert "2 of them without a result" in read.text


def test_provenance_names_machine_versions_commit_and_text(planted_ledger, read):
    record = next(iter(planted_ledger))
    for value in (*record.machine.values(), *record.data.values(), "scaling run planted"):
        assert value in read.text


def test_the_page_refers_to_nothing_outside_itself(html, read):
    assert not re.findall(r"https?://|//[a-z]+\.|@import|@font-face", html)
    assert not re.findall(r"url\((?!#)", html)
    ids = [attributes["id"] for _, attributes in read.elements if attributes.get("id")]
    assert len(ids) == len(set(ids)), "two figures share an id"
    for tag, attributes in read.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "form", "base")
        assert not attributes.get("src")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href", "clip-path"):
            target = re.sub(r"^url\((.*)\)$", r"\1", attributes.get(name) or "")
            assert not target or target.removeprefix("#") in ids
    policy = next(a["content"] for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert len(html) < 3_000_000


def test_every_colour_of_a_figure_has_a_light_and_a_dark_value(html):
    body = html[html.index("<main>") :]
    used = set(re.findall(r"var\(--([\w-]+)\)", body))
    light, dark = re.findall(r":root\{(.*?)\}", html)[:2]
    assert used and all(f"--{name}:" in light and f"--{name}:" in dark for name in used)
    # What is left is a mistake: it would be the same on light and on dark paper.
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r"<code>.*?</code>|href=\"[^\"]*\"|url\([^)]*\)", "", body))


def test_the_same_folder_gives_the_same_bytes(found, planted_ledger, path, html):
    files = sorted((planted_ledger.folder / "figures").iterdir())
    before = {file.name: file.read_bytes() for file in files}
    page.write(findings.find(planted_ledger), planted_ledger)
    assert path.read_text(encoding="utf-8") == html
    assert {file.name: file.read_bytes() for file in files} == before


def test_hostile_text_is_only_text(tmp_path, plant, small):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp; $x_1$ [red]"
    ledger = plant(tmp_path, small(widths=(8, 16, 32), tokens=(5e5, 1e6, 2e6), groups=("other",)))
    document = ledger.study()
    document["question"] = document["name"] = attack
    commit_json(tmp_path / "study.json", document)
    csv = (tmp_path / "runs.csv").read_text().replace("bytes:stdlib", '"' + attack.replace('"', '""') + '"')
    csv = csv.replace(",other,", ',"' + attack.replace('"', '""') + '",')
    csv = re.sub(r",$", ',"' + attack.replace('"', '""') + '"', csv, count=3, flags=re.MULTILINE)
    (tmp_path / "runs.csv").write_text(csv)
    for record in (tmp_path / "runs").glob("*/record.json"):
        values = json.loads(record.read_text())
        record.write_text(json.dumps(sealed(values | {"machine": {attack: attack}, "data": {attack: attack}})))
    _, read = written(ledger)
    assert {tag for tag, _ in read.elements} & {"script", "img", "red"} == set()
    assert not any("onerror" in attributes for _, attributes in read.elements)
    assert read.text.count("<script>alert(1)</script>") >= 5


def test_a_law_that_is_not_identified_gets_no_number(tmp_path, plant, small):
    found, read = written(plant(tmp_path, small(widths=(8, 16), tokens=(5e5, 1e6, 2e6, 4e6))))
    assert all(fit.law is None for fit in found.fits.values())
    assert found.answers == ()
    assert "grows as C" not in read.text and "α =" not in read.text
    assert "these runs cannot tell" in read.text
    assert (tmp_path / "figures" / "loss_against_d.png").exists(), "the data are shown all the same"


def test_what_one_horizon_tells_is_said_and_no_more(tmp_path, plant, small):
    found, read = written(plant(tmp_path, small(widths=(8, 16, 24, 32, 48, 64), tokens=(1e6,))))
    assert found.fits["chinchilla"].partial.keys() == {"A", "alpha"}
    assert "chinchilla: A = " in read.text and "E = " not in read.text


@pytest.mark.parametrize("asked", [{"groups": ("one", "two")}, {"widths": (8,), "tokens": (5e5, 1e6)}], ids=str)
def test_a_folder_without_a_law_still_gives_a_page(tmp_path, plant, small, asked):
    found, read = written(plant(tmp_path, small(**asked)))
    assert found.headline is None
    assert read.text.count("not told: ") >= 3
    assert all(run_id in read.text for run_id in found.table["run_id"])


def test_a_folder_whose_fitted_runs_all_diverged_still_gives_a_page(tmp_path, plant, small):
    ledger = plant(tmp_path, small(widths=(8, 16, 32), tokens=(5e5, 1e6, 2e6), groups=("other",)))
    document = ledger.study()
    document["analysis"]["algorithms"] = {"other": ""}
    commit_json(tmp_path / "study.json", document)
    for planned in document["plan"]:
        path = ledger.run_folder(planned["id"]) / "record.json"
        if planned["role"] == "fitted":
            commit_json(path, sealed(json.loads(path.read_text()) | {"status": "diverged", "loss": None}))
    found, read = written(ledger)
    assert found.observations is None
    assert "other: no finished runs to compare" in read.text


def test_a_folder_without_records_says_that_it_has_none(tmp_path, plant, small):
    """Published results are a folder without runs/."""
    ledger = plant(tmp_path / "full", small(widths=(8, 16, 32), tokens=(5e5, 1e6, 2e6)))
    (tmp_path / "bare").mkdir()
    for name in ("study.json", "runs.csv"):
        (tmp_path / "bare" / name).write_bytes((ledger.folder / name).read_bytes())
    _, read = written(Ledger(tmp_path / "bare"))
    assert "holds no records" in read.text


def test_runs_off_the_curves_are_said_to_be_off(tmp_path, plant, small, read):
    """By budgets, every run has a horizon of its own."""
    assert "a colour for each D" in read.text
    widths = {"widths": (8, 16, 32), "tokens": tuple(1e5 * 1.3**k for k in range(12))}
    _, other = written(plant(tmp_path, small(**widths)))
    assert "in the colour of the nearest D that has a curve" in other.text


def test_the_page_says_whether_rates_were_tuned_and_warns_when_that_costs_more_than_the_noise(found):
    (line,) = table.learning_rates(found)
    assert not line.known and "scaling tune" in line.text
    fitted = (found.table["role"] == "fitted") & (found.table["status"] == "finished")
    assert found.noise is not None
    for share, known in ((0.1 * found.noise.sd, True), (3 * found.noise.sd, False)):
        told = found.table.assign(lr_over_best="", tuning_excess="")
        told.loc[fitted, "lr_over_best"] = "0.8"
        told.loc[fitted, "tuning_excess"] = [repr(share * float(loss)) for loss in told.loc[fitted, "loss"]]
        (line,) = table.learning_rates(replace(found, table=told))
        assert line.known is known and f"{share:.2%}".replace("%", " %") in line.text
        assert ("more than the seed noise" in line.text) is not known
    told.loc[fitted, "tuning_excess"] = ""
    (line,) = table.learning_rates(replace(found, table=told))
    assert not line.known and "further off than the price is known" in line.text
