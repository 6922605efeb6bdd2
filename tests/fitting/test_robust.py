import numpy as np
import pytest
import scipy.optimize

from scaling.fitting import robust
from scaling.fitting.laws import LAWS, SURFACES, Chinchilla, PowerLaw, PowerNoFloor

PLANTED = {
    "chinchilla": [1.69, 406.4, 410.7, 0.34, 0.28],
    "kaplan": [0.7, 8.8e8, 5.4e9, 0.276, 0.295],
    "chinchilla_tied": [1.69, 406.4, 410.7, 0.31],
    "overtraining": [1.69, 300.0, 350.0, 0.155],
    "interaction": [0.9, 30.0, 0.3, 0.35, 0.38, 0.03],
}


def surface(name, grid):
    form = LAWS[name].form(*grid)
    return form, robust.at(form, np.array(PLANTED[name]))(*grid)


@pytest.mark.parametrize("name", SURFACES)
def test_a_planted_law_is_recovered_without_noise(name, grid):
    form, loss = surface(name, grid)
    found = robust.estimate(form, grid, loss)
    np.testing.assert_allclose(found.theta, PLANTED[name], rtol=1e-6)
    assert not found.at_bound


@pytest.mark.parametrize("floor", [True, False])
def test_a_planted_power_law_is_recovered_without_noise(floor):
    x = np.geomspace(1e5, 1e9, 8)
    law = PowerLaw(E=1.2, A=20.0, alpha=0.3) if floor else PowerNoFloor(A=20.0, alpha=0.3)
    found = robust.estimate(law.form(), (x,), law(x))
    np.testing.assert_allclose(found.theta, [getattr(law, name) for name in law.names], rtol=1e-6)


@pytest.mark.parametrize("name", SURFACES)
def test_gross_errors_in_a_sixth_of_the_runs_change_nothing(name, grid):
    form, loss = surface(name, grid)
    loss = loss.copy()
    loss[[0, 9, 20, 24]] *= [1.9, 1.4, 1.5, 0.7]
    found = robust.estimate(form, grid, loss)
    np.testing.assert_allclose(found.theta, PLANTED[name], rtol=1e-5)
    assert set(np.flatnonzero(found.weight < 0.01)) == {0, 9, 20, 24}


def test_the_projection_is_non_negative_least_squares():
    rng = np.random.default_rng(0)
    for columns in (1, 2, 3, 4):
        basis = rng.normal(size=(40, 9, columns))
        weight = rng.uniform(0.2, 1.0, size=9)
        c, rss = robust.project(basis, weight)
        for i in range(len(basis)):
            root = np.sqrt(weight)
            want, norm = scipy.optimize.nnls(basis[i] * root[:, None], root)
            np.testing.assert_allclose(c[i], want, atol=1e-9)
            assert rss[i] == pytest.approx(norm**2, abs=1e-9)


@pytest.mark.parametrize("name", SURFACES)
def test_no_start_of_scipy_s_finds_a_lower_objective(name, grid):
    form, loss = surface(name, grid)
    rng = np.random.default_rng(3)
    y = np.log(loss) + 0.01 * rng.standard_t(3, size=len(loss))
    found = robust.estimate(form, grid, np.exp(y))
    logs = robust.positive(form)

    def objective(z):
        with np.errstate(all="ignore"):
            theta = np.where(logs, np.exp(np.where(logs, z, 0)), z)
            u = (np.log(robust.at(form, theta)(*grid)) - y) / found.scale
            rho = 4.685**2 / 6 * (1 - (1 - np.minimum((u / 4.685) ** 2, 1)) ** 3)
        return rho.sum() if np.isfinite(rho).all() else 1e6

    best = np.inf
    for _ in range(12):
        z = np.where(logs, np.log(PLANTED[name]), PLANTED[name]) * rng.uniform(0.85, 1.15, size=len(logs))
        result = scipy.optimize.minimize(objective, z, method="Nelder-Mead", options={"maxiter": 1500})
        if result.x[0] >= 0:
            best = min(best, result.fun)
    assert objective(np.where(logs, np.log(np.maximum(found.theta, 1e-300)), found.theta)) == pytest.approx(
        found.objective, rel=1e-9
    )
    assert found.objective <= best + 1e-9


