"""Plan combinators: from a base run and some lists to many runs."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real

from scaling.cost import flops_per_token
from scaling.plan.plan import Plan, Planned, Role, steady
from scaling.plan.rule import Rule
from scaling.spec import Branch, ModelSpec, Refusal, RunSpec, faults, refuse_faulty

COOLDOWN = 0.2  # share of a run's steps; 10-20 % matches a tuned cosine (arXiv:2405.18392, section 4)


def trunks(
    base: RunSpec,
    models: Iterable[ModelSpec],
    tokens: Sequence[float],
    *,
    group: str,
    role: Role = "fitted",
    cooldown: float = COOLDOWN,
    rule: Rule | None = None,
) -> Plan:
    """Every model at every horizon: one constant-rate trunk a model, and a cooldown branch for each horizon.

    `tokens` are horizons D; a run has the nearest whole number of steps. `base.optim` gives everything but the
    schedule. K horizons in ratio r cost D_max (1 + cooldown / (r - 1)) tokens instead of D_max / (1 - 1/r).
    `rule` moves the numbers of `base`, which it is anchored at, to the longest horizon, since a trunk has one of each,
    within the bounds that hold at the shortest. Raises `Refusal` with every fault of the runs that would be made.
    """
    models = tuple(models)
    _refuse(base, models, tokens, "tokens")
    runs: list[Planned] = []
    for model in models:
        shaped = replace(base, model=model)
        if rule:
            shaped = rule.apply(base, shaped, max(tokens), min(tokens))
        horizons = [_cooled(shaped, d, cooldown) for d in tokens]
        leave = [run.steps - run.optim.cooldown_steps for run in horizons]
        trunk = replace(shaped, optim=steady(shaped.optim), steps=max(leave))
        refuse_faulty([trunk, *horizons])
        runs.append(Planned(run=trunk, group=group, role="trunk"))
        runs += [
            Planned(run=replace(run, branch=Branch(trunk=trunk.id, step=step)), group=group, role=role)
            for run, step in zip(horizons, leave, strict=True)
        ]
    return Plan(tuple(runs))


def straight(
    base: RunSpec,
    models: Iterable[ModelSpec],
    tokens: Sequence[float],
    *,
    group: str,
    role: Role = "fitted",
    cooldown: float = COOLDOWN,
    rule: Rule | None = None,
) -> Plan:
    """Every model at every horizon, each run from its first step to its last.

    `tokens` are horizons D. Under wsd a run decays over its last share `cooldown`; any other schedule of `base.optim`
    is left as it is. `rule` moves the numbers of `base`, which it is anchored at, to each horizon. Raises `Refusal` as
    `trunks` does.
    """
    models = tuple(models)
    _refuse(base, models, tokens, "tokens")
    runs = []
    for model, d in itertools.product(models, tokens):
        run = replace(base, model=model)
        if rule:
            run = rule.apply(base, run, d)
        runs.append(_cooled(run, d, cooldown) if run.optim.schedule == "wsd" else replace(run, steps=_steps(run, d)))
    refuse_faulty(runs)
    return Plan(tuple(Planned(run=run, group=group, role=role) for run in runs))


def isoflop(
    base: RunSpec,
    models: Iterable[ModelSpec],
    budgets: Sequence[float],
    *,
    group: str,
    role: Role = "fitted",
    cooldown: float = COOLDOWN,
    rule: Rule | None = None,
) -> Plan:
    """Every model at every compute budget (arXiv:2203.15556, approach 2), by trunks and branches.

    `budgets` are exact training FLOPs C of a run; each model has the horizons D = C / (FLOPs per token) of its own, and
    one trunk for them all. Raises `Refusal` as `trunks` does.
    """
    models = tuple(models)
    _refuse(base, models, budgets, "budgets")
    plan = Plan()
    for model in models:
        tokens = [budget / flops_per_token(model, "exact") for budget in budgets]
        plan += trunks(base, [model], tokens, group=group, role=role, cooldown=cooldown, rule=rule)
    return plan


def repeated(plan: Plan, seeds: Iterable[int]) -> Plan:
    """The same runs with other initial weights and another order of the data, one copy for each seed.

    Branches leave the trunk of their own seed. The plan itself is not in it: `plan + repeated(plan, [1, 2])`.
    """
    copies = Plan()
    for seed in seeds:
        trunk_of = {p.run.id: _reseeded(p.run, seed) for p in plan.runs if p.role == "trunk"}
        for p in plan.runs:
            run = _reseeded(p.run, seed)
            if run.branch:
                run = replace(run, branch=replace(run.branch, trunk=trunk_of[run.branch.trunk].id))
            copies += Plan((replace(p, run=run),))
    return copies


def _refuse(base: RunSpec, models: Iterable[ModelSpec], amounts: Iterable[float], name: str) -> None:
    """Faults of what a plan is made from, before anything is divided by it; schedule and length come later."""
    shapes = [replace(base, model=model, optim=steady(base.optim), steps=10**9) for model in models]
    found = [
        f"{name} = {amount!r:.60}: must be a finite number above 0"
        for amount in amounts
        if not isinstance(amount, Real) or not 0 < amount < math.inf
    ]
    if found := [fault for shape in shapes for fault in faults(shape)] + found:
        raise Refusal(dict.fromkeys(found))


def _reseeded(run: RunSpec, seed: int) -> RunSpec:
    return replace(run, seed=seed, data=replace(run.data, seed=seed))


def _steps(run: RunSpec, tokens: float) -> int:
    """The nearest whole number; `Refusal` for less than one step."""
    if round(tokens / run.batch_tokens, 6) < 1:
        raise Refusal(f"tokens = {tokens:g}: one step of batch x model.context takes {run.batch_tokens}")
    return round(tokens / run.batch_tokens)


def _cooled(run: RunSpec, tokens: float, cooldown: float) -> RunSpec:
    steps = _steps(run, tokens)
    return replace(
        run, steps=steps, optim=replace(run.optim, schedule="wsd", cooldown_steps=max(1, round(cooldown * steps)))
    )
