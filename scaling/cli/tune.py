"""`scaling tune`: learning rates x sizes x horizons about a study's own rates. Run it again and it goes on."""

import argparse
import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from scaling.cli import mesh
from scaling.cli.exits import DONE, FAILED, INTERRUPTED
from scaling.cli.locate import results_of, study_of
from scaling.cli.options import dry_run_option, json_option, study_options, sweep_options, typed
from scaling.cli.plan import show
from scaling.cli.sweep import lay_down, obeying_signals, say_unfinished, sweep, unfit
from scaling.cost import count_params
from scaling.launch.local import Outcome, default_workers
from scaling.launch.sinks import missing
from scaling.plan import Plan, Planned, Study
from scaling.plan.tuning import Cell, cells, extended, ladder, tuning_plan
from scaling.record import Ledger, RunRecord, table
from scaling.record.claims import Holder
from scaling.record.files import commit_json, disk_folder_of
from scaling.record.tuning import same_but_rate
from scaling.report.words import power, several
from scaling.spec import Refusal, RunSpec, from_json, to_json

EXTENSIONS = 3  # of a model's rates, at most


def arguments(parser: argparse.ArgumentParser) -> None:
    study_options(parser)
    parser.add_argument(
        "--group", action="append", default=[], metavar="NAME", dest="groups",
        help="tune this group; may be repeated (default: those that a law is fitted to, else all)",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", default="3", metavar="K", help="models of each group, the ends among them, or all (default 3)"
    )
    parser.add_argument(
        "--horizons", default="2", metavar="K", help="horizons of each model, the ends among them, or all (default 2)"
    )
    parser.add_argument(
        "--rates", type=int, default=5, metavar="R", help="learning rates about the planned (default 5)"
    )
    parser.add_argument("--step", type=float, default=2.0, metavar="X", help="factor between neighbours (default 2)")
    parser.add_argument("--seeds", type=int, default=1, metavar="S", help="seeds of every run (default 1)")
    parser.add_argument("--level", type=float, metavar="P", help="of every interval (default: the study's)")
    sweep_options(parser)
    dry_run_option(parser)
    json_option(parser)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A checked request."""

    study: Study
    cells: tuple[Cell, ...]
    ladder: tuple[int, ...]  # exponents of step
    step: float
    seeds: int
    level: float

    def plan(self, ledger: Ledger) -> Plan:
        """The runs to make: where all of one round are recorded and an optimum lies at the edge, those of the next.

        It follows from the records alone, so an interrupted study goes on as if it had not been.
        """
        ladders = {cell.grid: self.ladder for cell in self.cells}
        for extension in range(EXTENSIONS + 1):
            plan = tuning_plan(self.cells, lambda cell: ladders[cell.grid], step=self.step, seeds=self.seeds)
            if plan.pending(ledger).runs or extension == EXTENSIONS:
                break
            further = self._further(plan, ledger)
            if not further:
                break
            for grid, side in further:
                ladders[grid] = extended(ladders[grid], side)
        return plan

    def _further(self, plan: Plan, ledger: Ledger) -> list[tuple[Any, int]]:
        """(grid, side) on which an optimum lies at the edge of the rates that were tried."""
        from scaling.fitting.valley import side

        grids = {(cell.group, same_but_rate(cell.run)): cell.grid for cell in self.cells}
        found = {}
        for key, cell in _trials(self.study, plan.runs, ledger):
            grid, towards = grids.get((cell.group, key)), side(cell)
            if grid is not None and towards:
                found[grid, towards] = None
        return list(found)


def run(arguments: argparse.Namespace) -> int:
    study, path = study_of(arguments.experiment, arguments.changes, arguments.size)
    folder = results_of(study, path, arguments.out)
    disk_folder_of(folder, "tune")
    own, ledger = Ledger(folder), Ledger(folder / "tuning")
    workers = default_workers() if arguments.workers is None else arguments.workers
    unready = missing(arguments.sinks) + unfit(study, own, workers, arguments.population, arguments.patience)
    unready += mesh.unfit(arguments, (p.run for p in study.runs.runs))
    unready += mesh.unfit_devices(arguments, study.runs, workers)
    asked = _asked(arguments, study, unready)
    kept = _kept(study, own, ledger)
    plan = asked.plan(ledger)
    whole = _as_study(study, plan + kept)
    if faults := unfit(whole, ledger, workers, arguments.population, arguments.patience):
        raise Refusal(faults)
    console = Console(stderr=True)
    taken = _adoptable(plan, own, ledger)
    show(whole, _Joined(ledger, taken), workers, console)
    _say_cost(asked, plan, ledger, len(taken), console)
    if arguments.dry_run:
        return DONE
    with obeying_signals():
        plan, outcome = _train(asked, kept, taken, ledger, workers, arguments)
        if outcome.stopped:
            out = f" --out {shlex.quote(typed(arguments.out))}" if arguments.out else ""
            again = escape(f"{_command(arguments)}{out}")
            console.print(f"stopped; what is done is kept. To go on: {again}", highlight=False, soft_wrap=True)
            return INTERRUPTED
        _close(asked, _as_study(study, plan + kept), own, ledger, arguments)
    return FAILED if say_unfinished(plan.pending(ledger), ledger, outcome, console) else DONE


def _train(
    asked: Asked, kept: Plan, taken: list[RunRecord], ledger: Ledger, workers: int, arguments: argparse.Namespace
) -> tuple[Plan, Outcome]:
    """The last plan, and what became of it. One participant alone: the plan grows with what is found."""
    outcome = Outcome()
    with Holder(ledger.folder) as holder:
        for said in holder.others()[:1]:
            raise Refusal(f"{ledger.folder}: {said.host} (process {said.pid}) is tuning there; wait for it, or stop it")
        for record in taken:
            ledger.commit(record)
        while True:
            plan = asked.plan(ledger)
            whole = _as_study(asked.study, plan + kept)
            lay_down(whole, ledger, holder, _command(arguments), workers)
            if not plan.pending(ledger).runs or outcome.failed or outcome.stopped:
                break
            outcome = sweep(whole.runs, ledger, holder, arguments, workers)
        table.write(ledger)
    return plan, outcome


def _asked(arguments: argparse.Namespace, study: Study, further: list[str]) -> Asked:
    """The request, or one `Refusal` with everything that is wrong with it and these further faults."""
    level = study.analysis.level if arguments.level is None else arguments.level
    faults, counts = [], {}
    for option in ("sizes", "horizons"):
        text = getattr(arguments, option)
        counts[option] = 0 if text == "all" else int(text) if text.isdecimal() else -1
        if counts[option] < 0 or text == "0":
            faults.append(f"--{option} {text}: must be a whole number, at least 1, or all")
            counts[option] = 0
    if arguments.seeds < 1:
        faults.append(f"--seeds {arguments.seeds}: must be at least 1")
    if not 0 < level < 1:
        faults.append(f"--level {level:g}: must lie between 0 and 1")
    chosen, steps = (), ()
    try:
        chosen = cells(study, groups=arguments.groups, **counts)
    except Refusal as refusal:
        faults += refusal.faults
    try:
        steps = ladder(arguments.rates, arguments.step)
    except Refusal as refusal:
        faults += refusal.faults
    if faults := faults + further:
        raise Refusal(faults)
    return Asked(
        study=study, cells=chosen, ladder=steps, step=arguments.step, seeds=arguments.seeds, level=level
    )  # fmt: skip


def _as_study(study: Study, plan: Plan) -> Study:
    question = f"Does one learning-rate rule serve every size and horizon of {study.name}?"
    return Study(name=f"{study.name}-tuning"[:100], question=question, plan=plan)


def _kept(study: Study, own: Ledger, ledger: Ledger) -> Plan:
    """The runs that earlier calls made, which stay in the table. Raises `Refusal` where they are another study's."""
    if not (ledger.folder / "study.json").exists():
        return Plan()
    known = {same_but_rate(p.run) for p in study.plan.runs if p.role != "trunk"}
    before = [
        Planned(run=from_json(RunSpec, p["run"]), group=p["group"], role=p["role"]) for p in ledger.study()["plan"]
    ]
    made = [p for p in before if p.run.id in ledger]
    strange = [p.run.id for p in made if p.role != "trunk" and same_but_rate(p.run) not in known]
    if strange:
        raise Refusal(
            f"--out = {own.folder}: {ledger.folder} holds {len(strange)} runs of other cells than this study's, e.g. "
            f"{strange[0]}: the study or a --set changed; move that folder away, or give another --out"
        )
    trunks = {p.run.branch.trunk for p in made if p.run.branch}
    return Plan(tuple(p for p in before if p.run.id in ledger or p.run.id in trunks))


