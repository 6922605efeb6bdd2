"""Does one learning rate serve every width?

scaling tune transfer --sizes all --rates 7 --step 1.41421356 --seeds 2      about 30 minutes on 2 cores
Result: not run yet.

Eight times in width at two horizons, under the width parametrization and under the standard one, each about the rate
that the quickstart uses.
"""

from dataclasses import replace

from scaling.cost import at_width
from scaling.plan import Study, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
BASE = RunSpec(
    model=MODEL,
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144),
    batch=8,
    steps=1,
)
STANDARD = replace(BASE, optim=replace(BASE.optim, parametrization="standard"))
MODELS = [at_width(MODEL, d) for d in (16, 32, 64, 128)]
TOKENS = [3e5, 1.2e6]

STUDY = Study(
    name="transfer",
    question="Does one learning rate serve every width?",
    plan=trunks(BASE, MODELS, TOKENS, group="width", role="compare")
    + trunks(STANDARD, MODELS, TOKENS, group="standard", role="compare"),
)
