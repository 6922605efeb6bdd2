"""`scaling forecast`: the loss, size and data of runs that have not been trained, by every law; registered, scored."""

import argparse
import json
import math
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.cli import source
from scaling.cli.exits import DONE
from scaling.cli.locate import unwritable
from scaling.cli.options import json_option
from scaling.fitting.fit import fit
from scaling.fitting.forecast import (
    FAR,
    TOO_FAR,
    Number,
    Projection,
    Score,
    Target,
    fingerprint,
    project,
    projection_from_json,
    runs_at,
    score_run,
)
from scaling.fitting.laws import SURFACES
from scaling.fitting.observe import Observations, observe, read_table
from scaling.fitting.tournament import Tournament, tournament
from scaling.record.files import folder_of
from scaling.report.words import short
from scaling.spec import Refusal

KIND = "scaling forecast"  # what a registered file says that it is
ASKED = ("compute", "n", "d")
PACKAGES = ("scaling", "numpy", "scipy")  # whose versions are registered


def arguments(parser: argparse.ArgumentParser) -> None:
    source.arguments(parser)
    parser.add_argument(
        "--compute", metavar="FLOPS,...", help="budgets: N and D of the best split, its loss, and the regret of another"
    )
    parser.add_argument("--n", metavar="N,...", help="parameters; without --d, those for which N is the best split")
    parser.add_argument(
        "--d", metavar="D,...", help="tokens; with --n one for each N, or one for all; without, D is the best split"
    )
    parser.add_argument(
        "--law", default="all", metavar="NAME",
        help="all: every law, weighted by how it predicts the runs of most compute (default); or one of "
        f"{', '.join(SURFACES)}",
    )  # fmt: skip
    parser.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    parser.add_argument(
        "--far", action="store_true",
        help=f"beyond {TOO_FAR:g} times the largest fitted compute too; beyond {FAR:g} a forecast is marked as far",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the estimators' starts (default 0)")
    parser.add_argument("--register", metavar="FILE", help="write the forecast as JSON; a file that is there stays")
    parser.add_argument("--score", metavar="FILE", help="score a registered forecast by what was measured")
    parser.add_argument(
        "--measured", metavar="LOSS,...",
        help="with --score: a loss in nats per token for each forecast (default: the table's runs at its N and D)",
    )  # fmt: skip
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    targets, faults = _targets(arguments)
    if faults := _faults(arguments) + faults:
        raise Refusal(faults)
    if arguments.score is not None:
        return _score(arguments)
    observations = source.read(arguments, arguments.law)
    held, said = _said(arguments, observations, targets)
    seen = _seen(observations, said)
    if seen and arguments.register is not None:
        raise Refusal(f"--register: {line}" for line in seen)
    document = _document(arguments, observations, held, said, seen)
    if arguments.register is not None:
        register(Path(arguments.register), document)
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
        return DONE
    console = Console()
    for i, one in enumerate(said):
        console.print(*([""] if i else []), end="\n" if i else "")
        _show(one, console)
    for warning in document["warnings"]:
        _warn(warning, console)
    if arguments.register is not None:
        console.print(f"written to {escape(arguments.register)}", highlight=False, soft_wrap=True)
    return DONE


def _faults(asked: argparse.Namespace) -> list[str]:
    faults = []
    given = [f"--{name}" for name in ASKED if getattr(asked, name) is not None]
    if asked.score is not None:
        alone = [*given, *(["--register"] if asked.register is not None else [])]
        faults += [f"{name}: --score reads what was asked from the file; leave it out" for name in alone]
    else:
        if not given:
            faults.append("say what to forecast: --compute FLOPS, --n N --d D, --n N or --d D")
        if asked.compute is not None and len(given) > 1:
            faults.append(f"--compute: decides N and D by itself; leave {' and '.join(given[1:])} out")
        if asked.measured is not None:
            faults.append("--measured: is the loss of a registered forecast; give its file with --score FILE")
        if asked.law != "all" and asked.law not in SURFACES:
            faults.append(f"--law {asked.law}: must be a law of N and D, {', '.join(SURFACES)}, or all")
        if asked.register is not None and os.path.lexists(asked.register):
            faults.append(f"--register {asked.register}: is there already and stays as it is; give another name")
        elif asked.register is not None and not Path(asked.register).parent.is_dir():
            faults.append(f"--register {asked.register}: there is no folder {Path(asked.register).parent}")
        elif asked.register is not None and (why := unwritable(Path(asked.register).parent)):
            faults.append(f"--register {asked.register}: {why}")
    if not 0 < asked.level < 1:
        faults.append(f"--level {asked.level:g}: must lie between 0 and 1")
    if asked.seed < 0:
        faults.append(f"--seed {asked.seed}: must be at least 0")
    return faults


def _targets(asked: argparse.Namespace) -> tuple[list[Target], list[str]]:
    """What is asked for, and what is wrong with it."""
    lists, faults = {}, []
    for name in ASKED:
        if (text := getattr(asked, name)) is not None:
            lists[name], found = _positive(f"--{name}", text)
            faults += found
    counts = {name: len(values) for name, values in lists.items()}
    if counts.keys() >= {"n", "d"} and 1 not in (counts["n"], counts["d"]) and counts["n"] != counts["d"]:
        faults.append(f"--n and --d: {counts['n']} values and {counts['d']}: give as many of each, or one of either")
    if faults:
        return [], faults
    most = max(counts.values(), default=0)
    c, n, d = ([None] * most if name not in lists else lists[name] * (most // counts[name]) for name in ASKED)
    return [Target(c=c[i], n=n[i], d=d[i]) for i in range(most)], []


def _positive(option: str, text: str) -> tuple[list[float], list[str]]:
    values, faults = [], []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            faults.append(f"{option} {part.strip() or repr(text)}: must be a finite number above 0")
        values.append(value)
    return values, faults


def _said(
    asked: argparse.Namespace, observations: Observations, targets: list[Target]
) -> tuple[Tournament | None, list[Projection]]:
    """The tournament, where every law is asked, and a projection for each target."""
    held = tournament(observations, level=asked.level, seed=asked.seed) if asked.law == "all" else None
    laws = [asked.law] if held is None else [entrant.law for entrant in held.entrants]
    fits = [fit(observations, law, level=asked.level, seed=asked.seed) for law in laws]
    said, faults = [], []
    for target in targets:
        try:
            said.append(project(fits, target, weights=held.weights if held else None, level=asked.level, far=asked.far))
        except Refusal as refusal:
            faults += [fault for fault in refusal.faults if fault not in faults]
    if faults:
        raise Refusal(faults)
    return held, said


def _seen(observations: Observations, said: list[Projection]) -> list[str]:
    """Where the laws know the answer, in words."""
    lines = []
    for one in said:
        n, d = one.numbers["n"].value, one.numbers["d"].value
        if len(known := runs_at(observations, n, d)):
            names = ", ".join(observations.run_id[i] for i in known[:3])
            lines.append(f"N = {n:.4g}, D = {d:.4g}: the laws were fitted to {names} there, so this is no forecast")
    return lines


def _document(
    asked: argparse.Namespace, observations: Observations, held: Tournament | None, said: list[Projection],
    seen: list[str],
) -> dict[str, Any]:  # fmt: skip
    warnings = [*(held.warnings if held else ()), *observations.warnings, *seen]
    if not observations.flops_measured:
        warnings.append("the table has no flops: C = 6 N D is assumed")
    return {
        "kind": KIND,
        "table": {
            "sha256": fingerprint(observations), "runs": len(observations), "params": observations.params,
            "dropped": observations.dropped, "flops_max": float(observations.flops.max()),
        },
        "law": asked.law, "level": asked.level,
        "weights": held.weights if held else {asked.law: 1.0},
        "forecasts": [one.to_json() for one in said], "warnings": list(dict.fromkeys(warnings)),
    }  # fmt: skip


def register(path: Path, document: dict[str, Any]) -> None:
    """Write it with date and versions; the file is made anew or not at all."""
    document = document | {
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    try:
        with open(path, "x", encoding="utf-8") as file:  # x: another process may have made it meanwhile
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise Refusal(f"--register {path}: is there already and stays as it is; give another name") from None
    except OSError as error:
        raise Refusal(f"--register {path}: cannot be written: {error.strerror}") from None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _registered(path: Path) -> tuple[dict[str, Any], list[Projection]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"--score {path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise Refusal(f"--score {path}: is no JSON document") from None
    if not isinstance(document, dict) or document.get("kind") != KIND or "registered" not in document:
        raise Refusal(f"--score {path}: is no forecast that `scaling forecast --register` wrote")
    try:
        return document, [projection_from_json(one) for one in document["forecasts"]]
    except (KeyError, TypeError, IndexError) as error:
        raise Refusal(f"--score {path}: is a damaged forecast: {error}") from None


def _score(asked: argparse.Namespace) -> int:
    document, said = _registered(Path(asked.score))
    warnings: list[str] = []
    if asked.measured is not None:
        values, faults = _positive("--measured", asked.measured)
        losses: list[float | None] = [*values]
        if len(losses) != len(said):
            faults.append(f"--measured: {len(losses)} losses for the {len(said)} forecasts of {asked.score}")
        if faults:
            raise Refusal(faults)
    else:
        losses, warnings = _measured(asked, document, said)
    scored = [
        (one, score_run(one, loss)) for one, loss in zip(said, losses, strict=True) if loss is not None
    ]  # what is not measured yet stays out
    if asked.json:
        scores = [
            {"given": one.given, "forecast": one.to_json()["numbers"]["run"], **vars(score)} for one, score in scored
        ]
        document = {"registered": document["registered"], "level": document["level"], "scores": scores}
        print(json.dumps(document | {"warnings": warnings}, indent=1, allow_nan=False))
        return DONE
    console = Console()
    for one, score in scored:
        _show_score(one, score, document["registered"], console)
    for warning in warnings:
        _warn(warning, console)
    return DONE


def _measured(
    asked: argparse.Namespace, document: dict[str, Any], said: list[Projection]
) -> tuple[list[float | None], list[str]]:
    """The loss of the table's runs at N and D of each forecast, held-out runs included; None where there is none."""
    registered_params = document["table"]["params"]
    if asked.params not in (None, registered_params):
        raise Refusal(f"--params {asked.params}: the forecast counts N as {registered_params}")
    observations = observe(
        read_table(folder_of(asked.table), source.columns_of(asked.columns)), params=registered_params,
        where=asked.where, group=asked.group, drop_bad=asked.drop_bad, roles=("fitted", "held_out"),
    )  # fmt: skip
    losses: list[float | None] = []
    warnings = []
    for one in said:
        n, d = one.numbers["n"].value, one.numbers["d"].value
        rows = runs_at(observations, n, d)
        losses.append(float(np.exp(np.log(observations.loss[rows]).mean())) if len(rows) else None)
        if not len(rows):
            warnings.append(f"no run at N = {n:.6g}, D = {d:.6g} is in the table: not measured yet")
        if len(rows) > 1:
            warnings.append(f"N = {n:.6g}, D = {d:.6g}: the geometric mean of {len(rows)} runs, not of one")
    if not any(loss is not None for loss in losses):
        raise Refusal([*warnings, "nothing to score: give --measured LOSS or a table with these runs"])
    return losses, warnings


def _show(one: Projection, console: Console) -> None:
    numbers = one.numbers
    far = " [yellow](far)[/yellow]" if one.far else ""
    given = ", ".join(f"{name.upper()} = {value:.4g}" for name, value in one.given.items())
    laws = f"{len(one.opinions)} laws, most weight {one.headline}" if len(one.opinions) > 1 else f"{one.headline} alone"
    console.print(
        f"[bold]{given}[/bold]: {one.extrapolation:.3g} times the largest fitted compute{far}; by {laws}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    lines = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "forecast", f"{one.level:.0%} interval", "laws"):
        lines.add_column(heading, justify="left" if not heading else "right")
    words = {
        "loss": "loss, the law", "run": "loss, one new run", "c": "C", "n": "N", "d": "D",
        "regret_half": "nats more at N/2, same C", "regret_double": "nats more at 2 N, same C",
        "regret": "nats more than best split",
    }  # fmt: skip
    for name, label in words.items():
        if name not in numbers or name in one.given:
            continue
        low, high = one.spread(name)
        if numbers[name].low == numbers[name].high:
            lines.add_row(label, _figure(name, numbers[name].value), "", "")
            continue
        lines.add_row(
            label, _figure(name, numbers[name].value), f"{_figure(name, numbers[name].low)} .. "
            f"{_figure(name, numbers[name].high)}", f"{_figure(name, low)} .. {_figure(name, high)}",
        )  # fmt: skip
    console.print(lines)
    if len(one.opinions) > 1:
        own = Table(box=None, header_style="dim", pad_edge=False)
        shown = [name for name in ("run", "c", "n", "d") if numbers[name].low < numbers[name].high]
        for heading in ("law", "weight", *(words[name] for name in shown)):
            own.add_column(heading, justify="left" if heading == "law" else "right")
        for opinion in one.opinions:
            own.add_row(
                opinion.law,
                f"{opinion.weight:.2f}",
                *(
                    _interval(name, opinion.numbers[name])
                    if name == "run"
                    else _figure(name, opinion.numbers[name].value)
                    for name in shown
                ),
            )
        console.print(own)
    for warning in one.warnings:
        _warn(warning, console)


def _show_score(one: Projection, score: Score, registered: str, console: Console) -> None:
    run = one.numbers["run"]
    given = ", ".join(f"{name.upper()} = {value:.4g}" for name, value in one.given.items())
    console.print(
        f"[bold]{given}[/bold]: measured {score.measured:.4f}, forecast {_interval('run', run)} on "
        f"{escape(registered)}: {score.error:+.2%} off, {'inside' if score.inside else 'OUTSIDE'} the {one.level:.0%} "
        "interval",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if len(score.errors) > 1:
        console.print("  " + ", ".join(f"{law} {error:+.2%}" for law, error in score.errors.items()), highlight=False)


def _interval(name: str, number: Number) -> str:
    return f"{_figure(name, number.value)} [{_figure(name, number.low)}, {_figure(name, number.high)}]"


def _figure(name: str, value: float) -> str:
    if name in ("loss", "run"):
        return f"{value:.4f}"
    if name in ("n", "d"):
        return short(value)
    return f"{value:.2g}" if name.startswith("regret") else f"{value:.3g}"


def _warn(warning: str, console: Console) -> None:
    console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)
