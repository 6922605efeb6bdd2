"""The other side of `scaling.train.team`: a process that makes the calls of its lead, and nothing else.

It decides nothing, reads the rows of its own devices, and writes its own shards of a checkpoint. What it has on its
devices is its part of what the lead has.
"""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling import data
from scaling.spec import ModelSpec, OptimSpec, Refusal, RunSpec, from_json
from scaling.train import checkpoint, team
from scaling.train.optim import Knobs, measured
from scaling.train.placement import Placement
from scaling.train.program import Program, program
from scaling.train.step import Chunk
from scaling.train.windows import Batches, Measured, texts

KEPT = 64  # programs: more than `program` keeps, which may use an old one again that was not heard of for long


class Follower:
    """What a process has on its devices and at hand; a method for each thing that the lead says."""

    def __init__(self) -> None:
        self.programs: dict[int, Program] = {}
        self.state: Any = None
        self.finite: Any = None
        self.weights: Any = None  # that a loss is measured on, where they are none of the state's
        self.under_way: Any = None
        self.source: data.Source | None = None
        self.run: RunSpec | None = None
        self.held_out: data.HeldOut | None = None

    def _of(self, number: int) -> Program:
        made = self.programs[number] = self.programs.pop(number)  # used last
        return made

    def do_look(self, path: str, words: str) -> bool:
        try:
            return Path(path).read_text(encoding="utf-8") == words
        except OSError:
            return False

    def do_program(self, program: int, **shape: Any) -> bool:
        self.programs[program] = _compiled(shape)
        self.programs = dict([*self.programs.items()][-KEPT:])
        return True

    def do_run(self, run: dict[str, Any]) -> dict[str, Any]:
        self.run, faults, found = from_json(RunSpec, run), [], []
        try:
            self.source, evaluated = data.open_source(self.run.data, self.run.model), data.open_evaluated(self.run)
            self.held_out = data.held_out(evaluated, self.run.eval.tokens, self.run.model.context)
            found = texts(self.run)
        except Refusal as refusal:
            faults = [*refusal.faults]
        except OSError as error:
            faults = [str(error)]
        return {"node": platform.node(), "faults": faults, "texts": found}

    def do_initial(self, key_data: Any, *, program: int) -> None:
        self.state = self._of(program).initial(key_data)

    def do_put(self, *leaves: np.ndarray, program: int) -> None:
        made = self._of(program)
        self.state = made.put([jax.tree.unflatten(jax.tree.structure(made.layout), leaves)])

    def do_steps(self, *arrays: Any, program: int, start: int, count: int) -> None:
        assert self.run and self.source
        made, values, lines = self._of(program), [*arrays], len(Chunk._fields) - 1
        if len(values) > lines + len(Knobs._fields):
            self.finite = values.pop()
        windows = Batches(run=self.run, source=self.source, start=start, count=count, length=made.chunk)
        chunk, knobs = Chunk(windows, *values[:lines]), Knobs(*values[lines:])
        self.state, self.finite, self.under_way = made.steps(self.state, self.finite, chunk, knobs)

    def do_measured(self) -> None:
        assert self.run
        self.weights = measured(self.run.optim, self.state.params, self.state.opt_state)

    def do_losses(self, program: int, of: str, first: int) -> None:
        assert self.held_out
        made = self._of(program)
        weights = {"params": self.state.params, "average": self.state.average, "measured": self.weights}[of]
        windows = Measured(held_out=self.held_out, first=first, shape=made.eval_shape)
        self.under_way = made.losses(weights, windows)

    def do_gather(self) -> None:
        team.whole(self.state)

    def do_save(self, path: str) -> None:
        checkpoint.write(Path(path), self.state)

    def do_restore(self, path: str) -> str:
        try:
            self.state = checkpoint.read(Path(path), self.state)
        except Exception as error:
            return f"{platform.node()}: {str(error).partition(chr(10))[0]}"
        return ""


def follow(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> int:
    """Make the calls that the lead tells, until it says that it ends; returns the exit status that it gives to all.

    `receive` gives the lead's next message, as `team.pack` writes it; `send` takes the answer, where there is one.
    Raises what a call raises.
    """
    follower = Follower()
    while True:
        do, arrays, what = team.unpack(receive())
        jax.block_until_ready(follower.under_way)  # an error of it is raised here
        if do == "end":
            return what["status"]
        answer = getattr(follower, f"do_{do}")(*arrays, **what)
        if answer is not None:
            send(json.dumps(answer).encode())


def _compiled(what: dict[str, Any]) -> Program:
    return program.__wrapped__(
        from_json(ModelSpec, what["model"]),
        from_json(OptimSpec, what["optim"]),
        what["batch"],
        what["eval_tokens"],
        Placement(**what["placement"]),
    )
