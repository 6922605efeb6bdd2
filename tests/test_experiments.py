"""The studies that we ship, and the results that we publish for them."""

import ast
import json
import re
from pathlib import Path

import pytest

from scaling.cli.locate import studies_in, study_of
from scaling.plan.design import design
from scaling.record import Ledger
from scaling.spec import RunSpec, from_json, to_json

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(p.stem for p in (ROOT / "experiments").glob("*.py"))
REFERENCES = sorted(p.parent.name for p in (ROOT / "results/reference").glob("*/study.json"))
TUNINGS = sorted(p.parent.name for p in (ROOT / "results/reference").glob("*/tuning.json"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_study_opens_with_question_command_cost_and_result(name: str):
    text = ast.get_docstring(ast.parse((ROOT / f"experiments/{name}.py").read_text()))
    assert text
    question, _, rest = text.partition("\n\n")
    assert question.endswith("?")
    assert re.match(rf"scaling (run|tune) {name}\b.* runs?\b.* FLOPs, .* cores\nResult: ", rest, re.DOTALL), rest
    assert "not run yet" not in rest


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_study_is_sound(name: str):
    study, _ = study_of(name, [])
    assert study.name == name and study.faults() == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_size_of_a_study_is_sound_but_for_a_text_of_ones_own(name: str):
    sizes = studies_in(ROOT / f"experiments/{name}.py")
    assert len({study.question for study in sizes.values()}) <= 1
    for size, study in sizes.items():
        assert study.name == (name if study == next(iter(sizes.values())) else f"{name}-{size}")
        assert [fault for fault in study.faults() if "there is no file or folder" not in fault] == []


def test_the_quickstart_can_tell_what_it_asks():
    study, _ = study_of("quickstart", [])
    judged = design(study.plan, "matmul")
    assert judged and judged.sizes >= 4 and judged.horizons >= 3 and judged.span_ratio >= 16 and judged.condition < 1e3
    (held_out,) = study.held_out.with_role("held_out").runs
    from scaling.cost import train_flops

    assert train_flops(held_out.run) > max(train_flops(p.run) for p in study.plan.runs)
    assert min(p.run.steps for p in study.plan.with_role("fitted").runs) >= 970


def test_a_study_costs_as_many_runs_as_it_says():
    for name in EXPERIMENTS:
        text = ast.get_docstring(ast.parse((ROOT / f"experiments/{name}.py").read_text())) or ""
        if "scaling tune" in text:
            continue  # a tuning's runs follow from its optima
        said = re.search(r"(\d+) runs?(?: on (\d+) trunks)?", text)
        roles = [p.role for p in study_of(name, [])[0].runs.runs]
        assert said, name
        assert int(said[1]) == sum(role != "trunk" for role in roles), name
        assert int(said[2] or 0) == roles.count("trunk"), name


def test_the_main_job_and_its_tuning_are_published():
    assert {"quickstart", "quickstart_tuning"} <= set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_published_study_is_the_one_in_the_file(name: str):
    published = json.loads((ROOT / f"results/reference/{name}/study.json").read_text())
    said = re.fullmatch(r"scaling run (\w+)(?: --size ([\w-]+))?", published.pop("command"))
    assert said and name == "-".join(filter(None, said.groups()))
    studies = studies_in(ROOT / f"experiments/{said[1]}.py")  # unchecked: the text may be on another machine
    study = studies[said[2] or next(iter(studies))]
    for planned in published["plan"]:  # a later version may have more fields, at defaults that change nothing
        planned["run"] = to_json(from_json(RunSpec, planned["run"]))
    now = json.loads(json.dumps(study.to_json()))
    published["analysis"] = now["analysis"] | published["analysis"]
    assert {name: published[name] for name in now} == now


@pytest.mark.parametrize("name", REFERENCES)
def test_published_fits_follow_from_the_published_table(name: str):
    from scaling.report import findings
    from scaling.report.digest import answers

    folder = ROOT / "results/reference" / name
    found = findings.find(Ledger(folder))
    assert len(found.table) == sum(p["role"] != "trunk" for p in found.study["plan"])
    for law, fit in found.fits.items():
        published = json.loads((folder / f"fits/{law}.json").read_text())
        for parameter, item in fit.to_json()["estimates"].items():
            assert item["value"] == pytest.approx(published["estimates"][parameter]["value"], rel=1e-6), (
                law,
                parameter,
            )
    said = (ROOT / "results/reference/README.md").read_text(encoding="utf-8")
    for registered in found.registered:
        assert registered.score and f"| {registered.score.measured:.3f} |" in said
    assert all(line in said for line in answers(found)), f"scaling report results/reference --markdown, for {name}"


def test_what_is_said_of_the_first_tables_follows_from_them():
    """Exponents without and with a long warm-up on the GPU, what short ones cost, and what heads of four cost."""
    import numpy as np
    import pandas

    from scaling.fitting.fit import fit
    from scaling.fitting.observe import observe, read_table

    def exponent(table: pandas.DataFrame) -> float:
        law = fit(observe(table, params="n_params", roles=("fitted", "compare")), "interaction")
        return law.optimum_intervals(law.flops_max)["exponent_n"].value

    ratios = {}
    for name in ("compute", "compute-gpu"):
        first, now = (pandas.read_csv(ROOT / f"results/reference/{name}/{file}.csv") for file in ("first_run", "runs"))
        alone = [table[(table.group == "tuned") & (table.seed == 0)] for table in (now, first)]
        both = alone[0].merge(alone[1], on="d_model", suffixes=("", "_first"))
        both = both[np.abs(np.log(both.tokens / both.tokens_first)) < 0.02]
        ratios[name] = both.loss_first / both.loss - 1
    table = read_table(ROOT / "results/reference/compute-gpu/first_run.csv")
    groups = {group: table[table["group"] == group] for group in ("tuned", "long warm-up")}
    assert ratios["compute"].median() == pytest.approx(0.045, abs=0.005)
    assert ratios["compute-gpu"].max() == pytest.approx(0.037, abs=0.0005)
    assert exponent(groups["tuned"]) == pytest.approx(0.425, abs=0.0005)
    assert exponent(groups["long warm-up"]) == pytest.approx(0.540, abs=0.0005)
    registered = json.loads((ROOT / "results/reference/compute/first_forecast.json").read_text())
    losses = pandas.read_csv(ROOT / "results/reference/compute/first_run.csv").set_index("run_id").loss
    errors = {one["run_id"]: one["loss"] / losses[one["run_id"]] - 1 for one in registered if one["run_id"] in losses}
    assert sorted(errors.values()) == pytest.approx([-0.078, -0.026, -0.013], abs=0.0005)


def test_a_law_fitted_under_shared_noise_stays_with_its_runs():
    """Runs that overfit, which the law of repeated data has no term for, once drew it 30 % off whole sizes."""
    import numpy as np

    from scaling.fitting.fit import fit
    from scaling.fitting.observe import observe, read_table

    table = read_table(ROOT / "results/reference/data_size/runs.csv")
    rows = table[(table["role"] == "fitted") | (table["group"] == "repeated")]
    o = observe(rows, params="n_params", needs=("n", "d", "u"), roles=("fitted", "compare"))
    found = fit(o, "data_constrained")
    assert found.residuals is not None and np.median(np.abs(found.residuals)) < 2 * found.scale


@pytest.mark.parametrize("name", TUNINGS)
def test_published_optima_follow_from_the_published_runs(name: str):
    import pandas

    from scaling.fitting.tuning import tune
    from scaling.fitting.valley import Cell

    folder = ROOT / "results/reference" / name
    published = json.loads((folder / "tuning.json").read_text())
    runs = pandas.read_csv(folder / "tuning/runs.csv")
    assert published["command"].startswith(f"scaling tune {name}")
    cells = []
    for name, cell in ((group["group"], cell) for group in published["groups"] for cell in group["cells"]):
        mine = runs[(runs.group == name) & (runs.n_params == cell["n"]) & (runs.tokens == cell["d"])]
        cells.append(
            Cell(
                group=name, model=str(cell["n"]), rate=mine.peak_lr.to_numpy(), seed=mine.seed.to_numpy(),
                loss=mine.loss.to_numpy(), **{key: cell[key] for key in ("n", "d", "d_model", "n_layers", "planned")},
            )
        )  # fmt: skip
    assert sum(len(cell.rate) for cell in cells) == len(runs)
    for found, group in zip(tune(cells, level=published["level"]), published["groups"], strict=True):
        again = json.loads(json.dumps(found.to_json()))
        assert again["sizes"]["factor"]["value"] == pytest.approx(group["sizes"]["factor"]["value"], rel=1e-6)
        assert again["sizes"]["verdict"] == group["sizes"]["verdict"] and again["verdict"] == group["verdict"]
        for one, cell in zip(again["cells"], group["cells"], strict=True):
            assert one["optimum"]["value"] == pytest.approx(cell["optimum"]["value"], rel=1e-6)


PAGES = sorted(
    path
    for pattern in ("*.md", "*/*.md", "docs/*/*.md", "results/reference/*.md")
    for path in ROOT.glob(pattern)
    if not any(part == "node_modules" or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FENCED, INLINE = re.compile(r"(?ms)^```.*?^```$"), re.compile(r"`[^`\n]*`")


def anchors(page: Path) -> set[str]:
    """What links to headings of the page say, by GitHub's rule: letters, digits, `_` and `-`; a repeat is numbered."""
    found: list[str] = []
    for heading in re.findall(r"(?m)^#{1,6} (.*)$", FENCED.sub("", page.read_text(encoding="utf-8"))):
        shown = re.sub(r"\]\([^)]*\)", "", heading).lower()
        name = "".join("-" if c == " " else c for c in shown if c.isalnum() or c in " _-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path):
    text = INLINE.sub("", FENCED.sub("", path.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), f"{path.name}: {target}"
        if heading and page.suffix == ".md":
            assert heading in anchors(page), f"{path.name}: {target}"


def test_the_concepts_are_the_same_in_both_languages():
    english, chinese = ((ROOT / f"docs/concepts{end}.md").read_text(encoding="utf-8") for end in ("", ".zh"))
    for what in (r"\$\$.*?\$\$", r"\[-?[\d.]+, -?[\d.]+\]", r"arXiv:[\d.]+\d", r"(?m)^## "):
        said = [
            [re.sub(r"\s+", " ", text) for text in re.findall(what, page, re.DOTALL)] for page in (english, chinese)
        ]
        assert said[0] == said[1] and said[0]
