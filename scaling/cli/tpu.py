"""Sweeps on slices of TPUs, `scaling run --on tpu-vm|gke`: options, refusals, and following the job from here.

All hosts run `scaling run` over a bucket. On TPU VMs this process rents the slice, watches the bucket, gives the slice
back and closes the study; for GKE it writes a manifest.
"""

import argparse
import contextlib
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from scaling.cli import mesh
from scaling.cli.exits import DONE, FAILED, INTERRUPTED
from scaling.cli.follow import Following
from scaling.cli.plan import show
from scaling.cli.sweep import SIGNALS, other_study
from scaling.launch import gke, tpu_vm
from scaling.launch.gcloud import GaveUp
from scaling.launch.local import Outcome, Stop
from scaling.launch.process import PATIENCE_SECONDS
from scaling.launch.slices import SLICES
from scaling.launch.tpu_job import Job, Over, alone
from scaling.plan import Plan, Study
from scaling.record import Failure, Ledger
from scaling.record.files import folder_of, on_store
from scaling.spec import Refusal, RunSpec

ENGINES = ("tpu-vm", "gke")
# As `OF` in scaling.cli.engines.
OF = {
    "name": ENGINES, "zone": ENGINES, "accelerator": ENGINES, "bucket": ENGINES, "project": ENGINES, "spot": ENGINES,
    "apart": ENGINES, "runtime_version": ("tpu-vm",), "keep": ("tpu-vm",), "gcloud": ("tpu-vm",), "image": ("gke",),
    "queue": ("gke",),
}  # fmt: skip
NEEDED = {
    "tpu-vm": {"name": "sweep-1", "zone": "us-west4-a", "accelerator": "v5litepod-16", "bucket": "gs://my-bucket"},
    "gke": {
        "name": "sweep-1",
        "accelerator": "v5litepod-16",
        "bucket": "gs://my-bucket",
        "image": "my-registry/scaling:1",
    },
}


def slice_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--name", metavar="N", help="tpu-vm, gke: of the slice, or of the job in the cluster")
    add("--zone", metavar="Z", help="tpu-vm: of Google Cloud, e.g. us-west4-a; gke: for the command of xpk")
    add("--accelerator", metavar="A", help="tpu-vm, gke: the slice, e.g. v5litepod-16 (16 chips on 4 hosts)")
    add("--bucket", metavar="gs://B", help="tpu-vm, gke: results go to a folder there, of the study's name")
    add("--project", metavar="P", help="tpu-vm: of Google Cloud (default: gcloud's own); gke: for the command of xpk")
    add("--spot", action="store_true", default=None, help="tpu-vm, gke: cheaper, and may be taken away at any time")
    add(
        "--apart", action="store_true", default=None,
        help="tpu-vm, gke: every host takes runs of its own, many in one program, over its chips: for sweeps of small "
        "runs (default: all hosts train each run together)",
    )  # fmt: skip
    add("--runtime-version", metavar="V", help="tpu-vm: the software of its hosts (default: the documented one)")
    add(
        "--gcloud", action="append", metavar="KEY[=VALUE]",
        help="tpu-vm: another option of `gcloud compute tpus queued-resources create`, e.g. service-account=A; may be "
        "repeated",
    )  # fmt: skip
    add("--keep", action="store_true", default=None, help="tpu-vm: do not delete the slice at the end")
    add("--image", metavar="I", help="gke: a container image with this checkout and its environment (docs/tpu.md)")
    add("--queue", metavar="Q", help="gke: queue of Kueue, in a cluster that has it")


def unfit(arguments: argparse.Namespace, experiment: Path) -> list[str]:
    """What is wrong with the options, and what this machine lacks; all of it."""
    engine = arguments.on
    lines = [
        f"--{name}: must be given with --on {engine}, e.g. {example}"
        for name, example in NEEDED[engine].items()
        if getattr(arguments, name) is None
    ]
    if arguments.out:
        lines.append(f"--out = {arguments.out}: with --on {engine} results go to the study's folder in --bucket")
    if arguments.bucket is not None and (wrong := tpu_vm.bucket_fault(arguments.bucket)):
        lines.append(wrong)
    lines += [
        f"--log {sink}: needs a results folder on a disk; copy it there, and `scaling log`" for sink in arguments.sinks
    ]
    lines += (_request(arguments) if engine == "tpu-vm" else _pods(arguments)).faults()
    if arguments.accelerator in SLICES:
        lines += _unfit_slice(arguments)
    if engine == "gke" and not tpu_vm.inside(experiment):
        lines.append(f"--on gke: {experiment} is not in this checkout, which the image has; move it to experiments/")
    if engine == "gke" and not arguments.dry_run:
        lines.append(
            "--on gke: writes a manifest and applies none: `... --dry-run >job.yaml`, then kubectl apply -f job.yaml"
        )
    if engine == "tpu-vm" and not arguments.dry_run:
        lines += tpu_vm.missing(experiment)
    return lines


