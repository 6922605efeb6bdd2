"""The page says what the fits say, nothing that they do not, and needs nothing but itself."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from scaling.fitting.fit import fit
from scaling.fitting.fitted import fit_from_json
from scaling.fitting.forecast import Target, project
from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.record.seal import sealed
from scaling.report import figure, findings, markup, page, style, table, words
from scaling.report.checklist import checklist


class Reader(HTMLParser):
    """Elements with their attributes, the text outside of style, and that of each script."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return plain("".join(self.words))


def plain(text: str) -> str:
    """Without the typography: of numbers the minus sign, powers of ten and raised exponents, and of commands."""
    text = text.replace("−", "-").replace("^", "").replace("×", "x").replace("`", "")
    text = text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
    text = re.sub(r"(\d)e(?:\+|(-))0?(\d)", r"\1x10\2\3", text)
    return " ".join(text.split())


@pytest.fixture(scope="module")
def read(planted_html) -> Reader:
    return Reader(planted_html)


def written(ledger: Ledger, found: findings.Findings | None = None) -> tuple[findings.Findings, Reader]:
    """The page without its panel, which takes seconds and is asked elsewhere."""
    found = found or findings.find(ledger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.whatif, "section", lambda *_: "")
        return found, Reader(page.write(found, ledger).read_text(encoding="utf-8"))


def test_every_answer_and_every_check_is_on_the_page(found, read):
    for line in [*table.answers(found), *table.checks(found)]:
        assert plain(line.text) in read.text, line


def test_every_parameter_and_exponent_is_on_the_page_with_its_interval(found, read):
    for fitted in found.fits.values():
        best = fitted.optimum_intervals(fitted.flops_max)
        for item in (*fitted.estimates().values(), best["exponent_n"], best["exponent_d"]):
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


def test_the_page_refers_to_nothing_outside_itself(planted_html, read):
    assert not re.findall(
        r"https?://|//[a-z]+\.|@import|@font-face", planted_html.replace("http://www.w3.org/2000/svg", "")
    )
    assert not re.findall(r"url\((?!#)", planted_html)
    ids = [attributes["id"] for _, attributes in read.elements if attributes.get("id")]
    assert len(ids) == len(set(ids)), "two figures share an id"
    for tag, attributes in read.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "form", "base")
        assert not attributes.get("src")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href", "clip-path"):
            target = re.sub(r"^url\((.*)\)$", r"\1", attributes.get(name) or "")
            held = target.startswith(("data:text/csv;", "data:application/json;")) and "download" in attributes
            assert not target or held or target.removeprefix("#") in ids
    assert len(planted_html) < 3_000_000


def test_one_script_may_run_and_the_policy_names_it(read):
    codes = [i for i, (_, a) in enumerate(e for e in read.elements if e[0] == "script") if a.get("type") is None]
    assert len(codes) == 1
    for i, text in enumerate(read.scripts):
        assert i in codes or json.loads(text) is not None
    policy = next(a["content"] for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        f"default-src 'none'; script-src {markup.hashed(read.scripts[codes[0]])}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|DOMParser|srcdoc|fetch|"
                         "XMLHttp|WebSocket|import", read.scripts[codes[0]])  # fmt: skip


def test_every_point_leads_to_its_run_and_every_answer_to_the_runs_behind_it(found, planted_html, read):
    links = {a["href"] for t, a in read.elements if t == "a" and a.get("class") == "runs-of"}
    for line in [*table.answers(found), *table.checks(found)]:
        if len(line.runs) == 1:
            assert f"#run-{line.runs[0]}" in links
        elif line.runs:
            shown = " ".join(f'<a href="#run-{run}">{run}</a>' for run in line.runs)
            name = re.search(rf'id="(behind-\d+)" class="id">{shown}</p>', planted_html)
            assert name and f"#{name[1]}" in links
    assert all(answer.runs for answer in found.answers)
    ids = {a.get("id") for _, a in read.elements}
    marks = [mark for text in read.scripts[:7] for mark in json.loads(text)]
    assert len(marks) > 200 and all(link.removeprefix("#") in ids for _, _, _, link, _, _ in marks)
    assert {f"run-{run}" for run in found.observations.run_id} <= {
        link.removeprefix("#") for _, _, _, link, _, _ in marks
    }


def test_what_is_saved_from_the_page_is_the_table_and_the_fits(found, planted_ledger, read):
    held = {a["download"]: unquote(a["href"].partition(",")[2]) for t, a in read.elements if "download" in a}
    assert held["runs.csv"] == (planted_ledger.folder / "runs.csv").read_text()
    fits = json.loads(held["fits.json"])
    assert fits.keys() == found.every_fit.keys() == {*found.fits, "known entropy"}
    for name, fitted in found.every_fit.items():
        assert fit_from_json(fits[name]).law == fitted.law


def test_every_colour_of_a_figure_has_a_light_and_a_dark_value(planted_html):
    body = planted_html[planted_html.index("<main") :]
    used = set(re.findall(r"var\(--([\w-]+)\)", body))
    light, dark = re.findall(r":root\{(.*?)\}", planted_html)[:2]
    assert used and all(f"--{name}:" in light and f"--{name}:" in dark for name in used)
    # What is left is a mistake: it would be the same on light and on dark paper.
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r"<code>.*?</code>|href=\"[^\"]*\"|url\([^)]*\)", "", body))


