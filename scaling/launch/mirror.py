"""Curves copied to a tracker as they grow.

metrics.jsonl stays the truth: what is new in it is read and told, and training knows of no tracker. The step that a
tracker was told last is kept in `<tracker>/.mirrored/<run id>` of the results folder, and put there before it is told.
So no step is told twice, whoever goes on with a run, and a kill in that moment may leave one out.
"""

import contextlib
import json
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.launch.local import Event
from scaling.launch.sinks import Sink, opened
from scaling.plan import Plan
from scaling.plan.plan import Planned
from scaling.record import Ledger
from scaling.record.files import commit_json
from scaling.record.live import Tail
from scaling.spec import to_json

EVERY_SECONDS = 1.0  # between looks at the curves
HANG_SECONDS = 60.0  # in one call of a sink, after which it is dropped
LEAST_CLOSE_SECONDS = 0.5
CLOSE_SECONDS = 8.0  # that the end of a sweep waits for a sink


@dataclass
class _Open:
    """A run between its first and its last word."""

    planned: Planned
    tail: Tail
    told: int  # the last step
    spoken: bool = False  # the sink knows of it


class Copier:
    """Tells a sink what is new of each run that is begun. `beat` is called before every word to the sink."""

    def __init__(
        self, sink: Sink, ledger: Ledger, label: Callable[[Planned], str], beat: Callable[[], None] = lambda: None
    ):
        self._sink, self._ledger, self._label, self._beat = sink, ledger, label, beat
        self._open: dict[str, _Open] = {}

    def begin(self, planned: Planned) -> None:
        """Look at a run from now on, unless it was told to its end before."""
        run_id = planned.run.id
        step, over = self._read(run_id)
        if run_id not in self._open and not (over and run_id in self._ledger):
            tail = Tail(str(self._ledger.run_folder(run_id) / "metrics.jsonl"))
            self._open[run_id] = _Open(planned, tail, step)

    def copy(self) -> None:
        """What every run has gained."""
        for run_id in self._open:
            self._copy(run_id)

    def end(self, run_id: str) -> None:
        """The rest of a run, and its record where it has one."""
        if run_id not in self._open:
            return
        self._copy(run_id)
        one = self._open[run_id]
        summary = self._ledger[run_id].to_json() if run_id in self._ledger else None
        if summary:
            self._speak(one)
        del self._open[run_id]
        if one.spoken:
            self._beat()
            self._sink.end(run_id, summary)
        if summary:
            self._put(run_id, one.told, over=True)

    def lose(self, run_id: str) -> None:
        """Another participant goes on with the run, and tells of it."""
        one = self._open.pop(run_id, None)
        if one and one.spoken:
            self._beat()
            self._sink.end(run_id, None)

    def close(self) -> None:
        for run_id in [*self._open]:
            self.end(run_id)
        self._beat()
        self._sink.close()

    def _copy(self, run_id: str) -> None:
        one = self._open[run_id]
        new = {row["step"]: row for row in one.tail.rows()[1] if row["step"] > one.told}
        if not new:
            return
        one.told = max(new)
        self._put(run_id, one.told)
        self._speak(one)
        for step in sorted(new):
            self._beat()
            self._sink.row(run_id, step, _numbers(new[step]))

    def _speak(self, one: _Open) -> None:
        """Tell the sink of the run, when there is something to tell."""
        if one.spoken:
            return
        p, one.spoken = one.planned, True
        self._beat()
        config = {"name": self._label(p), "group": p.group, "role": p.role, "run": to_json(p.run)}
        self._sink.begin(p.run.id, config)

    def _state(self, run_id: str) -> Path:
        return self._ledger.folder / self._sink.name / ".mirrored" / run_id

    def _read(self, run_id: str) -> tuple[int, bool]:
        """(the last step that was told, whether the record was)"""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(self._state(run_id).read_text(encoding="utf-8"))
            return int(said["step"]), bool(said["over"])
        return 0, False

    def _put(self, run_id: str, step: int, over: bool = False) -> None:
        commit_json(self._state(run_id), {"step": step, "over": over})


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row but its step; a loss that is no number is left out, which a tracker cannot show."""
    return {
        key: value
        for key, value in row.items()
        if key != "step" and type(value) in (int, float) and math.isfinite(value)
    }


class Mirror:
    """A `Copier` of the runs that this participant makes, in a thread of its own; called with every event of the
    supervisor.

    A sink that raises, or that does not come back from a call, is reported once and dropped: the sweep never waits for
    it, but for its last rows at the end: for CLOSE_SECONDS, or for the seconds that are `left` to a sweep that was
    asked to stop where they are fewer.
    """

    def __init__(
        self,
        name: str,
        sink: Callable[[], Sink],
        ledger: Ledger,
        plan: Plan,
        label: Callable[[Planned], str],
        left: Callable[[], float] = lambda: math.inf,
    ):
        self.name, self.dropped = name, False
        self._sink, self._ledger, self._label, self._left = sink, ledger, label, left
        self._planned = {p.run.id: p for p in plan.runs}
        self._said: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._in_hand: dict[int, set[str]] = {}  # by worker
        self._thread = threading.Thread(target=self._work, name=f"mirror {name}", daemon=True)

    def __enter__(self) -> "Mirror":
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._said.put(("close", ""))
        patience = max(LEAST_CLOSE_SECONDS, min(CLOSE_SECONDS, self._left()))
        self._thread.join(patience)
        if self._thread.is_alive():
            self._drop(f"it did not take the last rows within {patience:.1f} s")

    def __call__(self, event: Event) -> None:
        hands = self._in_hand.setdefault(event.worker, set())
        if event.kind == "progress":
            new = {*event.values.get("ids", [event.run_id])} - hands
            hands |= new
            self._tell("begin", new)
        elif event.kind in ("done", "failed", "lost"):
            hands.discard(event.run_id)
            self._tell("lose" if event.kind == "lost" else "end", {event.run_id})
        elif event.kind in ("gone", "stopped"):
            self._tell("end", self._in_hand.pop(event.worker))
        if self._thread.is_alive() and time.monotonic() - self._alive > HANG_SECONDS:
            self._drop(f"it has not come back for {HANG_SECONDS:.0f} s")

    def _tell(self, what: str, ids: set[str]) -> None:
        for run_id in sorted(ids & self._planned.keys()):
            self._said.put((what, run_id))

    def _beat(self) -> None:
        self._alive = time.monotonic()

    def _drop(self, why: str) -> None:
        if not self.dropped:
            self.dropped = True
            rest = "the sweep goes on without it, and `scaling log` copies the rest later"
            print(f"--log {self.name}: {why}; {rest}", file=sys.stderr)

    def _work(self) -> None:
        try:
            copier = Copier(self._sink(), self._ledger, self._label, self._beat)
            going = True
            while going and not self.dropped:
                for what, run_id in self._messages():
                    if what == "begin":
                        copier.begin(self._planned[run_id])
                    elif what == "end":
                        copier.end(run_id)
                    elif what == "lose":
                        copier.lose(run_id)
                    else:
                        going = False
                copier.copy()
            if not self.dropped:
                copier.close()
        except BaseException as error:  # a SystemExit of a tracker ends its thread and not us
            said = f"{error}".splitlines() or [""]
            self._drop(f"{type(error).__name__}: {said[0]}")

    def _messages(self) -> Iterator[tuple[str, str]]:
        """What is said until the curves are due to be looked at again, or until all is over."""
        due, what = time.monotonic() + EVERY_SECONDS, ""
        while what != "close" and (left := due - time.monotonic()) > 0:
            self._beat()
            try:
                what, run_id = self._said.get(timeout=left)
            except queue.Empty:
                return
            yield what, run_id


@contextlib.contextmanager
def mirrored(
    names: Sequence[str],
    ledger: Ledger,
    plan: Plan,
    study: str,
    label: Callable[[Planned], str],
    left: Callable[[], float],
) -> Iterator[Callable[[Event], None]]:
    """What to call with every event of a supervisor, so that these sinks are told; `left` as in `Mirror`."""
    with contextlib.ExitStack() as stack:
        mirrors = []
        for name in dict.fromkeys(names):
            mirror = Mirror(name, lambda name=name: opened(name, ledger.folder, study), ledger, plan, label, left)
            mirrors.append(stack.enter_context(mirror))

        def see(event: Event) -> None:
            for mirror in mirrors:
                mirror(event)

        yield see
