"""What a results folder shows: every fit of a study's analysis, and its answer to each of the four concepts.

Everything is computed from `study.json`, the rows of `runs.csv` and `forecast.json`; `write` puts the fits beside them.
"""

import csv
import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.cost import count_params, train_flops
from scaling.fitting.compare import OPTIMIZER_FLOPS, Comparison, Noise, compare, seed_noise
from scaling.fitting.fit import fit
from scaling.fitting.fitted import Fit
from scaling.fitting.forecast import Forecast, Score, forecast, forecast_from_json, score
from scaling.fitting.isoflop import IsoFlop, isoflop
from scaling.fitting.ladder import Ladder, climb
from scaling.fitting.observe import Observations, observe, read_table
from scaling.fitting.repetition import Repeating, repeating
from scaling.fitting.table import plain
from scaling.fitting.uncertainty import Interval
from scaling.record import Ledger
from scaling.record.files import commit_json, create_text, names, read_json
from scaling.record.table import HEADER, line, rows
from scaling.report.answers import Answer, answers_of
from scaling.report.frontier import Split, splits
from scaling.report.variations import Variation, vary
from scaling.report.words import beyond, of_loss
from scaling.spec import Refusal, RunSpec, from_json

if TYPE_CHECKING:
    import pandas

PARAMS_COLUMN = {"matmul": "n_params", "kaplan": "n_params_kaplan", "total": "n_params_total"}
LEAST_REPEATS, LEAST_RUNS = 5, 9  # seeds from which on each is a study of its own, of so many runs
MOST_FORECASTS = 2**26  # bytes of a forecast.json, which has some thousands for each held-out run


