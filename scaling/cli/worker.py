"""`scaling worker`: one worker process of a local sweep; started by `scaling run`, not by people."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.launch.worker import Stopped, serve
from scaling.machine import programs_folder
from scaling.record import Ledger
from scaling.spec import RunSpec


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder")
    parser.add_argument("machine")


def run(arguments: argparse.Namespace) -> int:
    from scaling.train import Interrupted, Watch, forget_weights, train
    from scaling.train.host import keep_compiled_programs, use_every_core

    keep_compiled_programs(programs_folder())
    use_every_core()
    ledger, machine = Ledger(Path(arguments.folder)), json.loads(arguments.machine)

    def make(
        spec: RunSpec,
        branch_steps: tuple[int, ...],
        progress: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
    ) -> str:
        watch = Watch(progress=progress, stop=stop)
        try:
            record = train(spec, results=ledger.folder, branch_steps=branch_steps, machine=machine, watch=watch)
        except Interrupted as interrupted:
            raise Stopped(str(interrupted)) from None
        ledger.commit(record)
        if not branch_steps and record.status == "finished":
            forget_weights(spec, ledger.folder)
        return record.status

    return serve(make)
