"""Which learning rate does each algorithm of the quickstart want, with the same number of tries?

scaling run quickstart_tuning      30 runs, 3.8e12 FLOPs, 1 minute on 2 cores
Result: AdamW 0.005, SGD 0.1, no attention 0.01, the least mean loss over both widths; runs.csv has all thirty. None is
at the edge of its five, and the best rate is the same at both widths within a factor of two.
"""

from dataclasses import replace

from scaling.cost import at_width
from scaling.plan import Plan, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
WIDTHS = (16, 32)
TOKENS = 1e6

# Five learning rates an algorithm, in steps of two; the width parametrization carries each to both widths.
TRIES = {
    "AdamW": (OptimSpec(peak_lr=1.0, warmup_steps=50, beta2=0.99), "causal", (0.00125, 0.0025, 0.005, 0.01, 0.02)),
    "SGD": (OptimSpec(name="sgd", peak_lr=1.0, warmup_steps=50), "causal", (0.05, 0.1, 0.2, 0.4, 0.8)),
    "no attention": (OptimSpec(peak_lr=1.0, warmup_steps=50, beta2=0.99), "none", (0.00125, 0.0025, 0.005, 0.01, 0.02)),
}


def tries(group: str) -> Plan:
    optim, attention, rates = TRIES[group]
    plan = Plan()
    for rate in rates:
        base = RunSpec(
            model=replace(MODEL, attention=attention),
            optim=replace(optim, peak_lr=rate, cooldown_steps=1),
            data=DataSpec(source="bytes:stdlib"),
            eval=EvalSpec(tokens=262_144),
            batch=8,
            steps=100,
        )
        plan += straight(base, [at_width(base.model, d) for d in WIDTHS], [TOKENS], group=group, role="compare")
    return plan


STUDY = Study(
    name="quickstart_tuning",
    question="Which learning rate does each algorithm of the quickstart want, with the same number of tries?",
    plan=tries("AdamW") + tries("SGD") + tries("no attention"),
)
