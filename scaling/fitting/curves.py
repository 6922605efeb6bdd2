"""Whole training curves with their schedules, and the laws of `laws.curve` fitted to several of them at once.

A law of end points says what a run of matched schedule reaches; a law of curves says what the loss is at every step of
any schedule, so that three short runs can choose the schedule of a long one. It is fitted as its papers do, by the
least sum of Huber's function (width 0.001) of ln L_law - ln L, from starts by variable projection. Rows of one curve
share their noise, so its blocks count as groups; what other schedules would say is judged by curves left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.fitting import identify, rows
from scaling.fitting.laws import LAWS, Array
from scaling.fitting.laws.curve import Design, Schedule
from scaling.fitting.laws.form import limits
from scaling.fitting.robust import LEAST_SCALE, Estimate, Objective, at, estimate, polish, project
from scaling.fitting.table import first, read_table, text_of
from scaling.fitting.uncertainty import Interval, covariance, spread
from scaling.spec import Refusal

CURVE_LAWS = tuple(name for name, law in LAWS.items() if law.variables == ("curve",))
HUBER = Objective(kind="huber", delta=1e-3)  # arXiv:2408.11029, section 3; arXiv:2503.12811, appendix
STARTS = 6
MOST_ROWS = 200  # of a curve that enter a fit, evenly spaced: neighbours say nearly the same
GRID_ROWS = 40  # of a curve that starts are looked for on
BLOCKS = 8  # of a curve, whose rows share noise
LEAST_ROWS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The logged losses of one run."""

    run_id: str
    schedule: Schedule  # of every step up to the last logged one
    steps: Array  # [R], rising, from 1 on
    loss: Array  # [R], nats per token
    size: str = ""  # of the model, where it is known: a law of curves is of one model

    def thinned(self, most: int) -> Curve:
        keep = np.unique(np.linspace(0, len(self.steps) - 1, min(most, len(self.steps))).round().astype(int))
        return replace(self, steps=self.steps[keep], loss=self.loss[keep])


@dataclass(frozen=True, kw_only=True)
class Errors:
    """A law on one curve: over all its rows, relative but for `mae`."""

    run_id: str
    fitted: bool  # False: the law has not seen the curve
    rows: int
    mean: float  # mean |L_law / L - 1|
    worst: float  # greatest |L_law / L - 1|
    final: float  # L_law / L - 1 at the last row
    mae: float  # mean |L_law - L|, nats
    blind: float  # mean |.| of the power law of S1 that sees no annealing, fitted to the same curves


@dataclass(frozen=True, kw_only=True, eq=False)
class CurveFit:
    """A law of curves, estimated. `law` is None where the schedules cannot tell it."""

    name: str
    law: Any
    status: str  # converged, at_bound or unidentified
    level: float
    estimates: dict[str, Interval]
    unidentified: tuple[str, ...] = ()
    at_bound: tuple[str, ...] = ()
    objective: float = math.nan
    scale: float = math.nan  # standard deviation of a clean residual of ln L
    condition: float = math.nan
    curves: tuple[Errors, ...] = ()  # of fitted curves, then of the others
    left_out: tuple[Errors, ...] = ()  # each fitted curve by the law of the others
    warnings: tuple[str, ...] = field(default=())

    def predict(self, schedule: Schedule, steps: ArrayLike) -> Array:
        """Losses [R] at steps [R] (from 1 on) of a schedule, nats per token. Raises `Refusal` where unidentified."""
        if self.law is None:
            raise Refusal(f"law {self.name}: {', '.join(self.unidentified)} cannot be told; {self.warnings[0]}")
        return self.law(Design((schedule, steps)))

    def to_json(self) -> dict[str, Any]:
        estimates = {
            name: {
                "value": item.value, "se": None if math.isnan(item.se) else item.se,
                "interval": None if math.isnan(item.low) else [item.low, item.high],
            }
            for name, item in self.estimates.items()
        }  # fmt: skip
        return {
            "law": self.name, "status": self.status, "level": self.level, "estimates": estimates,
            "unidentified": list(self.unidentified), "at_bound": list(self.at_bound),
            "objective": _number(self.objective), "scale": _number(self.scale),
            "design": {"condition": _number(self.condition)},
            "curves": [vars(one) for one in self.curves], "left_out": [vars(one) for one in self.left_out],
            "warnings": list(self.warnings),
        }  # fmt: skip