def _adoptable(plan: Plan, own: Ledger, ledger: Ledger) -> list[RunRecord]:
    """Records of the study that are runs of this plan: at the planned rate they are the same. A trunk is taken only
    where no branch is left that needs its weights."""
    pending = plan.pending(ledger).runs
    left = {p.run.branch.trunk for p in pending if p.run.branch and p.run.id not in own}
    return [own[p.run.id] for p in pending if p.run.id in own and p.run.id not in left]


class _Joined(Ledger):
    """A results folder as it will be when it has taken these records over."""

    def __init__(self, ledger: Ledger, taken: Iterable[RunRecord]):
        super().__init__(ledger.folder)
        self._taken = {record.run.id: record for record in taken}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._taken or super().__contains__(run_id)

    def __getitem__(self, run_id: str) -> RunRecord:
        return self._taken.get(run_id) or super().__getitem__(run_id)


def _say_cost(asked: Asked, plan: Plan, ledger: Ledger, taken: int, console: Console) -> None:
    own = asked.study.runs.flops
    lines = [f"the study itself costs {power(own)} FLOPs; this is {plan.flops / own:.2g} times as much"]
    if taken:
        lines.append(f"{several(taken, 'run')} at the planned rates {'is' if taken == 1 else 'are'} taken over from it")
    if plan.pending(ledger).runs:
        lines.append(f"an optimum at the edge of its rates adds two more for its model, at most {EXTENSIONS} times")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _trials(study: Study, planned: Iterable[Planned], ledger: Ledger) -> list[tuple[str, Any]]:
    """(`same_but_rate`, cell) for each group of `planned` and each of the study's runs in it that was tried."""
    from scaling.fitting.valley import Cell as Valley

    planned = tuple(planned)
    tried: dict[str, list[RunRecord]] = {}
    for p in planned:
        if p.role != "trunk" and p.run.id in ledger:
            tried.setdefault(same_but_rate(p.run), []).append(ledger[p.run.id])
    found = []
    for group in dict.fromkeys(p.group for p in planned):
        for key, run in _references(study, group).items():
            records = tried.get(key, [])
            if not records:
                continue
            losses = [r.loss if r.status == "finished" and r.loss else math.nan for r in records]
            cell = Valley(
                group=group, model=json.dumps(to_json(run.model)), n=count_params(run.model).matmul, d=run.tokens,
                d_model=run.model.d_model, n_layers=run.model.n_layers, planned=run.optim.peak_lr,
                rate=np.array([r.run.optim.peak_lr for r in records]), seed=np.array([r.run.seed for r in records]),
                loss=np.array(losses, float),
            )  # fmt: skip
            found.append((key, cell))
    return sorted(found, key=lambda pair: (pair[1].n, pair[1].d))


