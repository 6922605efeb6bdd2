"""`scaling bench`, from a shape to the table that plans are timed by."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from scaling import machine
from scaling.cli import bench, main
from scaling.cost import count_params, flops_per_token
from scaling.launch.bench import Found
from scaling.spec import RunSpec, refuse_faulty

STUDY = """
from dataclasses import replace
from scaling.plan import Analysis, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=8, d_ff=8, d_head=8, vocab_size=192, context=12)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=1e-2, warmup_steps=2, cooldown_steps=1), data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=1200), batch=8, steps=1,
)
STUDY = Study(
    name="tiny", question="How long?", plan=straight(BASE, [MODEL], [2000, 4000], group="grid"),
    analysis=Analysis(laws=("chinchilla",), bootstrap=0),
)
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny.py").write_text(STUDY)
    return str(tmp_path / "tiny.py")


@pytest.mark.slow
def test_a_shape_is_measured_and_plans_are_timed_by_it(study: str, capfd: pytest.CaptureFixture):
    assert main(["bench", study, "--workers", "2", "--json"]) == 0
    out, err = capfd.readouterr()
    (shape,) = json.loads(out)["shapes"]
    assert "tokens/s a worker" in err and "1/1" in err
    (speed,) = machine.measured()[0].speeds
    flops = flops_per_token(speed.shape.model, "exact")
    assert shape["tokens_per_second"] == pytest.approx(1 / speed.train)
    assert shape["mfu"] == pytest.approx(flops / speed.train / shape["peak_flops"]) and 0 < shape["mfu"] < 1
    assert shape["peak_source"] == "measured" and shape["n_params"] == count_params(speed.shape.model).matmul
    assert speed.workers == 2 and speed.memory > 1000 and min(shape["calls"]) >= 3
    assert (
        0 < speed.compile_cached < speed.compile_cold and speed.per_run > 0 and 0 < speed.evaluate < 100 * speed.train
    )
    assert not (machine.programs_folder()).exists()  # cold stays cold: it compiled elsewhere
    assert main(["plan", study, "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["seconds_from"].endswith("measured with 2 workers")
    for planned in plan["plan"]:
        run = planned["run"]
        tokens = run["steps"] * run["batch"] * run["model"]["context"]
        estimated = speed.per_run + tokens * speed.train + 1200 * speed.evaluate
        assert plan["seconds_by_run"][planned["id"]] == pytest.approx(estimated, abs=1e-3)


def test_what_cannot_be_measured_is_refused_at_once(capsys: pytest.CaptureFixture):
    assert main(["bench", "--workers", "0", "--set", "batch=4"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "--workers = 0" in lines[0] and "--set" in lines[1]
    assert main(["bench", "no such"]) == 2


def test_one_run_stands_for_all_of_its_shape(tiny: RunSpec):
    others = [replace(tiny, seed=3), replace(tiny, steps=50), replace(tiny, optim=replace(tiny.optim, peak_lr=1.0))]
    slower = replace(tiny, optim=replace(tiny.optim, average=0.1))
    assert bench.distinct([tiny, *others, slower, replace(tiny, batch=9)]) == [
        replace(tiny, steps=50), slower, replace(tiny, batch=9)
    ]  # fmt: skip


def test_the_standard_shapes_are_sound_and_as_large_as_they_are_called(tmp_path: Path):
    runs = bench.standard(True, tmp_path)
    refuse_faulty(runs)
    sizes = [count_params(run.model).kaplan for run in runs]
    assert [f"{size:.0e}" for size in sizes[2:6]] == ["9e+03", "1e+05", "1e+06", "5e+06"]
    totals = [count_params(run.model).total for run in runs[6:]]
    assert totals == [pytest.approx(124e6, rel=0.01), pytest.approx(354e6, rel=0.01)]  # arXiv:2005.14165, GPT-2's
    assert len(bench.standard(False, tmp_path)) == 6


def found(run: RunSpec, **how) -> Found:
    values = dict(
        train=2e-6,
        spread=0.01,
        evaluate=1e-6,
        compile_cold=5.0,
        compile_cached=1.0,
        per_run=0.2,
        calls=7,
        memory=3_000_000,
        opening=0.1,
        peak=1e11,
        peak_source="measured",
        ceiling=1e11,
        device="cpu",
        devices=1,
    )
    values |= how  # fmt: skip
    return Found(run=run, by_worker=(values, values | {"train": 4e-6}))


def test_rates_of_workers_add_up_and_mfu_is_by_worker(tiny: RunSpec):
    rates = bench.rates(found(tiny))
    flops = flops_per_token(tiny.model, "exact")
    assert rates["tokens_per_second_all"] == pytest.approx(5e5 + 2.5e5)
    assert rates["tokens_per_second"] == pytest.approx(1 / 3e-6)  # of the median second a token
    assert rates["mfu"] == pytest.approx(flops / 3e-6 / 1e11)


def test_the_ceiling_is_named_and_failures_have_their_reason(tiny: RunSpec):
    console = Console(width=200, file=io.StringIO())
    bench.show([found(tiny), Found(run=tiny, by_worker=(), reason="no memory [b]")], 2, console)
    bench.show([found(tiny, peak=9.9e14, peak_source="documented")], 1, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "MFU: of the measured ceiling, since no peak is documented" in text
    assert "MFU: of the documented dense peak, 9.9×10¹⁴ FLOP/s" in text
    assert "no memory [b]" in text and "5 s" in text