def read_curves(path: str | Path, columns: Mapping[str, str] | None = None) -> list[Curve]:
    """Curves of a table with columns `run_id`, `step`, `lr` and `loss`, or of a results folder's runs/*/metrics.jsonl.

    They are in the order of their names, whatever that of the rows.

    Between logged steps the learning rate runs straight, and before the first it rises straight from 0: a schedule
    that jumps needs rows on both sides of the jump, which may have an empty loss. A step is counted from 1 on; its
    loss is that after it. In a results folder a loss is the mean since the row before and counts at the middle of that
    stretch, a branch has the learning rates of its trunk before it, and curves of fewer than 12 rows are left out.

    Raises `Refusal` with a line for each fault.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    table = read_table(path, columns)
    missing = [name for name in ("run_id", "step", "lr", "loss") if name not in table.columns]
    if missing:
        raise Refusal(
            f"column {name!r} is missing; if it has another name: --columns {name}=THEIR_NAME" for name in missing
        )
    label = np.array([text_of(cell) for cell in table["run_id"]])
    found, faults = [], []
    for name in sorted(set(label.tolist())):
        try:
            found.append(_curve(name, table.loc[label == name]))
        except Refusal as refusal:
            faults += refusal.faults
    if faults:
        raise Refusal(first(faults))
    return found


def _of_folder(folder: Path) -> list[Curve]:
    """The curves of runs/*/metrics.jsonl, with trunk, branch_step and n_params of runs.csv."""
    logs = {log.parent.name: log for log in sorted(folder.glob("runs/*/metrics.jsonl"))}
    if not logs or not (folder / "runs.csv").is_file():
        raise Refusal(f"{folder}: has no runs.csv and runs/*/metrics.jsonl; give a results folder or a table of curves")
    runs = read_table(folder / "runs.csv").set_index("run_id")
    tables = {name: _logged(read_table(log)) for name, log in logs.items()}
    size_of = {text_of(row["trunk"]): text_of(row["n_params"]) for _, row in runs.iterrows()}
    found = []
    for name, table in tables.items():
        row = runs.loc[name] if name in runs.index else None
        trunk, start = ("", 0) if row is None else (text_of(row["trunk"]), text_of(row["branch_step"]) or "0")
        size = size_of.get(name, "") if row is None else text_of(row["n_params"])
        step, lr, loss = (table[column].astype(float).to_numpy() for column in ("step", "lr", "loss"))
        before = np.concatenate([[float(start)], step[:-1]])
        logged_at, rate = step, lr
        if float(start) > 0 and trunk in tables:
            of_trunk = tables[trunk][["step", "lr"]].astype(float).to_numpy()
            of_trunk = of_trunk[of_trunk[:, 0] <= float(start)]
            logged_at, rate = np.concatenate([of_trunk[:, 0], step]), np.concatenate([of_trunk[:, 1], lr])
        known = np.isfinite(loss) & (step - before >= 1)
        if known.sum() < LEAST_ROWS:
            continue
        every = np.arange(1, int(step[-1]) + 1)
        schedule = Schedule(lr=np.interp(every, np.concatenate([[0.0], logged_at]), np.concatenate([[0.0], rate])))
        middle = np.ceil((before + step) / 2).astype(int)[known]
        found.append(Curve(run_id=name, schedule=schedule, steps=middle, loss=loss[known], size=size))
    if not found:
        raise Refusal(f"{folder}: no curve has {LEAST_ROWS} rows")
    return found


def _logged(table: Any) -> Any:
    """Without what a stopped run holds of its next row, which has no learning rate."""
    return table[table["lr"].map(text_of) != ""]


def _curve(name: str, table: Any) -> Curve:
    """One curve from its rows in any order. Rows with a step and a learning rate alone belong to the schedule."""
    step, bad = rows.numbers(table, "step", "positive")
    (lr, of_lr), (loss, of_loss) = rows.numbers(table, "lr", "error"), rows.numbers(table, "loss", "error")
    bad += of_lr + of_loss
    faults = [f"line {table.index[fault.row]}: {fault.words}" for fault in bad]
    faults += [f"line {table.index[row]}: lr is empty" for row in np.flatnonzero(np.isnan(lr)) if not bad]
    again = np.flatnonzero(
        np.isin(step, [s for s, count in zip(*np.unique(step, return_counts=True), strict=True) if count > 1])
    )
    faults += [f"line {table.index[row]}: step {step[row]:g} of {name} is given twice" for row in again[1:2]]
    faults += [
        f"line {table.index[row]}: step {step[row]:g} must be a whole number"
        for row in np.flatnonzero(step != np.floor(step))[:1]
        if not math.isnan(step[row])
    ]
    known = np.isfinite(loss)
    if not faults and known.sum() < LEAST_ROWS:
        faults.append(f"run {name}: {known.sum()} rows with a loss: a curve needs at least {LEAST_ROWS}")
    if not faults and not lr.max() > 0:
        faults.append(f"run {name}: every learning rate is 0")
    if faults:
        raise Refusal(faults)
    order = np.argsort(step)
    step, lr, loss, known = step[order], lr[order], loss[order], known[order]
    every = np.arange(1, int(step[known][-1]) + 1)
    rate = np.interp(every, np.concatenate([[0.0], step]), np.concatenate([[0.0], lr]))
    return Curve(run_id=name, schedule=Schedule(lr=rate), steps=step[known].astype(int), loss=loss[known])


