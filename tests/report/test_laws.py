"""The page of laws says what the classes say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.cli.laws import describe, run
from scaling.fitting.laws import LAWS
from scaling.report.laws import EXPLAINED, draw, page
from scaling.spec import Refusal

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_classes_state():
    text = (DOCS / "laws.md").read_text(encoding="utf-8")
    for name, law in LAWS.items():
        assert f"### {name}\n\n    {law.formula}\n" in text and law.source in text, name
        assert all(f"| `{p}` |" in text for p in law.names)
        assert (DOCS / "figures" / "laws" / f"{name}.svg").is_file(), name
    assert text == page(), "stale: run `scaling laws --page docs`"
    assert EXPLAINED.keys() == LAWS.keys()


@pytest.mark.parametrize("name", ["data_constrained", "learning_rate", "steps_examples"])
def test_a_figure_has_its_axes_named(name):
    axes = draw(name).axes[0]
    assert axes.get_xlabel() and len(axes.lines) >= 1


def test_laws_are_listed_in_half_a_second_without_matplotlib():
    code = "import sys, scaling.cli.laws; sys.exit(bool({'jax', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_law_is_described_in_plain_values():
    for name in LAWS:
        assert json.loads(json.dumps(describe(name), allow_nan=False))["parameters"].keys() == set(LAWS[name].names)


def test_an_unknown_law_is_refused_with_the_known_ones():
    import argparse

    with pytest.raises(Refusal, match="chinchila: no such law; there are chinchilla"):
        run(argparse.Namespace(law="chinchila", page=None, json=False))
