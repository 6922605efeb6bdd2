"""The profile interval is the exact one where that is known, and the delta interval where the problem is straight."""

import numpy as np
import pytest

from scaling.fitting.laws import LAWS, Chinchilla
from scaling.fitting.profile import profile
from scaling.fitting.robust import Objective, estimate
from scaling.fitting.uncertainty import covariance, t_quantile

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)


def noisy(n, d, sd, seed=0):
    return TRUTH(n, d) * np.exp(sd * np.random.default_rng(seed).normal(size=len(n)))


MM = Objective()


def studied(form, x, y, objective=MM, free=None):
    found = estimate(form, x, y, objective=objective)
    free = np.ones(len(form.names), bool) if free is None else free
    spread = covariance(form, found, x, free, [str(i) for i in range(len(y))])
    return found, {"covariance_z": spread.covariance, "dof": spread.dof, "level": 0.9}


@pytest.mark.parametrize("kind", ["mm", "squares"])
def test_little_noise_gives_the_delta_interval(grid, kind):
    x = grid
    form = Chinchilla.form(*x)
    found, how = studied(form, x, noisy(*x, sd=2e-4), Objective(kind=kind))
    for name, log in (("E", False), ("alpha", True), ("beta", True), ("A", True)):
        index = form.names.index(name)
        z = np.log(found.theta[index]) if log else found.theta[index]
        reach = t_quantile(0.9, how["dof"]) * np.sqrt(how["covariance_z"][index, index])
        item = profile(form, found, x, noisy(*x, sd=2e-4), name, **how).interval
        ends = np.log([item.low, item.high]) if log else np.array([item.low, item.high])
        assert ends == pytest.approx([z - reach, z + reach], abs=0.06 * reach)


def test_least_squares_of_a_curve_has_the_ends_where_the_sum_of_squares_says(grid):
    """The ends by SciPy: root of RSS(E) = RSS (1 + t^2 / dof), the others found anew by its own least squares."""
    from scipy.optimize import brentq, least_squares

    d = np.geomspace(1e5, 1e8, 14)
    form = LAWS["power"].form(d)
    rng = np.random.default_rng(3)
    y = 1.0 + 40 * d**-0.4
    y = y * np.exp(0.004 * rng.normal(size=14))
    found, how = studied(form, (d,), y, Objective(kind="squares"))
    assert not found.at_bound
    spare = len(y) - 3

    def least(floor, start):
        fit = least_squares(
            lambda p: np.log(floor + np.exp(p[0]) * d ** -np.exp(p[1])) - np.log(y), start, xtol=1e-14, ftol=1e-14
        )
        return 2 * fit.cost, fit.x

    values = dict(zip(form.names, found.theta, strict=True))
    start = [np.log(values["A"]), np.log(values["alpha"])]
    best = least(values["E"], start)[0]
    rise = t_quantile(0.9, spare) ** 2 / spare
    ends = [
        brentq(lambda e: least(e, start)[0] / best - 1 - rise, *bracket, xtol=1e-9)
        for bracket in ((values["E"] - 0.2, values["E"]), (values["E"], values["E"] + 0.1))
    ]
    item = profile(form, found, (d,), y, "E", **(how | {"dof": spare})).interval
    assert [item.low, item.high] == pytest.approx(ends, abs=0.03 * (ends[1] - ends[0]))
    assert item.value - item.low > 1.02 * (item.high - item.value)  # the floor's valley bends down


def test_noise_that_is_shared_widens_the_profile_as_it_does_the_covariance(grid):
    x = grid
    form = Chinchilla.form(*x)
    y = noisy(*x, sd=5e-4)
    found, how = studied(form, x, y)
    narrow = profile(form, found, x, y, "beta", **how).interval
    wide = profile(form, found, x, y, "beta", **(how | {"covariance_z": 4 * how["covariance_z"]})).interval
    assert np.log(wide.high / wide.low) == pytest.approx(2 * np.log(narrow.high / narrow.low), rel=0.1)


def test_an_end_that_no_run_refutes_is_open_and_said(grid):
    """Short horizons tell no floor: its interval reaches 0, the edge of its range."""
    n, d = (v.ravel() for v in np.meshgrid([1e4, 3e4, 9e4, 3e5], np.geomspace(1e5, 1e6, 5)))
    form = Chinchilla.form(n, d)
    y = noisy(n, d, sd=0.05, seed=1)
    found, how = studied(form, (n, d), y)
    assert "E" not in found.at_bound
    result = profile(form, found, (n, d), y, "E", **how)
    assert result.open_low and result.interval.low == 0.0 and "E" in result.words
    assert np.all(np.diff(result.values) > 0) and np.all(np.diff(result.signed_root) > -1e-6)


def test_the_interval_is_the_same_in_other_units(grid):
    x = grid
    y = noisy(*x, sd=5e-3)
    form = Chinchilla.form(*x)
    found, how = studied(form, x, y)
    one = profile(form, found, x, y, "E", **how).interval
    found, how = studied(form, x, 10 * y)
    two = profile(form, found, x, 10 * y, "E", **how).interval
    assert [two.low, two.high] == pytest.approx([10 * one.low, 10 * one.high], rel=1e-4)


def test_a_parameter_that_was_not_estimated_has_no_profile(grid):
    x = grid
    form = Chinchilla.form(*x)
    y = noisy(*x, sd=1e-3)
    found, how = studied(form, x, y)
    with pytest.raises(ValueError, match="gamma"):
        profile(form, found, x, y, "gamma", **how)
    with pytest.raises(ValueError, match="alpha"):
        profile(form, found, x, y, "alpha", **how, free=np.array([True, True, True, False, True]))
