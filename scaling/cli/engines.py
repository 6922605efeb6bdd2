"""Sweeps on other people's engines, `scaling run --on slurm|ray`: options, refusals, and following the sweep from here.

The engine starts participants, claims in the results folder decide who trains what, and this process only watches the
folder: it may leave and come back. Slices of TPUs are in `scaling.cli.tpu`.
"""

import argparse
import contextlib
import json
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from scaling.cli import mesh, tpu
from scaling.cli.follow import Following
from scaling.cli.sweep import unfit_team
from scaling.launch import ray, slurm
from scaling.launch.local import Outcome
from scaling.launch.participant import work
from scaling.plan import Plan, Study
from scaling.record import Failure, Ledger
from scaling.record.files import commit_json, on_store
from scaling.report.words import plain
from scaling.spec import Refusal

ENGINES = ("local", "slurm", "ray", *tpu.ENGINES)
AT_ONCE = 32

# Options of engines, with the engines that they are for; None means not given.
OF = {
    "partition": ("slurm",), "at_once": ("slurm",), "hours": ("slurm",), "account": ("slurm",), "qos": ("slurm",),
    "constraint": ("slurm",), "slurm": ("slurm",), "nodes": ("slurm",), "setup": ("slurm", "tpu-vm"),
    "detach": ("slurm",), "address": ("ray",),
    "cpus": ("slurm", "ray"), "gpus": ("slurm", "ray"), "memory_gb": ("slurm", "ray"), "workers": ("local",),
    "distributed": ("local",),
    **tpu.OF,
}  # fmt: skip


def engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engines", "docs/clusters.md says what each does on preemption and node death")
    add = group.add_argument
    names = f"{', '.join(ENGINES[:-1])} or {ENGINES[-1]}"
    add("--on", default="local", metavar="ENGINE", help=f"{names}: where the runs are trained (default: local)")
    add("--nodes", type=int, metavar="N", help="slurm: of a task, which trains each run on all of them (default 1)")
    add(
        "--cpus", type=int, metavar="N", help="slurm, ray: cores of a task (of each node), a worker on each (default 1)"
    )
    add("--gpus", type=int, metavar="N", help="slurm, ray: GPUs of a task (default 0)")
    add("--memory-gb", type=float, metavar="X", help="slurm, ray: memory of a task")
    add("--hours", type=float, metavar="H", help="slurm: time limit of a task, which then is queued again")
    add("--at-once", type=int, metavar="N", help=f"slurm: the most tasks (default {AT_ONCE})")
    add("--partition", metavar="P", help="slurm")
    add("--account", metavar="A", help="slurm")
    add("--qos", metavar="Q", help="slurm")
    add("--constraint", metavar="C", help="slurm")
    add("--slurm", action="append", metavar="KEY[=VALUE]", help="slurm: another option of sbatch; may be repeated")
    add(
        "--setup", action="append", metavar="LINE",
        help="slurm, tpu-vm: a shell line before each task, or on every host; may be repeated",
    )  # fmt: skip
    add("--detach", action="store_true", default=None, help="slurm: return when the tasks are submitted")
    add("--address", metavar="A", help="ray: auto (default), HOST:PORT, or local for a Ray of this sweep's own")
    tpu.slice_options(group)


def misplaced(arguments: argparse.Namespace) -> list[str]:
    """Options of other engines than the one asked for."""
    return [
        f"--{name.replace('_', '-')}: is for --on {' and --on '.join(engines)}, not for --on {arguments.on}"
        for name, engines in OF.items()
        if getattr(arguments, name) is not None and arguments.on not in engines
    ]


def unfit(arguments: argparse.Namespace, plan: Plan, folder: Path) -> list[str]:
    """What is wrong with the engine and its options, all of it. Of slices `scaling.cli.tpu` says the rest."""
    engine = arguments.on
    if engine not in ENGINES:
        return [f"--on = {engine}: must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}"]
    lines = misplaced(arguments)
    if engine == "local":
        return lines
    if on_store(folder):
        return [*lines, f"--on {engine}: needs a folder on a disk that all see; start `scaling work {folder}` there"]
    if arguments.cpus is not None and arguments.cpus < 1:
        lines.append(f"--cpus = {arguments.cpus}: must be at least 1")
    if arguments.gpus is not None and arguments.gpus < 0:
        lines.append(f"--gpus = {arguments.gpus}: must be at least 0")
    if arguments.memory_gb is not None and not 0 < arguments.memory_gb < float("inf"):
        lines.append(f"--memory-gb = {arguments.memory_gb:g}: must be above 0")
    if engine == "ray":
        return lines + (ray.missing() if not arguments.dry_run else [])
    if arguments.nodes is not None and arguments.nodes < 1:
        lines.append(f"--nodes = {arguments.nodes}: must be at least 1")
    elif arguments.nodes is not None and arguments.nodes > 1:
        lines += unfit_team(plan, "--nodes", arguments.nodes, arguments.population, folder)
    if arguments.at_once is not None and arguments.at_once < 1:
        lines.append(f"--at-once = {arguments.at_once}: must be at least 1")
    lines += _slurm(arguments).faults(folder)
    if arguments.hours is None:
        lines.append(
            "--hours: must be given with --on slurm, e.g. 4: the time limit of a task, which then is queued again"
        )
    return lines + slurm.missing(to_submit=not arguments.dry_run)