def test_on_clean_small_tables_it_is_as_good_as_least_squares(grid):
    """The mean squared error of ln N* at ten times the largest compute; 95 % efficiency is the design value."""
    form, loss = surface("chinchilla", grid)
    best = Chinchilla(**dict(zip(form.names, PLANTED["chinchilla"], strict=True))).optimum(3e15, (6.0, 1.0))
    errors = []
    for seed in range(40):
        y = np.log(loss) + 0.01 * np.random.default_rng(seed).normal(size=len(loss))
        found = robust.estimate(form, grid, np.exp(y)).theta
        least_squares = robust.polish(form, found[None], grid, np.exp(y), objective=robust.Objective(kind="squares"))[0]
        errors.append(
            [
                np.log(robust.at(form, t).optimum(np.array([3e15]), (6.0, 1.0)).n[0] / best.n)
                for t in (found, least_squares)
            ]
        )
    ours, theirs = np.sqrt(np.mean(np.square(errors), axis=0))
    assert ours < 1.1 * theirs


def test_the_m_scale_is_sigma_at_normal_errors_and_bounded_under_gross_ones():
    r = np.random.default_rng(0).normal(size=(1, 20000)) * 0.02
    assert robust.m_scale(r, 20000)[0] == pytest.approx(0.02, rel=0.02)
    r[0, :4000] = 1e6
    assert robust.m_scale(r, 20000)[0] < 0.1


def test_a_floor_below_zero_rests_on_its_bound():
    x = np.geomspace(1e5, 1e9, 9)
    found = robust.estimate(PowerLaw.form(), (x,), 30 * x**-0.2 - 0.2)
    assert found.theta[0] == 0 and found.at_bound == ("E",)


@pytest.mark.parametrize("space", ["log", "raw"])
@pytest.mark.parametrize("kind", ["mm", "huber", "squares"])
def test_every_objective_finds_the_planted_law(kind, space, grid):
    form, loss = surface("chinchilla", grid)
    found = robust.estimate(form, grid, loss, objective=robust.Objective(kind=kind, space=space))
    np.testing.assert_allclose(found.theta, PLANTED["chinchilla"], rtol=1e-6)


def test_a_row_of_wide_spread_counts_for_less(grid):
    form, loss = surface("chinchilla", grid)
    wrong = loss.copy()
    wrong[3] *= 1.05
    rule = robust.Objective(kind="squares")
    spread = np.ones(len(loss))
    spread[3] = 1e5
    even = robust.estimate(form, grid, wrong, objective=rule).theta
    aware = robust.estimate(form, grid, wrong, objective=rule, spread=spread).theta
    assert abs(even[3] / 0.34 - 1) > 1e-3
    np.testing.assert_allclose(aware, PLANTED["chinchilla"], rtol=1e-4)


def test_value_and_gradient_are_those_of_the_law(grid):
    form, _ = surface("chinchilla", grid)
    law = robust.at(form, np.array([PLANTED["chinchilla"], [1.0, 30.0, 50.0, 0.2, 0.4]]))
    value, gradient = law.value_and_gradient(*grid)
    np.testing.assert_allclose(value, law(*grid), rtol=1e-13)
    np.testing.assert_allclose(gradient, law.gradient(*grid), rtol=1e-12)


def test_the_published_huber_objective_is_reached(published):
    """arXiv:2404.10102: .00101827403 on the 240 runs kept, delta 1e-3."""
    t = published("epoch_chinchilla.csv")
    t = t[t.dropped_by_besiroglu.astype(str) != "True"]
    x, y = tuple(t[name].astype(float).to_numpy() for name in ("n_params", "tokens")), t.loss.astype(float).to_numpy()
    found = robust.estimate(Chinchilla.form(*x), x, y, objective=robust.Objective(kind="huber"))
    assert found.objective == pytest.approx(0.001018274, rel=1e-6)
    np.testing.assert_allclose(found.theta[3:], [0.347313, 0.367183], rtol=1e-4)
