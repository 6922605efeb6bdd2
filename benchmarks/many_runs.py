"""How long a list and a table of a results folder with 100,000 recorded runs take, from the index and without it.

python benchmarks/many_runs.py 100000 --out benchmarks/results/many_runs.json

Makes the folder (a grid of model sizes, learning rates and seeds with made-up losses, a curve each) below --folder, or
where temporary files go, and deletes it. Each figure is of a process of its own: seconds of the wall and of the
processor, start of Python included, and its largest memory. "Warm": the folder's files have been read before.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train_step import where

from scaling.cost import flops_per_token
from scaling.plan import Planned
from scaling.record import Clock, Ledger, RunRecord
from scaling.record.files import commit_json
from scaling.record.seal import CURVE, file_digest, sealed
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec, to_json

LIST = "from scaling.record.index import Index\nprint(len(Index(ledger, home).runs()))"
TABLE = "from scaling.cli.main import main\nmain(['table', str(ledger.folder)])"
DIRECT = "from scaling.record import table\ntable.write(ledger)"
COMMAND = """
import json, os, resource, sys, time
from pathlib import Path
began = time.perf_counter()
from scaling.record import Ledger
from scaling.machine import indexes_folder
ledger, home = Ledger(Path(sys.argv[1])), indexes_folder()
{what}
sys.stdout.flush()
used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = sum(of.ru_utime + of.ru_stime for of in used)
# Not ru_maxrss of this process, which is that of the one which started it where that was larger.
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
readers = len(os.sched_getaffinity(0)) if used[1].ru_maxrss else 0
peak = own + readers * used[1].ru_maxrss
print(json.dumps({{"wall": time.perf_counter() - began, "cpu": seconds, "peak": peak}}), file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=int, nargs="?", default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to make the results folder for a while")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as top:
        ledger, began = Ledger(Path(top) / "results"), time.perf_counter()
        make(ledger, options.runs)
        print(f"{options.runs:,} runs made in {time.perf_counter() - began:.0f} s", flush=True)
        os.environ["XDG_CACHE_HOME"] = f"{top}/cache"
        found = measure(ledger, Path(top) / "cache", options.rounds)
        for name, of in found.items():
            said = f"{statistics.median(of['wall']):8.2f} s   processor {statistics.median(of['cpu']):8.2f} s"
            print(f"{name:44} {said}   peak {max(of['peak']) / 2**20:7.0f} MiB", flush=True)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            report = {"where": where(), "load": os.getloadavg(), "runs": options.runs, "measured": found}
            options.out.write_text(json.dumps(report, indent=1) + "\n")


def measure(ledger: Ledger, cache: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and bytes, by what was done; refuses a table that is not byte for byte that of the records."""
    found: dict[str, dict[str, list[float]]] = {}

    def take(name: str, what: str) -> str:
        code = COMMAND.format(what=what)
        done = subprocess.run([sys.executable, "-c", code, str(ledger.folder)], check=True, capture_output=True)
        for key, value in json.loads(done.stderr.splitlines()[-1]).items():
            found.setdefault(name, {}).setdefault(key, []).append(value * 1024 if key == "peak" else value)
        return done.stdout.decode()

    take("runs.csv without an index", DIRECT)
    whole = (ledger.folder / "runs.csv").read_text()
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        take("rebuild of a lost index, with the list", LIST)
        take("list", LIST)
        assert take("table", TABLE) == whole
        some = sorted((ledger.folder / "runs").glob("*0"))[:1000]
        for path in some:
            os.utime(path / "record.json")
        take(f"list, {len(some)} records changed", LIST)
        (index,) = cache.rglob("*.sqlite")
        with open(index, "r+b") as file:
            file.truncate(index.stat().st_size // 2)
        assert take("table, half of the index lost", TABLE) == whole
    return found


def make(ledger: Ledger, count: int) -> None:
    """A results folder of so many recorded runs. Its files are not flushed one by one, as the ledger does."""
    plan = list(runs(count))
    document = {"name": "many", "question": "How long?", "analysis": {}, "plan": [
        {"id": p.run.id, "group": p.group, "role": p.role, "run": to_json(p.run)} for p in plan]}  # fmt: skip
    commit_json(ledger.folder / "study.json", document)

    def put(planned: Planned) -> None:
        folder = ledger.run_folder(planned.run.id)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(to_json(planned.run), indent=1) + "\n")
        rows = ({"step": s, "tokens": s * planned.run.batch_tokens, "loss": 5 / s**0.1} for s in range(1, 21))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        values = record(planned).to_json() | {CURVE: file_digest(folder / "metrics.jsonl")}
        (folder / "record.json").write_text(json.dumps(sealed(values), indent=1) + "\n")

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(put, plan):
            pass


def runs(count: int) -> Iterator[Planned]:
    for i in range(count):
        model = ModelSpec(n_layers=2, d_model=16 + 8 * (i % 8), d_ff=64, d_head=8, vocab_size=256, context=32)
        optim = OptimSpec(peak_lr=1e-3 * (1 + i % 97), warmup_steps=2, cooldown_steps=4)
        run = RunSpec(
            model=model, optim=optim, data=DataSpec(source="bytes:stdlib"), eval=EvalSpec(tokens=65_536), batch=8,
            steps=20 + i % 13, seed=i,
        )  # fmt: skip
        yield Planned(run=run, group=f"width {model.d_model}", role="compare" if i % 5 else "fitted")


def record(planned: Planned) -> RunRecord:
    run = planned.run
    rate = 4e5
    clock = Clock(
        compile=1.5, train=run.tokens / rate, evaluate=0.2, steps=run.steps, tokens_per_second=rate,
        flops_per_second=rate * flops_per_token(run.model, "exact"), checkpoint=0.05, mfu=0.21, peak_flops=1.3e11,
        peak_source="measured",
    )  # fmt: skip
    lost = run.seed % 50 == 7
    machine = {
        "device": "cpu", "backend": "cpu", "devices": "1", "cores": "1", "python": "3.11.7", "jax": "0.10.2",
        "jaxlib": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "commit": "e4a4b9e0" * 5, "dirty": "no",
    }  # fmt: skip
    return RunRecord(
        run=run, status="diverged" if lost else "finished", reason="not finite at step 7" if lost else "",
        tokens=run.tokens, unique_tokens=run.tokens, epochs=1.0, loss=None if lost else 5 / (1 + run.seed % 89) ** 0.05,
        loss_se=None if lost else 0.006, bits_per_byte=None, entropy=None, clock=clock, machine=machine,
        data={"source": run.data.source, "sha256": "5e1305f6" * 8, "python": "CPython 3.11.7"}, spikes=run.seed % 3,
    )  # fmt: skip


if __name__ == "__main__":
    main()