def _unfit_slice(arguments: argparse.Namespace) -> list[str]:
    there, lines = SLICES[arguments.accelerator], []
    hosts = there.hosts
    if arguments.mesh is not None and not mesh.unfit(arguments, ()):
        taken = math.prod(size for axis, size in mesh.sizes(arguments.mesh).items() if axis in mesh.AXES)
        devices = there.devices // hosts if arguments.apart else there.devices
        if taken != devices:
            where = "a host has" if arguments.apart else f"{arguments.accelerator} has"
            lines.append(
                f"--mesh = {arguments.mesh}: takes {taken} devices, and {where} {devices}; give sizes that multiply to "
                "all of them, or leave it to --placement auto"
            )
    if arguments.apart and hosts == 1:
        lines.append(f"--apart: {arguments.accelerator} has one host, which takes runs of its own anyway; leave it out")
    if not arguments.apart and hosts > 1 and arguments.population not in ("auto", "1"):
        lines.append(f"--population = {arguments.population}: {hosts} hosts train one run at a time; give --apart, too")
    return lines


def uneven(arguments: argparse.Namespace, pending: Plan) -> list[str]:
    """Why the hosts cannot train each of these runs together: every host reads its own rows of a batch, and every chip
    has its part of the rows and of the widths."""
    there = SLICES[arguments.accelerator]
    odd = [p.run for p in pending.runs if p.run.batch % there.hosts or not _dealt_out(p.run, there.devices)]
    if arguments.apart or not odd:
        return []
    return [
        f"--accelerator = {arguments.accelerator}: {len(odd)} of {len(pending)} runs cannot be dealt out to its "
        f"{there.hosts} hosts with {there.devices} devices, e.g. {odd[0].id}: batch = {odd[0].batch}; have a smaller "
        "slice make these, or give --apart"
    ]


