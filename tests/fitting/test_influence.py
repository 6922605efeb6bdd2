import numpy as np
import pytest

from scaling.fitting.fit import fit, influence
from scaling.fitting.fitted import fit_from_json
from scaling.fitting.laws import Chinchilla
from scaling.spec import Refusal

TRUTH = Chinchilla(E=0.9, A=18.0, B=90.0, alpha=0.35, beta=0.37)


def test_leaving_a_run_out_is_fitting_without_it(runs, grid):
    """Least squares in effect (a wide Huber): the refit is the fit of the other rows, to the optimizer's tolerance."""
    n, d = grid
    o = runs(n, d, TRUTH(n, d) * np.exp(0.004 * np.random.default_rng(3).normal(size=len(n))))
    whole = fit(o, estimator="huber", delta=1.0)
    found = influence(o, whole)
    for i in (0, 12, 24):
        rest = fit(o.pick([j for j in range(len(o)) if o.run_id[j] != found.left_out[i]]), estimator="huber", delta=1.0)
        assert found.theta[i] == pytest.approx(rest.theta, rel=1e-4)


def test_sizes_leave_together(runs, grid):
    n, d = grid
    o = runs(n, d, TRUTH(n, d) * np.exp(0.004 * np.random.default_rng(3).normal(size=len(n))))
    found = influence(o, fit(o), "size")
    assert len(found.left_out) == 5 and (found.runs == 5).all()


def test_a_fit_without_residuals_cannot_say_what_moved_it(runs, grid):
    n, d = grid
    o = runs(n, d, TRUTH(n, d))
    with pytest.raises(Refusal, match="read from JSON"):
        influence(o, fit_from_json(fit(o).to_json()))
