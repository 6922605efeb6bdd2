import numpy as np
import pytest

from scaling.fit.laws import Chinchilla, Interaction, Kaplan, PowerLaw

N, D = np.geomspace(1e4, 1e8, 7), np.geomspace(3e9, 1e6, 7)
SURFACES = [
    Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    Kaplan(E=0.7, Nc=8.8e8, Dc=5.4e9, alpha_n=0.276, alpha_d=0.295),
    Interaction(E=0.9, A=30.0, B=0.3, alpha=0.35, beta=0.38, gamma=0.02, n_mid=1e6, d_mid=5e7),
]
COSTS = [(6.0, 1.0), (40.0, 0.9)]


def moved(law, name, by):
    return type(law)(**{**vars(law), name: getattr(law, name) + by})


@pytest.mark.parametrize("law", [*SURFACES, PowerLaw(E=1.2, A=20.0, alpha=0.3)], ids=lambda law: type(law).__name__)
def test_gradients_are_those_of_finite_differences(law):
    x = (N,) if isinstance(law, PowerLaw) else (N, D)
    gradient = law.gradient(*x)
    assert gradient.shape == (7, len(law.names))
    for i, name in enumerate(law.names):
        step = 1e-6 * abs(getattr(law, name))
        slope = (moved(law, name, step)(*x) - moved(law, name, -step)(*x)) / (2 * step)
        np.testing.assert_allclose(gradient[:, i], slope, rtol=1e-6, atol=1e-9 * np.abs(slope).max())


@pytest.mark.parametrize("law", SURFACES, ids=lambda law: type(law).__name__)
def test_slopes_in_ln_n_and_ln_d_are_those_of_finite_differences(law):
    by_n, by_d = law.slopes(N, D)
    up, down = np.exp(1e-5), np.exp(-1e-5)
    np.testing.assert_allclose(by_n, (law(N * up, D) - law(N * down, D)) / 2e-5, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(by_d, (law(N, D * up) - law(N, D * down)) / 2e-5, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("cost", COSTS, ids=str)
@pytest.mark.parametrize("law", SURFACES, ids=lambda law: type(law).__name__)
def test_the_optimum_is_where_the_loss_is_least(law, cost):
    k, p = cost
    for flops in (1e15, 1e17):
        best = law.optimum(flops, cost)
        assert k * best.n**p * best.d == pytest.approx(flops, rel=1e-9)
        n = best.n * np.exp(np.linspace(-3, 3, 6001))
        loss = law(n, flops / (k * n**p))
        assert best.loss <= loss.min() + 1e-12
        assert abs(np.log(n[loss.argmin()] / best.n)) < 2e-3


@pytest.mark.parametrize("cost", COSTS, ids=str)
@pytest.mark.parametrize("law", SURFACES, ids=lambda law: type(law).__name__)
def test_exponents_share_out_the_compute(law, cost):
    """C = k N^p D, so p exponent_n + exponent_d = 1; and each is the slope of its own optimum."""
    by_n, by_d = law.exponents(1e16, cost)
    assert cost[1] * by_n + by_d == pytest.approx(1.0, abs=1e-9)
    low, high = law.optimum(0.99e16, cost), law.optimum(1.01e16, cost)
    assert np.log(high.n / low.n) / np.log(1.01 / 0.99) == pytest.approx(by_n, rel=1e-3)


def test_chinchilla_exponents_are_those_of_its_paper():
    """arXiv:2203.15556, eq. 4: a = beta / (alpha + beta), b = alpha / (alpha + beta)."""
    law = SURFACES[0]
    assert law.exponents(1e20, (6.0, 1.0)) == (pytest.approx(0.28 / 0.62), pytest.approx(0.34 / 0.62))


def test_kaplan_without_a_floor_has_its_paper_s_limits():
    """arXiv:2001.08361: eq. 1.1 as D grows without end, eq. 1.2 as N does."""
    law = Kaplan(E=0.0, Nc=8.8e13, Dc=5.4e13, alpha_n=0.076, alpha_d=0.095)
    assert law(1e9, 1e40) == pytest.approx((8.8e13 / 1e9) ** 0.076, rel=1e-6)
    assert law(1e60, 1e9) == pytest.approx((5.4e13 / 1e9) ** 0.095, rel=1e-6)


def test_no_interaction_is_chinchilla():
    law = Interaction(E=1.0, A=20.0, B=0.3, alpha=0.3, beta=0.4, gamma=0.0, n_mid=1e6, d_mid=1e7)
    plain = Chinchilla(E=1.0, A=20.0, B=0.3 * 1e7**0.4, alpha=0.3, beta=0.4)
    np.testing.assert_allclose(law(N, D), plain(N, D), rtol=1e-12)
    assert law.optimum(1e16, (6.0, 1.0)).n == pytest.approx(plain.optimum(1e16, (6.0, 1.0)).n, rel=1e-7)


@pytest.mark.parametrize("law", SURFACES, ids=lambda law: type(law).__name__)
def test_a_law_is_linear_in_the_coefficients_that_its_basis_has(law):
    form = type(law).form(N, D)
    rng = np.random.default_rng(0)
    shape = rng.uniform(0.2, 0.5, size=(3, len(form.grid)))
    columns = form.basis(shape, N, D)
    c = rng.uniform(0.5, 2.0, size=(3, columns.shape[-1]))
    theta = form.from_basis(shape, c, N, D)
    for i in range(3):
        values = {**vars(form), **dict(zip(form.names, theta[i], strict=True))}
        np.testing.assert_allclose(type(law)(**values)(N, D), columns[i] @ c[i], rtol=1e-9)