def _references(study: Study, group: str) -> dict[str, RunSpec]:
    """By `same_but_rate`, the run of a group that states the planned rate: the first of the lowest seed."""
    found: dict[str, RunSpec] = {}
    mine = [p.run for p in study.plan.runs if p.group == group and p.role != "trunk"]
    for run in sorted(mine, key=lambda run: run.seed):
        found.setdefault(same_but_rate(run), run)
    return found


def _close(asked: Asked, whole: Study, own: Ledger, ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Analyse every recorded run, write tuning.json, the figure and the study's table, and print what they say."""
    from scaling.fitting.tuning import tune
    from scaling.report import tuning
    from scaling.report.transfer import draw

    order = list(dict.fromkeys(p.group for p in asked.study.plan.runs))
    trials = [cell for _, cell in _trials(asked.study, whole.plan.runs, ledger)]
    found = tune(sorted(trials, key=lambda cell: order.index(cell.group)), level=asked.level)
    rates = {
        one.group: {key: run.optim.peak_lr for key, run in _references(asked.study, one.group).items()} for one in found
    }
    document = {
        "study": asked.study.name, "command": _command(arguments), "level": asked.level,
        "groups": [one.to_json() | {"planned": rates[one.group]} for one in found],
    }  # fmt: skip
    commit_json(own.folder / "tuning.json", document)
    drawn = draw(found, ledger.folder / "figures")
    if (own.folder / "study.json").exists():
        table.write(own)
    if arguments.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        tuning.closing(found, own.folder, [own.folder / "tuning.json", *drawn], _console())


def _console() -> Console:
    """Of standard output; a file has room for the whole table."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def _command(arguments: argparse.Namespace) -> str:
    """What makes these results again, wherever they go."""
    words = ["scaling", "tune", typed(arguments.experiment), *(["--size", arguments.size] if arguments.size else [])]
    words += [word for change in arguments.changes for word in ("--set", change)]
    words += [word for name in arguments.groups for word in ("--group", name)]
    usual = {"sizes": "3", "horizons": "2", "rates": 5, "step": 2.0, "seeds": 1, "level": None}
    for option in usual:
        value = getattr(arguments, option)
        if value != usual[option]:
            words += [f"--{option}", str(value)]
    return shlex.join(words)
