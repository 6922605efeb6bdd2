"""What does model size buy when the data stay the same?

scaling run model_size      22 runs, 3e14 FLOPs, an hour on 2 cores
"""

from dataclasses import replace

from scaling.cost import at_width
from scaling.plan import Analysis, Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

# One epoch of the library's bytes for every size. Rates are those of width 16 and two layers at this horizon, carried
# to other widths and depths by the parametrization (experiments/transfer.py).
MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=4, vocab_size=256, context=32)
BASE = RunSpec(
    model=MODEL,
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=100, beta2=0.99, parametrization="complete"),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144),
    batch=8,
    steps=1,
)
TOKENS = 7e6
WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 136)
DEPTHS = (1, 2, 4, 8, 16)  # at a width of its own, so that no run is in two ladders

WIDE = straight(BASE, [at_width(MODEL, d) for d in WIDTHS], [TOKENS], group="width")
SEEDS = repeated(straight(BASE, [at_width(MODEL, d) for d in (8, 32, 96)], [TOKENS], group="width"), seeds=[1, 2])
DEEP = straight(
    BASE, [replace(at_width(MODEL, 40), n_layers=n) for n in DEPTHS], [TOKENS], group="depth", role="compare"
)

STUDY = Study(
    name="model_size",
    question="What does model size buy when the data stay the same?",
    plan=WIDE + SEEDS + DEEP,
    held_out=straight(BASE, [at_width(MODEL, 440)], [TOKENS], group="width", role="held_out"),
    analysis=Analysis(laws=(), ladders={"width": "n", "depth": "n"}),
)
