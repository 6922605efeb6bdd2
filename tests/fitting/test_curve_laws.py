import numpy as np
import pytest

from scaling.fitting.laws.curve import Design, MultiPower, Schedule, Tissue

PEAK, WARMUP, STEPS = 3e-4, 200, 3000
LAWS = [
    Tissue(L0=2.6, A=0.6, alpha=0.45, C=0.4, lam=0.99),
    MultiPower(L0=2.65, A=0.6, alpha=0.45, B=440.0, C=2.1, beta=0.6, gamma=0.65),
]
each = pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)


def schedules():
    step = np.arange(1, STEPS + 1)
    rise = PEAK * np.minimum(step / WARMUP, 1)
    after = np.clip((step - WARMUP) / (STEPS - WARMUP), 0, 1)
    return {
        "constant": Schedule(lr=rise),
        "cosine": Schedule(lr=rise * (0.55 + 0.45 * np.cos(np.pi * after))),
        "two_stage": Schedule(lr=np.where(step < 1500, rise, 0.3 * PEAK)),
        "linear": Schedule(lr=rise * np.minimum(1, (STEPS - step) / 600)),
    }


def rows():
    return Design(*((schedule, np.arange(WARMUP, STEPS + 1, 40)) for schedule in schedules().values()))


@each
def test_gradients_are_those_of_finite_differences(law):
    curve = rows()
    value, gradient = law(curve), law.gradient(curve)
    assert value.shape == (len(curve),) and gradient.shape == (len(curve), len(law.names))
    for i, name in enumerate(law.names):
        here = getattr(law, name)
        step = 1e-6 * here
        up, down = (type(law)(**{**vars(law), name: here + by})(curve) for by in (step, -step))
        slope = (up - down) / (2 * step)
        np.testing.assert_allclose(gradient[:, i], slope, rtol=3e-5, atol=1e-7 * np.abs(slope).max() + 1e-8 / here)


def test_tissue_is_its_double_sum():
    law, schedule = LAWS[0], schedules()["cosine"]
    fall = schedule.fall
    area = 0.0
    for i in range(1000):
        area += float(np.sum(fall[: i + 1] * law.lam ** (i - np.arange(i + 1))))
    direct = law.L0 + law.A * schedule.lr[:1000].sum() ** -law.alpha - law.C * area
    assert law(Design((schedule, [1000])))[0] == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("name", ["constant", "cosine", "two_stage", "linear"])
def test_multi_power_is_its_full_sum_to_a_hundred_thousandth(name):
    law, schedule = LAWS[1], schedules()[name]
    steps = np.array([500, 1500, 1501, 2600, 2990])
    for t, value in zip(steps, law(Design((schedule, steps))), strict=True):
        lr, fall = schedule.lr[:t], schedule.fall[:t]
        x = lr**-law.gamma * (lr.sum() - (np.cumsum(lr) - lr))
        drop = np.sum(fall * (1 - (1 + law.C * x) ** -law.beta))
        assert value == pytest.approx(law.L0 + law.A * lr.sum() ** -law.alpha - law.B * drop, abs=1e-5)


@each
def test_a_learning_rate_that_never_falls_leaves_a_power_law(law):
    schedule, steps = schedules()["constant"], np.array([WARMUP, 1000, STEPS])
    assert schedule.warmup == WARMUP and not schedule.fall.any()
    power = law.L0 + law.A * schedule.total[steps - 1] ** -law.alpha
    np.testing.assert_allclose(law(Design((schedule, steps))), power, rtol=1e-13)


@each
def test_a_law_is_linear_in_what_its_basis_has(law):
    curve, rng = rows(), np.random.default_rng(0)
    shape = np.stack([rng.choice(axis, size=3) for axis in law.grid.values()], axis=-1)
    c = rng.uniform(0.5, 2.0, size=(3, 3))
    theta = law.from_basis(shape, c, curve)
    for i, columns in enumerate(law.basis(shape, curve)):
        one = type(law)(**dict(zip(law.names, theta[i], strict=True)))
        np.testing.assert_allclose(columns @ c[i], one(curve), rtol=1e-12)
