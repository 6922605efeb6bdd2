"""What a reader of a scaling study has to be told, filled in from what the study planned, recorded and fitted.

Four groups of questions after (Mis)Fitting (arXiv:2502.18969), in our words. Where nothing in the folder gives an
answer, it says so.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scaling.fitting.fit import REJECTED
from scaling.fitting.fitted import Fit
from scaling.fitting.forecast import FAR
from scaling.fitting.laws import LAWS
from scaling.record import Ledger, RunRecord
from scaling.report import words
from scaling.report.findings import Findings
from scaling.report.table import Line, learning_rates
from scaling.spec import RunSpec, from_json

COUNTED = {
    "n_params": "parameters that multiply each token: non-embedding and head",
    "n_params_kaplan": "non-embedding parameters, without the head",
    "n_params_total": "all stored parameters, each once",
}
RECIPE = (
    "model.n_layers", "model.d_head", "model.context", "model.vocab_size", "model.attention", "model.mlp",
    "model.positions", "model.tied", "model.compute_dtype", "optim.name", "optim.parametrization", "optim.peak_lr",
    "optim.schedule", "optim.warmup_steps", "optim.cooldown_steps", "optim.beta2", "optim.weight_decay",
    "optim.clip_norm", "batch", "steps", "data.source", "eval.tokens",
)  # fmt: skip
CALLED = {"optim.name": "optimizer", "eval.tokens": "held-out tokens", "batch": "batch (sequences)"}
NOBODY = "the folder holds no records of runs, so this is not told"


def checklist(found: Findings, ledger: Ledger) -> dict[str, list[Line]]:
    """The answers by group, in order."""
    planned = {one["id"]: from_json(RunSpec, one["run"]) for one in found.study["plan"]}
    rows = found.table.loc[(found.table["role"] == "fitted") & (found.table["status"] == "finished"), "run_id"]
    fitted = [planned[run_id] for run_id in rows if run_id in planned]
    records = list(ledger)
    return {
        "Hypothesis": _hypothesis(found),
        "Training": _training(found, fitted, records),
        "Data collection": _collection(found, ledger, fitted),
        "Fitting": _fitting(found),
    }


def _line(label: str, text: str, known: bool = True) -> Line:
    return Line(label=label, text=text or "nothing in the folder tells", known=known and bool(text))


def _hypothesis(found: Findings) -> list[Line]:
    seen = [o for o in (found.observations, *(ladder.observations for ladder in found.ladders)) if o is not None]
    if not seen or not found.every_fit:
        return [_line("laws", "no law is fitted: the study asks for none, or has no finished run to fit one to", False)]
    o, law = seen[0], found.headline
    span = ", ".join(
        f"{name} {form(values.min())} to {form(values.max())}"
        for name, values, form in (("N", o.n, words.short), ("D", o.d, words.short), ("C", o.flops, words.power))
    )
    ratio = o.d / o.n
    reach = max([one.forecast.extrapolation for one in found.registered], default=None)
    asked = f"forecasts registered to {words.beyond(reach)}; " if reach else "no forecast is registered; "
    return [
        _line("what is predicted", "the loss on held-out text at the end of a training run, nats per token"),
        _line("laws", "; ".join(f"{name}: {words.formula(fit.name)}" for name, fit in found.every_fit.items())),
        *([_line("which one is shown", _chosen(found, law), law is not None)] if found.fits else []),
        _line("N", COUNTED.get(o.params, o.params)),
        _line("D", "tokens trained on, repeated ones included"),
        _line(
            "C",
            "training FLOPs of the matrix products, counted from the shapes"
            if o.flops_measured
            else "6 N D: the table counts no FLOPs",
        ),
        _line("range of the runs", f"{span}, D/N {words.short(ratio.min())} to {words.short(ratio.max())}"),
        _line("how far it is to hold", f"{asked}beyond {FAR:g} times the largest compute an answer is marked as far"),
    ]


def _chosen(found: Findings, law: Fit | None) -> str:
    if law is None:
        return "none: " + "; ".join(words.unknown(fit) for fit in found.fits.values())
    tested = {fit.name: fit.holdout["error"] for fit in found.fits.values() if fit.law is not None and fit.holdout}
    if not tested:
        return f"{law.name}, the first that these runs tell; they are too few to test how it extrapolates"
    errors = ", ".join(f"{name} {error:.2%}" for name, error in tested.items())
    return f"{law.name}: fitted without the runs of most compute, the laws predict these with errors of {errors}"


def _training(found: Findings, fitted: list[RunSpec], records: list[RunRecord]) -> list[Line]:
    table = found.table
    groups = ", ".join(
        f"{words.several(count, 'run')} of {name}" for name, count in table["group"].value_counts().items()
    )
    trunks = len({cell for cell in table["trunk"].tolist() if cell})
    shared = f"; {words.several(trunks, 'trunk')} shared by cooldown branches" if trunks else ""
    same, moved = _recipe(fitted)
    epochs = [float(cell) for cell in table["epochs"] if cell]
    sizes = sorted({run.model.d_model for run in fitted})
    seeds = sorted({run.seed for run in fitted})
    return [
        _line("runs", f"{words.several(len(table), 'evaluated run')}: {groups}{shared}"),
        _line("fitted sizes", f"d_model {', '.join(map(str, sizes))}" if sizes else ""),
        _line("the same in all fitted runs", same),
        _line("what moves with size or data", moved),
        *learning_rates(found),
        _line("seeds", f"{', '.join(map(str, seeds))}" if seeds else ""),
        _line("text", _texts(records) or NOBODY, bool(records)),
        _line(
            "repetition",
            f"up to {max(epochs):.3g} passes over the same tokens"
            if epochs and max(epochs) > 1
            else "no token is seen twice",
        ),
        _line("code and machines", _made(records) or NOBODY, bool(records)),
    ]  # fmt: skip


def _recipe(runs: list[RunSpec]) -> tuple[str, str]:
    """The fields of `RECIPE` that are equal in all runs, and the ranges of the others."""
    values: dict[str, list[Any]] = {}
    for field in RECIPE:
        section, _, name = field.rpartition(".")
        values[field] = [getattr(getattr(run, section) if section else run, name) for run in runs]
    same, moved = [], []
    for field, found in values.items():
        name = CALLED.get(field, field.rpartition(".")[2])
        distinct = [*dict.fromkeys(found)]
        if len(distinct) == 1:
            same.append(f"{name} {_said(distinct[0])}")
        elif distinct and all(isinstance(value, (int, float)) for value in distinct):
            moved.append(f"{name} {_said(min(distinct))} to {_said(max(distinct))}")
        elif distinct:
            moved.append(f"{name} {', '.join(map(_said, distinct))}")
    return ", ".join(same), ", ".join(moved)


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _texts(records: Iterable[RunRecord]) -> str:
    texts = {record.run.data.source: record.data.get("sha256", "") for record in records}
    return "; ".join(f"{source}{f', sha256 {digest}' if digest else ''}" for source, digest in texts.items())


def _made(records: list[RunRecord]) -> str:
    said = []
    for key in ("commit", "dirty", "jax", "device"):
        values = [*dict.fromkeys(record.machine.get(key, "") for record in records)]
        if values := [value for value in values if value]:
            said.append(f"{key} {', '.join(values)}")
    return "; ".join(said)


def _collection(found: Findings, ledger: Ledger, fitted: list[RunSpec]) -> list[Line]:
    table, o = found.table, found.observations
    lost = table.loc[table["status"] != "finished"]
    missing = sum(one["role"] != "trunk" for one in found.study["plan"]) - len(table)
    undecayed = sum(run.optim.schedule == "constant" for run in fitted)
    kept = sum((ledger.run_folder(run.id) / "checkpoints").exists() for run in fitted)
    evaluated = sorted({run.eval.tokens for run in fitted})
    errors = o.loss_se[np.isfinite(o.loss_se)] if o is not None else np.zeros(0)
    doubt = f"; its standard error is {np.median(errors):.2g} nats in the median run" if len(errors) else ""
    interpolated = found.isoflop is not None and any(v.slice.interpolated for v in found.isoflop.valleys)
    return [
        _line("points", f"one a run, at its end; {undecayed} of {len(fitted)} fitted runs end without a cooldown"),
        _line("loss", f"on {', '.join(map(words.short, evaluated))} held-out tokens{doubt}" if evaluated else ""),
        _line("smoothing and interpolation", "approach 2 interpolates between the horizons of one size; the laws see "
              "measured losses alone" if interpolated else "none"),
        _line("left out", _left_out(found)),
        _line("lost or missing", f"{words.several(len(lost), 'run')} diverged, {missing} not trained"),
        _line("repeats", f"sd of ln loss between seeds {found.noise.sd:.2%}, from {words.replicates(found.noise)}"
              if found.noise else "no run is repeated with another seed", found.noise is not None),
        _line("raw data", "the table of all runs can be saved from this page; curves lie in runs/ID/metrics.jsonl"),
        _line("weights", f"of {kept} of the {len(fitted)} fitted runs in runs/ID/checkpoints"),
    ]  # fmt: skip


def _left_out(found: Findings) -> str:
    fit = next(iter(found.fits.values()), None)
    if fit is None:
        return ""
    return ", ".join(f"{words.several(count, 'row')} ({why})" for why, count in fit.dropped.items()) or "nothing"


def _fitting(found: Findings) -> list[Line]:
    fits = {name: fit for name, fit in found.every_fit.items() if fit.law is not None}
    if not fits:
        return [_line("fit", "no law is told by these runs, so there is nothing to say", False)]
    law = found.headline or next(iter(fits.values()))
    draws = found.study["analysis"]["bootstrap"]
    space = "ln L" if law.space == "log" else "L"
    rejected = {name: int((fit.weights < REJECTED).sum()) for name, fit in fits.items() if fit.weights is not None}
    edges = {name: fit.at_bound for name, fit in fits.items() if fit.at_bound}
    scored = [one for one in found.registered if one.score is not None]
    inside = sum(one.score.inside for one in scored if one.score)
    method = (
        "MM-estimation: the scale of the noise is found first" if law.estimator == "surface" else "Huber's function"
    )
    return [
        _line("objective", f"residuals of {space} by {method}"),
        _line("search", "; ".join(f"{k} from {_starts(fit.name)}" for k, fit in fits.items()) + "; the best polished"),
        _line("bounds", _edges(edges)),
        _line("weights", "runs that count for nothing, by law: " + ", ".join(f"{k} {v}" for k, v in rejected.items())),
        _line("intervals", f"{words.percent(law.level)}, "
              + (f"{draws} refits to resampled trunks" if draws else "the delta method with Student's t")
              + f"; noise of ln loss by source: {_components(law.components)}"),
        _line("sensitivity", "; ".join(_exponents(found))),
        _line("validation", _validated(law), law.holdout is not None),
        _line("forecasts", f"{len(found.registered)} registered before their run, {len(scored)} scored, {inside} of "
              "them inside their interval" if found.registered else "none registered", bool(scored)),
    ]  # fmt: skip


def _validated(law: Fit) -> str:
    held = law.holdout
    if held is None:
        return "too few runs to leave any out"
    return (
        f"the {words.several(int(held['runs']), 'run')} of most compute, left out, are predicted {held['error']:.2%} "
        f"off on average; a line through two points of the frontier would be {held['baseline']:.2%} off"
    )


def _starts(law: str) -> str:
    axes = LAWS[law].grid.values()
    return f"{math.prod(map(len, axes)):,} starts on a grid of {len(axes)} shape parameters"


def _edges(edges: Mapping[str, tuple[str, ...]]) -> str:
    if not edges:
        return "no parameter rests on one"
    return "; ".join(f"{law}: {', '.join(map(words.symbol, names))} rests on one" for law, names in edges.items())


def _components(components: Mapping[str, float]) -> str:
    return ", ".join(f"{source} {sd:.2g}" for source, sd in components.items()) or "not told apart"


def _exponents(found: Findings) -> list[str]:
    """How an exponent moves with the law, and with what N counts."""
    by_law = [
        f"exponent of N* by the {name} law {words.interval(fit.optimum_intervals(fit.flops_max)['exponent_n'])}"
        for name, fit in found.fits.items()
        if hasattr(fit.law, "optimum")
    ]
    return by_law + [
        f"alpha of {ladder.group} with N as {name} {words.interval(fit.estimates()['alpha'])}"
        for ladder in found.ladders
        for name, fit in ladder.conventions.items()
        if fit.law is not None
    ]
