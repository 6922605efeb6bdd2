import numpy as np
import pytest

from scaling.fitting.laws import LAWS, Chinchilla, Interaction, Kaplan, PowerLaw
from scaling.fitting.laws.repeat import DataConstrained
from scaling.fitting.robust import estimate

N, D = np.geomspace(1e4, 1e8, 7), np.geomspace(3e9, 1e6, 7)
SURFACES = [
    Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    Kaplan(E=0.7, Nc=8.8e8, Dc=5.4e9, alpha_n=0.276, alpha_d=0.295),
    Interaction(E=0.9, A=30.0, B=0.3, alpha=0.35, beta=0.38, gamma=0.02, n_mid=1e6, d_mid=5e7),
]
COSTS = [(6.0, 1.0), (40.0, 0.9)]


def moved(law, name, by):
    return type(law)(**{**vars(law), name: getattr(law, name) + by})


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


# A member and a design for every law: a law that is listed and not here fails `test_every_law_is_tested`.
GRID_N, GRID_D = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
EPOCHS_N, EPOCHS_U, EPOCHS = (
    g.ravel() for g in np.meshgrid(np.geomspace(3e6, 3e9, 5), np.geomspace(1e8, 1e10, 3), [1.0, 4.0, 15.0, 60.0])
)
WIDE = np.geomspace(1e2, 1e8, 40)
PLANTED = {
    "chinchilla": (SURFACES[0], (GRID_N, GRID_D)),
    "chinchilla_tied": (LAWS["chinchilla_tied"](E=1.8, A=400.0, B=1500.0, alpha=0.35), (GRID_N, GRID_D)),
    "kaplan": (SURFACES[1], (GRID_N, GRID_D)),
    "interaction": (SURFACES[2], (GRID_N, GRID_D)),
    "overtraining": (LAWS["overtraining"](E=1.84, a=166.0, b=367.0, eta=0.137), (GRID_N, GRID_D)),
    "data_constrained": (
        LAWS["data_constrained"](E=1.87, A=521.0, B=1488.0, alpha=0.37, beta=0.34, R_D=15.4, R_N=5.3),
        (EPOCHS_N, EPOCHS_U * EPOCHS, EPOCHS_U),
    ),
    "power": (PowerLaw(E=1.2, A=20.0, alpha=0.3), (WIDE,)),
    "power_no_floor": (LAWS["power_no_floor"](A=20.0, alpha=0.3), (WIDE,)),
    "kaplan_n": (LAWS["kaplan_n"](Nc=8.8e13, alpha_n=0.076), (WIDE,)),
    "kaplan_d": (LAWS["kaplan_d"](Dc=5.4e13, alpha_d=0.095), (WIDE,)),
    "kaplan_c": (LAWS["kaplan_c"](Cc=2.7e28, alpha_c=0.05), (np.geomspace(1e15, 1e21, 20),)),
    "broken": (LAWS["broken"](a=0.1, b=4.0, c0=0.12, c1=0.5, d1=2e4, f1=0.4), (WIDE,)),
    "learning_rate": (LAWS["learning_rate"](c=1.79, a=-0.713, b=0.307), (GRID_N, GRID_D)),
    "batch_size": (LAWS["batch_size"](c=0.58, a=0.05, b=0.571), (GRID_N, GRID_D)),
    "learning_rate_compute": (LAWS["learning_rate_compute"](c=0.31, a=-0.125), (np.geomspace(1e17, 1e21, 12),)),
    "batch_size_compute": (LAWS["batch_size_compute"](c=0.29, a=0.327), (np.geomspace(1e17, 1e21, 12),)),
    "critical_batch": (LAWS["critical_batch"](B_star=2e8, alpha_B=0.21), (np.linspace(2.2, 5.5, 12),)),
    "steps_examples": (LAWS["steps_examples"](X_min=3e6, S_min=2e3), (np.geomspace(2.2e3, 1e5, 12),)),
    "downstream": (LAWS["downstream"](eps=0.86, k=2.2, gamma=0.75), (np.linspace(2.2, 5.0, 14),)),
}
every = pytest.mark.parametrize("name", PLANTED)


def test_every_law_is_tested():
    assert PLANTED.keys() >= {name for name, law in LAWS.items() if law.variables != ("curve",)}


@every
def test_gradients_are_those_of_finite_differences(name):
    law, x = PLANTED[name]
    gradient = law.gradient(*x)
    assert gradient.shape == (len(x[0]), len(law.names))
    for i, parameter in enumerate(law.names):
        step = 1e-6 * abs(getattr(law, parameter))
        slope = (moved(law, parameter, step)(*x) - moved(law, parameter, -step)(*x)) / (2 * step)
        scale = np.abs(law(*x)).max() / abs(getattr(law, parameter))
        np.testing.assert_allclose(gradient[:, i], slope, rtol=2e-6, atol=1e-9 * (np.abs(slope).max() + scale))


