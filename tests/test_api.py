"""What `import scaling` offers, without costing anything before it is used."""

import subprocess
import sys

import numpy as np
import pytest

import scaling


def test_two_names_take_a_table_to_a_law(tmp_path):
    path = tmp_path / "runs.csv"
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    loss = 1.7 + 400 * n**-0.34 + 900 * d**-0.3
    path.write_text("N,D,L\n" + "".join(f"{a},{b},{c}\n" for a, b, c in zip(n, d, loss, strict=True)))
    runs = scaling.load_runs(path, params="N", columns={"tokens": "D", "loss": "L"})
    found = scaling.fit(runs, "chinchilla")
    assert found.predict(1e10, 1e12) == pytest.approx(1.7 + 400 * 1e10**-0.34 + 900 * 1e12**-0.3, rel=1e-5)
    best = found.optimum(1e21)
    assert 6 * best.n * best.d == pytest.approx(1e21)
    low, high = found.interval(1e10, 1e12)
    assert low <= found.predict(1e10, 1e12) <= high
    assert found.to_json()["status"] == "converged"


def test_importing_the_package_imports_nothing_else():
    code = "import sys, scaling; sys.exit(bool({'numpy', 'jax', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        scaling.fitt  # noqa: B018
