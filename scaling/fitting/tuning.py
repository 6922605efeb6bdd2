"""How the best learning rate drifts over sizes and horizons, and whether a study's own rates are near it.

The optima are the vertices of `scaling.fitting.valley`, in multiples of the planned rates, so that a plane through
them, in ln N and ln D, is what is left for the study's rule to mend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scaling.fitting.fitted import interval_json
from scaling.fitting.laws import Array
from scaling.fitting.uncertainty import Interval
from scaling.fitting.valley import (
    SURE,
    Cell,
    Optimum,
    curvature,
    exp,
    lopsided,
    number,
    optimum,
    pooled,
    student,
    valley_of,
    vertices_of,
)

CLOSE = math.sqrt(2)  # the factor in rate that is close enough: it costs a quarter of what a factor of 2 does
SAME = 0.03  # cells within this of one another in ln N or ln D have one size or horizon
COLLINEAR = 0.98  # correlation of ln N and ln D over the cells above which their drifts cannot be told apart

Verdict = Literal["transfers", "drifts", "unresolved"]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the best multiple of the planned rate moves over the sizes, or over the horizons."""

    over: Literal["sizes", "horizons"]
    low: float  # least N or D that has an optimum
    high: float
    exponent: Interval  # of the best multiple in N or D
    factor: Interval  # from the least to the largest, at least 1 whichever way it moves
    direct: Interval | None  # the two optima furthest apart among cells alike in the other, as a ratio above 1
    verdict: Verdict
    why: str  # what keeps the verdict from being better; else empty

    def to_json(self) -> dict[str, Any]:
        return {
            "low": self.low, "high": self.high, "exponent": interval_json(self.exponent),
            "factor": interval_json(self.factor), "direct": interval_json(self.direct) if self.direct else None,
            "verdict": self.verdict, "why": self.why,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """ln(best rate / planned) = a + b ln(N / n0) + c ln(D / d0), with the terms that the cells can tell."""

    terms: tuple[str, ...]  # among a, b, c
    values: Array  # [P]
    covariance: Array  # [P, P]
    dof: float  # for Student's t
    scatter: float  # of the vertices about the plane over what their noise explains; NaN without a cell to spare
    n0: float
    d0: float

    def row(self, n: float, d: float) -> Array:
        every = {"a": 1.0, "b": math.log(n / self.n0), "c": math.log(d / self.d0)}
        return np.array([every[term] for term in self.terms])

    def factor(self, n: float, d: float, level: float) -> Interval:
        """The best rate over the planned one."""
        row = self.row(n, d)
        return exp(student(float(row @ self.values), math.sqrt(row @ self.covariance @ row), self.dof, level))

    def term(self, name: str, level: float) -> Interval | None:
        if name not in self.terms:
            return None
        i = self.terms.index(name)
        return student(float(self.values[i]), math.sqrt(self.covariance[i, i]), self.dof, level)

    def to_json(self) -> dict[str, Any]:
        return {
            "terms": list(self.terms), "values": self.values.tolist(), "covariance": self.covariance.tolist(),
            "dof": self.dof, "scatter": number(self.scatter), "n0": self.n0, "d0": self.d0,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """What the cells of one group say of its learning rate."""

    group: str
    level: float
    optima: tuple[Optimum, ...]
    noise: float  # standard deviation of ln loss about the parabolas; NaN where nothing tells it
    dof: float
    shared: float  # correlation of that noise between horizons of a model
    kappa: Interval | None  # of the group
    plane: Plane | None
    sizes: Drift | None  # None: one size
    horizons: Drift | None  # None: one horizon
    verdict: Literal["tuned", "off", "unresolved"]  # of the planned rates
    factor: Interval | None  # what to multiply the study's peak_lr by
    warnings: tuple[str, ...]

    @property
    def resolved(self) -> tuple[Optimum, ...]:
        return tuple(one for one in self.optima if one.status == "resolved")

    def to_json(self) -> dict[str, Any]:
        resolved = self.resolved
        ranges = {
            name: [min(values), max(values)] if values else None
            for name, values in (("n", [o.cell.n for o in resolved]), ("d", [o.cell.d for o in resolved]))
        }
        return {
            "group": self.group, "level": self.level, "verdict": self.verdict,
            "factor": interval_json(self.factor) if self.factor else None,
            "sizes": self.sizes.to_json() if self.sizes else None,
            "horizons": self.horizons.to_json() if self.horizons else None,
            "plane": self.plane.to_json() if self.plane else None, "range": ranges,
            "kappa": interval_json(self.kappa) if self.kappa else None,
            "noise": number(self.noise), "dof": self.dof, "shared": self.shared,
            "cells": [one.to_json() for one in self.optima], "warnings": list(self.warnings),
        }  # fmt: skip


def tune(cells: Sequence[Cell], *, level: float = 0.9) -> tuple[Tuned, ...]:
    """Optima, drifts and verdicts of each group, in the order in which groups first appear.

    An optimum's interval is Fieller's (J. R. Stat. Soc. B 16 (1954) 175) with Student's t. A vertex is resolved where
    the curvature is above zero at `level` and it lies between the rates that trained.
    """
    groups = dict.fromkeys(cell.group for cell in cells)
    return tuple(_tuned(name, [cell for cell in cells if cell.group == name], level) for name in groups)


def _tuned(group: str, cells: list[Cell], level: float) -> Tuned:
    valleys = [valley_of(cell) for cell in cells]
    noise, dof, shared = pooled(cells, valleys)
    optima = tuple(optimum(c, v, noise, dof, level) for c, v in zip(cells, valleys, strict=True))
    warnings = []
    if not dof:
        warnings.append(
            "no rate is left beyond the three of each parabola: the noise is unknown; try 5 rates or 2 seeds"
        )
    for status, words in (("edge", "at the edge of the rates tried"), ("unresolved", "lost in the noise")):
        count = sum(one.status == status for one in optima)
        if count:
            warnings.append(f"{count} of {len(optima)} optima {'is' if count == 1 else 'are'} {words}: left out")
    found = Tuned(
        group=group, level=level, optima=optima, noise=noise, dof=dof, shared=shared,
        kappa=curvature(optima, valleys, noise, dof, level), plane=None, sizes=None, horizons=None,
        verdict="unresolved", factor=None, warnings=tuple(warnings),
    )  # fmt: skip
    kept = [i for i, one in enumerate(optima) if one.status == "resolved"]
    warnings += lopsided([cells[i] for i in kept], [valleys[i] for i in kept], dof)
    if not kept:
        return found
    vertices, covariance = vertices_of([cells[i] for i in kept], [valleys[i] for i in kept], noise, shared)
    plane, left = _plane([cells[i] for i in kept], vertices, covariance, dof)
    verdict, factor = _planned(plane, optima, dof, level)
    for name, term, words in (("n", "b", "sizes"), ("d", "c", "horizons")):
        if term not in plane.terms and not left and _several([getattr(cell, name) for cell in cells]):
            warnings.append(f"the drift over {words} is not told: one of them has an optimum that is resolved")
    return replace(
        found, plane=plane, sizes=_drift("sizes", plane, optima, vertices, covariance, dof, level), verdict=verdict,
        factor=factor, horizons=_drift("horizons", plane, optima, vertices, covariance, dof, level),
        warnings=(*warnings, *left),
    )  # fmt: skip


def _plane(cells: Sequence[Cell], vertex: Array, covariance: Array, dof: float) -> tuple[Plane, list[str]]:
    """By generalised least squares under the vertices' covariance, made larger where they scatter by more."""
    from scipy.special import fdtri

    n, d = (np.log([getattr(cell, name) for cell in cells]) for name in ("n", "d"))
    terms, warnings = _terms(n, d)
    n0, d0 = math.exp(n.mean()), math.exp(d.mean())
    every = {"a": np.ones(len(n)), "b": n - n.mean(), "c": d - d.mean()}
    columns = np.column_stack([every[term] for term in terms])
    inverse = np.linalg.inv(covariance)
    spread = np.linalg.inv(columns.T @ inverse @ columns)
    values = spread @ columns.T @ inverse @ vertex
    left = vertex - columns @ values
    spare, scatter = len(vertex) - len(terms), math.nan
    if spare:
        scatter = math.sqrt(max(float(left @ inverse @ left), 0.0) / spare)
        if scatter**2 > fdtri(spare, dof, SURE):
            by = math.exp(float(np.abs(left).max()))
            warnings.append(
                f"the optima are no power law of N and D: one is {by:.2g} times off it, and lr_over_best is as rough"
            )
        if scatter > 1:
            spread, dof = spread * scatter**2, float(spare)
    elif len(terms) > 1:
        warnings.append("no optimum is left over to test the drift by: its interval knows of the runs' noise alone")
    return (
        Plane(terms=terms, values=values, covariance=spread, dof=dof, scatter=scatter, n0=n0, d0=d0),
        warnings,
    )


def _terms(n: Array, d: Array) -> tuple[tuple[str, ...], list[str]]:
    """Which of size and horizon the cells, [K] each in logarithms, can tell; size first."""
    wide_n, wide_d = np.ptp(n) > SAME, np.ptp(d) > SAME
    if not (wide_n and wide_d):
        return ("a", *(["b"] if wide_n else []), *(["c"] if wide_d else [])), []
    if len(n) < 3:
        return ("a", "b"), ["2 optima that differ in size and horizon: the drift is laid to size alone"]
    if abs(np.corrcoef(n, d)[0, 1]) > COLLINEAR:
        return ("a", "b"), ["N and D move together over the cells: the drift over sizes is along the study's own D(N)"]
    return ("a", "b", "c"), []


def _drift(
    over: Literal["sizes", "horizons"], plane: Plane, optima: Sequence[Optimum], vertices: Array, covariance: Array,
    dof: float, level: float,
) -> Drift | None:  # fmt: skip
    """By the plane and, for a drift that is no power law, by the two optima that are furthest apart."""
    name, term = ("n", "b") if over == "sizes" else ("d", "c")
    exponent = plane.term(term, level)
    if exponent is None:
        return None
    resolved = [one for one in optima if one.status == "resolved"]
    all_of, of = ([float(getattr(one.cell, name)) for one in some] for some in (optima, resolved))
    low, high = min(of), max(of)
    span = math.log(high / low)
    inside = exponent.low <= 0 <= exponent.high
    least = 0.0 if inside else min(abs(exponent.low), abs(exponent.high))
    most = max(abs(exponent.low), abs(exponent.high))
    factor = exp(Interval(value=abs(exponent.value) * span, se=exponent.se * span, low=least * span, high=most * span))
    direct = _direct(over, resolved, vertices, covariance, dof, level)
    verdict, why = "unresolved", ""
    edges = sum(one.status == "edge" for one in optima)
    if factor.low > CLOSE or (direct is not None and direct.low > CLOSE):
        verdict = "drifts"
    elif not factor.high <= CLOSE:
        why = f"the drift may be {factor.high:.2g}-fold"
    elif edges:
        why = f"{edges} of {len(optima)} optima lie beyond the rates tried"
    elif low > min(all_of) * (1 + 1e-9) or high < max(all_of) * (1 - 1e-9):
        why = f"the {'smallest' if low > min(all_of) * (1 + 1e-9) else 'largest'} has no optimum that is resolved"
    else:
        verdict = "transfers"
    return Drift(
        over=over, low=low, high=high, exponent=exponent, factor=factor, direct=direct, verdict=verdict, why=why,
    )  # fmt: skip


def _several(values: Sequence[float]) -> bool:
    return math.log(max(values) / min(values)) > SAME


def _direct(
    over: Literal["sizes", "horizons"], resolved: Sequence[Optimum], vertices: Array, covariance: Array, dof: float,
    level: float,
) -> Interval | None:  # fmt: skip
    """The largest ratio of two optima at one horizon (over sizes), or of one model (over horizons).

    Its interval allows for the choice of the largest: all pairs are looked at (Bonferroni). None without a pair.
    """
    pairs = [
        (i, j)
        for i, one in enumerate(resolved)
        for j, other in enumerate(resolved[:i])
        if (
            abs(math.log(other.cell.d / one.cell.d)) <= SAME
            if over == "sizes"
            else other.cell.model == one.cell.model and abs(math.log(other.cell.d / one.cell.d)) > SAME
        )
    ]
    if not pairs:
        return None
    i, j = max(pairs, key=lambda pair: abs(vertices[pair[0]] - vertices[pair[1]]))
    se = math.sqrt(max(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j], 0.0))
    apart = student(abs(float(vertices[i] - vertices[j])), se, dof, 1 - (1 - level) / len(pairs))
    return exp(replace(apart, low=max(apart.low, 0.0)))


def _planned(
    plane: Plane, optima: Sequence[Optimum], dof: float, level: float
) -> tuple[Literal["tuned", "off", "unresolved"], Interval]:
    """Whether every planned rate is close to its optimum; and the factor that is best for all cells.

    Off is one that the plane, or the cell by itself (Bonferroni), puts further away than CLOSE.
    """
    resolved = [one for one in optima if one.status == "resolved"]
    at = [plane.factor(one.cell.n, one.cell.d, level) for one in resolved]
    each = 1 - (1 - level) / len(resolved)
    own = [exp(student(math.log(one.factor.value), one.rate.se, dof, each)) for one in resolved]
    row = np.zeros(len(plane.terms))
    row[0] = 1.0
    middle = exp(student(float(row @ plane.values), math.sqrt(row @ plane.covariance @ row), plane.dof, level))
    if any(one.low > CLOSE or one.high < 1 / CLOSE for one in (*at, *own)):
        return "off", middle
    close = all(one.low >= 1 / CLOSE and one.high <= CLOSE for one in at)
    return "tuned" if close and all(one.status != "edge" for one in optima) else "unresolved", middle
