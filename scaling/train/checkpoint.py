"""Weights and optimizer state on disk, by optimizer step. The only file that knows orbax."""

import time
from collections.abc import Collection
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from scaling.train.step import TrainState


class Checkpoints:
    """The checkpoints of one run: a folder with one entry per saved step, each committed by a rename."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, cleanup_tmp_directories=True)
        self.saving = 0.0  # seconds spent in `save`
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, *, keep: Collection[int] = ()) -> None:
        """Blocks until the checkpoint is committed; then drops the others, but for those at the steps to keep."""
        began = time.monotonic()
        if step not in self.steps():
            # Forced: a trunk that is trained again saves a step before its newest.
            self._manager.save(step, args=ocp.args.StandardSave(_named(state)), force=True)
        self.drop(*(other for other in self.steps() if other != step and other not in keep))
        self.saving += time.monotonic() - began

    def drop(self, *steps: int) -> None:
        for step in steps:
            self._manager.delete(step)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`, laid out as `like` is: same mesh or another. Raises KeyError when it was not saved."""
        if step not in self.steps():
            raise KeyError(f"no checkpoint at step {step}; there are {self.steps()}")
        found = self._manager.restore(step, args=ocp.args.StandardRestore(_named(like)))
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in _named(like)])


def _named(state: TrainState) -> dict[str, jax.Array]:
    """Leaves by their path: what is on disk does not depend on the containers that hold it in memory."""
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in _leaves(state)}


def _leaves(state: TrainState) -> list[tuple]:
    return jax.tree_util.tree_flatten_with_path(state)[0]
