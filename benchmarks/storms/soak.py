"""A hundred saves by one process: memory, open files and leftovers stay where they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

from scaling.cost import at_width
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

from .ground import Found, Ground, Row, litter

SAVES, WARM = 100, 20  # counted, and before the count begins
GROWTH = 0.05  # of the memory in use
CONSTANTS = {"scaling.train.loop.CHECKPOINT_SECONDS": 0.0, "scaling.train.program.MAX_CHUNK": 1}


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """One run that saves after every step, measured by itself from its 20th save to its 120th."""
    row, out = Row(storm="soak"), ground.folder / "soaked"
    environment = ground.environment(out, set=CONSTANTS)
    done = subprocess.run(
        [sys.executable, "-m", "storms.soak", str(out), str(seed)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        row.judge("the process", Found(wrong=[done.stderr.strip().splitlines()[-1]]))
        return row
    seen = json.loads(done.stdout)
    growth, files = seen["rss"][-1] / seen["rss"][WARM] - 1, (seen["files"][WARM], seen["files"][-1])
    wrong = litter(out) + [f"left in the folder of temporary files: {name}" for name in seen["temporary"]]
    if growth > GROWTH:
        wrong.append(f"memory grew by {growth:.1%} in {SAVES} saves, and {GROWTH:.0%} are allowed")
    if files[1] > files[0]:
        wrong.append(f"open files grew from {files[0]} to {files[1]}")
    row.judge(f"{SAVES} saves", Found(wrong=wrong))
    row.tries = SAVES  # all or none
    row.broken *= SAVES
    row.said = {"memory": f"{growth:+.1%} of {seen['rss'][WARM] >> 20} MiB", "open files": f"{files[0]} to {files[1]}"}
    return row


def measure(out: Path, seed: int) -> dict[str, list]:
    """Bytes of memory and open files after each save."""
    from scaling.train import Watch, train

    rss, files, temporary = [], [], out.with_name("temporary")
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)

    def count(event: dict) -> None:
        if event["phase"] == "train":
            rss.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            files.append(len(os.listdir("/proc/self/fd")))

    model = at_width(ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33), 32)
    run = RunSpec(
        model=model, optim=OptimSpec(peak_lr=5e-3), data=DataSpec(source="zipf-facts"), seed=seed,
        eval=EvalSpec(tokens=1320), batch=8, steps=WARM + SAVES + 1,
    )  # fmt: skip
    train(run, results=out, watch=Watch(progress=count))
    return {"rss": rss[:-1], "files": files[:-1], "temporary": os.listdir(temporary)}  # the last step saves nothing


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
