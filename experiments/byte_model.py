"""Does a byte model that the written rule sizes beat counting?

scaling run byte_model      1 run, 7.8e13 FLOPs, 13 minutes on 2 cores
Result: yes: 1.650 bits for each held-out byte, against 2.063.

An interpolated byte model of order 5 needs 2.063 bits for each held-out byte (benchmarks/byte_baseline.py, the same
bytes). The run's batch, learning rate, beta2 and warm-up are those of the quickstart at width 16, moved by the rule.
"""

from dataclasses import replace

from scaling.plan import Rule, Study, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

TUNED = RunSpec(
    model=ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32),
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, cooldown_steps=781, beta2=0.99),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144),
    batch=8,
    steps=3906,
)
MODEL = ModelSpec(n_layers=4, d_model=128, d_ff=512, vocab_size=256, context=128)
BYTES = 1.46e7  # two epochs
RUN = replace(
    TUNED, model=MODEL, data=replace(TUNED.data, max_epochs=2), eval=EvalSpec(tokens=485_632)  # all held-out windows
)  # fmt: skip
SIZED = Rule().apply(TUNED, RUN, BYTES)

STUDY = Study(
    name="byte_model",
    question="Does a byte model that the written rule sizes beat counting?",
    plan=straight(SIZED, [MODEL], [BYTES], group="bytes", role="compare"),
)
