"""How should a budget of compute be split between model and data, and what does ten times as much buy?

scaling run compute      not run yet
Result: not run yet
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scaling.cost import at_width, flops_per_token
from scaling.plan import Analysis, Plan, Rule, Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

# The best rate falls as D^-0.15 (experiments/transfer.py); the rest of the rule is as published.
RULE = Rule(lr_exponent=-0.15)


@dataclass(frozen=True, kw_only=True)
class Size:
    """One machine's worth of the question."""

    base: RunSpec  # tuned; the rule moves it to every other run
    grid: dict[float, Sequence[int]]  # FLOPs -> widths
    ahead: dict[float, Sequence[int]]  # the same, forecast
    seeds: dict[float, Sequence[int]]  # the same, trained twice more
    warmup: float = 0.0  # tokens, of the mistake of a warm-up as long as the small runs; 0: no mistakes are made
    deep: int = 0  # d_model a layer; 0: as many layers as the base at every width

    def model(self, width: int) -> ModelSpec:
        model = at_width(self.base.model, width)
        return replace(model, n_layers=width // self.deep) if self.deep else model


def grid(size: Size, cells: dict[float, Sequence[int]], role: str, group: str) -> Plan:
    plan = Plan()
    for flops, widths in cells.items():
        for width in widths:
            model = size.model(width)
            tokens = [flops / flops_per_token(model, "exact")]
            plan += straight(size.base, [model], tokens, group=group, role=role, rule=RULE)
    return plan


def changed(plan: Plan, group: str, change: Callable[[RunSpec], RunSpec]) -> Plan:
    return Plan(tuple(replace(p, run=change(p.run), group=group, role="compare") for p in plan.runs))


def mistakes(size: Size, right: Plan) -> Plan:
    """The same cells, each time with one thing done as it should not be."""

    def late(run: RunSpec) -> RunSpec:
        most = run.steps - run.optim.cooldown_steps
        return replace(run, optim=replace(run.optim, warmup_steps=min(round(size.warmup / run.batch_tokens), most)))

    def unmatched(run: RunSpec) -> RunSpec:
        horizon = round(max(p.run.tokens for p in right.runs) / run.batch_tokens)
        return replace(run, optim=replace(run.optim, schedule="cosine", cooldown_steps=0, horizon_steps=horizon))

    def untuned(run: RunSpec) -> RunSpec:
        fixed = replace(size.base, model=run.model, seed=run.seed)
        steps = round(run.tokens / fixed.batch_tokens)
        cooldown = max(1, round(0.2 * steps))
        warmup = min(fixed.optim.warmup_steps, steps - cooldown)
        optim = replace(fixed.optim, parametrization="standard", warmup_steps=warmup, cooldown_steps=cooldown)
        return replace(fixed, steps=steps, optim=optim)

    return (
        changed(right, "long warm-up", late)
        + changed(right, "unmatched cosine", unmatched)
        + changed(right, "fixed rate", untuned)
    )


def study(name: str, size: Size) -> Study:
    right = grid(size, size.grid, "fitted", "tuned")
    plan = right + repeated(grid(size, size.seeds, "fitted", "tuned"), seeds=[1, 2])
    return Study(
        name=name,
        question="How should a budget of compute be split between model and data, and what does ten times as much buy?",
        plan=plan + mistakes(size, right) if size.warmup else plan,
        held_out=grid(size, size.ahead, "held_out", "held-out"),
        analysis=Analysis(
            varied={
                "long warm-up": f"a warm-up of {size.warmup:g} tokens for every run",
                "unmatched cosine": "a cosine planned for the longest run of all, cut short",
                "fixed rate": "one learning rate and batch for every size, in the standard parametrization",
            }
            if size.warmup
            else {}
        ),
    )


def base(model: ModelSpec, source: str, evaluated: int, batch: int, steps: int, **optim: float) -> RunSpec:
    return RunSpec(
        model=model,
        optim=OptimSpec(**optim),
        data=DataSpec(source=source),
        eval=EvalSpec(tokens=evaluated),
        batch=batch,
        steps=steps,
    )


LAPTOP = Size(
    base=base(
        ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=4, vocab_size=256, context=32),
        "bytes:stdlib", 262_144, batch=8, steps=3906,
        peak_lr=5e-3, warmup_steps=50, beta2=0.99, cooldown_steps=781,
    ),
    grid={
        1e10: (4, 8, 12, 16, 24, 32),
        3e10: (8, 12, 16, 24, 32, 48),
        1e11: (8, 12, 16, 24, 32, 48, 64),
        3e11: (16, 24, 32, 48, 64, 96),
        1e12: (32, 40, 48, 64, 96, 136),
    },
    ahead={3e12: (64, 96), 1e13: (96, 136)},
    seeds={1e10: (12,), 3e10: (16,), 1e11: (24,)},
    warmup=5e5,
)  # fmt: skip

# Any text of 70 MB, which one epoch of the largest run reads; --set data.source=text:PATH names another place.
GPU = Size(
    base=base(
        ModelSpec(n_layers=4, d_model=64, d_ff=256, d_head=16, vocab_size=256, context=64, compute_dtype="bfloat16"),
        "text:corpus.txt", 1_048_576, batch=64, steps=2000,
        peak_lr=4e-3, warmup_steps=100, beta2=0.98, cooldown_steps=400, base_width=64,
    ),
    grid={
        3e12: (32, 48, 64, 80, 96, 128),
        1e13: (32, 48, 64, 80, 96, 128),
        3e13: (48, 64, 80, 96, 128, 192),
        1e14: (80, 96, 112, 128, 192, 256),
        3e14: (128, 160, 192, 224, 256, 384),
    },
    ahead={1e15: (256, 384), 3e15: (400, 512)},
    seeds={3e12: (64,), 1e13: (80,), 3e13: (96,)},
    warmup=4e6,
)  # fmt: skip

# A token file or folder of 40e9 tokens under corpus/ (docs/bring_your_own.md). Not run yet: tune the base first.
POD = Size(
    base=base(
        ModelSpec(
            n_layers=8, d_model=512, d_ff=2048, d_head=64, vocab_size=32_768, context=2048, compute_dtype="bfloat16"
        ),
        "tokens:corpus", 16_777_216, batch=256, steps=4000,
        peak_lr=4e-3, warmup_steps=200, beta2=0.95, cooldown_steps=800, base_width=512, base_layers=8,
        parametrization="complete",
    ),
    grid={
        1e17: (256, 320, 384, 448, 512, 640, 768),
        3e17: (320, 384, 448, 512, 640, 768, 896),
        1e18: (384, 512, 640, 768, 896, 1024, 1280),
        3e18: (512, 640, 768, 896, 1024, 1280, 1536),
        1e19: (640, 768, 1024, 1152, 1280, 1536, 2048),
        3e19: (896, 1024, 1280, 1536, 1792, 2048, 2560),
    },
    ahead={1e20: (1536, 2048), 5e20: (2560,)},
    seeds={1e17: (448,), 3e17: (512,), 1e18: (768,)},
    deep=64,
)  # fmt: skip

STUDIES = {"laptop": study("compute", LAPTOP), "gpu": study("compute-gpu", GPU), "pod": study("compute-pod", POD)}
