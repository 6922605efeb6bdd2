"""`scaling worker`: one worker process of a local sweep; started by `scaling run`, not by people."""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling.launch.worker import Stopped, serve
from scaling.machine import cache_folder, programs_folder
from scaling.record import Ledger
from scaling.spec import RunSpec


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("machine")
    parser.add_argument("--population", default="auto")


def run(arguments: argparse.Namespace) -> int:
    from scaling.train import Interrupted, Watch, fastest, forget_weights, train_population
    from scaling.train.host import keep_compiled_programs, use_every_core

    keep_compiled_programs(programs_folder())
    use_every_core()
    ledger, machine = Ledger(Path(arguments.folder)), json.loads(arguments.machine)

    def make(
        runs: Sequence[RunSpec],
        branch_steps: tuple[int, ...],
        progress: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[str, str]]:
        watch, together = Watch(progress=progress, stop=stop), len(runs)
        if together > 1 and arguments.population == "auto":
            progress({"phase": "trial"})
            together = fastest(runs[0], together, known=cache_folder() / "populations.json")
        for first in range(0, len(runs), together):
            members = runs[first : first + together]
            made = train_population(
                members, results=ledger.folder, branch_steps=branch_steps, machine=machine, watch=watch
            )
            try:
                for record in made:
                    ledger.commit(record)
                    if not branch_steps and record.status == "finished":
                        forget_weights(record.run, ledger.folder)
                    yield record.run.id, record.status
            except Interrupted as interrupted:
                raise Stopped(str(interrupted)) from None

    return serve(make)
