"""What repeated tokens are worth at equal loss, against planted half-lives."""

import math

import numpy as np
import pandas
import pytest

from scaling.fitting.compare import Noise
from scaling.fitting.observe import Observations, observe
from scaling.fitting.repetition import repeating
from scaling.spec import Refusal

HORIZONS = np.geomspace(1e4, 1e7, 13)


def planted(r_d: dict[int, float], noise: float = 0.0, seed: int = 0) -> Observations:
    """Fresh runs of a law that is not additive, and runs of U tokens read 2 to 32 times, R_D by width."""
    rng, lines = np.random.default_rng(seed), []

    def loss(width: int, d: float) -> float:
        return (0.8 + (300 / d) ** (0.25 + 0.002 * width) + 3 / width) * math.exp(noise * rng.normal())

    for width, limit in r_d.items():
        lines += [("fresh", width, d, d, loss(width, d)) for d in HORIZONS]
        for unique in (3e4, 1e5):
            for passes in (2, 4, 8, 16, 32):
                worth = 1 + limit * -math.expm1(-(passes - 1) / limit) if limit else 1.0 * passes
                lines.append(("again", width, passes * unique, unique, loss(width, worth * unique)))
    table = pandas.DataFrame(lines, columns=["group", "d_model", "tokens", "unique_tokens", "loss"])
    table = table.assign(n_params=100 * table["d_model"], role="fitted", status="finished")
    return observe(table, params="n_params", needs=("n", "d", "u"))


NOISE = Noise(sd=0.004, dof=30, replicates=30, cells=30)


def test_a_planted_half_life_is_found_whatever_the_law_of_fresh_tokens():
    found = repeating(planted({8: 12.0, 16: 12.0, 32: 12.0}), "again", level=0.9)
    assert np.isfinite(found.worth).all() and len(found.rates) == 6
    assert found.rate.value == pytest.approx(1 / 12, rel=0.02)
    assert found.passes(1) == 1 and found.passes(4) == pytest.approx(1 + 12 * -math.expm1(-3 / 12), rel=0.01)
    assert found.half_life is None  # without noise there is no interval


def test_its_interval_holds_the_mean_rate_of_the_curves_as_often_as_it_says():
    rate, held = np.mean([1 / 6, 1 / 12, 1 / 24]), 0
    for seed in range(40):
        o = planted({8: 24.0, 16: 12.0, 32: 6.0}, noise=NOISE.sd, seed=seed)
        found = repeating(o, "again", level=0.9, noise=NOISE, draws=60)
        held += found.rate.low < rate < found.rate.high
        assert found.half_life and found.half_life.low < math.log(2) / found.rate.value < found.half_life.high
    assert held >= 31  # 5 in 10^3 by chance, at 0.9


def test_where_a_repetition_is_as_good_as_fresh_no_half_life_is_told():
    sizes = dict.fromkeys((8, 16, 32), 0.0)
    told = 0
    for seed in range(20):
        o = planted(sizes, noise=NOISE.sd, seed=seed)
        told += repeating(o, "again", level=0.9, noise=NOISE, draws=60).half_life is not None
    assert told <= 4
    assert repeating(planted(sizes), "again", level=0.9).passes(32) == pytest.approx(32, rel=0.02)


def test_losses_that_no_fresh_run_reaches_are_left_out_and_too_few_curves_are_refused():
    o = planted({8: 12.0, 16: 12.0, 32: 12.0})
    short = o.pick(np.flatnonzero((np.array(o.group) == "again") | (o.d < 2e5)))
    assert 0 < np.isnan(repeating(short, "again", level=0.9).worth).sum() < 30
    with pytest.raises(Refusal, match="2 curves of 2 or more"):
        repeating(o.pick(np.flatnonzero(np.array(o.size) == o.size[0])), "again", level=0.9)
