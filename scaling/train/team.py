"""Several processes as one JAX program: the lead drives it, and tells the others each call that it makes.

Where arrays lie on devices of several processes, every process has to make every call. So the lead sends what it calls,
with its small arguments, to the others before it calls it; `scaling.train.follow` is the other side. Tokens are not
sent: each process makes the rows of its own devices (`scaling.train.windows`). All else is the lead's alone: what is
decided, what is recorded, when a run ends.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from scaling.spec import Refusal, RunSpec, to_json
from scaling.train.failures import OutOfMemory, out_of_memory
from scaling.train.windows import Batches, Measured, Windows, texts

HEARTBEAT_SECONDS = 30  # without one, JAX takes a process for dead; a closed connection is seen before
MEET_SECONDS = 600  # that processes wait for each other: nodes of one job need not start at once
WORDS = 2048  # bytes of what the lead tells all before they are connected


class Peer(Protocol):
    def send(self, message: bytes, /) -> None: ...
    def receive(self) -> bytes: ...


_others: list[Peer] = []  # of the lead
_programs = [0]  # numbers of those that the others were told to compile
_shared: list[bool | Callable[[], bool]] = [False]  # whether the others see the results folder, or how to find out
_state: list[Any] = [None]  # the last one that the others have too


def join(coordinator: str = "", processes: int = 0, process: int = 0) -> tuple[int, int]:
    """Become process number `process`, from 0, of `processes` that are one JAX program; they meet at HOST:PORT, or
    where JAX finds by itself that they should (on a TPU VM, under SLURM). Returns (process, processes).

    Before any other call of JAX. Returns when all of them are there. Raises `Refusal` where JAX finds nothing.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself, which means a stop here
    if coordinator:
        jax.distributed.initialize(
            coordinator, processes, process,
            coordinator_bind_address=coordinator if coordinator.startswith("127.") else None,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=MEET_SECONDS,
        )  # fmt: skip
    else:
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=MEET_SECONDS)
        except ValueError as error:
            said = str(error).partition("\n")[0]
            raise Refusal(
                f"--distributed auto: JAX finds no cluster here ({said}); give HOST:PORT,PROCESSES,PROCESS"
            ) from None
    jax.devices()  # the processes tell each other of theirs, and wait for that
    return jax.process_index(), jax.process_count()


def from_lead(words: str = "") -> str:
    """What process 0 says here, in every process; each has to call it."""
    said = np.zeros(WORDS, np.uint8)
    raw = np.frombuffer(words.encode(), np.uint8)
    said[: len(raw)] = raw
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(said), np.uint8)).rstrip(b"\0").decode()


def lead(others: Sequence[Peer], *, shared: Callable[[], bool] = lambda: True) -> None:
    """Tell the others, from now on, each call that this process makes on its devices; they are in `follow`. `shared`
    says whether they see the results folder, and is asked when there is one."""
    _others.extend(others)
    _shared[0] = shared


def dismiss(status: int = 0) -> None:
    """End the others' `follow`, with the exit status of all: this process makes no more calls with them."""
    tell("end", status=status)
    _others.clear()


def led() -> bool:
    """Whether this process leads others."""
    return bool(_others)


def writes_shards() -> bool:
    """Whether every process of a team writes what it has of a checkpoint; otherwise the lead writes all of it."""
    if callable(asked := _shared[0]):
        _shared[0] = led() and asked()
    return bool(_shared[0])


def tell(do: str, arrays: Sequence[Any] = (), **what: Any) -> None:
    if _others:
        message = pack(do, [np.asarray(array) for array in arrays], what)
        for other in _others:
            other.send(message)


def answers() -> list[Any]:
    """Of the others, to what they were told last."""
    return [json.loads(other.receive()) for other in _others]


def all_see(path: str, words: str) -> bool:
    """Whether the others find these words in that file."""
    tell("look", path=path, words=words)
    return all(answers())


@contextlib.contextmanager
def compiling(**what: Any) -> Iterator[None]:
    """The others compile the same meanwhile, and nobody is waited for in its first call."""
    if _others:
        _programs.append(_programs[-1] + 1)
        tell("program", program=_programs[-1], **what)
    yield
    answers()


def open_everywhere(run: RunSpec) -> None:
    """Have the others open what the run reads. Raises `Refusal` where one of them has not what this process has."""
    if not _others:
        return
    tell("run", run=to_json(run))
    ours, faults = texts(run), []
    for said in answers():
        faults += [f"{said['node']}: {fault}" for fault in said["faults"]]
        for theirs, here in zip(said["texts"], ours, strict=False):
            if theirs != here:
                which = next(key for key in {**here, **theirs} if here.get(key) != theirs.get(key))
                faults.append(
                    f"{said['node']}: {here['source']} is another than on the lead's node ({which}: there "
                    f"{str(theirs.get(which))[:12]}, here {str(here.get(which))[:12]}); copy the same there"
                )
    if faults:
        raise Refusal(dict.fromkeys(faults))


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
    """Host values, which every process has whole, as arrays on the devices of all; windows are made by who needs them,
    and what is on devices stays. `layout` is a sharding for each value, or one for all."""

    def put(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if isinstance(value, jax.Array):
            return value
        if isinstance(value, Windows):
            return value.on(sharding)
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


def held_by_all(state: Any) -> Any:
    """`state`, which has to be what the others have."""
    assert state is _state[0], "the others have no other state"
    return state


class Calls:
    """The functions of a `Program` as the lead calls them: the others make each call too."""

    def __init__(self, program: Any):
        self._program, self._number = program, _programs[-1]

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
        _state[0] = self._call(lambda: self._program.initial(data), "initial", [data])
        return _state[0]

    def put(self, states: list[Any]) -> Any:
        (state,) = states
        if not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state)):
            state = self._call(lambda: self._program.put([state]), "put", jax.tree.leaves(state))
        _state[0] = state
        return state

    def steps(self, state: Any, finite: Any, chunk: Any, knobs: Any) -> Any:
        new, windows = not isinstance(finite, jax.Array), chunk.window_KxBxM
        assert isinstance(windows, Batches)
        arrays = [*jax.tree.leaves((chunk._replace(window_KxBxM=None), knobs)), *([finite] if new else [])]
        result = self._call(
            lambda: self._program.steps(held_by_all(state), finite, chunk, knobs),
            "steps", arrays, start=windows.start, count=windows.count,
        )  # fmt: skip
        _state[0] = result[0]
        return result

    def losses(self, weights: Any, windows: Measured) -> Any:
        state = _state[0]
        of = {id(state.params): "params", id(state.average): "average"}.get(id(weights), "measured")
        return self._call(lambda: self._program.losses(weights, windows), "losses", of=of, first=windows.first)

    def over(self) -> Any:
        """The program with these in their places."""
        return self._program._replace(initial=self.initial, steps=self.steps, losses=self.losses, put=self.put)


def too_large(error: BaseException) -> OutOfMemory:
    """A team does not try with its batch cut finer: the others may be in the middle of the call that failed."""
    return OutOfMemory(
        f"the run does not fit the memory of the team's devices ({str(error).partition(chr(10))[0]}); "
        "give it larger devices, or more of them"
    )