def _dealt_out(run: RunSpec, devices: int) -> bool:
    """Whether rows and widths have factors that multiply to the devices, as the placements of a slice do."""
    widths = [width for width in (mesh.heads(run), run.model.d_ff, run.model.vocab_size) if width is not None]
    return any(
        devices % cut == run.batch % (devices // cut) == 0 and all(width % cut == 0 for width in widths)
        for cut in range(1, devices + 1)
    )


def _given(arguments: argparse.Namespace) -> dict[str, str]:
    return {name: getattr(arguments, name) or example for name, example in NEEDED[arguments.on].items()}


def _request(arguments: argparse.Namespace) -> tpu_vm.Request:
    given = _given(arguments)
    return tpu_vm.Request(
        name=given["name"], zone=given["zone"], accelerator=given["accelerator"], project=arguments.project or "",
        spot=bool(arguments.spot), runtime_version=arguments.runtime_version or "", setup=arguments.setup or (),
        options=dict(word.partition("=")[::2] for word in arguments.gcloud or ()),
    )  # fmt: skip


def _pods(arguments: argparse.Namespace) -> gke.Request:
    given = _given(arguments)
    return gke.Request(
        name=given["name"], accelerator=given["accelerator"], image=given["image"], spot=bool(arguments.spot),
        queue=arguments.queue or "", zone=arguments.zone or "", project=arguments.project or "",
    )  # fmt: skip


def command(arguments: argparse.Namespace, study: Study, experiment: Path) -> list[str]:
    """What every host runs, to the same words."""
    hosts, chips = SLICES[arguments.accelerator].hosts, SLICES[arguments.accelerator].chips_of_host
    words = ["scaling" if arguments.on == "gke" else ".venv/bin/scaling", "run", tpu_vm.path_there(experiment)]
    words += ["--size", arguments.size] if arguments.size else []
    words += [word for change in arguments.changes for word in ("--set", change)]
    words += ["--out", results(arguments, study)]
    words += ["--distributed", "auto"] if hosts > 1 and not arguments.apart else []
    words += ["--population", arguments.population] if arguments.population != "auto" else []
    words += mesh.words(arguments)
    words += ["--patience", f"{arguments.patience:g}"] if arguments.patience != PATIENCE_SECONDS else []
    words += ["--retry"] if arguments.retry else []
    return [*tpu_vm.apart(chips), *words] if arguments.apart else words


def results(arguments: argparse.Namespace, study: Study) -> str:
    return f"{arguments.bucket.rstrip('/')}/{study.name}"


def run(
    arguments: argparse.Namespace,
    study: Study,
    experiment: Path,
    again: str,
    close: Callable[[Study, Ledger, Outcome, Console], int],
) -> int:
    """`again` is the command that goes on; `close` fits and reports."""
    console, words = Console(stderr=True), command(arguments, study, experiment)
    if arguments.dry_run:
        show(study, frozenset(), 0, console)
        for line in uneven(arguments, study.runs) + mesh.unfit(arguments, (p.run for p in study.runs.runs)):
            console.print(f"refused until they are made: {line}", style="yellow", soft_wrap=True, markup=False)
        _print_life(arguments, experiment, words)
        return DONE
    ledger = Ledger(folder_of(results(arguments, study)))
    try:
        faults = other_study(study, ledger)
        show(study, ledger, 0, console)
        pending = study.runs.pending(ledger)
    except OSError as error:
        raise Refusal(
            f"--bucket = {arguments.bucket}: cannot be read ({error}); see `gcloud auth application-default login`"
        ) from error
    if faults := faults + uneven(arguments, pending) + mesh.unfit(arguments, (p.run for p in pending.runs)):
        raise Refusal(faults)
    status = DONE if not len(pending) else _rent(arguments, study, ledger, experiment, words, console)
    if status == INTERRUPTED:
        console.print(
            f"stopped; what is done is kept. To go on: {again}", highlight=False, soft_wrap=True, markup=False
        )
    if status is not DONE:
        return status
    outcome = Outcome()
    for planned in study.runs.pending(ledger).runs:
        lost = Failure(kind="blocked", reason=f"no host made it; see {ledger.folder}/logs")
        outcome.failed[planned.run.id] = ledger.failure(planned.run.id) or lost
    return close(study, ledger, outcome, console)


def _print_life(arguments: argparse.Namespace, experiment: Path, words: Sequence[str]) -> None:
    if arguments.on == "gke":
        print(gke.text(_pods(arguments), words), end="")
        return
    for why, line in tpu_vm.life(_request(arguments), experiment, words):
        print(f"# {why}\n{shlex.join(line)}")


def _rent(
    arguments: argparse.Namespace,
    study: Study,
    ledger: Ledger,
    experiment: Path,
    words: Sequence[str],
    console: Console,
) -> int:
    """Have a slice make what is pending. DONE also where runs failed, which their folders tell."""

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone stops nothing
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    log = tpu_vm.stage(arguments.name) / time.strftime(f"{arguments.name}-%Y%m%dT%H%M%SZ.log", time.gmtime())
    with alone(arguments.name), _stop() as stop, Following(study.runs, ledger, console) as following:

        def look() -> None:
            with contextlib.suppress(OSError):  # nor does a bucket that is out of reach for a while
                following.show(arguments.accelerator)

        job = Job(_request(arguments), experiment, words, say=say, look=look, stop=stop, log=log)
        status, given_back = FAILED, False
        try:
            job.run()
            status = DONE
        except Over as over:
            say(str(over))
        except GaveUp:
            status = INTERRUPTED
        finally:
            given_back = job.leave(bool(arguments.keep))
            _bring_home(log, ledger, say)
    return status if given_back else FAILED


def _bring_home(log: Path, ledger: Ledger, say: Callable[[str], None]) -> None:
    """What the hosts said goes to the results."""
    if not log.is_file():
        return
    try:
        assert on_store(ledger.folder)
        (ledger.folder / "logs" / log.name).upload(log)
        say(f"what the hosts said: {ledger.folder}/logs/{log.name}")
    except OSError as error:
        say(f"what the hosts said: {log}, which could not be copied to the bucket ({error})")


@contextlib.contextmanager
def _stop() -> Iterator[Stop]:
    """What every signal asks, that of a closed terminal too: nothing is left rented in silence."""
    stop = Stop()
    numbers = (*SIGNALS, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.ask()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
