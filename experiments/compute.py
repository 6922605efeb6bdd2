"""How should a budget of compute be split between model and data, and what does ten times as much buy?

scaling run compute      130 runs, 6.1e13 FLOPs, half an hour on 2 shared cores
Result: from 1e10 to 1e12 FLOPs the best size grows as C^0.57 [0.53, 0.60] by the law of the headline, as C^0.54
[0.47, 0.61] by parabolas, C^0.61 [0.41, 0.81] by the envelope and C^0.50 [0.38, 0.62] by the Chinchilla fit; twice the
compute, split best, buys 0.086 nats a byte. Leaving the head out of N makes 0.57 into 0.64 [0.60, 0.67]; the mistakes
of training lower it: one rate and batch for all to 0.48 [0.44, 0.52], an unmatched cosine to 0.52, a long warm-up to
0.53; 6ND moves it by 0.01. The forecasts of two runs of 3 times the largest fitted compute were 1.3 and 1.7 % too low
and those of 10 times 5.8 %, all inside their intervals.

scaling run compute --size gpu --workers 10 --population 5      100 runs, 1.6e16 FLOPs, 9 minutes on an H100, 16 cores
Result: from 3e12 to 3e14 FLOPs N* ~ C^0.54 [0.48, 0.60], and four forecasts, of 3.3 and of 10 times the largest fitted
compute, were 0.3 to 0.9 % too high. A first run, whose warm-ups the rule held to 5 % of the run and to one token a
parameter, said 0.43 [0.34, 0.51], and a "long" warm-up of 4M tokens made that 0.54: its table is kept as first_run.csv.

scaling run compute --size gpu-reach --workers 10 --population 5      47 runs, 3.7e16 FLOPs, 10 minutes on an H100
Result: the fitted runs of gpu again, by N* ~ C^0.55 [0.48, 0.62]; eleven other runs, of 2 to 33 times the largest
fitted compute and up to 7 times the largest size, were forecast 0.0 to 0.7 % too low, all inside.

gpu reads any text of 70 MB, at corpus.txt or where --set data.source=text:PATH says; pod reads 4e10 tokens of a
vocabulary of 32,768 under corpus/ and wants a tuned base: it is planned and was not run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaling.cost import at_width, flops_per_token
from scaling.plan import COOLDOWN, Analysis, Plan, Planned, Role, Rule, Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

QUESTION = "How should a budget of compute be split between model and data, and what does ten times as much buy?"


@dataclass(frozen=True, kw_only=True)
class Size:
    """One machine's worth of the question."""

    base: RunSpec  # tuned
    rule: Rule  # moves the base to every other run
    grid: dict[float, Sequence[int]]  # FLOPs -> widths
    ahead: dict[float, Sequence[int]]  # the same, forecast
    seeds: dict[float, Sequence[int]]  # the same, trained twice more
    mistakes: Sequence[str] = ()  # of `MISTAKES`
    late: float = 0.0  # tokens of the warm-up that is a mistake
    layer_per: int = 0  # d_model a layer; 0: as many layers as the base at every width

    def model(self, width: int) -> ModelSpec:
        model = at_width(self.base.model, width)
        return replace(model, n_layers=width // self.layer_per) if self.layer_per else model


def grid(size: Size, cells: dict[float, Sequence[int]], role: Role, group: str) -> Plan:
    plan = Plan()
    for flops, widths in cells.items():
        for model in map(size.model, widths):
            tokens = [flops / flops_per_token(model, "exact")]
            plan += straight(size.base, [model], tokens, group=group, role=role, rule=size.rule)
    return plan


def long_warmup(size: Size, run: RunSpec, longest: int) -> RunSpec:
    steps = max(run.optim.warmup_steps, round(size.late / run.batch_tokens))
    return replace(run, optim=replace(run.optim, warmup_steps=min(steps, run.steps - run.optim.cooldown_steps)))


def unmatched_cosine(size: Size, run: RunSpec, longest: int) -> RunSpec:
    horizon = round(longest / run.batch_tokens)
    return replace(run, optim=replace(run.optim, schedule="cosine", cooldown_steps=0, horizon_steps=horizon))


def fixed_rate(size: Size, run: RunSpec, longest: int) -> RunSpec:
    fixed = replace(size.base, model=run.model)
    steps = round(run.tokens / fixed.batch_tokens)
    warmup = min(fixed.optim.warmup_steps, int(size.rule.warmup_share * steps))
    cooldown = max(1, round(COOLDOWN * steps))
    optim = replace(fixed.optim, parametrization="standard", warmup_steps=warmup, cooldown_steps=cooldown)
    return replace(fixed, steps=steps, optim=optim)


MISTAKES = {
    "long warm-up": (long_warmup, "a warm-up as long for every run, which some do not outlive"),
    "unmatched cosine": (unmatched_cosine, "a cosine planned for the longest run of all, cut short"),
    "fixed rate": (fixed_rate, "one rate and batch for all, in the standard parametrization"),
}


def study(name: str, size: Size) -> Study:
    right = grid(size, size.grid, "fitted", "tuned")
    longest = max(p.run.tokens for p in right.runs)
    plan = right + repeated(grid(size, size.seeds, "fitted", "tuned"), seeds=[1, 2])
    for group in size.mistakes:
        runs = [MISTAKES[group][0](size, p.run, longest) for p in right.runs]
        plan += Plan(tuple(Planned(run=run, group=group, role="compare") for run in runs))
    return Study(
        name=name,
        question=QUESTION,
        plan=plan,
        held_out=grid(size, size.ahead, "held_out", "held-out"),
        analysis=Analysis(varied={group: MISTAKES[group][1] for group in size.mistakes}),
    )


def base(model: ModelSpec, source: str, *, evaluated: int, batch: int, steps: int, optim: OptimSpec) -> RunSpec:
    cooled = replace(optim, cooldown_steps=round(COOLDOWN * steps))
    data, measured = DataSpec(source=source), EvalSpec(tokens=evaluated)
    return RunSpec(model=model, optim=cooled, data=data, eval=measured, batch=batch, steps=steps)


# The rate falls as experiments/transfer.py found.
LAPTOP = Size(
    base=base(
        ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=8, vocab_size=256, context=32),
        "bytes:stdlib", evaluated=262_144, batch=8, steps=3906,
        optim=OptimSpec(peak_lr=5e-3, warmup_steps=50, beta2=0.99, cooldown_steps=1),
    ),
    rule=Rule(batch_exponent=0.2, lr_exponent=-0.15, warmup_tokens=math.inf),
    grid={
        1e10: (4, 8, 16, 24, 32, 40),
        3e10: (8, 16, 24, 32, 40, 48),
        1e11: (8, 16, 24, 32, 48, 64),
        3e11: (16, 24, 32, 48, 64, 96),
        1e12: (32, 40, 48, 64, 80, 96),
    },
    ahead={3e12: (64, 96), 1e13: (96, 128)},
    seeds={1e10: (16,), 3e10: (24,), 1e11: (32,)},
    mistakes=tuple(MISTAKES),
    late=1.5e6,
)  # fmt: skip

