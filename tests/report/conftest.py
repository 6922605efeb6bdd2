"""Results folders made from planted laws, so that what a report says can be compared with what was put in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling.cost import at_width, count_params, flops_per_token
from scaling.plan import Analysis, Plan, Study, repeated, straight, trunks
from scaling.plan.plan import Planned
from scaling.record import Clock, Ledger, RunRecord, table
from scaling.record.files import commit_json
from scaling.report import findings, page, whatif
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

NOISE = 0.004  # standard deviation of ln L
ENTROPY = 1.7512  # of the source of facts, nats per token
LATE = 0.8  # of the exponent of N, where something is done wrong
CLEAN_SHARE = 0.7  # what a token of the corrupted text is worth
REPEATS = 6.0  # R_D of repeated text
SGD_SHARE = 0.4  # SGD learns from a token what the baseline learns from this much of one

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32, tied=True)
BASE = RunSpec(
    model=MODEL,
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=30, beta2=0.99),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=65_536),
    batch=8,
    steps=1,
)
WIDTHS, TOKENS = (8, 16, 32, 48, 64), (5e5, 1e6, 2e6, 4e6)
COMPARED = [at_width(MODEL, d) for d in (16, 32)]


def planted(planned: Planned) -> float:
    """The noiseless loss of a run, nats per token: a law whose terms depend on the group."""
    n, d = count_params(planned.run.model).matmul, float(planned.run.tokens)
    if planned.group == "facts":
        return ENTROPY + (n / 300) ** -0.7 + (d / 2e4) ** -0.75
    if planned.group == "no attention":
        return 2.4 + 0.3 * (n / 4e3) ** -0.5 + 0.2 * (d / 5e5) ** -0.5
    if planned.group == "SGD":
        d *= SGD_SHARE
    if planned.group == "late":  # its sizes gain less
        n = 1500 * (n / 1500) ** LATE
    if planned.group == "corrupted":
        d *= CLEAN_SHARE
    if unique := planned.run.data.unique_tokens:
        d = unique * (1 + REPEATS * (1 - np.exp(-(d / unique - 1) / REPEATS)))
    return 0.95 + (n / 1500) ** -0.38 + (d / 8e4) ** -0.46


def _study() -> Study:
    """The quickstart's shape: a grid, two algorithms, facts of known entropy, repeated seeds, one held-out run."""
    grid = trunks(BASE, [at_width(MODEL, d) for d in WIDTHS], TOKENS, group="grid")
    again = repeated(trunks(BASE, [MODEL], [1e6], group="grid"), [1, 2])
    sgd = replace(BASE, optim=replace(BASE.optim, name="sgd", peak_lr=0.2))
    bare = replace(BASE, model=replace(MODEL, attention="none"))
    no_attention = [replace(model, attention="none") for model in COMPARED]
    facts = replace(BASE, data=DataSpec(source="zipf-facts"))
    return Study(
        name="planted",
        question="What do model size, data, compute and algorithm each buy?",
        plan=grid
        + again
        + trunks(sgd, COMPARED, TOKENS[1:], group="SGD", role="compare")
        + trunks(bare, no_attention, TOKENS[1:], group="no attention", role="compare")
        + trunks(facts, [at_width(MODEL, d) for d in (8, 16, 32, 48)], TOKENS, group="facts", role="compare"),
        held_out=straight(BASE, [at_width(MODEL, 64)], [8e6], group="held-out", role="held_out"),
        analysis=Analysis(
            algorithms={"SGD": "the optimizer", "no attention": "the model"}, known_entropy="facts", bootstrap=60
        ),
    )


def record_of(planned: Planned, loss: float | None, reason: str = "") -> RunRecord:
    run, facts = planned.run, planned.run.data.source == "zipf-facts"
    speed = 4e5 / run.model.d_model
    return RunRecord(
        run=run, status="diverged" if reason else "finished", reason=reason, tokens=run.tokens,
        unique_tokens=run.data.unique_tokens or run.tokens, epochs=1.0, loss=loss,
        loss_se=None if loss is None else 0.006,
        bits_per_byte=None if loss is None or facts else loss / float(np.log(2)), entropy=ENTROPY if facts else None,
        clock=Clock(
            compile=2.5, train=run.tokens / speed, evaluate=0.2, steps=run.steps, tokens_per_second=speed,
            flops_per_second=speed * flops_per_token(run.model, "exact"),
        ),
        data={"source": run.data.source, "sha256": "5e1305f6" * 8, "python": "CPython 3.11.7"},
        machine={"device": "cpu", "python": "3.11.7", "jax": "0.10.2", "commit": "e4a4b9e0" * 5, "dirty": "no"},
    )  # fmt: skip


def _plant(folder: Path, asked: Study, *, noise: float = NOISE, diverged: str = "") -> Ledger:
    """Train nothing: every run of a study recorded with its planted loss, the held-out ones after their forecast."""
    ledger, rng = Ledger(folder), np.random.default_rng(4)
    commit_json(folder / "study.json", asked.to_json())

    def record(plan: Plan) -> None:
        for p in plan.runs:
            loss = None if p.role == "trunk" else planted(p) * float(np.exp(rng.normal() * noise))
            lost = diverged if p.role == "compare" and p.group == "SGD" and p.run.tokens > 3.9e6 else ""
            ledger.commit(record_of(p, None if lost else loss, lost))
        table.write(ledger)

    record(asked.plan)
    if asked.held_out.runs:
        findings.register(ledger)
        record(asked.held_out)
    return ledger


def _small(*, groups: tuple[str, ...] = (), **grid) -> Study:
    """A study of few runs; `groups` compare, and without `widths` nothing is fitted."""
    plan = Plan()
    if grid:
        plan += trunks(BASE, [at_width(MODEL, d) for d in grid["widths"]], grid["tokens"], group="grid")
    for i, group in enumerate(groups):
        base = replace(BASE, optim=replace(BASE.optim, peak_lr=0.01 * (i + 1)))
        plan += straight(base, [MODEL], [5e5, 1e6], group=group, role="compare")
    return Study(name="small", question="Is it enough?", plan=plan, analysis=Analysis(bootstrap=0))


@pytest.fixture(scope="session")
def plant():
    """plant(folder, study) -> the ledger of that folder, every run recorded with its planted loss."""
    return _plant


@pytest.fixture(scope="session")
def small():
    """small(widths=..., tokens=..., groups=...) -> a study of few runs."""
    return _small


@pytest.fixture(scope="session")
def planted_ledger(tmp_path_factory) -> Ledger:
    return _plant(tmp_path_factory.mktemp("planted"), _study(), diverged="the training loss was not finite at step 900")


@pytest.fixture(scope="session")
def found(planted_ledger) -> findings.Findings:
    return findings.find(planted_ledger)


@pytest.fixture(scope="session")
def planted_html(found, planted_ledger) -> str:
    """The page of the planted study, with a panel for two of the three ways to count N: each takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(whatif.COUNTED, "n_params_kaplan")
        return page.write(found, planted_ledger).read_text(encoding="utf-8")