@every
def test_a_law_is_linear_in_the_coefficients_that_its_basis_has(name):
    law, x = PLANTED[name]
    form = type(law).form(*x)
    rng = np.random.default_rng(0)
    shape = np.stack([rng.choice(axis, size=3) for axis in form.grid.values()], axis=-1)
    columns = form.basis(shape, *x)
    assert columns.shape == (3, len(x[0]), len(law.linear))
    c = rng.uniform(0.5, 2.0, size=(3, columns.shape[-1])) / np.abs(columns).max(axis=1)
    theta = form.from_basis(shape, c, *x)
    for i in range(3):
        one = type(law)(**{**vars(form), **dict(zip(form.names, theta[i], strict=True))})
        np.testing.assert_allclose(columns[i] @ c[i], one(*x), rtol=1e-9, atol=1e-9)


@every
def test_a_planted_law_is_recovered_to_a_millionth(name):
    law, x = PLANTED[name]
    form = type(law).form(*x)
    planted = type(law)(**{**vars(form), **{p: getattr(law, p) for p in law.names}})
    found = estimate(form, x, planted(*x))
    for parameter, value in zip(law.names, found.theta, strict=True):
        assert value == pytest.approx(getattr(planted, parameter), rel=1e-6), parameter
    assert not found.at_bound


@every
def test_a_law_says_what_it_is(name):
    law = LAWS[name]
    assert set(law.units) == set(law.names) and law.formula and law.source and law.about.endswith(".")
    assert "arXiv:" in law.source
    assert set(law.bounds) | set(law.positive) | set(law.linear) >= set(law.names) - {"B"}


@pytest.mark.parametrize("name", [name for name in PLANTED if LAWS[name].response == "loss"])
def test_the_loss_falls_along_every_variable(name):
    law, x = PLANTED[name]
    for i in range(len(x)):
        more = tuple(v * 1.5 if i == j else v for j, v in enumerate(x))
        if name == "data_constrained" and i == 2:
            more = (x[0], np.maximum(x[1], more[2]), more[2])
        assert np.all(law(*more) < law(*x) + 1e-12)


def test_a_broken_law_has_the_exponents_of_its_two_sides():
    law = LAWS["broken"](a=0.0, b=4.0, c0=0.12, c1=0.5, d1=1e5, f1=0.4)
    for x, slope in ((1.0, 0.12), (1e12, 0.62), (1e5, 0.12 + 0.25)):
        assert -np.log(law(x * 1.001) / law(x / 1.001)) / (2 * np.log(1.001)) == pytest.approx(slope, abs=1e-5)


def test_one_epoch_of_a_size_that_the_data_is_optimal_for_is_chinchilla():
    law, (n, _, u) = PLANTED["data_constrained"]
    plain = Chinchilla(E=law.E, A=law.A, B=law.B, alpha=law.alpha, beta=law.beta)
    small = np.minimum(n, law.unique_size(u))
    np.testing.assert_allclose(law(small, u, u), plain(small, u), rtol=1e-12)
    best = plain.optimum(6 * law.unique_size(1e9) * 1e9, (6.0, 1.0))
    assert best.d == pytest.approx(1e9, rel=1e-9) and best.n == pytest.approx(law.unique_size(1e9), rel=1e-9)


def test_repetition_is_worth_at_most_its_half_life():
    law, _ = PLANTED["data_constrained"]
    size, data = law.effective(1e12, np.array([1e9, 4e9, 1e15]), 1e9)
    assert data[0] == 1e9 and 3.5e9 < data[1] < 4e9 and data[2] == pytest.approx(16.4e9)
    assert size[0] == pytest.approx(law.unique_size(1e9) * 6.3)
    assert law(1e8, 1e9, 5e9) == law(1e8, 1e9, 1e9)  # tokens that were never read teach nothing


def test_the_published_fit_of_repeated_data_has_its_published_objective(published):
    """arXiv:2305.16264: the sum of Huber's function of width 1e-3 on ln L, and R^2, over its 182 runs."""
    table = published("muennighoff_repeat.csv")
    table = table[table["set"] == "fit182"]
    n, d, u, loss = (table[name].to_numpy(float) for name in ("n_params", "tokens", "unique_tokens", "loss"))
    a, b, e = np.exp([6.255414, 7.3049974, 0.6254804])
    law = LAWS["data_constrained"](
        E=e, A=a, B=b, alpha=0.3526596, beta=0.3526596, R_D=15.387756, R_N=5.309743
    )  # fmt: skip
    r = np.abs(np.log(law(n, d, u) / loss))
    assert len(r) == 182
    assert np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum() == pytest.approx(0.0158259366, abs=5e-9)
    deviation = ((loss - law(n, d, u)) ** 2).sum() / ((loss - loss.mean()) ** 2).sum()
    assert 1 - deviation == pytest.approx(0.7722046085, abs=1e-6)


