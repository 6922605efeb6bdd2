"""`scaling fit`: a law, its intervals and a verdict, from a table of runs or a results folder."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from scaling.cli import table
from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.cli.tournament import show_tournament
from scaling.cli.verdict import influence_json, show_fit, show_influence
from scaling.fitting.fit import fit, influence
from scaling.fitting.fitted import Fit
from scaling.fitting.influence import Influence
from scaling.fitting.observe import Observations
from scaling.fitting.tournament import tournament
from scaling.spec import Refusal

ESTIMATORS = ("surface", "huber", "isoflop", "envelope", "all")


def arguments(parser: argparse.ArgumentParser) -> None:
    table.arguments(parser)
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
    parser.add_argument("--loss-space", default="log", choices=("log", "raw"), help="residuals of ln y (default) or y")
    parser.add_argument("--delta", type=float, metavar="X", help="width of Huber's function (default 0.001)")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="B", help="intervals from B resamples of the runs")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and simulations (default 0)")
    parser.add_argument("--level", type=float, default=0.9, help="of every interval (default 0.9)")
    parser.add_argument("--influence", action="store_true", help="the fit without each run, and without each size")
    parser.add_argument("--figures", metavar="DIR", help="draw the residuals, and the influence, into this folder")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    if faults := _faults(arguments):
        raise Refusal(faults)
    console = Console()
    documents = []
    for params in table.conventions(arguments):
        observations = table.read(arguments, arguments.law, params=params, x=arguments.x)
        if arguments.law == "all":
            documents.append(_all_laws(arguments, observations, console))
        else:
            documents.append(_one_law(arguments, observations, console))
    if arguments.json:
        print(json.dumps(documents[0] if len(documents) == 1 else {"fits": documents}, indent=1, allow_nan=False))
    return DONE


def _one_law(arguments: argparse.Namespace, observations: Observations, console: Console) -> dict[str, Any]:
    """Fit, show unless JSON is asked for, and return the document."""
    found = fit(
        observations, arguments.law, x=arguments.x, estimator=arguments.estimator, space=arguments.loss_space,
        delta=arguments.delta, level=arguments.level, bootstrap=arguments.bootstrap, seed=arguments.seed,
    )  # fmt: skip
    document = found.to_json()
    influences = {}
    if arguments.influence and found.law is not None:
        sizes = {"size"} if len(set(observations.size)) > 3 else set()
        influences = {by: influence(observations, found, by) for by in ("run_id", *sizes)}
        document["influence"] = {by: influence_json(found, one) for by, one in influences.items()}
    if not arguments.json:
        show_fit(found, console)
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
    if asked.seed < 0:
        faults.append(f"--seed {asked.seed}: must be at least 0")
    if asked.law == "all":
        alone = {
            "--x": asked.x, "--estimator": asked.estimator != "surface", "--loss-space": asked.loss_space != "log",
            "--delta": asked.delta is not None, "--influence": asked.influence, "--figures": asked.figures,
        }  # fmt: skip
        faults += [f"{name}: is for one law; --law all compares every law" for name, given in alone.items() if given]
    return faults