def fit_curves(
    curves: Sequence[Curve],
    law: str = "multi_power",
    *,
    train: Sequence[str] = (),
    warmup_counts: bool = False,
    level: float = 0.9,
) -> CurveFit:
    """Estimate a law of `CURVE_LAWS` on the curves named in `train`, all by default, and predict the others.

    `warmup_counts` takes the rises of warm-up for falls below zero, as the code released with arXiv:2503.12811 does.
    Intervals at `level` are of the law given these schedules, by the delta method with noise shared within an eighth of
    a curve. Raises `Refusal` for an unknown law or curve.
    """
    names = [curve.run_id for curve in curves]
    faults = [
        f"--train {name}: there is no such curve; there are {', '.join(names)}" for name in train if name not in names
    ]
    if law not in CURVE_LAWS:
        faults.append(f"--law {law}: is no law of curves; there are {', '.join(CURVE_LAWS)}")
    if not 0 < level < 1:
        faults.append(f"level = {level:g}: must lie between 0 and 1")
    if faults:
        raise Refusal(faults)
    curves = [replace(curve, schedule=Schedule(lr=curve.schedule.lr, warmup_counts=warmup_counts)) for curve in curves]
    fitted = [curve for curve in curves if not train or curve.run_id in train]
    sizes = sorted({curve.size for curve in fitted}, key=lambda text: float(text or 0))
    if len(sizes) > 1:
        raise Refusal(f"--train: curves of {len(sizes)} models, N = {', '.join(sizes)}: name curves of one of them")
    others = [curve for curve in curves if train and curve.run_id not in train and curve.size == sizes[0]]
    base: dict[str, Any] = {"name": law, "level": level}
    if why := _untold(fitted, law):
        form = LAWS[law]
        return CurveFit(**base, law=None, status="unidentified", estimates={}, unidentified=form.names, warnings=(why,))
    found, x, y = _estimate(fitted, law)
    form = LAWS[law].form(*x)
    free = np.array([name not in found.at_bound for name in form.names])
    condition, (blurred, why) = identify.by_jacobian(form, found, x, free)
    if blurred:
        return CurveFit(
            **base,
            law=None,
            status="unidentified",
            estimates={},
            unidentified=blurred,
            condition=condition,
            warnings=why,
        )
    noise = covariance(form, found, x, free, _blocks(fitted))
    best = replace(form, **dict(zip(form.names, found.theta.tolist(), strict=True)))
    estimates = {}
    for i, name in enumerate(form.names):
        item = spread(
            best, found.theta, lambda law, name=name: np.asarray(getattr(law, name)), covariance_z=noise.covariance,
            dof=noise.dof, level=level, log=name in form.positive,
        ).at(0)  # fmt: skip
        if not free[i]:
            item = Interval(value=item.value, se=math.nan, low=math.nan, high=math.nan)
        else:
            lowest, highest = limits(form, name)
            item = replace(item, low=max(item.low, lowest), high=min(item.high, highest))
        estimates[name] = item
    blind = _blind(fitted)
    left_out = []
    if len(fitted) > 1:
        for i, curve in enumerate(fitted):
            rest = fitted[:i] + fitted[i + 1 :]
            if not _untold(rest, law):
                other = at(form, _estimate(rest, law, found.theta)[0].theta)
                left_out.append(_errors(curve, other, _blind(rest), False))
    warnings = [
        f"{name} = {getattr(best, name):.3g} rests on the edge of its range: the curves do not determine it"
        for name in found.at_bound
    ]
    open_ended = [name for name in form.positive if estimates[name].high > identify.VAGUE**2 * estimates[name].low]
    if open_ended:
        warnings.append(
            f"{', '.join(open_ended)}: open by more than a factor of {identify.VAGUE:g} either way; what the law "
            "predicts is better known than they are"
        )
    if len(fitted) < 3:
        warnings.append(
            f"{len(fitted)} curves: what other schedules do is hardly tested; three that differ are the least"
        )
    worse = [one.run_id for one in left_out if one.mean > one.blind]
    if worse:
        warnings.append(f"left out, {', '.join(worse)} is predicted worse than by a law that sees no annealing")
    return CurveFit(
        **base, law=best, status="at_bound" if found.at_bound else "converged", estimates=estimates,
        at_bound=found.at_bound, objective=found.objective, scale=found.scale, condition=condition,
        curves=tuple(_errors(c, best, blind, c in fitted) for c in [*fitted, *others]), left_out=tuple(left_out),
        warnings=tuple(warnings),
    )  # fmt: skip


