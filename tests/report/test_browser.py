"""The pages in a real browser: they ask for nothing, say what the fits say, and serve mouse, finger and keyboard."""

import importlib.util
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.chips import CHIPS
from scaling.cli.main import main
from scaling.fitting.fit import fit
from scaling.fitting.laws.repeat import DataConstrained
from scaling.report import findings, markup, overview, whatif
from scaling.report import page as study_page
from scaling.report.members import gather

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (./check --browser)"),
    pytest.mark.skipif(
        not importlib.util.find_spec("playwright"), reason="playwright is not there (./check --browser)"
    ),
]
CHOSEN = ("unit", "chip", "law", "params", "repeating")  # of the panel; the rest is filled in
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def study(planted_html, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(planted_html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def index(planted_ledger, planted_html) -> Path:
    """The page of all studies of a folder with one."""
    members, faults = gather(planted_ledger.folder.parent)
    assert len(members) == 1 and not faults
    return overview.write(members, planted_ledger.folder.parent)


@contextmanager
def opened(browser, path: Path, **options) -> Iterator[Any]:
    """The page, which must not complain and must not ask for anything."""
    options = {"viewport": WIDE, "reduced_motion": "reduce"} | options
    context = browser.new_context(**options)
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert heard == [path.as_uri()], "only the page itself is asked for, and nothing is complained of"


def numbers(page) -> dict[str, list[float]]:
    """What the panel answers, by what it is called."""
    told = page.locator("#said data").evaluate_all("all => all.map(one => [one.dataset.of, one.value])")
    return {name: [float(value) for value in text.split()] for name, text in told}


def ask(page, **fields: str) -> str:
    """Fill in the panel; returns its words."""
    for name, value in fields.items():
        control = page.locator(f"#{name}")
        control.select_option(value) if name in CHOSEN else control.fill(value)
    return page.locator("#said").inner_text()


def places(page, figure: str) -> list[tuple[float, float, str, str, list]]:
    """(x, y) on the screen, run, title and facts of each mark of a figure."""
    page.locator(f"#{figure} .plot").scroll_into_view_if_needed()
    box = page.locator(f"#{figure} .plot").bounding_box()
    wide, high = page.locator(f"#{figure} svg").evaluate(
        "svg => [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height]"
    )
    marks = json.loads(page.locator(f"#{figure} script").text_content())
    return [
        (box["x"] + x * box["width"] / wide, box["y"] + y * box["height"] / high, run, title, facts)
        for x, y, run, _, title, facts in marks
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_both_pages_open_without_a_word_and_never_scroll_sideways(browser, study, index, viewport, scheme):
    for path in (study, index):
        with opened(browser, path, viewport=viewport, color_scheme=scheme) as page:
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert wide == seen == viewport["width"]
            boxes = page.locator(".scroll").evaluate_all("all => all.map(one => getComputedStyle(one).overflowX)")
            assert boxes and set(boxes) == {"auto"}


def test_dark_changes_every_colour_and_paper_is_always_light(browser, study):
    look = """() => [document.body, document.querySelector('h1'), document.querySelector('svg text'),
        document.querySelector('input')].map(one => [getComputedStyle(one).backgroundColor, getComputedStyle(one).color,
        getComputedStyle(one).fill].join())"""
    seen = {}
    for scheme in ("light", "dark"):
        with opened(browser, study, color_scheme=scheme) as page:
            seen[scheme] = page.evaluate(look)
            page.emulate_media(media="print")
            seen[f"{scheme} paper"] = page.evaluate(look)
            assert not page.locator("nav").is_visible() and not page.locator("#ask").is_visible()
    assert all(light != dark for light, dark in zip(seen["light"], seen["dark"], strict=True))
    assert seen["light paper"] == seen["dark paper"] == seen["light"]


def test_a_mouse_over_a_point_says_its_run_and_its_values(browser, study, found):
    o = found.observations
    with opened(browser, study) as page:
        all_of_it = places(page, "loss_against_n")
        alone = lambda one: min(math.dist(one[:2], other[:2]) for other in all_of_it if other is not one)  # noqa: E731
        x, y, run, *_ = max((one for one in all_of_it if one[2] in o.run_id), key=alone)
        i = o.run_id.index(run)
        page.mouse.move(x, y)
        said = page.locator("#loss_against_n .tip").inner_text()
        assert run in said and f"{o.loss[i]:.4f} ± {o.loss_se[i]:.2g}" in said
        band = found.headline.band(o.n[i], o.d[i]).at(0)
        assert f"{band.value:.3f} [{band.low:.3f}, {band.high:.3f}]" in said
        page.mouse.move(2, 2)
        assert not page.locator("#loss_against_n .tip").is_visible()
        page.mouse.move(x, y)
        page.mouse.click(x, y)  # holds it, so that its link can be reached
        page.mouse.move(x + 300, y)
        page.locator("#loss_against_n .tip a").click()
        assert page.url.endswith(f"#run-{run}")
        assert page.locator(f"#run-{run}").evaluate("row => row.getBoundingClientRect().top < innerHeight")


def test_every_figure_is_one_stop_of_tab_and_arrows_reach_every_point(browser, study):
    with opened(browser, study) as page:
        figures = page.locator("figure").evaluate_all("all => all.map(one => one.id)")
        assert len(figures) == 7 and page.locator(".stop").count() == 7
        for name in figures:
            marks = json.loads(page.locator(f"#{name} script").text_content())
            page.locator(f"#{name} .stop").focus()
            seen = set()
            for _ in marks:
                label = page.locator(f"#{name} .stop:focus").get_attribute("aria-label")
                assert page.locator(f"#{name} .tip").is_visible()
                seen.add(label)
                page.keyboard.press("ArrowRight")
            assert len(seen) == len(marks)
        page.locator("#frontier .stop").focus()
        before = page.locator("#frontier .stop").evaluate("one => parseFloat(one.style.top)")
        page.keyboard.press("End")
        page.keyboard.press("ArrowUp")
        assert page.locator("#frontier .stop").evaluate("one => parseFloat(one.style.top)") != before
        page.keyboard.press("Escape")
        assert not page.locator("#frontier .tip").is_visible()
        page.locator("#loss_against_d .stop").focus()
        run = json.loads(page.locator("#loss_against_d script").text_content())[0][2]
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        assert page.url.endswith(f"#run-{run}")


def test_a_finger_holds_a_point_until_it_taps_elsewhere(browser, study):
    with opened(browser, study, viewport=PHONE, has_touch=True) as page:
        x, y, *_ = places(page, "frontier")[3]
        page.touchscreen.tap(x, y)
        tip = page.locator("#frontier .tip")
        assert tip.is_visible()
        assert tip.evaluate("box => box.getBoundingClientRect().left >= 0 && box.getBoundingClientRect().right <= 360")
        page.touchscreen.tap(5, 5)
        assert not tip.is_visible()


def test_the_page_can_be_walked_by_keyboard_alone(browser, study):
    with opened(browser, study) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").evaluate("one => one.getBoundingClientRect().left >= 0")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        unnamed = page.locator("a, input, select, summary, [role]").evaluate_all(
            "all => all.filter(one => !(one.ariaLabel || one.textContent.trim() || (one.labels && one.labels.length)))"
            ".map(one => one.outerHTML.slice(0, 80))"
        )
        assert [one for one in unnamed if 'id="said"' not in one] == []
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
        assert levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize(
    "law, params, times",
    [("all", "n_params", 7.3), ("chinchilla", "n_params_total", 61.0), ("kaplan", "n_params_total", 0.011)],
)
def test_the_panel_answers_as_scaling_forecast_does(browser, study, found, planted_ledger, capsys, law, params, times):
    compute = float(f"{times * found.observations.flops.max():.4g}")
    words = [str(planted_ledger.folder), "--params", params, "--law", law, "--compute", str(compute), "--json"]
    assert main(["forecast", *words]) == 0
    told = json.loads(capsys.readouterr().out)["forecasts"][0]["numbers"]
    with opened(browser, study) as page:
        said = ask(page, unit="flops", flops=str(compute), law=law, params=params)
        answered = numbers(page)
    assert answered["C"] == [pytest.approx(compute)]
    for name, ours in {"N*": "n", "D*": "d", "L*": "loss", "one new run": "run"}.items():
        theirs = told[ours]
        np.testing.assert_allclose(answered[name], [theirs["value"], *theirs["interval"]], rtol=1e-3, err_msg=name)
    split = [told[name]["value"] for name in ("regret_half", "regret_double")]
    np.testing.assert_allclose(answered["another split"], split, rtol=1e-3)
    assert ("far beyond the runs" in said) is (times > 10)
    assert f"scaling forecast . --params {params} --law {law} --compute" in said


def test_the_panel_says_nothing_where_the_fits_may_not(browser, study, found):
    most = found.observations.flops.max()
    with opened(browser, study) as page:
        said = ask(page, flops=f"{1e6 * most:.6g}")
        assert "no number is given" in said and "10k times beyond" in said and numbers(page).keys() == {"C"}
        said = ask(page, flops=f"{found.observations.flops.min() / 11:.6g}")
        assert "no number is given" in said and numbers(page).keys() == {"C"}
        for nonsense in ("", "-3", "1e", "lots", "0"):
            assert "must be numbers above 0" in ask(page, flops=nonsense) and not numbers(page)


def test_chip_hours_are_documented_peaks_at_the_assumed_use(browser, study, planted_ledger):
    with opened(browser, study) as page:
        ask(page, unit="hours", chip="1", hours="2.5", used="40")
        assert not page.locator("#flops").is_visible()
        kind = page.locator("#chip option").nth(1).inner_text()
        peak = CHIPS[kind].peaks["bfloat16"] * CHIPS[kind].devices
        assert numbers(page)["C"] == [pytest.approx(2.5 * 3600 * 0.4 * peak, rel=1e-9)]
        ask(page, chip="0", hours="1")  # a worker of the study, as it was measured
        speeds = [record.clock.flops_per_second for record in planted_ledger]
        assert min(speeds) * 3600 <= numbers(page)["C"][0] <= max(speeds) * 3600
        assert not page.locator("#used").is_visible()


def test_too_few_unique_tokens_are_said_and_without_a_law_of_them_not_priced(browser, study):
    with opened(browser, study) as page:
        wanted = (ask(page, unique=""), numbers(page)["D*"][0])[1]
        assert "none is seen twice" in ask(page, unique=f"{1.01 * wanted:.6g}")
        said = ask(page, unique=f"{wanted / 4:.6g}")
        assert "asks for 4 passes" in said and "no law of repeated data" in said
        assert "a number above 0" in ask(page, unique="many")


def test_the_law_of_repeated_data_that_is_chosen_prices_them(browser, found, planted_ledger, tmp_path, monkeypatch):
    o, rng = found.observations, np.random.default_rng(1)
    unique = np.tile([1.0, 0.5, 0.2, 0.1, 0.05], len(o))[: len(o)] * o.d
    repeated = []
    for half, bootstrap in ((15.0, 0), (6.0, 40)):
        law = DataConstrained(E=0.95, A=16.0, B=180.0, alpha=0.38, beta=0.46, R_D=half, R_N=5.0)
        loss = law(o.n, o.d, unique) * np.exp(0.002 * rng.normal(size=len(o)))
        runs = replace(o, unique=unique, loss=loss)
        fitted = fit(runs, "data_constrained", bootstrap=bootstrap)
        repeated.append(findings.Repetition(group="grid", words=f"R_D {half:g}", fit=fitted, observations=runs))
    monkeypatch.setattr(whatif, "COUNTED", {"n_params": "one way", "n_params_total": "another"})
    said = whatif.document(replace(found, repeated=tuple(repeated)), planted_ledger)
    monkeypatch.setattr(whatif, "document", lambda *_: said)
    path = tmp_path / "panel.html"
    path.write_text(
        markup.document("panel", [whatif.section(found, planted_ledger)], markup.script(*study_page.SCRIPTS))
    )
    with opened(browser, path) as page:
        assert not page.locator("#repeating").is_visible()
        for which, one in enumerate(repeated):
            for times, passes in ((0.4, 3.0), (1.0, 9.0), (23, 21.0)):
                flops = float(f"{times * one.fit.flops_max:.6g}")
                fresh = (ask(page, flops=str(flops), unique=""), numbers(page)["D*"][0])[1]
                few = float(f"{fresh / passes:.6g}")
                ask(page, unique=str(few))
                words = ask(page, repeating=str(which))
                answered, told = numbers(page), one.fit.optimum_intervals(flops, unique=few)
                assert ("20 times at most" in words) is (passes > 20)
                for name, ours in {"N*": "n", "D*": "d", "L*": "loss"}.items():
                    item = told[ours]
                    expected = [item.value, item.low, item.high]
                    np.testing.assert_allclose(answered[f"{name}, repeated"], expected, rtol=1e-3, err_msg=name)
        assert page.locator("#repeating option").all_inner_texts() == ["grid: R_D 15", "grid: R_D 6"]
        assert "counts other parameters" in ask(page, params="n_params_total")


def test_without_its_script_the_page_says_the_same(browser, study, found):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(study.as_uri())
    assert not page.locator("#ask").is_visible() and page.locator("noscript").count() == 1
    assert page.locator("figure svg").count() == 7
    assert page.locator(".runs tbody tr").count() == len(found.table)
    context.close()


def test_what_is_saved_is_the_table(browser, study, planted_ledger, tmp_path):
    with opened(browser, study) as page:
        with page.expect_download() as waiting:
            page.get_by_text("runs.csv", exact=True).last.click()
        waiting.value.save_as(tmp_path / "saved.csv")
    assert (tmp_path / "saved.csv").read_bytes() == (planted_ledger.folder / "runs.csv").read_bytes()


def test_a_point_of_the_page_of_all_leads_into_the_page_of_its_study(browser, index):
    with opened(browser, index) as page:
        stop = page.locator(".stop").first
        stop.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip").first.is_visible()
        links = page.locator("a[href*='report.html#run-']").count()
        assert links, "the forecasts lead to their runs"
