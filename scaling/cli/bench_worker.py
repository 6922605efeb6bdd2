"""`scaling bench_worker`: one worker process of `scaling bench`; started by it, not by people."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.cli.mesh import mesh_options, sizes
from scaling.launch.worker import Job, Stopped, serve


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="where compiled programs go, and are left")
    parser.add_argument("--largest-batch", action="store_true")
    mesh_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from scaling.train import Interrupted, Placement
    from scaling.train.bench import measure
    from scaling.train.host import keep_compiled_programs, use_every_core

    keep_compiled_programs(Path(tempfile.mkdtemp(dir=arguments.folder)))  # an empty one: compiling is measured
    use_every_core()
    placement = Placement(**sizes(arguments.mesh)) if arguments.mesh else arguments.placement or "auto"

    def make(
        job: Job,
        progress: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[str, str]]:
        (spec,) = job.runs
        try:
            progress(measure(spec, search=arguments.largest_batch, stop=stop, placement=placement))
        except Interrupted as interrupted:
            raise Stopped(str(interrupted)) from None
        yield spec.id, "measured"

    return serve(make)
