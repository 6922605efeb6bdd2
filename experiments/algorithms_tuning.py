"""Which learning rate does each algorithm want, with the same number of tries?

scaling run algorithms_tuning      180 runs, 2.6e13 FLOPs, 9 minutes on 2 cores
Result: 0.005 for AdamW under a cooldown of either shape or none, 0.01 where the rate falls all the way (cosine,
linear), 0.1 for SGD, 0.02 for Muon and schedule-free; 0.005 or 0.01 for every way in which tokens meet and every width
of weights; 0.005 for each parametrization: of the least mean ln loss over both widths. runs.csv has all 180. No mean is
least at the edge of its five; at one width alone one is (schedule-free, 0.04 at width 32).

Five rates in steps of two, so each is known within a factor of 1.4. Only the rate is tuned: a longer warm-up, another
momentum or second moment may serve some of them better.
"""

from dataclasses import replace
from typing import Any

from scaling.cost import at_width
from scaling.plan import Plan, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

QUESTION = "Which learning rate does each algorithm want, with the same number of tries?"
BASE = RunSpec(
    model=ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32),
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144),
    batch=8,
    steps=1,
)
TOKENS = 1e6  # 3,906 steps

# Of each algorithm the fields of model and optimizer that are not the baseline's, and the middle one of its rates.
ALGORITHMS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "baseline": ({}, {}, 5e-3),
    "SGD": ({}, {"name": "sgd"}, 0.1),
    "Muon": ({}, {"name": "muon"}, 1e-2),
    "schedule-free": ({}, {"name": "schedule_free", "schedule": "constant"}, 1e-2),
    "constant": ({}, {"schedule": "constant"}, 5e-3),
    "cosine": ({}, {"schedule": "cosine"}, 5e-3),
    "linear": ({}, {"schedule": "linear"}, 5e-3),
    "1-sqrt": ({}, {"cooldown": "sqrt"}, 5e-3),
    "no attention": ({"attention": "none"}, {}, 5e-3),
    "mean": ({"attention": "mean"}, {}, 5e-3),
    "window": ({"attention": "window", "window": 8}, {}, 5e-3),
    "GRU": ({"attention": "recurrent"}, {}, 5e-3),
    "one head": ({"d_head": 64}, {}, 5e-3),
    "standard": ({}, {"parametrization": "standard"}, 5e-3),
    "deep": ({}, {}, 5e-3),
    "complete": ({}, {"parametrization": "complete"}, 5e-3),
    "4 bits": ({"weight_bits": 4}, {}, 5e-3),
    "2 bits": ({"weight_bits": 2}, {}, 5e-3),
}
FACTORS = (1 / 4, 1 / 2, 1, 2, 4)
DEEP = {16: 4, 24: 6}  # width -> layers, of deep and complete; the other algorithms have two layers at both widths


def tries(group: str) -> Plan:
    model, optim, middle = ALGORITHMS[group]
    shaped = replace(BASE.model, **model)
    models = [at_width(shaped, d) for d in (16, 32)]
    if group in ("deep", "complete"):
        models = [replace(at_width(shaped, d), n_layers=layers) for d, layers in DEEP.items()]
    plan = Plan()
    for factor in FACTORS:
        tried = replace(BASE, optim=replace(BASE.optim, **optim, peak_lr=factor * middle))
        plan += straight(tried, models, [TOKENS], group=group, role="compare")
    return plan


PLANS = [tries(group) for group in ALGORITHMS]
STUDY = Study(name="algorithms_tuning", question=QUESTION, plan=sum(PLANS, Plan()))
