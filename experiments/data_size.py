"""What do more data buy, and which data count?

scaling run data_size
"""

from dataclasses import replace

from scaling.cost import at_width
from scaling.plan import Analysis, Plan, Study, repeated, straight, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32)
ADAMW = OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99)
BASE = RunSpec(
    model=MODEL, optim=ADAMW, data=DataSpec(source="bytes:stdlib"), eval=EvalSpec(tokens=262_144), batch=8, steps=1
)
SMALL, MIDDLE, LARGE = (at_width(MODEL, d) for d in (16, 32, 64))

# Fresh text: two decades of horizons at one size, and the grid that tells what size adds.
LADDER = trunks(BASE, [MIDDLE], [2.5e4, 5e4, 1e5, 2e5, 4e5, 8e5, 1.6e6, 2.5e6], group="fresh")
GRID = trunks(BASE, [SMALL, LARGE], [1e5, 2e5, 4e5, 8e5, 1.6e6], group="fresh grid")


def of(**changes: object) -> RunSpec:
    return replace(BASE, data=replace(BASE.data, **changes))


def again(group: str, decay: float) -> Plan:
    """U different bytes read 1 to 32 times."""
    plan = Plan()
    for unique in (51_200, 204_800):
        base = replace(of(unique_tokens=unique, max_epochs=32), optim=replace(ADAMW, weight_decay=decay))
        plan += trunks(
            base, [SMALL, MIDDLE, LARGE], [unique * e for e in (2, 4, 8, 16, 32)], group=group, role="compare"
        )
    return plan


HORIZONS = [1e5, 4e5, 1.6e6]
WORSE = Plan()
for share in (0.05, 0.1, 0.2, 0.4):
    WORSE += trunks(of(corrupted=share), [MIDDLE], HORIZONS, group=f"corrupted {share:g}", role="compare")
for share in (0.3, 0.6):
    copies = of(duplicated=share, duplicate_tokens=32 * 256)
    WORSE += trunks(copies, [MIDDLE], HORIZONS, group=f"duplicated {share:g}", role="compare")


# Two corpora of one library: its code and its prose, each measured on its own held-out text and on the other's.
def corpus(trained: str, measured: str) -> Plan:
    other = "" if trained == measured else f"bytes:stdlib-{measured}"
    base = replace(of(source=f"bytes:stdlib-{trained}"), eval=EvalSpec(source=other, tokens=131_072))
    return trunks(base, [MIDDLE], HORIZONS, group=f"{trained} on {measured}", role="compare")


CORPORA = Plan()
for trained in ("prose", "code"):
    for measured in ("prose", "code"):
        CORPORA += corpus(trained, measured)

# A source of known entropy, the same small design by fifty seeds: how often does the interval of the floor hold it?
FACT_MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, vocab_size=192, context=48)
FACT_BASE = replace(BASE, model=FACT_MODEL, data=DataSpec(source="zipf-facts"), eval=EvalSpec(tokens=196_608), batch=5)
FACTS = trunks(
    FACT_BASE, [at_width(FACT_MODEL, d) for d in (8, 16, 32)], [1e5, 2e5, 4e5, 8e5], group="facts", role="compare"
)
FIFTY = FACTS + repeated(FACTS, range(1, 50))

STUDY = Study(
    name="data_size",
    question="What do more data buy, and which data count?",
    plan=LADDER
    + GRID
    + repeated(trunks(BASE, [MIDDLE], [1e5, 4e5, 1.6e6], group="fresh"), seeds=[1, 2])
    + again("repeated", 0.0)
    + again("repeated decayed", 0.1)
    + WORSE
    + CORPORA
    + FIFTY,
    held_out=straight(BASE, [MIDDLE], [7e6], group="fresh", role="held_out"),
    analysis=Analysis(
        laws=("chinchilla", "interaction", "kaplan"),
        ladders={"fresh": "d"},
        data={f"corrupted {s:g}": f"{s:.0%} of the bytes drawn anew" for s in (0.05, 0.1, 0.2, 0.4)}
        | {f"duplicated {s:g}": f"{s:.0%} of the text copies of 8 kB" for s in (0.3, 0.6)}
        | {"code on prose": "code read, prose measured", "prose on code": "prose read, code measured"},
        against={"code on prose": "prose on prose", "prose on code": "code on code"},
        repeated={"repeated": "no weight decay", "repeated decayed": "weight decay 0.1"},
        known_entropy="facts",
    ),
)
