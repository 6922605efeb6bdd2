from dataclasses import replace

import numpy as np
import pytest

from scaling.cost import at_width
from scaling.spec import ModelSpec, OptimSpec
from scaling.train import parametrization
from scaling.train.coordinates import movement

WIDTHS = (64, 256)
STEPS = 6
MODEL = ModelSpec(n_layers=1, d_model=32, d_ff=64, d_head=16, vocab_size=64, context=16)
OPTIM = {
    "adamw": OptimSpec(peak_lr=1e-2, cooldown_steps=1, base_width=32),
    "sgd": OptimSpec(name="sgd", peak_lr=0.1, cooldown_steps=1, base_width=32),
    "muon": OptimSpec(name="muon", peak_lr=1e-2, cooldown_steps=1, base_width=32),
    "schedule_free": OptimSpec(name="schedule_free", schedule="constant", peak_lr=1e-2, base_width=32),
}


def drift(optim: OptimSpec, tied: bool = False) -> dict[str, float]:
    """Exponents of the movements in the width."""
    moves = [movement(replace(at_width(MODEL, d), tied=tied), optim, STEPS) for d in WIDTHS]
    return {k: float(np.polyfit(np.log(WIDTHS), np.log([move[k] for move in moves]), 1)[0]) for k in moves[0]}


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.long)], ids=["untied", "tied"])
@pytest.mark.parametrize("name", OPTIM)
def test_steps_move_stream_and_logits_alike_at_every_width(name: str, tied: bool):
    found = drift(OPTIM[name], tied)
    assert {what: slope for what, slope in found.items() if abs(slope) >= 0.25} == {}


@pytest.mark.parametrize("role", ["hidden", "residual_out"])
def test_a_wrong_exponent_moves_wider_streams_more_and_logits_do_not_show_it(role: str, monkeypatch):
    monkeypatch.setitem(parametrization._WIDTH_EXPONENT["adamw"], role, 0)
    found = drift(OPTIM["adamw"])
    assert found[role] > 0.5 and found["stream"] > 0.35
    assert abs(found["logits"]) < 0.25


def test_under_the_standard_parametrization_wider_models_move_more():
    found = drift(replace(OPTIM["adamw"], parametrization="standard"))
    assert found["logits"] > 0.5 and found["stream"] > 0.5


def test_all_parametrizations_are_one_at_the_base():
    optim = replace(OPTIM["adamw"], base_layers=MODEL.n_layers)
    width, *others = (
        movement(MODEL, replace(optim, parametrization=name), STEPS) for name in ("width", "standard", "complete")
    )
    assert others == [width] * 2
