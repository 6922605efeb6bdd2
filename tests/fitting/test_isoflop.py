import numpy as np
import pytest

from scaling.fitting.isoflop import isoflop, slices
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

LAW = Chinchilla(E=0.9, A=18.0, B=18.0, alpha=0.35, beta=0.35)


def budgets(law, reach, sizes=7):
    """Runs on 4 budgets, sizes spread evenly about the optimum by `reach` to either side."""
    c = np.repeat([1e13, 1e14, 1e15, 1e16], sizes)
    n = law.optimum(c, (6.0, 1.0)).n * np.tile(np.geomspace(1 / reach, reach, sizes), 4)
    return n, c / (6 * n)


def test_vertices_lie_on_the_optimum_of_a_symmetric_valley(runs):
    n, d = budgets(LAW, 4)
    found = isoflop(runs(n, d, LAW(n, d)))
    assert [piece.slice.interpolated for piece in found.valleys] == [False] * 4
    for valley in found.valleys:
        assert valley.n == pytest.approx(LAW.optimum(valley.slice.flops, (6.0, 1.0)).n, rel=0.01)
    assert found.exponent_n.value == pytest.approx(0.5, abs=1e-3)
    assert found.exponent_n.value + found.exponent_d.value == pytest.approx(1.0, abs=1e-3)


def test_a_lopsided_valley_shifts_the_vertex_but_not_the_exponent(runs):
    """arXiv:2603.22339: on a centred grid the bias of a parabola does not depend on C."""
    law = Chinchilla(E=0.9, A=60.0, B=8.0, alpha=0.5, beta=0.3)
    n, d = budgets(law, 8)
    found = isoflop(runs(n, d, law(n, d)))
    shift = [valley.n / law.optimum(valley.slice.flops, (6.0, 1.0)).n for valley in found.valleys]
    assert min(shift) > 1.02
    assert found.exponent_n.value == pytest.approx(0.3 / 0.8, abs=2e-3)
    assert "2603.22339" in found.warnings[0]


def test_a_budget_without_a_minimum_inside_is_left_out(runs):
    n, d = budgets(LAW, 4)
    kept = (n * d < 5e13) | (n < LAW.optimum(6 * n * d, (6.0, 1.0)).n * 0.9)
    found = isoflop(runs(n[kept], d[kept], LAW(n[kept], d[kept])))
    edges = [valley.edge for valley in found.valleys]
    assert edges == [False, False, True, True]
    assert any("no minimum inside" in warning for warning in found.warnings)
    assert found.exponent_n.value == pytest.approx(0.5, abs=2e-3) and np.isnan(found.exponent_n.low)


def test_a_grid_is_interpolated_and_never_extrapolated(runs):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(4e3, 1e6, 5), np.geomspace(2e5, 5e7, 7)))
    o = runs(n, d, LAW(n, d))
    for piece in slices(o):
        assert piece.interpolated and len(piece.n) >= 3
        np.testing.assert_allclose(6 * piece.n * piece.d, piece.flops, rtol=1e-6)
        for n, d, loss in zip(piece.n, piece.d, piece.loss, strict=True):
            horizons = o.d[np.isclose(o.n, n)]
            assert horizons.min() * 0.999 <= d <= horizons.max() * 1.001
            assert loss == pytest.approx(LAW(n, d), rel=0.03)


def test_too_few_sizes_are_refused(runs):
    n, d = np.repeat([1e5, 1e6], 4), np.tile(np.geomspace(1e6, 1e8, 4), 2)
    with pytest.raises(Refusal, match="no budget has 3 sizes"):
        isoflop(runs(n, d, LAW(n, d)))
