import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.spec import (
    Branch,
    DataSpec,
    EvalSpec,
    ModelSpec,
    OptimSpec,
    Refusal,
    RunSpec,
    faults,
    from_json,
    override,
    refuse_faulty,
    to_json,
)


def test_equal_specs_have_equal_ids_in_every_process(tiny: RunSpec):
    code = (
        "import json, sys; from scaling.spec import RunSpec, from_json; "
        "print(from_json(RunSpec, json.load(sys.stdin)).id, end='')"
    )
    text = json.dumps(dict(reversed(to_json(tiny).items())))
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code], input=text, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        )
        assert run.stdout == tiny.id, run.stderr


def test_every_field_that_moves_the_curve_moves_the_id(tiny: RunSpec):
    changed = [
        dataclasses.replace(tiny, seed=1),
        dataclasses.replace(tiny, steps=21),
        dataclasses.replace(tiny, batch=9),
        dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, beta2=0.9)),
        dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, tied=True)),
        *(
            dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, **{name: value}))
            for name, value in {
                "unique_tokens": 96,
                "corrupted": 0.1,
                "duplicated": 0.1,
                "duplicate_tokens": 12,
                "max_epochs": 2,
            }.items()
        ),
        dataclasses.replace(tiny, eval=dataclasses.replace(tiny.eval, source="zipf-facts:noise=0.2")),
        dataclasses.replace(tiny, branch=Branch(trunk="a" * 12, step=10)),
        dataclasses.replace(tiny, branch=Branch(trunk="a" * 12, step=11)),
    ]
    assert len({run.id for run in [tiny, *changed]}) == 1 + len(changed)


def test_a_default_once_published_never_changes():
    """Ids leave defaults out: a changed default would give an old id to a new curve. Add fields; never edit these."""
    defaults: dict[str, dict] = {
        kind.__name__: {
            field.name: field.default for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING
        }
        for kind in (ModelSpec, OptimSpec, DataSpec, EvalSpec, RunSpec)
    }
    published = {
        "ModelSpec": {
            "d_head": 16, "attention": "causal", "mlp": "gelu", "positions": "rotary", "tied": False,
            "compute_dtype": "float32", "n_kv_heads": 0, "window": 0, "weight_bits": 32,
        },
        "OptimSpec": {
            "name": "adamw", "schedule": "wsd", "warmup_steps": 0, "cooldown_steps": 0, "final_lr": 0.0, "beta1": 0.9,
            "beta2": 0.95, "epsilon": 1e-8, "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 1.0,
            "parametrization": "width", "base_width": 16, "cooldown": "linear", "horizon_steps": 0, "base_layers": 2,
            "average": 0.0,
        },
        "DataSpec": {
            "seed": 0, "max_epochs": 1, "unique_tokens": 0, "corrupted": 0.0, "duplicated": 0.0, "duplicate_tokens": 0,
        },
        "EvalSpec": {"source": ""},
        "RunSpec": {"seed": 0, "branch": None},
    }  # fmt: skip
    for kind, fields in published.items():
        assert {name: defaults[kind][name] for name in fields} == fields


def test_a_published_run_keeps_its_id():
    """Specs of results that are committed, written before some fields were there."""
    studies = [*Path(__file__).parents[1].glob("results/reference/*/study.json")]
    assert studies
    for study in studies:
        for planned in json.loads(study.read_text())["plan"]:
            assert from_json(RunSpec, planned["run"]).id == planned["id"]


def test_a_spec_survives_json(tiny: RunSpec):
    branch = dataclasses.replace(tiny, branch=Branch(trunk="0" * 12, step=16))
    for run in (tiny, branch):
        assert from_json(RunSpec, json.loads(json.dumps(to_json(run)))) == run


def test_json_with_unknown_and_missing_names_is_refused_whole(tiny: RunSpec):
    values = to_json(tiny)
    values["model"] = {"n_layers": 2, "d_modle": 16}
    with pytest.raises(Refusal) as refused:
        from_json(RunSpec, values)
    assert len(refused.value.faults) == 5
    assert any("d_modle" in line and "did you mean d_model?" in line for line in refused.value.faults)


def test_an_override_takes_the_type_of_its_field(tiny: RunSpec):
    run = override(tiny, {"optim.peak_lr": "1", "model.tied": "true", "steps": "30", "model.mlp": "swiglu"})
    assert (run.optim.peak_lr, run.model.tied, run.steps, run.model.mlp) == (1.0, True, 30, "swiglu")
    assert isinstance(run.optim.peak_lr, float)