GPU = Size(
    base=base(
        ModelSpec(n_layers=4, d_model=64, d_ff=256, d_head=16, vocab_size=256, context=64, compute_dtype="bfloat16"),
        "text:corpus.txt", evaluated=1_048_576, batch=64, steps=2000,
        optim=OptimSpec(peak_lr=4e-3, warmup_steps=300, beta2=0.98, base_width=64, cooldown_steps=1),
    ),
    # In a first run, with warm-ups of at most 5 % and N tokens, longer ones were better almost everywhere.
    rule=Rule(lr_exponent=-0.15, warmup_share=0.15, warmup_tokens=math.inf),
    grid={
        3e12: (32, 48, 64, 80, 96, 128),
        1e13: (32, 48, 64, 80, 96, 128),
        3e13: (48, 64, 80, 96, 128, 192),
        1e14: (80, 96, 112, 128, 192, 256),
        3e14: (128, 160, 192, 224, 256, 384),
    },
    ahead={1e15: (256, 384), 3e15: (400, 512)},
    seeds={3e12: (64,), 1e13: (80,), 3e13: (96,)},
    mistakes=("long warm-up", "unmatched cosine"),  # which share programs with the fitted runs
    late=1.5e7,
)  # fmt: skip

POD = Size(
    base=base(
        ModelSpec(
            n_layers=8, d_model=512, d_ff=2048, d_head=64, vocab_size=32_768, context=2048, compute_dtype="bfloat16"
        ),
        "tokens:corpus", evaluated=16_777_216, batch=256, steps=4000,
        optim=OptimSpec(
            peak_lr=4e-3, warmup_steps=400, base_width=512, base_layers=8, parametrization="complete", cooldown_steps=1
        ),
    ),
    rule=Rule(),
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
    layer_per=64,
)  # fmt: skip

# The same law asked further, off its best split too: 2 to 33 times the largest fitted compute, one epoch of 70 MB.
REACH = replace(
    GPU,
    ahead={6e14: (224, 320, 448), 1e15: (224, 320, 512), 3e15: (448, 576, 768), 1e16: (832, 1024)},
    mistakes=(),
)
STUDIES = {
    "laptop": study("compute", LAPTOP),
    "gpu": study("compute-gpu", GPU),
    "gpu-reach": study("compute-gpu-reach", REACH),
    "pod": study("compute-pod", POD),
}
