"""One study on several processes that are one JAX program, disturbed and not: the same tables.

python benchmarks/hosts.py --out benchmarks/results/hosts.json       # the whole matrix, an hour on 2 cores
python benchmarks/hosts.py --devices 1 --out benchmarks/results/hosts.json      # one device each, 26 minutes

Each process is `scaling run ... --distributed`, on CPU devices of this machine, with gloo's collectives. Cases:

    batches        every batch and every held-out window, put together from what each process made: sha256 as of one
    table          undisturbed: losses against those of one process with one device, relative
    meshes         likewise, with --mesh: fsdp over all devices, data x fsdp, data x tensor
    kill_follower  SIGKILL to the last process's worker: all end with 75, and the same command gives the same table
    kill_lead      likewise, to the whole of process 0
    term_follower  SIGTERM to the last process alone: all save and end with 75, and the same command goes on
    elsewhere      stopped, and gone on with by one process with one device
    from_one       begun by one process with one device, stopped, and gone on with
    bucket         results in a bucket, which no process sees as a disk: the lead writes the weights of all

The same table is, to the bit, that of the same processes undisturbed where these go on, and otherwise 1e-5 relative.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from train_step import where  # beside this file

from scaling.record import Ledger
from scaling.record.files import folder_of

ROOT = Path(__file__).parent.parent
CLOSE = 1e-5  # relative, float32 over 150 steps
TIMEOUT = 300.0  # seconds of a command

STUDY = """
from dataclasses import replace
from scaling.plan import Analysis, Plan, Study, straight, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=2, d_model=32, d_ff=64, d_head=8, vocab_size=192, context=60)
BASE = RunSpec(
    model=MODEL, optim=OptimSpec(peak_lr=1e-3, warmup_steps=10, average=0.2), data=DataSpec(source="zipf-facts"),
    eval=EvalSpec(tokens=24_000), batch=16, steps=1,
)
FREE = replace(BASE, optim=OptimSpec(name="schedule_free", peak_lr=1e-3, warmup_steps=10, schedule="constant"))
STUDY = Study(
    name="hosts", question="Does it depend on how many hosts there are?",
    plan=Plan((
        *trunks(BASE, [MODEL], [50 * 960, 150 * 960], group="trunk").runs,
        *straight(FREE, [MODEL], [100 * 960], group="free").runs,
    )),
    analysis=Analysis(laws=("chinchilla",), bootstrap=0),
)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], metavar="P")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], metavar="D", help="of each process")
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    parser.add_argument("--hash", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--losses", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.losses:
        print(json.dumps(losses(options.losses)))
        return
    if options.hash:
        print(json.dumps(hashes(*options.hash)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(Path(folder))
        for processes in options.processes:
            for devices in options.devices:
                for case in options.cases:
                    began = time.monotonic()
                    row = {"processes": processes, "devices": devices, "case": case}
                    row |= CASES[case](proof, processes, devices) | {"seconds": round(time.monotonic() - began)}
                    print(json.dumps(row), file=sys.stderr, flush=True)
                    found.append(row)
                    if options.out:  # as far as it is
                        said = {"where": where(), "close": CLOSE, "found": found}
                        options.out.write_text(json.dumps(said, indent=1) + "\n")
    show(found)
    sys.exit(0 if all(row["ok"] for row in found) else 1)


def show(found: list[dict[str, Any]]) -> None:
    table = Table(
        "processes", "devices of each", "case", "ok", "statuses", "went on from step", "largest difference", "s"
    )
    for row in found:
        cells = (row.get("statuses", ""), row.get("went_on_from", ""), row.get("difference", ""), row["seconds"])
        table.add_row(*map(str, (row["processes"], row["devices"], row["case"], row["ok"], *cells)))
    Console().print(table)


class Proof:
    """The study, and its tables so far: by (processes, devices of each)."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.study = folder / "hosts.py"
        self.study.write_text(STUDY)
        (folder / "bucket").mkdir()
        self.tables: dict[tuple[int, int], dict[str, Any]] = {}

    def out(self) -> str:
        self.count += 1
        return str(self.folder / f"out-{self.count}")

    def table(self, processes: int, devices: int) -> dict[str, Any]:
        """Undisturbed."""
        if (processes, devices) not in self.tables:
            out = self.out()
            assert self.run(processes, devices, out) == [0] * processes, self.said(out)
            self.tables[processes, devices] = losses(out)
        return self.tables[processes, devices]

    def start(self, processes: int, devices: int, out: str, *mesh: str) -> list["subprocess.Popen[bytes]"]:
        port = free_port()
        command = [sys.executable, "-m", "scaling", "run", str(self.study), "--out", out, *mesh]
        started = []
        for k in range(processes):
            words = ["--distributed", f"127.0.0.1:{port},{processes},{k}"] if processes > 1 else ["--workers", "1"]
            with open(f"{self.folder}/said-{Path(out).name}-{k}", "ab") as said:
                started.append(
                    subprocess.Popen([*command, *words], env=self.environment(devices), stdout=said, stderr=said)
                )
        return started

    def environment(self, devices: int) -> dict[str, str]:
        paths = [str(ROOT), str(ROOT / "tests" / "bucket"), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "SCALING_CORES": str(devices), "PYTHONPATH": os.pathsep.join(paths),
            "SCALING_TEST_BUCKET": str(self.folder / "bucket"),
        }  # fmt: skip

    def run(self, processes: int, devices: int, out: str, *mesh: str) -> list[int]:
        return ended(self.start(processes, devices, out, *mesh))

    def said(self, out: str) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"said-{Path(out).name}-*")))[-4000:]

    def disturbed(
        self, begun: tuple[int, int], goes_on: tuple[int, int], disturb: Callable[[list[int]], None]
    ) -> dict[str, Any]:
        """What `disturb` did, to the processes of a sweep that has left its first checkpoint behind."""
        out = self.out()
        started = self.start(*begun, out)
        trunk = trunk_of(out)
        disturb([process.pid for process in started])
        statuses = ended(started)
        steps = sorted(Ledger(Path(out)).checkpoint_steps(trunk))
        after = self.run(*goes_on, out)
        difference = apart(losses(out), self.table(*goes_on) if begun == goes_on else self.table(1, 1))
        again = {75} if begun[0] == 1 or len(statuses) > 1 else set()
        return {
            "ok": set(statuses) == again and set(after) == {0} and difference <= (0.0 if begun == goes_on else CLOSE),
            "statuses": statuses, "statuses_after": after, "went_on_from": steps[-1] if steps else 0,
            "difference": difference,
        }  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ended(processes: "list[subprocess.Popen[bytes]]") -> list[int]:
    end = time.monotonic() + TIMEOUT
    try:
        return [process.wait(max(1.0, end - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()


def losses(out: str) -> dict[str, Any]:
    """Of every run: the curve, the held-out loss, and that of the averaged weights."""
    ledger = Ledger(folder_of(out))
    return {
        p["id"]: [
            *(row["loss"] for row in ledger.curve(p["id"])),
            *(loss for loss in (ledger[p["id"]].loss, ledger[p["id"]].averaged_loss) if loss is not None),
        ]
        for p in ledger.study()["plan"]
    }


def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    assert ours.keys() == theirs.keys() and all(len(ours[run]) == len(theirs[run]) for run in ours)
    return max(abs(a - b) / abs(b) for run in ours for a, b in zip(ours[run], theirs[run], strict=True))


def trunk_of(out: str) -> str:
    """The trunk, once it is well behind its first checkpoint."""
    ledger, end = Ledger(Path(out)), time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        time.sleep(0.02)
        if not (Path(out) / "study.json").exists():
            continue
        (trunk,) = (p["id"] for p in ledger.study()["plan"] if p["role"] == "trunk")
        kept = ledger.checkpoint_steps(trunk)
        if kept and trunk not in ledger and ledger.curve_lines(trunk)[-1]["step"] > max(kept) + 10:
            return trunk
    raise TimeoutError(f"{out}: no checkpoint")


def worker_of(supervisor: int) -> int:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(supervisor)], capture_output=True, text=True)
    return int(listed.stdout.split()[0])


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def table(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    difference = apart(proof.table(processes, devices), proof.table(1, 1))
    return {"ok": difference <= CLOSE, "difference": difference}


def meshes(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    """Of all devices: the state cut over all of them, copies of it that are cut, and heads cut over two."""
    differences, statuses, count = {}, set(), processes * devices
    cut = {f"data={count // 2},fsdp=2"} if count > 2 else set()
    for mesh in sorted({f"fsdp={count}", f"data={count // 2},tensor=2"} | cut):
        out = proof.out()
        statuses |= {*proof.run(processes, devices, out, "--mesh", mesh)}
        differences[mesh] = apart(losses(out), proof.table(1, 1))
    return {
        "ok": statuses == {0} and max(differences.values()) <= CLOSE, "difference": max(differences.values()),
        "by_mesh": differences,
    }  # fmt: skip


def kill_follower(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    here = (processes, devices)
    return proof.disturbed(here, here, lambda pids: kill([worker_of(pids[-1])]))


def kill_lead(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    """Its supervisor and its worker: what is left of that command has no status of its own."""
    here = (processes, devices)
    found = proof.disturbed(here, here, lambda pids: kill([worker_of(pids[0]), pids[0]]))
    rest = {*found["statuses"][1:]}
    return found | {"ok": rest == {75} and found["difference"] == 0.0 and {*found["statuses_after"]} == {0}}


def term_follower(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    here = (processes, devices)
    return proof.disturbed(here, here, lambda pids: os.kill(pids[-1], signal.SIGTERM))


def elsewhere(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    return proof.disturbed((processes, devices), (1, 1), lambda pids: os.kill(pids[0], signal.SIGTERM))


def from_one(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    return proof.disturbed((1, 1), (processes, devices), lambda pids: os.kill(pids[0], signal.SIGTERM))


def bucket(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    proof.count += 1
    name = f"gs://bucket/out-{proof.count}"
    statuses = proof.run(processes, devices, name)
    assert {*statuses} == {0}, proof.said(name)
    command = [sys.executable, __file__, "--losses", name]
    done = subprocess.run(command, env=proof.environment(devices), stdout=subprocess.PIPE, check=True)
    difference = apart(json.loads(done.stdout), proof.table(processes, devices))
    return {"ok": difference == 0.0, "statuses": statuses, "difference": difference}


def batches(proof: Proof, processes: int, devices: int) -> dict[str, Any]:
    """As each process sees them: every one gathers the whole, and hashes it."""
    found = {n: _hashed(proof, n, devices) for n in (1, processes)}
    same = len({json.dumps(each) for of in found.values() for each in of}) == 1
    return {
        "ok": same,
        "hashes": len(found[1][0]),
        "sha256": hashlib.sha256(json.dumps(found[1][0]).encode()).hexdigest(),
    }


def _hashed(proof: Proof, processes: int, devices: int) -> list[list[str]]:
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--hash", f"127.0.0.1:{port}", str(processes), str(k)],
            env=proof.environment(devices), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for k in range(processes)
    ]  # fmt: skip
    return [json.loads(process.communicate(timeout=TIMEOUT)[0].splitlines()[-1]) for process in started]


def hashes(coordinator: str, processes: str, process: str) -> list[str]:
    """Of 50 batches and of the held-out windows of two sources, whose rows this process has a part of."""
    import jax
    import numpy as np

    from scaling import data
    from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec
    from scaling.train import join
    from scaling.train.host import use_every_core
    from scaling.train.placement import Placement, sharding
    from scaling.train.team import whole
    from scaling.train.windows import Batches, Measured, Windows

    use_every_core()
    if int(processes) > 1:
        join(coordinator, int(processes), int(process))
    mesh, found = Placement(data=jax.device_count()).mesh(), []

    def digest(windows: Windows) -> str:
        made = whole(windows.on(sharding(mesh, None, "batch", None)))
        return hashlib.sha256(np.ascontiguousarray(made).data).hexdigest()

    for source, vocab in (("zipf-facts", 192), ("bytes:stdlib", 256)):
        model = ModelSpec(n_layers=1, d_model=16, d_ff=32, d_head=8, vocab_size=vocab, context=60)
        run = RunSpec(
            model=model, optim=OptimSpec(peak_lr=1e-3), data=DataSpec(source=source), eval=EvalSpec(tokens=6000),
            batch=16, steps=50,
        )  # fmt: skip
        opened = data.open_source(run.data, run.model)
        found += [digest(Batches(run=run, source=opened, start=i, count=1, length=1)) for i in range(run.steps)]
        held_out = data.held_out(opened, run.eval.tokens, model.context)
        found.append(digest(Measured(held_out=held_out, first=0, shape=(4, 32, 61))))
    return found


CASES: dict[str, Callable[[Proof, int, int], dict[str, Any]]] = {
    "batches": batches, "table": table, "meshes": meshes, "kill_follower": kill_follower, "kill_lead": kill_lead,
    "term_follower": term_follower, "elsewhere": elsewhere, "from_one": from_one, "bucket": bucket,
}  # fmt: skip


if __name__ == "__main__":
    main()