def test_the_same_folder_gives_the_same_bytes(found, planted_ledger):
    def bytes_of(found: findings.Findings | None = None) -> dict[str, bytes]:
        written(planted_ledger, found)
        files = [planted_ledger.folder / "report.html", *(planted_ledger.folder / "figures").iterdir()]
        return {file.name: file.read_bytes() for file in files}

    assert bytes_of(found) == bytes_of()


def test_text_can_be_read_on_its_ground():
    """WCAG 2.2, success criterion 1.4.3 (AA): a contrast of 4.5 between a text and what it stands on."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (0, 1):
        grounds = [figure.COLOURS["paper"][theme], style.WASH[theme]]
        for name in ("ink", "soft", "accent", "held"):
            for ground in grounds:
                low, high = sorted(map(luminance, (figure.COLOURS[name][theme], ground)))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, theme, ground)


def test_the_panel_holds_what_the_fits_say(found, read):
    """On the grid itself; between its points a browser answers (test_browser)."""
    know = json.loads(next(text for text in read.scripts if '"chips"' in text))
    assert [each["params"] for each in know["conventions"]] == ["n_params", "n_params_total"]
    first = know["conventions"][0]
    assert first["most"] == found.observations.flops.max() and first["runs"] == len(found.observations)
    assert [law["law"] for law in first["laws"]][0] == "all"
    assert sum(law["weight"] or 0 for law in first["laws"]) == pytest.approx(1)
    fitted = fit(found.observations, "chinchilla", level=found.level)
    law = next(law for law in first["laws"] if law["law"] == "chinchilla")
    top = len(law["numbers"]) - 1
    assert math.exp(first["start"] + top * first["step"]) == pytest.approx(100 * first["most"])
    for k in (0, top // 2, top):
        said = project([fitted], Target(c=math.exp(first["start"] + k * first["step"])), level=found.level, far=True)
        flat = [v for name in ("n", "d", "loss", "run") for v in vars(said.numbers[name]).values()]
        assert law["numbers"][k][:12] == pytest.approx(flat, rel=1e-5)


def test_the_checklist_is_filled_in_from_the_study(found, planted_ledger):
    said = checklist(found, planted_ledger)
    assert list(said) == ["Hypothesis", "Training", "Data collection", "Fitting"]
    told = {line.label: line.text for lines in said.values() for line in lines}
    assert "trunk" in told["runs"] and f"{len(found.table)} evaluated runs" in told["runs"]
    assert (
        "schedule wsd" in told["the same in all fitted runs"]
        and "batch (sequences) 8" in told["the same in all fitted runs"]
    )
    assert (
        told["what moves with size or data"].startswith("cooldown_steps ")
        and "steps" in told["what moves with size or data"]
    )
    assert told["lost or missing"] == "2 runs diverged, 0 not trained"
    assert told["intervals"].startswith("90 %, 60 refits") and "1 registered" in told["forecasts"]
    assert f"{found.headline.holdout['error']:.2%}" in told["validation"]
    bare = replace(found, fits={}, observations=None, registered=(), isoflop=None, noise=None)
    untold = [line for lines in checklist(bare, Ledger(planted_ledger.folder / "nothing")).values() for line in lines]
    assert sum(not line.known for line in untold) >= 5, "what is not known is said to be unknown"


def test_hostile_text_is_only_text(tmp_path, plant, small, monkeypatch):
    monkeypatch.setattr(page.whatif, "COUNTED", {"n_params": "one way is enough here"})
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp; $x_1$ [red]"
    ledger = plant(tmp_path, small(widths=(8, 16, 32), tokens=(5e5, 1e6, 2e6), groups=("other",)))
    document = ledger.study()
    document["question"] = document["name"] = attack
    for planned in document["plan"]:
        planned["group"] = attack if planned["group"] == "other" else planned["group"]
    commit_json(tmp_path / "study.json", document)
    for record in (tmp_path / "runs").glob("*/record.json"):
        values = json.loads(record.read_text())
        record.write_text(
            json.dumps(sealed(values | {"machine": {attack: attack, "device": attack}, "data": {attack: attack}}))
        )
    read = Reader(page.write(findings.find(ledger), ledger).read_text(encoding="utf-8"))
    assert {tag for tag, _ in read.elements} & {"img", "red"} == set()
    assert not any("onerror" in attributes for _, attributes in read.elements)
    assert read.text.count("<script>alert(1)</script>") >= 5
    scripts = [attributes.get("type") for tag, attributes in read.elements if tag == "script"]
    assert scripts == ["application/json"] * (len(scripts) - 1) + [None], "all but our own are data"
    assert all("<" not in text for text in read.scripts[:-1])
    said = json.loads(next(text for text in read.scripts if '"chips"' in text)), json.loads(read.scripts[-2])
    assert all(attack in json.dumps(each, ensure_ascii=False).replace('\\"', '"') for each in said)


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
