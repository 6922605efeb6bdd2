"""The other side of `scaling.train.team`: a process that makes the calls of its lead, and nothing else.

It reads no data and no results, and writes nothing. What it has on its devices is what the lead has on its own.
"""

from collections.abc import Callable
from typing import Any

import jax

from scaling.spec import ModelSpec, OptimSpec, from_json
from scaling.train.optim import Knobs
from scaling.train.placement import Placement
from scaling.train.program import Program, program
from scaling.train.step import Chunk
from scaling.train.team import spread, unpack

KEPT = 16  # programs, as `program` keeps them


def follow(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
    """Make the calls that the lead tells, until it says that it ends.

    `receive` gives the lead's next message, as `team.pack` writes it; `send` tells it when a program is compiled.
    Raises what a call raises.
    """
    programs: dict[int, Program] = {}
    state: Any = None
    finite: Any = None
    weights: Any = None
    under_way: Any = None
    while True:
        arrays: list[Any]
        do, arrays, what = unpack(receive())
        jax.block_until_ready(under_way)  # an error of it is raised here
        if do == "end":
            return
        if do == "program":
            programs[what["program"]] = _compiled(what)
            programs = dict([*programs.items()][-KEPT:])
            send(b"done")
            continue
        made = programs[what["program"]]
        if do == "initial":
            state = made.initial(arrays[0])
        elif do == "put":
            state = made.put([jax.tree.unflatten(jax.tree.structure(made.layout), arrays)])
        elif do == "steps":
            if len(arrays) > len(Chunk._fields) + len(Knobs._fields):
                finite = arrays.pop()
            chunk, knobs = Chunk(*arrays[: len(Chunk._fields)]), Knobs(*arrays[len(Chunk._fields) :])
            state, finite, under_way = made.steps(state, finite, chunk, knobs)
        elif do == "weights":
            weights = spread(jax.tree.unflatten(jax.tree.structure(made.layout.params), arrays), made.layout.params)
        elif do == "losses":
            of = {"params": state.params, "average": state.average, "others": weights}[what["of"]]
            under_way = made.losses(of, arrays[0])
        elif do == "host":
            made.host(state)
        else:
            raise ValueError(f"the lead said {do!r}, which means nothing here")


def _compiled(what: dict[str, Any]) -> Program:
    return program.__wrapped__(
        from_json(ModelSpec, what["model"]),
        from_json(OptimSpec, what["optim"]),
        what["batch"],
        what["eval_tokens"],
        Placement(**what["placement"]),
    )
