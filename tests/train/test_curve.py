"""What the rows of a curve add up to."""

import dataclasses

import numpy as np
import pytest

from scaling.spec import RunSpec
from scaling.train.curve import Curve, noise_scale, probed, spikes
from scaling.train.optim import blends
from scaling.train.step import StepMetrics


def test_steps_are_logged_once_whatever_the_chunks(tiny: RunSpec, tmp_path):
    """In rows of the same steps; a chunk's end may cut a row in two, whose means then weigh as much."""
    losses = np.linspace(5, 4, tiny.steps)
    for chunks in ([tiny.steps], [7, tiny.steps - 7]):
        with Curve(tmp_path / f"{len(chunks)}.jsonl", tiny, [], resumed_at=0) as curve:
            start = 0
            for count in chunks:
                part = losses[start : start + count]
                curve.add(start, start + count, StepMetrics(part, part, part, np.nan * part, np.nan * part))
                start += count
        assert [row["step"] for row in curve.rows] == list(range(1, tiny.steps + 1))
        assert [row["loss"] for row in curve.rows] == pytest.approx(list(losses))


def test_probes_fall_on_the_same_steps_whatever_the_chunks():
    assert list(probed(0, 100).nonzero()[0]) == [31, 63, 95]
    assert list(np.concatenate([probed(0, 40), probed(40, 60)])) == list(probed(0, 100))


def test_a_noise_scale_is_the_quotient_of_means_over_the_last_probes():
    early = [{"probes": 1, "grad_signal": 100.0, "grad_noise": 1.0}] * 80
    late = [{"probes": 1, "grad_signal": s, "grad_noise": 8.0} for s in (-1.0, 2.0, 3.0, 4.0)] * 5
    assert noise_scale(early + late, 32) == pytest.approx(8 / 2 * 32)
    assert noise_scale([{"probes": 1, "grad_signal": -1.0, "grad_noise": 8.0}], 32) is None
    assert noise_scale([{"loss": 1.0}], 32) is None


def test_a_planted_spike_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    rows = [{"loss": 3.0, "loss_max": 3.0 + 0.1 + 0.02 * rng.normal()} for _ in range(100)]
    assert spikes(rows) == 0
    rows[40]["loss_max"] = 4.0
    assert spikes(rows) == 1


def test_an_average_looks_back_on_its_share_of_the_run(tiny: RunSpec):
    """Power function average: step s of t weighs (s/t)^(1/a) - ((s-1)/t)^(1/a), nearly, whatever t is."""
    run = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, average=0.1))
    share = blends(run, 0, 2000).astype(np.float64)
    assert share[0] == 1
    weight = share * np.append(np.cumprod((1 - share)[::-1])[::-1][1:], 1)
    assert weight.sum() == pytest.approx(1)
    s = np.arange(1, 2001) / 2000
    np.testing.assert_allclose(np.cumsum(weight)[200::200], s[200::200] ** 10, atol=0.01)
