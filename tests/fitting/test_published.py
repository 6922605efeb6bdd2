"""Published tables give their published figures. The tables are no part of the project: without them these skip."""

import pytest

from scaling.fitting.fit import fit
from scaling.fitting.isoflop import isoflop
from scaling.fitting.observe import observe

# 95 % intervals of Besiroglu et al. (arXiv:2404.10102), table 1, for the data of Hoffmann et al. (arXiv:2203.15556).
BESIROGLU = {
    "A": (285.2, 743.6),
    "B": (1042, 5810),
    "E": (1.769, 1.871),
    "alpha": (0.317, 0.373),
    "beta": (0.331, 0.415),
}


@pytest.mark.parametrize("outliers", ["all rows", "without the five they drop"])
def test_chinchilla_s_runs_give_besiroglu_s_parameters(published, outliers):
    table = published("epoch_chinchilla.csv")
    if outliers != "all rows":
        table = table[table["dropped_by_besiroglu"] != "True"]
    found = fit(observe(table, params="n_params"))
    for name, (low, high) in BESIROGLU.items():
        assert low < found.estimates()[name].value < high, name
    if outliers == "all rows":
        named = next(warning for warning in found.warnings if "runs lie far" in warning)
        dropped = table.loc[table["dropped_by_besiroglu"] == "True", "run_id"]
        assert len(dropped) == 5 and all(name in named for name in dropped)


@pytest.mark.parametrize(
    "group,exponent",
    [("rw/tuned/short/const/standard/val", 0.497), ("rw/base/long/kaplan/kaplan/train", 0.835)],
)
def test_parabolas_give_porian_s_exponents(published, group, exponent):
    """arXiv:2406.19146, figure 1; they interpolate by Akima splines, which a parabola misses by some hundredths."""
    found = isoflop(observe(published("porian_isoflop.csv"), params="n_params", group=group))
    assert found.exponent_n.value == pytest.approx(exponent, abs=0.03)
    assert found.exponent_n.low - 0.01 < exponent < found.exponent_n.high