def _untold(curves: Sequence[Curve], law: str) -> str:
    """Why these schedules cannot tell a law, in words; empty where they may."""
    annealed = [curve for curve in curves if (curve.schedule.fall[curve.schedule.warmup : curve.steps[-1]] > 0).any()]
    if not annealed:
        what = ", ".join(LAWS[law].annealing)
        return f"the learning rate falls in none of the curves: {what} cannot be told; add one that is annealed"
    return ""


def _design(curves: Sequence[Curve], most: int) -> tuple[tuple[Any], Array, list[Curve]]:
    thin = [curve.thinned(most) for curve in curves]
    design = Design(*((curve.schedule, curve.steps) for curve in thin))
    return (design,), np.concatenate([curve.loss for curve in thin]), thin


def _blocks(curves: Sequence[Curve]) -> list[str]:
    """A label for each row of `_design`: its curve and the eighth of it."""
    labels = []
    for curve in _design(curves, MOST_ROWS)[2]:
        part = np.arange(len(curve.steps)) * BLOCKS // len(curve.steps)
        labels += [f"{curve.run_id} {eighth}" for eighth in part]
    return labels


def _estimate(curves: Sequence[Curve], law: str, near: Array | None = None) -> tuple[Estimate, tuple[Any], Array]:
    """The least of Huber's function from the best points of the law's grid, or from `near` [P]."""
    x, y, _ = _design(curves, MOST_ROWS)
    form = LAWS[law].form(*x)
    if near is None:
        coarse, target, _ = _design(curves, GRID_ROWS)
        axes = np.meshgrid(*form.grid.values(), indexing="ij")
        shape = np.stack([axis.ravel() for axis in axes], axis=1)
        basis = form.basis(shape, *coarse) / target[:, None]
        coefficient, rss = project(basis, np.ones(basis.shape[:-1]))
        best = np.argsort(rss, kind="stable")[:STARTS]
        c = np.maximum(coefficient[best], 1e-9 * coefficient[best].max(axis=1, keepdims=True))
        starts = form.from_basis(shape[best], c, *coarse)
        starts = polish(form, starts, *(coarse, target), objective=Objective(kind="squares"), iterations=100)
    else:
        starts = near[None]
    theta = polish(form, starts, x, y, objective=HUBER, iterations=200)
    r = np.log(at(form, theta)(*x) / y)
    inner = np.minimum(np.abs(r), HUBER.delta)
    value = (inner * (np.abs(r) - inner / 2)).sum(axis=1)
    winner = theta[int(np.argmin(value))]
    residual = r[int(np.argmin(value))]
    at_bound = tuple(
        name
        for name, number in zip(form.names, winner, strict=True)
        if name in form.bounds and not form.bounds[name][0] * (1 + 1e-9) < number < form.bounds[name][1] * (1 - 1e-9)
    )
    return Estimate(
        theta=winner, residual=residual, weight=HUBER.delta / np.maximum(np.abs(residual), HUBER.delta),
        scale=max(float(np.median(np.abs(residual)) / 0.6745), LEAST_SCALE), objective=float(value.min()),
        at_bound=at_bound, minimised=HUBER,
    ), x, y  # fmt: skip


def _blind(curves: Sequence[Curve]) -> Any:
    """The power law of S1 alone, fitted to the same rows."""
    (design,), y, _ = _design(curves, MOST_ROWS)
    form = LAWS["power"].form(design.sum)
    return at(form, estimate(form, (design.sum,), y).theta)


def _errors(curve: Curve, law: Any, blind: Any, fitted: bool) -> Errors:
    design = Design((curve.schedule, curve.steps))
    predicted = np.asarray(law(design)).ravel()
    off = predicted / curve.loss - 1
    plain = np.asarray(blind(design.sum)).ravel() / curve.loss - 1
    return Errors(
        run_id=curve.run_id, fitted=fitted, rows=len(off), mean=float(np.abs(off).mean()),
        worst=float(np.abs(off).max()), final=float(off[-1]), mae=float(np.abs(predicted - curve.loss).mean()),
        blind=float(np.abs(plain).mean()),
    )  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
