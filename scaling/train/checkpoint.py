"""Weights and optimizer state on disk, by optimizer step. The only file that knows orbax.

    checkpoints/<step>/            committed: `weights` as orbax wrote them, and the manifest of all files
    checkpoints/bad-<step>/        did not hold what was written; numbered where the step has several
    checkpoints/.<step>.<n>.part/  being written or deleted, or left over from a process that was killed

A checkpoint is written aside, flushed to the disk and renamed, its folder is flushed too, and it is verified before a
byte of it is used: orbax alone restores wrong weights from a flipped bit. One without a manifest, as older versions
wrote them, counts as none.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from scaling.record import manifest
from scaling.record.files import beside, flush_file, flush_folder
from scaling.train import team
from scaling.train.failures import Unsound, out_of_memory
from scaling.train.step import TrainState

NEWEST = 2  # kept beside those asked for: should the last one be unsound, the one before it is there


class Checkpoints:
    """The checkpoints of one run, in its folder. `fence` is called before anything there is replaced or deleted."""

    def __init__(self, run_folder: Path, fence: Callable[[], None] = lambda: None):
        self.saving, self.fence = 0.0, fence  # seconds spent in `save`
        self._run, self._folder = run_folder.name, run_folder.absolute() / "checkpoints"
        self._together = team.writes_shards()  # all processes, or this one alone

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def steps(self) -> list[int]:
        """Those of committed checkpoints."""
        return sorted(int(path.name) for path in self._numbered() if manifest.is_committed(path))

    def open(self) -> None:
        """Take the run up: make its folder, and clear away what a killed process left half done."""
        self._folder.mkdir(exist_ok=True)
        flush_folder(self._folder.parent)
        for path in self._folder.glob(".*.part"):
            self.fence()
            shutil.rmtree(path, ignore_errors=True)
        for path in self._numbered():
            if not manifest.is_committed(path):
                self._set_aside(path, f"{manifest.NAME}: not there")

    def save(self, step: int, state: TrainState, *, keep: Collection[int] = (), notes: Collection[str] = ()) -> None:
        """Blocks until the checkpoint is committed; then drops those after `step`, and all but the newest two before
        that are not at the steps to keep. `notes` are for the record of a run that goes on from here."""
        began = time.monotonic()
        if step not in self.steps() or not self._is_sound(step):
            part = self._part(step)
            try:
                part.mkdir()
                self._write(part / "weights", state)
                seal(part, self._facts(step) | {"notes": [*notes]})
                self._commit(part, step)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                self.fence()  # whoever has been overtaken, and so disturbed, says that before anything else
                raise
        others = [other for other in self.steps() if other not in keep]
        newest = [other for other in others if other <= step][-NEWEST:]
        self.drop(*(other for other in others if other not in newest))
        self.saving += time.monotonic() - began

    def _commit(self, part: Path, step: int) -> None:
        self.fence()
        commit(part, self._folder / str(step))

    def drop(self, *steps: int) -> None:
        for step in steps:
            self.fence()
            part = self._part(step)
            with contextlib.suppress(FileNotFoundError):  # another was first
                (self._folder / str(step)).rename(part)  # at once, so that no half of a checkpoint is ever seen
            shutil.rmtree(part, ignore_errors=True)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`, laid out as `like` is, on the same mesh or another; on the host where the processes of a
        team do not see its files.

        Raises KeyError when it was not saved, and `Unsound` when it is not what was saved: then it is set aside.
        """
        if step not in self.steps():
            raise KeyError(f"no checkpoint at step {step}; there are {self.steps()}")
        if not self._is_sound(step):
            raise Unsound(f"run {self._run}: the checkpoint of step {step} is unsound")
        path = self._readable(step)
        try:
            return self._read(path / "weights", like)
        except Exception as error:
            if out_of_memory(error):
                raise
            self._set_aside(self._kept(step), f"it cannot be read back ({str(error).splitlines()[:1]})")
            raise Unsound(f"run {self._run}: the checkpoint of step {step} cannot be read back") from error

    def _write(self, path: Path, state: TrainState) -> None:
        if self._together:
            team.tell("save", path=str(path))
            write(path, team.held_by_all(state))
        elif team.led():
            team.tell("gather")
            write(path, team.whole(team.held_by_all(state)), alone=True)
        else:
            write(path, state)

    def _read(self, path: Path, like: TrainState) -> TrainState:
        if not self._together:
            return read(path, _on_host(like) if team.led() else like)
        team.tell("restore", path=str(path))
        try:
            found = read(path, like)
        finally:
            faults = [said for said in team.answers() if said]
        if faults:
            raise OSError(faults[0])
        return found

    def notes(self, step: int) -> list[str]:
        """What was said when the checkpoint at `step` was saved."""
        return [str(note) for note in manifest.read(self._kept(step)).get("notes", ())]

    def set_aside(self) -> list[str]:
        """One note on each checkpoint that was ever set aside."""
        return [
            f"a checkpoint was unsound and is set aside as {self._folder.name}/{path.name}: "
            f"{next(iter(manifest.check(path)), 'its files are as written, but they cannot be read back')}"
            for path in sorted(self._folder.glob("bad-*"))
        ]

    def _is_sound(self, step: int) -> bool:
        """If not it is set aside."""
        faults = manifest.check(self._readable(step), self._facts(step))
        if faults:
            self._set_aside(self._kept(step), "; ".join(faults))
        return not faults

    def _kept(self, step: int) -> Path:
        """Where the checkpoint is."""
        return self._folder / str(step)

    def _readable(self, step: int) -> Path:
        """Where its files are to be read."""
        return self._kept(step)

    def _facts(self, step: int) -> dict[str, Any]:
        return {"run": self._run, "step": step}

    def _set_aside(self, path: Path, why: str) -> None:
        self.fence()
        if aside := set_aside(path):
            self._tell(path, aside.name, why)

    def _tell(self, path: Path, aside: str, why: str) -> None:
        step = path.name.partition(".")[0]
        said = f"run {self._run}: the checkpoint of step {step} is unsound and set aside as {aside}: {why}"
        print(said, file=sys.stderr, flush=True)

    def _numbered(self) -> list[Path]:
        return [path for path in self._folder.glob("*") if path.name.isdecimal()]

    def _part(self, step: int) -> Path:
        return beside(self._folder / str(step))