@dataclass(frozen=True, kw_only=True, eq=False)
class Floor:
    """A fitted floor beside the entropy that it should be, on a source whose entropy is known."""

    fit: Fit
    observations: Observations
    entropy: float  # exact, nats per token
    repeats: tuple[Fit, ...] = ()  # the same design by each of its seeds alone, where it has at least LEAST_REPEATS

    @property
    def told(self) -> list[Interval]:
        """The floor of each repeat that tells one, with an interval."""
        found = [one.estimates()["E"] for one in self.repeats if one.law is not None]
        return [item for item in found if math.isfinite(item.low) and math.isfinite(item.high)]

    @property
    def held(self) -> int:
        """How many of these intervals hold the true entropy."""
        return sum(item.low <= self.entropy <= item.high for item in self.told)

    @property
    def fitted(self) -> Interval | None:
        return self.fit.estimates().get("E") if self.fit.law else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Repetition:
    """What a group that repeats its tokens says of them, beside runs that do not."""

    group: str
    words: str  # how it repeats them
    fit: Fit  # the law of repeated data
    observations: Observations  # what it was fitted to, the fresh runs among them
    equal: Repeating | None = None  # at equal loss, whatever the law

    @property
    def half_life(self) -> Interval | None:
        """After how many repetitions one more is worth half of the first pass: R_D ln 2, at equal loss where that is
        told, else by the law; None where neither tells it."""
        if self.equal is not None:
            return self.equal.half_life
        found = self.fit.estimates().get("R_D")  # where other parameters are not told, it may be
        if found is None or "R_D" in self.fit.at_bound:
            return None
        return Interval(**{name: getattr(found, name) * math.log(2) for name in ("value", "se", "low", "high")})


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A forecast that was written down before its run was trained, and its score when the run is finished."""

    run_id: str
    forecast: Forecast
    score: Score | None
    measured_se: float | None  # of the evaluation, nats per token


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    study: Mapping[str, Any]  # study.json
    table: "pandas.DataFrame"  # runs.csv
    observations: Observations | None  # what the laws were fitted to; None where nothing is fitted
    fits: dict[str, Fit]  # by law, in the order of the analysis
    isoflop: IsoFlop | None
    splits: tuple[Split, ...]  # of compute by each approach; none where the study asks for no law
    noise: Noise | None  # between seeds
    comparisons: tuple[Comparison, ...]  # algorithms against the fitted runs
    data: tuple[Comparison, ...]  # other data against those of the fitted runs, at equal sizes
    repeated: tuple[Repetition, ...]
    varied: tuple[Variation, ...]  # the best split under what was changed on purpose
    ladders: tuple[Ladder, ...]  # of one variable each
    floor: Floor | None
    registered: tuple[Registered, ...]
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...]  # what could not be said, and why

    @property
    def level(self) -> float:
        return self.study["analysis"]["level"]

    @property
    def every_fit(self) -> dict[str, Fit]:
        """All that was fitted, told or not, each under a name of its own."""
        found = dict(self.fits)
        for ladder in self.ladders:
            found |= {f"{law} in {ladder.x.upper()} of {ladder.group}": one for law, one in ladder.fits.items()}
        found |= {f"{one.fit.name} of {one.group}": one.fit for one in self.repeated}
        found |= {f"{one.fit.name} under {one.name}": one.fit for one in self.varied if one.fit is not None}
        return found | ({"known entropy": self.floor.fit} if self.floor else {})

    @property
    def headline(self) -> Fit | None:
        """The fit that the answers are read from: of the laws that are identified, the one that extrapolates best."""
        known = [found for found in self.fits.values() if found.law is not None]
        return min(known, key=lambda f: (f.holdout or {}).get("error", math.inf), default=None)


def find(ledger: Ledger) -> Findings:
    """Fit everything that the study's analysis asks for and the records allow. Raises `Refusal` without a study."""
    study, table = _asked(ledger), _table(ledger)
    analysis = study["analysis"]
    params, level = PARAMS_COLUMN[analysis["params"]], analysis["level"]
    warnings: list[str] = []
    observations = _observed(table, warnings, params=params) if _has(table, role="fitted") else None
    fits: dict[str, Fit] = {}
    valleys = noise = None
    if observations is not None:
        noise = seed_noise(observations)
        try:
            fits = fit_laws(study, table)
        except Refusal as refusal:
            warnings += refusal.faults
        try:
            valleys = isoflop(observations, level=level) if analysis["laws"] else None
        except Refusal as refusal:
            warnings += refusal.faults
    found = Findings(
        study=study,
        table=table,
        observations=observations,
        fits=fits,
        isoflop=valleys,
        splits=(),
        noise=noise,
        comparisons=_compared(table, analysis, analysis["algorithms"], noise, warnings),
        data=_compared(table, analysis, analysis.get("data", {}), noise, warnings),
        repeated=_repeated(table, analysis, noise, warnings),
        varied=(),
        ladders=_ladders(table, analysis, warnings),
        floor=_floor(table, analysis, params, warnings),
        registered=registered(ledger, table),
        answers=(),
        warnings=tuple(warnings),
    )
    if observations is not None and analysis["laws"]:
        found = replace(found, splits=splits(observations, found.headline, valleys, level=level))
    if found.headline is not None:
        how = {"law": found.headline.name, "params": params, "level": level}
        varied = vary(table, analysis.get("varied", {}), **how)
        why = [f"{one.name}: {warning}" for one in varied for warning in one.warnings]
        found = replace(found, varied=varied, warnings=(*found.warnings, *why))
    return replace(found, answers=answers_of(found))


def _table(ledger: Ledger) -> "pandas.DataFrame":
    """`runs.csv` as the records give it now, in cells of text: other participants may be writing the file. A published
    folder has the file alone."""
    import pandas

    if not names(ledger.folder / "runs"):
        return read_table(ledger.folder / "runs.csv")
    lines = [HEADER, *map(line, rows(ledger))]
    header, *cells = csv.reader(io.StringIO("".join(lines)))
    if not cells:
        raise Refusal(f"{ledger.folder}: has no evaluated runs")
    texts = [[plain(cell.strip()) for cell in row] for row in cells]
    return pandas.DataFrame(texts, columns=header, index=pandas.RangeIndex(2, len(cells) + 2, name="line"), dtype=str)