def _slurm(arguments: argparse.Namespace) -> slurm.Request:
    options = dict(word.partition("=")[::2] for word in arguments.slurm or ())
    return slurm.Request(
        hours=1.0 if arguments.hours is None else arguments.hours, nodes=arguments.nodes or 1,
        cpus=arguments.cpus or 1, gpus=arguments.gpus or 0, memory_gb=arguments.memory_gb or 0.0,
        partition=arguments.partition or "", account=arguments.account or "", qos=arguments.qos or "",
        constraint=arguments.constraint or "", options=options, setup=arguments.setup or (),
    )  # fmt: skip


def _ray(arguments: argparse.Namespace) -> ray.Request:
    return ray.Request(
        cpus=arguments.cpus or 1,
        gpus=arguments.gpus or 0,
        memory_gb=arguments.memory_gb or 0.0,
        address=arguments.address or "auto",
    )


def workers(arguments: argparse.Namespace, study: Study, ledger: Ledger) -> int:
    """How many runs the engine trains at a time at most."""
    each = _workers_of_a_task(arguments)
    return _tasks(arguments, study, ledger) * each


def _workers_of_a_task(arguments: argparse.Namespace) -> int:
    alone = arguments.gpus or arguments.on == "ray" or (arguments.nodes or 1) > 1
    return 1 if alone else arguments.cpus or 1


