"""Damage to the files of a checkpoint: it is noticed, or the file is shown not to matter."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.cost import at_width
from scaling.record import Ledger
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

from .ground import Found, Ground, Row, kill, shown, tree, wait_for

CONSTANTS = {"scaling.train.loop.CHECKPOINT_SECONDS": 0.0, "scaling.train.program.MAX_CHUNK": 8}
MODEL = at_width(ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33), 32)
STEPS, STOPPED_AT = 96, 64


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """Every file of the newest checkpoint of a stopped run, damaged in six ways, one at a time; then files of a sweep.

    The former by `scaling.train.train` in one process, the latter by whole commands.
    """
    row, out = Row(storm="corruption"), ground.folder / "corrupted"
    done = subprocess.run(
        [sys.executable, "-m", "storms.corruption", str(out), str(seed), "1" if short else "3"],
        env=ground.environment(out, set=CONSTANTS), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        row.judge("the process", Found(wrong=done.stderr.strip().splitlines()[-1:]))
        return row
    ends: Counter[str] = Counter()
    for case in json.loads(done.stdout):
        ends[case["end"]] += 1
        kind = {"noticed": "", "did not matter": "", "silently another result": "silent"}.get(case["end"], "lost")
        row.judge(case["what"], Found(**{kind: [case["end"]]}) if kind else Found())
    _sweeps(ground, row, random.Random(seed), 1 if short else 5)
    row.said = {"ends": dict(ends)}
    return row


def _sweeps(ground: Ground, row: Row, rng: random.Random, tries: int) -> None:
    """Kill a sweep whose first trunk is recorded, flip one bit of every checkpoint of that trunk, and go on."""
    ground.undisturbed()
    for turn in range(tries):
        out = ground.folder / f"flipped-{turn}"
        process = ground.start(out)
        trunks = [p["id"] for p in _plan(out) if p["role"] == "trunk"]
        wait_for(lambda out=out, trunks=trunks: any(run_id in Ledger(out) for run_id in trunks), 60)
        kill(tree(process.pid))
        process.wait()
        trunk = next((run_id for run_id in trunks if run_id in Ledger(out)), trunks[0])
        files = [path for path in _files(Ledger(out).run_folder(trunk) / "checkpoints") if path.stat().st_size]
        name = rng.choice(sorted({_below(path) for path in files}))
        for path in files:
            if _below(path) == name:
                _flip(path, rng)
        found = ground.completed(out)
        unsaid = [] if any(out.glob("runs/*/checkpoints/bad-*")) else ["nothing says that a checkpoint was unsound"]
        row.judge(f"a bit of {name} of trunk {trunk}", found + Found(silent=unsaid))


def _plan(out: Path) -> list[dict[str, Any]]:
    wait_for((out / "study.json").exists, 60)
    return json.loads((out / "study.json").read_text())["plan"]


def _below(path: Path) -> str:
    """Its name in the checkpoint, without the random parts that orbax gives."""
    below = path.relative_to(next(p for p in path.parents if p.name.isdecimal()))
    return "/".join(part if len(part) < 20 else "*" for part in below.parts)


def cases(out: Path, seed: int, flips: int) -> list[dict[str, str]]:
    from scaling.train import Interrupted, Watch, train

    rng = random.Random(seed)
    run = RunSpec(
        model=MODEL, optim=OptimSpec(peak_lr=5e-3, cooldown_steps=20), data=DataSpec(source="zipf-facts"),
        eval=EvalSpec(tokens=6600), batch=8, steps=STEPS,
    )  # fmt: skip
    undisturbed, stopped = out / "undisturbed", out / "stopped"
    reference = shown(train(run, results=undisturbed)), Ledger(undisturbed).curve(run.id)
    at = [0]
    watch = Watch(progress=lambda event: at.append(event.get("step") or 0), stop=lambda: at[-1] >= STOPPED_AT)
    try:
        train(run, results=stopped, watch=watch)
    except Interrupted:
        pass
    steps = sorted(Ledger(stopped).checkpoint_steps(run.id))
    newest = Path("runs", run.id, "checkpoints", str(steps[-1]))
    names = [str(path.relative_to(stopped / newest)) for path in _files(stopped / newest)]
    damages = [(name, what, [newest / name], act) for name in names for what, act in _damages(rng, flips)]
    everything = [path.relative_to(stopped) for path in _files(stopped / newest.parent)]
    damages.append(("every checkpoint", "a bit of each file", everything, lambda path: _flip(path, rng)))
    found = []
    for number, (name, what, paths, act) in enumerate(damages):
        case = out / f"case-{number}"
        shutil.copytree(stopped, case)
        for path in paths:
            act(case / path)
        found.append({"what": f"{name}: {what}", "end": _end(run, case, reference)})
        shutil.rmtree(case)
    return found


def _end(run: RunSpec, case: Path, reference: tuple[dict[str, Any], list[dict[str, Any]]]) -> str:
    from scaling.train import train

    try:
        record = train(run, results=case)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    same = (shown(record), Ledger(case).curve(run.id)) == reference
    noticed = bool(record.notes) and any(case.glob("runs/*/checkpoints/bad-*"))
    if same:
        return "noticed" if noticed else "did not matter"
    return "another result, although it was noticed" if noticed else "silently another result"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _damages(rng: random.Random, flips: int) -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "deleted", Path.unlink
    yield "cut in half", lambda path: os.truncate(path, path.stat().st_size // 2)
    yield "made zero", lambda path: path.write_bytes(bytes(path.stat().st_size))
    for flip in range(flips):
        yield f"bit flip {flip + 1}", lambda path: _flip(path, rng)


def _flip(path: Path, rng: random.Random) -> None:
    """One bit, anywhere; an empty file has none."""
    contents = bytearray(path.read_bytes())
    if contents:
        contents[rng.randrange(len(contents))] ^= 1 << rng.randrange(8)
        path.write_bytes(contents)


if __name__ == "__main__":
    print(json.dumps(cases(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