def _asked(ledger: Ledger) -> dict[str, Any]:
    """The study of a folder. Raises `Refusal` for one whose name, question or analysis is none."""
    study = ledger.study()
    asked = study["analysis"] if isinstance(study["analysis"], dict) else {}
    laws, level = asked.get("laws"), asked.get("level")
    sound = {
        "name": isinstance(study["name"], str),
        "question": isinstance(study["question"], str),
        "analysis.params": isinstance(asked.get("params"), str) and asked["params"] in PARAMS_COLUMN,
        "analysis.laws": isinstance(laws, list) and all(isinstance(law, str) for law in laws),
        "analysis.algorithms": isinstance(asked.get("algorithms"), dict),
        "analysis.data": isinstance(asked.get("data", {}), dict),
        "analysis.against": isinstance(asked.get("against", {}), dict)
        and all(isinstance(group, str) for group in asked.get("against", {}).values()),
        "analysis.varied": isinstance(asked.get("varied", {}), dict),
        "analysis.repeated": isinstance(asked.get("repeated", {}), dict),
        "analysis.ladders": isinstance(asked.get("ladders", {}), dict)
        and all(x in ("n", "d") for x in asked.get("ladders", {}).values()),
        "analysis.known_entropy": isinstance(asked.get("known_entropy"), str),
        "analysis.level": isinstance(level, (int, float)) and 0 < level < 1,
        "analysis.bootstrap": type(asked.get("bootstrap")) is int,
    }
    if not all(sound.values()):
        raise Refusal(
            f"{ledger.folder / 'study.json'}: {field} says nothing that a study can ask; `scaling run` writes it again"
            for field, good in sound.items()
            if not good
        )
    return study


def fit_laws(study: Mapping[str, Any], table: "pandas.DataFrame") -> dict[str, Fit]:
    """Every law of the analysis, fitted to the finished runs with the role fitted."""
    analysis = study["analysis"]
    if not analysis["laws"]:
        return {}
    observations = observe(table, params=PARAMS_COLUMN[analysis["params"]])
    return {
        law: fit(observations, law, level=analysis["level"], bootstrap=analysis["bootstrap"])
        for law in analysis["laws"]
    }


def register(ledger: Ledger) -> list[str]:
    """Write into `forecast.json` what the laws say of each held-out run that is not trained yet.

    What stands there stays, and a run with a record gets no forecast any more. Returns a line to print for each
    held-out run; raises `Refusal` when no law can forecast.
    """
    path = ledger.folder / "forecast.json"
    study, table = _asked(ledger), _table(ledger)
    stands = path.exists()
    documents = [{"run_id": run_id} | said.to_json() for run_id, said in _forecasts(path)]
    said = {document["run_id"] for document in documents}
    held_out = [planned for planned in study["plan"] if planned["role"] == "held_out"]
    fresh = [planned for planned in held_out if planned["id"] not in said and planned["id"] not in ledger]
    if fresh:
        level, fits = study["analysis"]["level"], _fits_of(study, table, {planned["group"] for planned in fresh})
        for planned in fresh:
            n, d, flops = _coordinates(planned, study["analysis"]["params"])
            said_now = forecast(fits[planned["group"]], n, d, flops, level=level)
            documents.append({"run_id": planned["id"]} | said_now.to_json())
        if stands:
            commit_json(path, documents)
        elif not create_text(path, json.dumps(documents, indent=1, allow_nan=False) + "\n"):
            return register(ledger)  # another participant was first: what it wrote stands
    late = [planned["id"] for planned in held_out if planned["id"] not in {d["run_id"] for d in documents}]
    return [
        f"forecast of {r.run_id}, {beyond(r.forecast.extrapolation)}: loss "
        f"{of_loss(r.forecast.loss, r.forecast.low, r.forecast.high)}, written to {path.name} before it was trained"
        for r in registered(ledger, table)
    ] + [f"no forecast of {run_id}: it was trained before one could be made" for run_id in late]


def _fits_of(study: Mapping[str, Any], table: "pandas.DataFrame", groups: Collection[str]) -> dict[str, list[Fit]]:
    """What forecasts the held-out runs of each group: the laws of its ladder, else those of N and D."""
    warnings: list[str] = []
    ladders = {ladder.group: [*ladder.fits.values()] for ladder in _ladders(table, study["analysis"], warnings)}
    if silent := [group for group in groups if group in study["analysis"].get("ladders", {}) and group not in ladders]:
        raise Refusal(warnings or [f"ladder {group}: is not told" for group in silent])
    surfaces = [*fit_laws(study, table).values()] if groups - ladders.keys() else []
    return {group: ladders.get(group, surfaces) for group in groups}