def _tasks(arguments: argparse.Namespace, study: Study, ledger: Ledger) -> int:
    """No more than there are chains for: a trunk and its branches, or a run on its own."""
    pending = study.runs.pending(ledger).runs
    chains = len({p.run.branch.trunk if p.run.branch else p.run.id for p in pending})
    each = _workers_of_a_task(arguments)
    most = (arguments.at_once or AT_ONCE) if arguments.on == "slurm" else chains
    return max(1, min(most, -(-chains // each)))


def dry_run(arguments: argparse.Namespace, study: Study, ledger: Ledger) -> None:
    """Print what would be submitted, on standard output."""
    if arguments.on == "slurm":
        count = _tasks(arguments, study, ledger)
        print(slurm.script(_slurm(arguments), study.name, ledger.folder, count), end="")
    elif arguments.on == "ray":
        request = _ray(arguments)
        needs = " ".join(f"{name}={amount:g}" for name, amount in request.resources().items())
        for task in _ray_tasks(arguments, study, study.runs, ledger):
            after = f" after {task.after}" if task.after else ""
            print(f"{task.planned.run.id} ({needs}){after}: {shlex.join(task.command)}")


def _participant(arguments: argparse.Namespace, ledger: Ledger, *options: str) -> list[str]:
    ours = ["--population", arguments.population, "--patience", f"{arguments.patience:g}"]
    ours += mesh.words(arguments)
    ours += [word for sink in arguments.sinks for word in ("--log", sink)]
    return work(ledger.folder, *ours, *(["--retry"] if arguments.retry else []), *options)


def sweep(
    arguments: argparse.Namespace,
    study: Study,
    ledger: Ledger,
    console: Console,
    *,
    lay_down: Callable[[], None],
    follow: str,
) -> Outcome | None:
    """Have the engine make what is pending, and follow it; None where this process leaves the sweep to itself.

    `lay_down` writes study.json, before the first participant reads it; `follow` is the command that comes back.
    """
    if not len(study.runs.pending(ledger)):
        lay_down()
        return Outcome()
    if arguments.on == "slurm":
        return _on_slurm(arguments, study, ledger, console, lay_down, follow)
    return _on_ray(arguments, study, ledger, console, lay_down)


def _on_slurm(
    arguments: argparse.Namespace,
    study: Study,
    ledger: Ledger,
    console: Console,
    lay_down: Callable[[], None],
    follow: str,
) -> Outcome | None:
    job_id = _alive(ledger)
    lay_down()
    if job_id:
        console.print(f"its tasks are already submitted, as job {job_id}", highlight=False)
    else:
        count = _tasks(arguments, study, ledger)
        # One stays to the end, to go on with the runs of a task that died; the others give their nodes back.
        stays, leaves = _participant(arguments, ledger, "--linger"), _participant(arguments, ledger)
        job_id = slurm.submit(_slurm(arguments), study.name, ledger.folder, [stays, *[leaves] * (count - 1)])
        commit_json(ledger.folder / "jobs.json", {"engine": "slurm", "id": job_id, "tasks": count})
        console.print(f"submitted {count} tasks, as job {job_id}", highlight=False)
    leave = (
        f"To see it: scaling status {shlex.quote(str(ledger.folder))}, squeue --jobs {job_id}. "
        f"To stop it: scancel {job_id}. To close it when it is over: {follow}"
    )
    if arguments.detach:
        console.print(leave, highlight=False, soft_wrap=True, markup=False)
        return None
    with _stopped() as stop, Following(study.runs, ledger, console) as following:
        while len(following.pending()):
            try:
                living = slurm.states(job_id)
            except Refusal as refusal:  # the controller is away for a while; the tasks are not
                following.show(escape(refusal.faults[0]))
            else:
                following.show(", ".join(_said(*key, n) for key, n in living.items()))
                if not living:
                    break
            if stop.wait(following.pause):
                break
    if stop.is_set():
        console.print(f"left; job {job_id} goes on. {leave}", highlight=False, soft_wrap=True, markup=False)
        return None
    outcome, lost = Outcome(), []
    for planned in study.runs.pending(ledger).runs:
        if failure := ledger.failure(planned.run.id):
            outcome.failed[planned.run.id] = failure
        else:
            lost.append(planned.run.id)
    if lost:
        left = Failure(kind="blocked", reason=f"no task of job {job_id} is left; see logs/slurm")
        outcome.failed |= dict.fromkeys(lost, left)
        console.print(f"[red]no task of job {job_id} is left, and {len(lost)} runs have no record[/red]; last words:")
        for path, words in slurm.last_words(ledger.folder, job_id)[:8]:
            console.print(f"  {path}: {plain(words)}", highlight=False, soft_wrap=True, markup=False)
    return outcome


def _alive(ledger: Ledger) -> str:
    """The job of an earlier call that has tasks still, or nothing. A squeue that does not answer is a refusal: a second
    array is not submitted on a guess."""
    try:
        jobs = json.loads((ledger.folder / "jobs.json").read_text(encoding="utf-8"))
        job_id = str(int(jobs["id"]))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refusal(f"{ledger.folder / 'jobs.json'}: names no job ({error}); move it away") from None
    return job_id if slurm.states(job_id) else ""


def _said(state: str, reason: str, count: int) -> str:
    return f"{count} {state.lower()}" + (f" ({reason})" if reason not in ("", "None") else "")


def _on_ray(
    arguments: argparse.Namespace, study: Study, ledger: Ledger, console: Console, lay_down: Callable[[], None]
) -> Outcome:
    with ray.RaySweep(_ray(arguments), ledger.folder) as engine, _stopped() as stop:
        lay_down()
        with Following(study.runs, ledger, console) as following:
            for part in (study.plan, study.held_out):
                waits = part is study.held_out and any(p.role == "fitted" for p in following.pending().runs)
                if not (waits or stop.is_set()):
                    engine.run(_ray_tasks(arguments, study, part, ledger), stop, following.show)
    outcome = Outcome(stopped=stop.is_set())
    for planned in study.runs.pending(ledger).runs:
        run_id = planned.run.id
        reason = engine.failed.get(run_id, "its task ended without a record")
        left = Failure(kind="blocked", reason=reason, log=f"logs/ray/{run_id}.log")
        outcome.failed[run_id] = ledger.failure(run_id) or left
    return outcome


def _ray_tasks(arguments: argparse.Namespace, study: Study, part: Plan, ledger: Ledger) -> list[ray.Task]:
    def command(ids: Sequence[str]) -> list[str]:
        only = [word for run_id in ids for word in ("--only", run_id)]
        return _participant(arguments, ledger, "--workers", "1", "--linger", *only)

    return ray.tasks(study.runs, part.pending(ledger), command)


@contextlib.contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