def _named(state: TrainState) -> dict[str, jax.Array]:
    """Leaves by their path: what is on disk does not depend on the containers that hold it in memory."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def write(path: Path, state: TrainState, *, alone: bool = False) -> None:
    """Of several processes all call it, and each writes its shards; `alone` one does, with all of the state."""
    with contextlib.closing(_orbax(alone)) as orbax:
        orbax.save(path, args=ocp.args.StandardSave(_named(state)))


def read(path: Path, like: TrainState) -> TrainState:
    """What this process has of a state that lies as `like` does; of several processes none waits for another."""
    with contextlib.closing(_orbax(True)) as orbax:
        found = orbax.restore(path, args=ocp.args.StandardRestore(_named(like)))
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in _named(like)])


def _orbax(alone: bool) -> ocp.Checkpointer:
    if jax.process_count() == 1 or not alone:
        return ocp.Checkpointer(ocp.StandardCheckpointHandler())
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    return ocp.Checkpointer(
        ocp.StandardCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
    )


def _on_host(like: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), like)


def seal(part: Path, facts: dict[str, Any]) -> None:
    """Put a manifest beside the files in `part`, and all of it on the disk."""
    (part / manifest.NAME).write_text(manifest.make(part, facts), encoding="utf-8")
    for folder, _, names in os.walk(part):
        for name in names:
            flush_file(Path(folder, name))
        flush_folder(Path(folder))


def commit(part: Path, target: Path) -> None:
    """Give a sealed folder its name. Where another process was first, with the same step, its checkpoint stays."""
    try:
        part.rename(target)
    except OSError:
        if not os.path.lexists(target):
            raise
        if manifest.is_committed(target):
            shutil.rmtree(part)
            return
        set_aside(target)
        part.rename(target)
    flush_folder(target.parent)


def set_aside(path: Path) -> Path | None:
    """Rename to bad-<step>, or the first number behind it that is free; None where another process was first."""
    number = 0
    while True:
        aside = path.with_name(f"bad-{path.name}" + (f".{number}" if number else ""))
        try:
            if not os.path.lexists(aside):
                path.rename(aside)
                flush_folder(aside.parent)
                return aside
        except FileNotFoundError:
            path.parent.stat()  # raises where more than the checkpoint is gone
            return None
        except OSError:
            if not os.path.lexists(aside):
                raise
        number += 1
