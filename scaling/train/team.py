"""Several processes as one JAX program: the lead drives it, and tells the others each call that it makes.

Where arrays lie on devices of several processes, every process has to make every call. So the lead's `Program` sends
what it calls, with its arguments from the host, to the others before it calls it; `scaling.train.follow` is the other
side. All else is the lead's alone: what is decided, what is read and written, when a run ends.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from scaling.train.failures import OutOfMemory, out_of_memory

HEARTBEAT_SECONDS = 30  # without one, JAX takes a process for dead; a closed connection is seen before


class Peer(Protocol):
    def send(self, message: bytes, /) -> None: ...
    def receive(self) -> bytes: ...


_others: list[Peer] = []  # of the lead
_programs = [0]  # numbers of those that the others were told to compile


def join(coordinator: str, processes: int, process: int) -> None:
    """Become process number `process`, from 0, of `processes` that are one JAX program; they meet at HOST:PORT.

    Before any other call of JAX. Returns when all of them are there.
    """
    jax.distributed.initialize(
        coordinator, processes, process,
        coordinator_bind_address=coordinator if coordinator.startswith("127.") else None,
        cluster_detection_method="deactivate", heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )  # fmt: skip
    jax.devices()  # the processes tell each other of theirs, and wait for that


def lead(others: Sequence[Peer]) -> None:
    """Tell the others, from now on, each call that this process makes on its devices; they are in `follow`."""
    _others.extend(others)


def dismiss() -> None:
    """End the others' `follow`: this process makes no more calls with them."""
    tell("end")
    _others.clear()


def led() -> bool:
    """Whether this process leads others."""
    return bool(_others)


def tell(do: str, arrays: Sequence[Any] = (), **what: Any) -> None:
    if _others:
        message = pack(do, [np.asarray(array) for array in arrays], what)
        for other in _others:
            other.send(message)


@contextlib.contextmanager
def compiling(**what: Any) -> Iterator[None]:
    """The others compile the same meanwhile, and nobody is waited for in its first call."""
    if _others:
        _programs.append(_programs[-1] + 1)
        tell("program", program=_programs[-1], **what)
    yield
    for other in _others:
        other.receive()


def pack(do: str, arrays: Sequence[np.ndarray], what: dict[str, Any]) -> bytes:
    """One line of JSON, and the bytes of the arrays."""
    head = {"do": do, "what": what, "arrays": [(array.dtype.name, array.shape) for array in arrays]}
    return b"\n".join([json.dumps(head).encode(), b"".join(array.tobytes() for array in arrays)])


def unpack(message: bytes) -> tuple[str, list[np.ndarray], dict[str, Any]]:
    line, _, rest = message.partition(b"\n")
    head, arrays, at = json.loads(line), [], 0
    for name, shape in head["arrays"]:
        count = math.prod(shape)
        arrays.append(np.frombuffer(rest, np.dtype(name), count, at).reshape(shape))
        at += arrays[-1].nbytes
    return head["do"], arrays, head["what"]


def spread(values: Any, layout: Any) -> Any:
    """Host values, which every process has whole, as arrays on the devices of all; what is on devices stays.
    `layout` is a sharding for each value, or one for all."""

    def put(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if isinstance(value, jax.Array):
            return value
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(layout, jax.sharding.Sharding):
        return jax.tree.map(lambda value: put(value, layout), values)
    return jax.tree.map(put, values, layout)


def whole(tree: Any) -> Any:
    """Of arrays on the devices of all processes the values, on the host. Every process has to call it."""

    def get(leaf: jax.Array) -> np.ndarray:
        return np.asarray(leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(get, tree)


class Calls:
    """The functions of a `Program` as the lead calls them: the others make each call too."""

    def __init__(self, program: Any):
        self._program, self._number = program, _programs[-1]
        self._state: Any = None  # the last, which the others have too
        self._weights: Any = None  # likewise, where they are none of the state's own

    def _call(self, call: Callable[[], Any], do: str, arrays: Sequence[Any] = (), **what: Any) -> Any:
        tell(do, arrays, program=self._number, **what)
        try:
            return call()
        except Exception as error:
            if out_of_memory(error):
                raise too_large(error) from None
            raise

    def initial(self, key: jax.Array) -> Any:
        data = np.asarray(jax.random.key_data(key))
        self._state = self._call(lambda: self._program.initial(data), "initial", [data])
        return self._state

    def put(self, states: list[Any]) -> Any:
        (state,) = states
        if not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state)):
            state = self._call(lambda: self._program.put([state]), "put", jax.tree.leaves(state))
        self._state = state
        return state

    def steps(self, state: Any, finite: Any, chunk: Any, knobs: Any) -> Any:
        assert state is self._state, "the others have no other state"
        new = not isinstance(finite, jax.Array)
        arrays = [*jax.tree.leaves((chunk, knobs)), *([finite] if new else [])]
        result = self._call(lambda: self._program.steps(state, finite, chunk, knobs), "steps", arrays)
        self._state = result[0]
        return result

    def losses(self, weights: Any, window_CxBxM: np.ndarray) -> Any:
        of = {id(self._state.params): "params", id(self._state.average): "average"}.get(id(weights), "others")
        if of == "others" and weights is not self._weights:
            tell("weights", jax.tree.leaves(whole(weights)), program=self._number)
            self._weights = weights
        return self._call(lambda: self._program.losses(weights, window_CxBxM), "losses", [window_CxBxM], of=of)

    def host(self, state: Any) -> Any:
        assert state is self._state, "the others have no other state"
        return self._call(lambda: whole(state), "host")

    def over(self) -> Any:
        """The program with these in their places."""
        return self._program._replace(
            initial=self.initial, steps=self.steps, losses=self.losses, put=self.put, host=self.host
        )


def too_large(error: BaseException) -> OutOfMemory:
    """A team does not try with its batch cut finer: the others may be in the middle of the call that failed."""
    return OutOfMemory(
        f"the run does not fit the memory of the team's devices ({str(error).partition(chr(10))[0]}); "
        "give it larger devices, or more of them"
    )
