"""Does one learning rate serve every width?

scaling tune transfer --sizes all --rates 7 --step 1.41421356 --seeds 2
248 runs on 124 trunks, 1.6e14 FLOPs, about half an hour on 2 cores
Result: under the width parametrization the best rate moves by a factor of 1.23 [1.03, 1.47] over 8 times the width, and
by 1.41 between its two furthest optima at one horizon; under the standard one by 6.4 [5.8, 7.0], as d_model^-0.89. It
falls as D^-0.15 [-0.21, -0.10]. The quickstart's 0.005 is 1.1 to 1.5 times too low at 1.2M bytes, which costs up to
0.4 % of the loss, and 1.6 to 1.8 times at 300k, which costs 0.7 to 1.8 %.

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
