"""Variance components against the analysis of variance, and covariances against simulation."""

import numpy as np
import pytest

from scaling.fitting.components import components
from scaling.fitting.laws import LAWS, Chinchilla
from scaling.fitting.robust import Objective, estimate
from scaling.fitting.uncertainty import covariance, generalised

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)


def test_on_a_balanced_design_they_are_those_of_the_analysis_of_variance():
    """g groups of m runs about one mean: (MS between - MS within) / m and MS within (Searle et al. 1992, section 4)."""
    g, m, rng = 12, 5, np.random.default_rng(0)
    label = np.repeat(np.arange(g), m)
    y = 0.02 * rng.normal(size=g)[label] + 0.01 * rng.normal(size=g * m)
    means = y.reshape(g, m).mean(axis=1)
    between = m * ((means - y.mean()) ** 2).sum() / (g - 1)
    within = ((y - means[label]) ** 2).sum() / (g * (m - 1))
    found = components(np.ones((g * m, 1)), y - y.mean(), {"size": [str(i) for i in label]})
    assert found.names == ("run", "size")
    assert found.variance[0] == pytest.approx(within, rel=1e-4)
    assert found.variance[1] == pytest.approx((between - within) / m, rel=1e-4)


def test_a_source_that_the_design_cannot_tell_is_not_sought():
    j = np.ones((12, 1))
    rng = np.random.default_rng(0)
    alone = components(j, rng.normal(size=12), {"trunk": [str(i) for i in range(12)], "seed": ["a"] * 12})
    assert alone.names == ("run",)
    twice = [str(i // 3) for i in range(12)]
    assert components(j, rng.normal(size=12), {"trunk": twice, "size": twice}).names == ("run", "trunk")


def test_a_known_evaluation_error_is_taken_off_the_runs_own():
    rng, known = np.random.default_rng(1), np.full(400, 0.03)
    y = rng.normal(size=400) * np.hypot(0.02, 0.03)
    found = components(np.ones((400, 1)), y - y.mean(), {}, known=known)
    assert found.variance[0] == pytest.approx(np.var(y, ddof=1) - 0.03**2, rel=1e-3)


@pytest.mark.parametrize("space", ["log", "raw"])
def test_the_covariance_is_the_scatter_of_estimates(grid, space):
    """150 studies; the standard error of each parameter within a third of what the estimates scatter by."""
    n, d = (np.concatenate([v, v]) for v in grid)
    form, rng = LAWS["chinchilla"].form(n, d), np.random.default_rng(0)
    names, thetas, ses = [str(i) for i in range(len(n))], [], []
    for _ in range(150):
        e = 0.004 * rng.normal(size=len(n))
        y = TRUTH(n, d) * np.exp(e) if space == "log" else TRUTH(n, d) + e
        found = estimate(form, (n, d), y, objective=Objective(space=space))
        spread = covariance(form, found, (n, d), np.ones(5, bool), names)
        thetas.append([found.theta[0], *np.log(found.theta[1:])])
        ses.append(np.sqrt(np.diag(spread.covariance)))
    scatter = np.std(thetas, axis=0, ddof=1)
    assert np.median(ses, axis=0) == pytest.approx(scatter, rel=1 / 3)


def test_generalised_least_squares_is_nearer_the_truth_where_sizes_share_noise():
    """Horizons are multiples of the size, so that a deviation of a size also looks like one of D."""
    n, ratio = (v.ravel() for v in np.meshgrid(np.geomspace(4e3, 1e6, 5), np.geomspace(3, 300, 5), indexing="ij"))
    d = n * ratio
    size = np.unique(n, return_inverse=True)[1]
    form, free, off = LAWS["chinchilla"].form(n, d), np.ones(5, bool), {"plain": [], "generalised": []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y = TRUTH(n, d) * np.exp(0.01 * rng.normal(size=5)[size] + 0.001 * rng.normal(size=len(n)))
        plain = estimate(form, (n, d), y)
        better, _ = generalised(
            form, plain, (n, d), y, free, [str(i) for i in range(len(n))], size=[str(i) for i in size]
        )
        for name, found in (("plain", plain), ("generalised", better)):
            off[name].append(abs(np.log(found.theta[4] / TRUTH.beta)))
    assert np.median(off["generalised"]) < 0.8 * np.median(off["plain"])