def test_tied_laws_are_chinchilla_with_one_exponent():
    tied, (n, d) = PLANTED["chinchilla_tied"]
    plain = Chinchilla(E=tied.E, A=tied.A, B=tied.B, alpha=tied.alpha, beta=tied.alpha)
    np.testing.assert_array_equal(tied(n, d), plain(n, d))
    eta = tied.alpha / 2
    gadre = LAWS["overtraining"](E=tied.E, a=tied.A * 6**eta, b=tied.B * 6**eta, eta=eta)
    np.testing.assert_allclose(gadre(n, d), tied(n, d), rtol=1e-13)
    m, c = d / n, 6 * n * d
    np.testing.assert_allclose(gadre(n, d), gadre.E + (gadre.a * m**eta + gadre.b * m**-eta) * c**-eta, rtol=1e-13)
    best = gadre.optimum(1e20, (6.0, 1.0))
    assert best.d / best.n == pytest.approx((gadre.b / gadre.a) ** (1 / (2 * eta)), rel=1e-9)
    assert gadre.exponents(1e20, (6.0, 1.0)) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_critical_batch_takes_twice_the_steps_and_twice_the_examples():
    """arXiv:1812.06162: large batches take S_min steps, small ones X_min examples, X_min/S_min twice of each."""
    law, _ = PLANTED["steps_examples"]
    assert law(2 * law.S_min) == pytest.approx(2 * law.X_min)
    assert law(2 * law.S_min) / (2 * law.S_min) == pytest.approx(law.X_min / law.S_min)
    assert law(1e12) == pytest.approx(law.X_min, rel=1e-6)
    steps = np.geomspace(2.1e3, 1e6, 9)
    np.testing.assert_allclose((steps / law.S_min - 1) * (law(steps) / law.X_min - 1), 1.0, rtol=1e-9)


def test_the_critical_batch_grows_as_the_loss_falls():
    law, (loss,) = PLANTED["critical_batch"]
    assert law(1.0) == law.B_star and np.all(np.diff(law(loss)) < 0)
    assert law(2.0) / law(4.0) == pytest.approx(2 ** (1 / 0.21))


def test_the_best_split_of_scarce_data_is_the_least_loss_by_brute_force():
    law = DataConstrained(E=1.87, A=521.0, B=1488.0, alpha=0.35, beta=0.35, R_D=15.4, R_N=5.3)
    for flops, unique in ((1e20, 1e9), (1e21, 1e9), (1e21, 1e12)):
        best = law.allocation(flops, (6.0, 1.0), unique)
        n = np.geomspace(1e6, 1e13, 400_001)
        assert best.loss <= law(n, flops / (6 * n), unique).min() + 1e-9
        assert 6 * best.n * best.d == pytest.approx(flops)


def test_with_fresh_data_the_best_split_is_chinchillas():
    law = DataConstrained(E=1.87, A=521.0, B=1488.0, alpha=0.35, beta=0.35, R_D=15.4, R_N=5.3)
    fresh = Chinchilla(E=1.87, A=521.0, B=1488.0, alpha=0.35, beta=0.35)
    best, known = law.allocation([1e19, 1e21], (6.0, 1.0), 1e15), fresh.optimum([1e19, 1e21], (6.0, 1.0))
    np.testing.assert_allclose(best.loss, known.loss, rtol=1e-9)
    np.testing.assert_allclose(best.n, known.n, rtol=1e-9)


def test_the_best_split_of_scarce_data_moves_smoothly_enough_to_be_differentiated():
    """Intervals are slopes by differences of 1e-5: N* must be known to far more digits than the flat loss tells."""
    law = DataConstrained(E=1.87, A=521.0, B=1488.0, alpha=0.36, beta=0.33, R_D=15.4, R_N=5.3)
    for flops, unique, cost in ((1e20, 1e9, (6.0, 1.0)), (1e21, 1e9, (9.0, 0.95)), (3e19, 1e10, (6.0, 1.0))):
        n = law.allocation(flops * np.exp(1e-5 * np.arange(-2, 3)), cost, unique).n
        slopes = np.diff(np.log(n)) / 1e-5
        assert np.ptp(slopes) < 1e-4 * abs(slopes.mean())
