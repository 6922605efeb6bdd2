"""Is my set-up sound?

scaling run smoke      8 runs, about 3e10 FLOPs, 30 seconds on 2 cores
Result: a small law, fitted, forecast and scored; too small to believe, which its intervals say.
"""

from scaling.cost import at_width
from scaling.plan import Analysis, Study, straight, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
BASE = RunSpec(
    model=MODEL,
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=30, beta2=0.99),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=65_536),
    batch=4,
    steps=1,
)

STUDY = Study(
    name="smoke",
    question="Does the whole way work on this machine?",
    plan=trunks(BASE, [at_width(MODEL, d) for d in (8, 16, 32)], [4e4, 8e4, 1.6e5], group="grid"),
    held_out=straight(BASE, [at_width(MODEL, 32)], [3.2e5], group="held-out", role="held_out"),
    analysis=Analysis(laws=("chinchilla",)),
)
