"""What the rows of a curve add up to."""

import dataclasses
import json

import numpy as np
import pytest

import scaling.train.curve as curve_module
from scaling.record.files import folder_of
from scaling.spec import RunSpec
from scaling.train.curve import Curve, noise_scale, probed, spikes
from scaling.train.optim import blends
from scaling.train.step import StepMetrics


def metrics(losses: np.ndarray) -> StepMetrics:
    return StepMetrics(losses, losses, losses, np.nan * losses, np.nan * losses)


@pytest.fixture
def long(tiny: RunSpec) -> RunSpec:
    """1000 steps: ten a row."""
    return dataclasses.replace(tiny, steps=1000)


@pytest.mark.parametrize("chunk", [1000, 64, 7, 1])
def test_a_row_is_the_same_steps_whatever_the_chunks(long: RunSpec, tmp_path, chunk: int):
    losses = np.linspace(5, 4, long.steps)
    with Curve(tmp_path / "curve.jsonl", long, [], resumed_at=0) as curve:
        for start in range(0, long.steps, chunk):
            part = losses[start : start + chunk]
            curve.add(start, start + len(part), metrics(part))
    assert [row["step"] for row in curve.rows] == list(range(10, 1001, 10))
    np.testing.assert_allclose([row["loss"] for row in curve.rows], losses.reshape(100, 10).mean(1))
    assert [row["loss_max"] for row in curve.rows] == list(losses[::10])


def test_a_run_that_stops_within_a_row_goes_on_with_it(long: RunSpec, tmp_path):
    losses, path = np.linspace(5, 4, long.steps), tmp_path / "curve.jsonl"
    with Curve(tmp_path / "whole.jsonl", long, [], resumed_at=0) as curve:
        curve.add(0, 1000, metrics(losses))
    with Curve(path, long, [], resumed_at=0) as curve:
        curve.add(0, 333, metrics(losses[:333]))
        curve.mark(333)
        curve.add(333, 335, metrics(losses[333:335]))  # lost with its process
    before = [json.loads(line) for line in path.read_text().splitlines()]
    with Curve(path, long, before, resumed_at=333) as curve:
        curve.add(333, 1000, metrics(losses[333:]))
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_run_goes_on_with_a_row_from_each_checkpoint_that_is_kept(long: RunSpec, tmp_path):
    """The last two, and those of branches."""
    losses, path = np.linspace(5, 4, long.steps), tmp_path / "curve.jsonl"
    marks = [105, 222, 333, 338]
    with Curve(path, long, [], resumed_at=0, kept=[105]) as curve:
        for start, end in zip([0, *marks], marks, strict=False):
            curve.add(start, end, metrics(losses[start:end]))
            curve.mark(end)
    before = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in before if "open" in line] == [105, 333, 338]
    for step in (105, 333, 338):
        with Curve(path, long, before, resumed_at=step) as curve:
            curve.add(step, 1000, metrics(losses[step:]))
        assert [row["loss_max"] for row in curve.rows] == list(losses[::10])


def test_marks_of_long_intervals_do_not_fill_the_disk(tiny: RunSpec, tmp_path, monkeypatch: pytest.MonkeyPatch):
    run, path = dataclasses.replace(tiny, steps=100_000), tmp_path / "curve.jsonl"
    monkeypatch.setattr(curve_module, "MOST_MARKED", 20_000)
    with Curve(path, run, [], resumed_at=0) as curve:
        for start in range(0, 900, 20):
            curve.add(start, start + 20, metrics(np.ones(20)))
            curve.mark(start + 20)
            assert path.stat().st_size < 20_000 + 3 * 900 * 60
    before = [json.loads(line) for line in path.read_text().splitlines()]
    with Curve(path, run, before, resumed_at=880) as curve:
        curve.add(880, 1000, metrics(np.ones(120)))
    rows = [*map(json.loads, path.read_text().splitlines())]
    assert [row["step"] for row in rows if "open" not in row] == [1000]


def test_a_diverging_run_keeps_the_steps_before(long: RunSpec, tmp_path):
    losses = np.array([5.0] * 23 + [4.0, np.nan, np.nan])
    with Curve(tmp_path / "curve.jsonl", long, [], resumed_at=0) as curve:
        curve.add(0, 26, metrics(losses))
    assert curve.diverged_at == 25 and curve.rows[-1]["step"] == 24 and curve.rows[-1]["loss"] == 4.75


def test_probes_fall_on_the_same_steps_whatever_the_chunks():
    assert list(probed(0, 100).nonzero()[0]) == [31, 63, 95]
    assert list(np.concatenate([probed(0, 40), probed(40, 60)])) == list(probed(0, 100))


def test_a_noise_scale_is_the_quotient_of_means_over_the_later_half(long: RunSpec):
    early = [{"step": 10 * i, "probes": 1, "grad_signal": 100.0, "grad_noise": 1.0} for i in range(1, 51)]
    late = [
        {"step": 500 + 10 * i, "probes": 1, "grad_signal": s, "grad_noise": 8.0}
        for i, s in enumerate((-1.0, 2.0, 3.0, 4.0) * 5, start=1)
    ]
    assert noise_scale(early + late, long) == pytest.approx(8 / 2 * 12)
    assert noise_scale([{"step": 900, "probes": 1, "grad_signal": -1.0, "grad_noise": 8.0}], long) is None
    assert noise_scale([{"step": 900, "loss": 1.0}], long) is None


def test_a_planted_spike_is_found_and_neither_noise_nor_the_first_descent_is(long: RunSpec):
    rng = np.random.default_rng(0)
    rows = [{"step": 10 * i, "loss": 3.0, "loss_max": 3.1 + 0.02 * rng.normal()} for i in range(1, 101)]
    rows[0] |= {"loss": 5.0, "loss_max": 5.5}
    assert spikes(rows, long) == 0
    rows[40]["loss_max"] = 4.0
    assert spikes(rows, long) == 1


def test_an_average_looks_back_on_its_share_of_the_run(tiny: RunSpec):
    """Power function average: step s of t weighs (s/t)^(1/a) - ((s-1)/t)^(1/a), nearly, whatever t is."""
    run = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, average=0.1))
    share = blends(run, 0, 2000).astype(np.float64)
    assert share[0] == 1
    weight = share * np.append(np.cumprod((1 - share)[::-1])[::-1][1:], 1)
    assert weight.sum() == pytest.approx(1)
    s = np.arange(1, 2001) / 2000
    np.testing.assert_allclose(np.cumsum(weight)[200::200], s[200::200] ** 10, atol=0.01)


def test_in_a_bucket_a_mark_puts_down_the_whole_curve(long: RunSpec, bucket):
    path = folder_of("gs://bucket/study") / "metrics.jsonl"
    with Curve(path, long, [], resumed_at=0) as curve:
        curve.add(0, 25, metrics(np.full(25, 5.0)))
        assert not path.read_bytes(), "nothing can be appended there"
        curve.mark(25)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25] and [*map(set, lines)][-1] == {"step", "open"}
