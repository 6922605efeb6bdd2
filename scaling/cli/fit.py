"""`scaling fit`: a law, its intervals and a verdict, from a table of runs or a results folder."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from scaling.cli import source
from scaling.cli.exits import DONE
from scaling.cli.locate import unwritable
from scaling.cli.options import json_option
from scaling.cli.published import show_approaches, show_replication
from scaling.cli.tournament import show_tournament
from scaling.cli.verdict import influence_json, show_calibration, show_fit, show_influence
from scaling.fitting.approaches import approach, approaches
from scaling.fitting.calibrate import FEWEST, calibrate
from scaling.fitting.fit import fit, influence, profile_intervals
from scaling.fitting.fitted import Fit, interval_json
from scaling.fitting.influence import Influence
from scaling.fitting.observe import Observations
from scaling.fitting.published import PROCEDURES, as_published
from scaling.fitting.tournament import tournament
from scaling.fitting.uncertainty import Interval
from scaling.spec import Refusal

ESTIMATORS = ("surface", "huber", "isoflop", "envelope", "all")


def arguments(parser: argparse.ArgumentParser) -> None:
    source.arguments(parser)
    parser.add_argument(
        "--law", default="chinchilla", metavar="NAME",
        help="a law of `scaling laws` (default chinchilla), or all: every law of N and D, judged by how it predicts "
        "the runs of most compute when they are left out",
    )  # fmt: skip
    parser.add_argument("--x", metavar="COLUMN", help="for a law of any one variable: n, d, c or a column")
    parser.add_argument(
        "--estimator", default="surface", choices=ESTIMATORS,
        help="surface: variable projection and MM-estimation (default); huber: approach 3 as published; isoflop: "
        "approach 2; envelope: approach 1; all: the approaches side by side",
    )  # fmt: skip
    parser.add_argument(
        "--as", dest="procedure", metavar="NAME",
        help="a published procedure, whole: " + ", ".join(PROCEDURES) + "; it settles every other choice",
    )  # fmt: skip
    parser.add_argument("--loss-space", default="log", choices=("log", "raw"), help="residuals of ln y (default) or y")
    parser.add_argument("--delta", type=float, metavar="X", help="width of Huber's function (default 0.001)")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="B", help="intervals from B resamples of the runs")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and simulations (default 0)")
    parser.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    parser.add_argument(
        "--profile", action="store_true", help="intervals of the floor and the exponents by profile too"
    )
    parser.add_argument(
        "--calibrate", nargs="?", type=int, const=200, metavar="STUDIES",
        help="simulate this very design (200 studies): how often its intervals hold the truth, how wide they should be",
    )  # fmt: skip
    parser.add_argument("--influence", action="store_true", help="the fit without each run, and without each size")
    parser.add_argument("--figures", metavar="DIR", help="draw the residuals, and the influence, into this folder")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    if faults := _faults(arguments):
        raise Refusal(faults)
    console = Console()
    if arguments.procedure:
        return _as_published(arguments, console)
    documents = []
    for params in source.conventions(arguments):
        observations = source.read(arguments, arguments.law, params=params, x=arguments.x)
        if arguments.estimator == "all":
            documents.append(_side_by_side(arguments, observations, console))
        elif arguments.estimator in ("isoflop", "envelope"):
            documents.append(_by_approach(arguments, observations, console))
        elif arguments.law == "all":
            documents.append(_all_laws(arguments, observations, console))
        else:
            documents.append(_one_law(arguments, observations, console))
    if arguments.json:
        print(json.dumps(documents[0] if len(documents) == 1 else {"fits": documents}, indent=1, allow_nan=False))
    return DONE


def _as_published(arguments: argparse.Namespace, console: Console) -> int:
    found = as_published(source.frame(arguments), arguments.procedure, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        show_replication(found, console)
    return DONE


def _side_by_side(arguments: argparse.Namespace, observations: Observations, console: Console) -> dict[str, Any]:
    found = approaches(observations, level=arguments.level, seed=arguments.seed)
    if not arguments.json:
        show_approaches(found, observations.params, console)
    return {"params": observations.params, "approaches": [one.to_json() for one in found]}


def _by_approach(arguments: argparse.Namespace, observations: Observations, console: Console) -> dict[str, Any]:
    """The document of a fit for an approach that has no law: an optimum and no estimates."""
    found = approach(observations, arguments.estimator, level=arguments.level, seed=arguments.seed)
    if not arguments.json:
        show_approaches([found], observations.params, console)
    said = found.to_json()
    return {
        "law": None, "params": observations.params, "estimator": arguments.estimator, "runs": len(observations),
        "dropped": observations.dropped, "status": "unidentified" if found.why else "converged", "level": found.level,
        "estimates": {}, "unidentified": ["exponent_n", "exponent_d"] if found.why else [],
        "optimum": None if found.why else {key: said[key] for key in ("exponent_n", "exponent_d", "at")},
        "warnings": [*([found.why] if found.why else []), *found.warnings, *observations.warnings],
    }  # fmt: skip


def _one_law(arguments: argparse.Namespace, observations: Observations, console: Console) -> dict[str, Any]:
    """Fit, show unless JSON is asked for, and return the document."""
    found = fit(
        observations, arguments.law, x=arguments.x, estimator=arguments.estimator, space=arguments.loss_space,
        delta=arguments.delta, level=arguments.level, bootstrap=arguments.bootstrap, seed=arguments.seed,
    )  # fmt: skip
    document = found.to_json()
    profiles: dict[str, Interval] = {}
    if arguments.profile and found.law is not None:
        profiles = profile_intervals(observations, found)
        document["profile"] = {name: interval_json(item) for name, item in profiles.items()}
    calibration = None
    if arguments.calibrate and found.law is not None:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("simulated studies", total=arguments.calibrate)
            calibration = calibrate(
                observations, found, studies=arguments.calibrate, seed=arguments.seed,
                progress=lambda done, _: bar.update(task, completed=done),
            )  # fmt: skip
        document["calibration"] = calibration.to_json()
    influences = {}
    if arguments.influence and found.law is not None:
        sizes = {"size"} if len(set(observations.size)) > 3 else set()
        influences = {by: influence(observations, found, by) for by in ("run_id", *sizes)}
        document["influence"] = {by: influence_json(found, one) for by, one in influences.items()}
    if not arguments.json:
        show_fit(found, console, profiles)
        if calibration is not None:
            show_calibration(calibration, console)
        for one in influences.values():
            show_influence(found, one, console)
    if arguments.figures:
        _draw(found, observations, influences, Path(arguments.figures), arguments)
    return document


def _all_laws(arguments: argparse.Namespace, observations: Observations, console: Console) -> dict[str, Any]:
    found = tournament(observations, level=arguments.level, seed=arguments.seed)
    fits = [
        fit(observations, entrant.law, level=arguments.level, bootstrap=arguments.bootstrap, seed=arguments.seed)
        for entrant in found.entrants
    ]
    if not arguments.json:
        show_tournament(found, console)
        for one in fits:
            console.print()
            show_fit(one, console)
    return {"tournament": found.to_json(), "fits": [one.to_json() for one in fits]}


def _draw(
    found: Fit, observations: Observations, influences: dict[str, Influence], folder: Path, asked: argparse.Namespace
) -> None:
    from scaling.report.diagnose import draw

    for path in draw(found, observations, folder, influences.get("size") or influences.get("run_id")):
        if not asked.json:
            print(path)


def _faults(asked: argparse.Namespace) -> list[str]:
    """Options that contradict one another; what `fit` itself refuses is left to it."""
    faults = []
    if asked.figures and (why := unwritable(Path(asked.figures))):
        faults.append(f"--figures {asked.figures}: {why}")
    if asked.seed < 0:
        faults.append(f"--seed {asked.seed}: must be at least 0")
    if asked.calibrate is not None and asked.calibrate < FEWEST:
        faults.append(
            f"--calibrate {asked.calibrate}: a coverage needs at least {FEWEST} studies, 200 to be worth reading"
        )
    if asked.procedure and asked.procedure not in PROCEDURES:
        faults.append(f"--as {asked.procedure}: there is no such procedure; there are {', '.join(PROCEDURES)}")
    if asked.procedure:
        settled = {
            "--law": asked.law != "chinchilla", "--x": asked.x, "--estimator": asked.estimator != "surface",
            "--params": asked.params, "--loss-space": asked.loss_space != "log", "--delta": asked.delta is not None,
            "--bootstrap": asked.bootstrap, "--influence": asked.influence, "--figures": asked.figures,
            "--profile": asked.profile, "--calibrate": asked.calibrate,
            "--group": asked.group, "--drop-bad": asked.drop_bad,
        }  # fmt: skip
        return faults + [
            f"{name}: is settled by --as {asked.procedure}, which repeats a paper whole"
            for name, given in settled.items()
            if given
        ]
    if asked.estimator in ("isoflop", "envelope", "all"):
        of_a_law = {
            "--law": asked.law != "chinchilla", "--x": asked.x, "--loss-space": asked.loss_space != "log",
            "--delta": asked.delta is not None, "--bootstrap": asked.bootstrap, "--influence": asked.influence,
            "--figures": asked.figures, "--profile": asked.profile, "--calibrate": asked.calibrate,
        }  # fmt: skip
        return faults + [
            f"{name}: is for the fit of one law; --estimator {asked.estimator} has none"
            if asked.estimator != "all"
            else f"{name}: --estimator all shows the approaches at their own settings"
            for name, given in of_a_law.items()
            if given
        ]
    if asked.law == "all":
        alone = {
            "--x": asked.x, "--estimator": asked.estimator != "surface", "--loss-space": asked.loss_space != "log",
            "--delta": asked.delta is not None, "--influence": asked.influence, "--figures": asked.figures,
            "--profile": asked.profile, "--calibrate": asked.calibrate,
        }  # fmt: skip
        faults += [f"{name}: is for one law; --law all compares every law" for name, given in alone.items() if given]
    return faults