def _coordinates(planned: Mapping[str, Any], params: str) -> tuple[float, float, float]:
    run = from_json(RunSpec, planned["run"])
    return getattr(count_params(run.model), params), run.tokens, train_flops(run)


def _forecasts(path: Path) -> list[tuple[str, Forecast]]:
    """(run, forecast) of `forecast.json`; none where there is no file. Raises `Refusal` for one that is not ours."""
    try:
        documents = read_json(path, most=MOST_FORECASTS)
        return [(str(one.pop("run_id")), forecast_from_json(one)) for one in documents]
    except FileNotFoundError:
        return []
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Refusal(f"{path}: holds no forecasts as they were registered ({error}); bring back a copy") from error


def registered(ledger: Ledger, table: "pandas.DataFrame") -> tuple[Registered, ...]:
    """The forecasts of `forecast.json`, scored where their run is finished."""
    planned = {planned["id"] for planned in ledger.study()["plan"]}
    found = []
    for run_id, said in _forecasts(ledger.folder / "forecast.json"):
        if run_id not in planned:
            continue
        row = table.loc[(table["run_id"] == run_id) & (table["status"] == "finished")]
        measured = float(row["loss"].to_numpy()[0]) if len(row) else None
        se = float(row["loss_se"].to_numpy()[0]) if len(row) else None
        found.append(
            Registered(
                run_id=run_id,
                forecast=said,
                score=score(said, measured) if measured is not None else None,
                measured_se=se,
            )
        )
    return tuple(found)


def _has(table: "pandas.DataFrame", **wanted: str) -> bool:
    return all(bool((table[column] == value).any()) for column, value in wanted.items())


def _observed(table: "pandas.DataFrame", warnings: list[str], **how: Any) -> Observations | None:
    try:
        return observe(table, **how)
    except Refusal as refusal:
        warnings += refusal.faults
        return None


def _compared(
    table: "pandas.DataFrame",
    analysis: Mapping[str, Any],
    groups: Collection[str],
    noise: Noise | None,
    warnings: list[str],
) -> tuple[Comparison, ...]:
    """Each of these groups against the runs that the laws are fitted to, or against the group that the study names."""
    found, params = [], PARAMS_COLUMN[analysis["params"]]
    further = [name for name in (OPTIMIZER_FLOPS,) if name in table.columns]
    fitted = next(iter(table.loc[table["role"] == "fitted", "group"]), None)
    for group in groups:
        baseline = analysis.get("against", {}).get(group, fitted)
        rows = table.loc[table["group"].isin([baseline, group]) & (table["status"] == "finished")]
        if baseline is None or not (_has(rows, group=group) and _has(rows, group=baseline)):
            warnings.append(f"{group}: no finished runs to compare")
            continue
        both = _observed(rows, warnings, params=params, roles=("fitted", "compare"), extra=further)
        if both is not None:
            found += compare(both, baseline, level=analysis["level"], noise=noise)
    return tuple(found)


def _repeated(
    table: "pandas.DataFrame", analysis: Mapping[str, Any], noise: Noise | None, warnings: list[str]
) -> tuple[Repetition, ...]:
    """Each group that repeats its tokens, fitted with fresh runs, the fitted ones or those of the group that the study
    names: without these nothing tells what is lost."""
    found, params, level = [], PARAMS_COLUMN[analysis["params"]], analysis["level"]
    for group, how in analysis.get("repeated", {}).items():
        named = analysis.get("against", {}).get(group)
        fresh = table["group"] == named if named else table["role"] == "fitted"
        rows = table.loc[fresh | (table["group"] == group)]
        try:
            both = observe(rows, params=params, needs=("n", "d", "u"), roles=("fitted", "compare"))
            law = fit(both, "data_constrained", level=level)
            equal = _equal(both, group, level, noise, warnings)
            found.append(Repetition(group=group, words=how, fit=law, observations=both, equal=equal))
        except Refusal as refusal:
            warnings += [f"{group}: {fault}" for fault in refusal.faults]
    return tuple(found)


