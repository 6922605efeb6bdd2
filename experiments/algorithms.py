"""What do optimizer, schedule, attention, parametrization and coarse weights buy, and does it last with scale?

scaling run algorithms      272 runs on 55 trunks, 7e13 FLOPs, half an hour on 2 shared cores
Result: at equal loss Muon is worth 1.87 times the compute of AdamW [1.77, 1.98] (1.48 [1.36, 1.60] with its own FLOPs),
a GRU in the place of attention 1.54 [1.44, 1.64] and a window of eight positions 1.34 [1.25, 1.43], a gain that shrinks
with scale; rates by depth 1.13 [1.06, 1.20] where depth grows. SGD is worth 0.93 [0.87, 1.00], a cosine 0.74, a
constant rate 0.73, schedule-free 0.59, one head 0.67, one rate for all widths 0.88, weights of 4 bits 0.73 and of 2
bits 0.21; the mean of all positions 0.11, no attention less than 0.017. 1-sqrt and linear cooldowns are not told apart,
and neither is the null comparison, 0.99 [0.92, 1.05]. Two forecasts of the baseline were 1.2 and 3.6 % too low, inside
their intervals.

Each algorithm has the learning rate that was best of five at the two smaller widths (algorithms_tuning.py), so the
largest width also asks how far a rate carries. `null` is the baseline again, with another seed: what is found there is
what noise finds. `--size gpu` and `--size pod` take these rates, moved by the written rule; how far off they are there
`scaling tune algorithms --size gpu --group NAME` tells. gpu wants a text of 70 MB or more, named by
`--set data.source=text:PATH`, pod 2e10 tokens of any vocabulary of 32,768, `--set data.source=tokens:PATH`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scaling.cost import at_width
from scaling.plan import Analysis, Plan, Rule, Study, repeated, straight, trunks
from scaling.plan.plan import Role
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

# Of each algorithm what it changes in words, its rate, and the fields of model and optimizer that are not the
# baseline's: AdamW, a linear cooldown after a constant rate, heads of a fixed size, rates by width, float32 weights.
ALGORITHMS: dict[str, tuple[str, float, dict[str, Any], dict[str, Any]]] = {
    "baseline": ("", 5e-3, {}, {}),
    "SGD": ("gradient descent with momentum in place of AdamW", 0.1, {}, {"name": "sgd"}),
    "Muon": ("orthogonalised momentum for the blocks' matrices", 2e-2, {}, {"name": "muon"}),
    "schedule-free": (
        "averaged iterates in place of a decay", 2e-2, {}, {"name": "schedule_free", "schedule": "constant"},
    ),
    "constant": ("a rate that never falls", 5e-3, {}, {"schedule": "constant"}),
    "cosine": ("a cosine over the whole run", 1e-2, {}, {"schedule": "cosine"}),
    "linear": ("a linear fall over the whole run", 1e-2, {}, {"schedule": "linear"}),
    "1-sqrt": ("a cooldown as 1 - sqrt in place of a linear one", 5e-3, {}, {"cooldown": "sqrt"}),
    "no attention": ("each token predicted from the last one alone", 1e-2, {"attention": "none"}, {}),
    "mean": ("the mean of all earlier values in place of attention", 5e-3, {"attention": "mean"}, {}),
    "window": ("eight positions side by side through one matrix", 1e-2, {"attention": "window", "window": 8}, {}),
    "GRU": ("a recurrence in place of attention", 5e-3, {"attention": "recurrent"}, {}),
    "one head": ("one head of the whole width", 5e-3, {"d_head": 4096}, {}),
    "standard": ("one rate for all widths", 5e-3, {}, {"parametrization": "standard"}),
    "deep": ("", 5e-3, {}, {}),
    "complete": ("rates by depth, too, where depth grows with width", 5e-3, {}, {"parametrization": "complete"}),
    "4 bits": ("blocks' matrices rounded to 4 bits", 5e-3, {"weight_bits": 4}, {}),
    "2 bits": ("blocks' matrices rounded to 2 bits", 1e-2, {"weight_bits": 2}, {}),
}  # fmt: skip

# The tuned baseline, which the rule moves to the larger sizes. 256 tokens a step give every run about 1,000 steps.
TUNED = RunSpec(
    model=ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32),
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, cooldown_steps=781, beta2=0.99),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144),
    batch=8,
    steps=3906,
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """One machine's worth of the question."""

    base: RunSpec  # model, data and evaluation of the smallest run
    rule: Rule | None  # None: batch and rates are those of TUNED
    fitted: Sequence[int]  # widths of the baseline, for the law
    widths: Sequence[int]  # compared
    deep: Sequence[int]  # compared where depth grows with width
    width_of_layer: int  # of those, d_model / n_layers
    tokens: Sequence[float]  # the baseline's; the last one is not compared
    ahead: tuple[int, Sequence[float]]  # width and tokens of the runs that are forecast
    without: Sequence[str] = ()


