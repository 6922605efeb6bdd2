"""At this machine's scale, what do model size, data, compute and algorithm each buy?

scaling run quickstart      64 runs on 16 trunks, 1.4e13 FLOPs, 2.5 minutes on 2 cores
Result: at the best split of the largest fitted compute, twice the parameters buy 0.07 nats [0.04, 0.09], twice the
tokens 0.06 [0.05, 0.08], twice the compute 0.08 [0.06, 0.09]; gradient descent with momentum is worth 0.93 times the
compute of AdamW [0.88, 0.97]; without attention the losses of AdamW are out of reach. The forecast of a run of 3.6
times the largest fitted compute was 4.7 % too low, inside its interval; the laws disagree by 7 % there.
"""

from dataclasses import replace

from scaling.cost import at_width
from scaling.plan import Analysis, Plan, Study, repeated, straight, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

# Real text as bytes, in windows of 32: longer ones sit on a plateau until copying is learned, and give no law here.
# Learning rates are the best of five for each algorithm (quickstart_tuning.py); 256 tokens a step give every run
# about 1,000 steps or more.
MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
ADAMW = OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99)
BASE = RunSpec(
    model=MODEL, optim=ADAMW, data=DataSpec(source="bytes:stdlib"), eval=EvalSpec(tokens=262_144), batch=8, steps=1
)
TOKENS = [2.5e5, 5e5, 1e6, 2e6, 4e6]
GRID = trunks(BASE, [at_width(MODEL, d) for d in (8, 16, 24, 32, 48)], TOKENS, group="AdamW")
GRID += trunks(BASE, [at_width(MODEL, 64)], TOKENS[:4], group="AdamW")
SEEDS = repeated(trunks(BASE, [MODEL], TOKENS[:3], group="AdamW"), seeds=[1, 2])


def algorithm(group: str, base: RunSpec) -> Plan:
    return trunks(base, [at_width(base.model, d) for d in (16, 32)], TOKENS[:4], group=group, role="compare")


SGD = replace(BASE, optim=OptimSpec(name="sgd", peak_lr=0.1, warmup_steps=50))
BLIND = replace(BASE, model=replace(MODEL, attention="none"), optim=replace(ADAMW, peak_lr=1e-2))

# A synthetic source whose entropy is known exactly: is the floor of the law the true one?
FACT_MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, vocab_size=192, context=48)
FACTS = trunks(
    replace(BASE, model=FACT_MODEL, data=DataSpec(source="zipf-facts"), eval=EvalSpec(tokens=196_608), batch=5),
    [at_width(FACT_MODEL, d) for d in (8, 16, 32, 64)],
    [1.5e5, 4.5e5, 1.35e6],
    group="facts",
    role="compare",
)

STUDY = Study(
    name="quickstart",
    question="At this machine's scale, what do model size, data, compute and algorithm each buy?",
    plan=GRID + SEEDS + algorithm("SGD", SGD) + algorithm("no attention", BLIND) + FACTS,
    held_out=straight(BASE, [at_width(MODEL, 96)], [4e6], group="held-out", role="held_out"),
    analysis=Analysis(
        algorithms={
            "SGD": "gradient descent with momentum in place of AdamW",
            "no attention": "each byte predicted from the last one alone",
        },
        known_entropy="facts",
    ),
)