def _equal(
    observations: Observations, group: str, level: float, noise: Noise | None, warnings: list[str]
) -> Repeating | None:
    try:
        return repeating(observations, group, level=level, noise=noise)
    except Refusal as refusal:
        warnings += refusal.faults
        return None


def _ladders(table: "pandas.DataFrame", analysis: Mapping[str, Any], warnings: list[str]) -> tuple[Ladder, ...]:
    found = []
    for group, x in analysis.get("ladders", {}).items():
        try:
            found.append(climb(table, group, x, params=PARAMS_COLUMN[analysis["params"]], level=analysis["level"]))
        except Refusal as refusal:
            warnings += refusal.faults
    return tuple(found)


def _floor(table: "pandas.DataFrame", analysis: Mapping[str, Any], params: str, warnings: list[str]) -> Floor | None:
    group = analysis["known_entropy"]
    if not group or not _has(table, group=group):
        return None
    observations = _observed(table, warnings, params=params, group=group)
    if observations is None:
        return None
    entropy = float(table.loc[table["group"] == group, "entropy"].iloc[0])
    try:
        found = fit(observations, "chinchilla", level=analysis["level"], bootstrap=0)
    except Refusal as refusal:
        warnings += refusal.faults
        return None
    return Floor(
        fit=found, observations=observations, entropy=entropy, repeats=_repeats(observations, analysis["level"])
    )


def _repeats(o: Observations, level: float) -> tuple[Fit, ...]:
    """The law by the runs of each seed alone: how often does its interval hold what is known?"""
    seeds = dict.fromkeys(o.seed)
    if len(seeds) < LEAST_REPEATS:
        return ()
    alone = (o.pick(np.array(o.seed) == seed) for seed in seeds)
    return tuple(fit(runs, "chinchilla", level=level) for runs in alone if len(runs) >= LEAST_RUNS)


def write(found: Findings, ledger: Ledger) -> None:
    """fits/*.json: each law, the algorithms, the noise, the floor."""
    folder = ledger.folder / "fits"
    for law, fitted in found.fits.items():
        commit_json(folder / f"{law}.json", fitted.to_json())
    for name, comparisons in (("algorithms", found.comparisons), ("data", found.data)):
        if comparisons:
            commit_json(folder / f"{name}.json", [comparison.to_json() for comparison in comparisons])
    if found.repeated:
        commit_json(
            folder / "repeated.json",
            [
                {"group": one.group, "equal_loss": one.equal and one.equal.to_json(), "fit": one.fit.to_json()}
                for one in found.repeated
            ],
        )
    if found.splits:
        commit_json(folder / "frontier.json", [split.to_json() for split in found.splits])
    if found.varied:
        varied = [
            {"name": one.name, "words": one.words, "fit": one.fit.to_json() if one.fit else None}
            for one in found.varied
        ]
        commit_json(folder / "varied.json", varied)
    for ladder in found.ladders:
        fits = {"laws": ladder.fits, "conventions": ladder.conventions}
        said = {kind: {name: one.to_json() for name, one in of.items()} for kind, of in fits.items()}
        name = f"ladder_{ladder.group.replace(' ', '_')}.json"
        commit_json(folder / name, {"group": ladder.group, "x": ladder.x} | said)
    if found.noise is not None:
        commit_json(folder / "noise.json", {"sd_of_ln_loss": found.noise.sd, "degrees_of_freedom": found.noise.dof})
    if found.floor is not None:
        repeats = [one.to_json() for one in found.floor.repeats]
        said = {"entropy": found.floor.entropy, "fit": found.floor.fit.to_json()}
        commit_json(folder / "floor.json", said | ({"repeats": repeats} if repeats else {}))
    scored = [
        {
            "run_id": r.run_id,
            "measured": r.score.measured,
            "error": r.score.error,
            "inside": r.score.inside,
            "errors": r.score.errors,
        }
        for r in found.registered
        if r.score
    ]
    if scored:
        commit_json(folder / "score.json", scored)
