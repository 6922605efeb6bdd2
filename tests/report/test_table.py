"""The closing table of the terminal."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from scaling.fitting.compare import Noise
from scaling.fitting.uncertainty import Interval
from scaling.report import table, words
from scaling.report.answers import Concept


def printed(found) -> str:
    out = io.StringIO()
    table.closing(found, Console(file=out, width=100), Path("results/planted/report.html"))
    return out.getvalue()


def test_it_fits_100_columns_and_ends_with_the_page(found):
    lines = printed(found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1].split() == ["page", "results/planted/report.html"]


def test_each_concept_has_a_line_with_a_number_and_an_interval_or_a_bound(found):
    lines = table.answers(found)
    assert list(dict.fromkeys(line.label for line in lines)) == list(get_args(Concept))
    assert all("[" in line.text or "multiplier is less than x" in line.text for line in lines)
    text = " ".join(printed(found).split())
    assert all(line.text in text for line in lines)


def test_what_twice_the_data_buys_is_what_the_law_says(found):
    law = found.headline
    best = law.optimum(law.flops_max)
    change = law.predict(best.n, 2 * best.d) - law.predict(best.n, best.d)
    said = next(line.text for line in table.answers(found) if line.label == "data scale")
    assert float(said.split()[3]) == pytest.approx(change, abs=1e-3)


def test_the_law_line_holds_every_parameter(found):
    said = next(line.text for line in table.checks(found) if line.label == "fitted law")
    for name, item in found.headline.estimates().items():
        assert f"{words.symbol(name)} = {words.interval(item)}" in said


def test_a_forecast_that_missed_is_said_to_have_missed(found):
    one = found.registered[0]
    assert one.score is not None and one.score.inside
    assert table.forecast(one).endswith("inside the interval") and "OUTSIDE" not in table.forecast(one)
    missed = replace(one, score=replace(one.score, measured=9.0, error=one.forecast.loss / 9 - 1, inside=False))
    assert "too low, OUTSIDE the interval" in table.forecast(missed)
    assert "is not finished" in table.forecast(replace(one, score=None))


def test_a_floor_outside_its_interval_is_said_to_be_outside(found):
    assert table.floor(found).text.endswith(": inside the interval")
    off = replace(found, floor=replace(found.floor, entropy=found.floor.fitted.high + 0.01))
    assert table.floor(off).text.endswith(": OUTSIDE the interval")


def test_the_noise_is_said_with_its_degrees_of_freedom(found):
    noise = Noise(sd=0.0123, dof=6.4, replicates=8, cells=4)
    line = next(line for line in table.checks(replace(found, noise=noise)) if line.label == "seed noise")
    said = "sd of ln loss 1.23%, from 8 replicates beyond the first at 4 cells, about 6 degrees of freedom"
    assert line.known and line.text == said


def test_without_repeated_seeds_the_noise_is_unknown(found):
    line = next(line for line in table.checks(replace(found, noise=None)) if line.label == "seed noise")
    assert not line.known and line.text.startswith("unknown")


def test_an_algorithm_that_could_not_be_compared_is_not_passed_over(found):
    silent = replace(found, comparisons=(), answers=found.answers[:3], warnings=("SGD: no finished runs to compare",))
    line = table.answers(silent)[-1]
    assert line.label == "algorithms" and not line.known and "SGD: no finished runs" in line.text


def test_an_interval_keeps_two_digits_of_its_width():
    rng = np.random.default_rng(0)
    for _ in range(300):
        value, relative = 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-4, 0)
        item = Interval(value=value, se=math.nan, low=value * (1 - relative / 2), high=value * (1 + relative))
        text = words.interval(item)
        shown, low, high = (float(part) for part in text.replace("[", "").replace("]", "").replace(",", "").split())
        assert abs(shown - value) <= 0.06 * (item.high - item.low)
        assert low <= shown <= high


@pytest.mark.parametrize(
    "value, text", [(999.7, "1k"), (3584, "3.58k"), (1e6, "1M"), (2.5e9, "2.5B"), (12, "12"), (1e12, "1T")]
)
def test_counts_are_short(value, text):
    assert words.short(value) == text


@pytest.mark.parametrize("value, text", [(1e9, "10⁹"), (3.14e12, "3.1×10¹²"), (9.99e10, "10¹¹"), (2e-3, "2×10⁻³")])
def test_powers_of_ten_are_written_as_such(value, text):
    assert words.power(value) == text