def test_every_bad_override_is_named_at_once(tiny: RunSpec):
    with pytest.raises(Refusal) as refused:
        override(tiny, {"optim.peek_lr": "1", "steps": "many", "model.mlp": "relu", "model": "3", "batch.x": "1"})
    lines = refused.value.faults
    assert len(lines) == 5
    assert "did you mean peak_lr?" in lines[0]
    assert "whole number" in lines[1]
    assert "gelu, swiglu" in lines[2]


def test_every_fault_of_a_run_is_named_at_once(tiny: RunSpec):
    bad = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, d_model=20, vocab_size=1),
        optim=dataclasses.replace(tiny.optim, peak_lr=-1.0, beta2=1.0, warmup_steps=30),
        batch=0,
    )
    lines = faults(bad)
    for name in ("model.vocab_size = 1", "optim.peak_lr = -1", "optim.beta2 = 1", "steps = 20", "batch = 0"):
        assert sum(line.startswith(name) for line in lines) == 1, (name, lines)
    with pytest.raises(Refusal) as refused:
        refuse_faulty([bad, bad, tiny])
    assert list(refused.value.faults) == lines


@pytest.mark.parametrize(
    "where, value",
    [("steps", 2.5), ("steps", True), ("batch", "8"), ("seed", None), ("model", None), ("optim", {"peak_lr": 1.0})],
)
def test_an_ill_typed_field_is_a_fault_and_not_a_crash(tiny: RunSpec, where: str, value: object):
    assert [line for line in faults(dataclasses.replace(tiny, **{where: value})) if line.startswith(where)]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1e-3"])
def test_a_learning_rate_is_a_finite_number(tiny: RunSpec, value: object):
    bad = dataclasses.replace(tiny, optim=dataclasses.replace(tiny.optim, peak_lr=value))  # type: ignore[arg-type]
    assert faults(bad) == [f"optim.peak_lr = {value!r}: must be a finite number"]


def test_a_head_size_that_does_not_divide_the_width_names_the_widths_near(tiny: RunSpec):
    (line,) = faults(dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, d_model=20)))
    assert "multiple of model.d_head = 8" in line and "[16, 24]" in line


def test_sound_specs_have_no_faults(tiny: RunSpec):
    assert faults(tiny) == []
    assert faults(dataclasses.replace(tiny, branch=Branch(trunk="0" * 12, step=16))) == []


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("model", {"attention": "window"}, "model.window = 0"),
        ("model", {"window": 3}, "model.window = 3: only attention = window"),
        ("model", {"attention": "mean", "n_kv_heads": 1}, "model.n_kv_heads = 1: only causal"),
        ("model", {"d_model": 24, "d_head": 8, "n_kv_heads": 2}, "must divide the 3 heads"),
        ("model", {"weight_bits": 1}, "model.weight_bits = 1"),
        ("optim", {"horizon_steps": 40}, "optim.horizon_steps = 40: only cosine and linear"),
        ("optim", {"schedule": "cosine", "cooldown_steps": 0, "cooldown": "sqrt"}, "optim.cooldown = sqrt: only"),
        ("optim", {"average": 1.5}, "optim.average = 1.5"),
        ("optim", {"name": "schedule_free"}, "optim.schedule = wsd: schedule_free"),
        ("optim", {"name": "schedule_free", "average": 0.1}, "optim.average = 0.1"),
        ("data", {"duplicated": 0.1}, "data.duplicated = 0.1: needs data.duplicate_tokens"),
        ("data", {"duplicate_tokens": 12}, "data.duplicate_tokens = 12: needs data.duplicated"),
        ("data", {"duplicated": 1e-9, "duplicate_tokens": 12}, "data.duplicated = 1e-09: is a share"),
        ("data", {"duplicated": 1.0, "duplicate_tokens": 12}, "to train on few tokens alone say data.unique_tokens"),
        ("data", {"unique_tokens": 11}, "data.unique_tokens = 11: must be 0, or a window of model.context = 12"),
        ("data", {"unique_tokens": 24, "duplicated": 0.1, "duplicate_tokens": 24}, "leave no other window"),
        ("data", {"corrupted": 1.1}, "data.corrupted = 1.1: is a share"),
        ("eval", {"source": "zipf-facts"}, "eval.source = 'zipf-facts': is the source trained on"),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(tiny: RunSpec, part: str, changes: dict, said: str):
    run = dataclasses.replace(tiny, **{part: dataclasses.replace(getattr(tiny, part), **changes)})
    assert [line for line in faults(run) if said in line], faults(run)
