"""Is my set-up sound?

scaling run smoke      10 runs on 3 trunks, 1e11 FLOPs, 20 seconds on 2 cores
Result: a law of nine points, fitted, forecast and scored. Too few to believe, which its intervals say.
"""

from scaling.cost import at_width
from scaling.plan import Analysis, Study, isoflop, straight
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
    plan=isoflop(BASE, [at_width(MODEL, d) for d in (8, 16, 32)], [2e9, 6e9, 1.8e10], group="grid"),
    held_out=straight(BASE, [at_width(MODEL, 32)], [3.2e5], group="held-out", role="held_out"),
    analysis=Analysis(laws=("chinchilla",)),
)