def runs(size: Size, name: str, widths: Sequence[int], tokens: Sequence[float], role: Role = "compare") -> Plan:
    _, rate, of_model, of_optim = ALGORITHMS[name]
    tuned = replace(TUNED, optim=replace(TUNED.optim, peak_lr=rate, **of_optim))
    if tuned.optim.schedule != "wsd":
        tuned = replace(tuned, optim=replace(tuned.optim, cooldown_steps=0))
    plan = Plan()
    for width in widths:
        model = at_width(replace(size.base.model, **of_model), width)
        if name in ("deep", "complete"):
            model = replace(model, n_layers=width // size.width_of_layer)
        run = replace(size.base, model=model, optim=tuned.optim)
        if size.rule:
            rule = replace(size.rule, lr_batch_exponent=1.0) if tuned.optim.name == "sgd" else size.rule
            run = rule.apply(tuned, run, max(size.tokens), min(size.tokens))
        make = trunks if run.optim.schedule == "wsd" else straight
        plan += make(run, [model], tokens, group=name, role=role)
    return plan


def named(plan: Plan, group: str) -> Plan:
    return Plan(tuple(replace(p, group=group, role="trunk" if p.role == "trunk" else "compare") for p in plan.runs))


def study(name: str, size: Size) -> Study:
    shorter = size.tokens[:-1]
    again = runs(size, "baseline", size.widths, shorter, "fitted")
    plan = runs(size, "baseline", size.fitted, size.tokens, "fitted") + repeated(again, seeds=[1, 2])
    plan += named(repeated(again, seeds=[3]), "null")
    asked = {"null": "the baseline again, with another seed"}
    for group, (words, *_) in ALGORITHMS.items():
        if group != "baseline" and group not in size.without:
            plan += runs(size, group, size.deep if group in ("deep", "complete") else size.widths, shorter)
            asked |= {group: words} if words else {}
    width, tokens = size.ahead
    ahead = runs(size, "baseline", [width], tokens, "held_out")
    return Study(
        name=name,
        question="What do optimizer, schedule, attention, parametrization and coarse weights buy, and does it last?",
        plan=plan,
        held_out=Plan(tuple(replace(p, group="held-out") for p in ahead.runs)),
        analysis=Analysis(algorithms=asked, against={"complete": "deep"}),
    )


LAPTOP = Size(
    base=TUNED, rule=None, fitted=(8, 16, 24, 32, 48, 64), widths=(16, 32, 64), deep=(16, 24, 32), width_of_layer=4,
    tokens=(2.5e5, 5e5, 1e6, 2e6, 4e6), ahead=(96, (2e6, 6e6)),
)  # fmt: skip
GPU = Size(
    base=replace(
        TUNED, data=DataSpec(source="text:corpus.txt"), eval=EvalSpec(tokens=1_048_576),
        model=ModelSpec(n_layers=4, d_model=64, d_ff=256, d_head=32, vocab_size=256, context=256,
                        compute_dtype="bfloat16"),
    ),
    rule=Rule(batch_exponent=0.6), fitted=(32, 64, 96, 128, 192, 256, 384), widths=(64, 128, 256), deep=(64, 96, 128),
    width_of_layer=8, tokens=(4e6, 8e6, 1.6e7, 3.2e7, 6.4e7), ahead=(512, (3.2e7, 6.4e7)),
)  # fmt: skip
POD = Size(
    base=replace(
        TUNED, data=DataSpec(source="tokens:corpus"), eval=EvalSpec(tokens=8_388_608),
        model=ModelSpec(n_layers=12, d_model=384, d_ff=1536, d_head=64, vocab_size=32_768, context=2048,
                        compute_dtype="bfloat16"),
    ),
    rule=Rule(batch_exponent=0.75), fitted=(256, 384, 512, 768, 1024, 1536), widths=(384, 768, 1536),
    deep=(512, 768, 1024), width_of_layer=32, tokens=(1.25e9, 2.5e9, 5e9, 1e10, 2e10), ahead=(2048, (1e10, 2e10)),
    without=("GRU",),  # 2,048 steps one after another
)  # fmt: skip
STUDIES = {
    "laptop": study("algorithms", LAPTOP), "gpu": study("algorithms-gpu", GPU), "pod": study("algorithms-pod", POD)
}  # fmt: skip
