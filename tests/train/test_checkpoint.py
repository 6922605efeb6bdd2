"""A checkpoint is what was saved or it is set aside; a run that was disturbed ends in the bits of one that was not."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from scaling.cost import flops_per_token
from scaling.record import Ledger, RunRecord, manifest
from scaling.spec import Branch, RunSpec, compiled_in
from scaling.train import (
    DiskFull,
    Interrupted,
    OutOfMemory,
    Placement,
    TrunkLost,
    Watch,
    failures,
    loop,
    program,
    train,
    train_population,
)
from scaling.train.checkpoint import Checkpoints
from scaling.train.failures import Unsound
from scaling.train.resume import trunk_rows
from scaling.train.step import TrainState, graph, window_losses

HERE = Placement()  # known to fit
pytestmark = pytest.mark.usefixtures("small_chunks")


class Killed(BaseException):
    """In the place of a signal that nothing survives."""


@pytest.fixture(scope="module")
def compiled(tiny: RunSpec, small_chunks: None) -> program.Program:
    return program.program(tiny.model, compiled_in(tiny.optim), tiny.batch, tiny.eval.tokens, HERE, members=1)


@pytest.fixture(scope="module")
def state(compiled: program.Program) -> TrainState:
    return compiled.initial(jax.random.key(0))


@pytest.fixture(scope="module")
def whole(tiny: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[float | None, list[dict[str, Any]]]:
    """The loss and the curve of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return train(tiny, results=folder, placement=HERE).loss, Ledger(folder).curve(tiny.id)


def stopped(run: RunSpec, folder: Path, chunks: int, **how: Any) -> None:
    """Train on for so many compiled calls."""
    calls = iter([False] * chunks)
    with pytest.raises(Interrupted):
        train(run, results=folder, placement=HERE, watch=Watch(stop=lambda: next(calls, True)), **how)


@pytest.fixture(scope="module")
def halted(tiny: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped at steps 12 and 18, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("halted")
    stopped(tiny, folder, 2)
    stopped(tiny, folder, 1)
    assert Ledger(folder).checkpoint_steps(tiny.id) == {12, 18}
    return folder


def damaged(files: list[Path]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that can befall one file, or its folder."""
    rng = random.Random(0)

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    for path in files:
        yield f"{path.name} is gone", path.unlink
        yield f"{path.name} is cut", lambda path=path: os.truncate(path, path.stat().st_size // 2)
        yield f"{path.name} is empty", lambda path=path: path.write_bytes(b"")
        yield f"{path.name} is zero", lambda path=path: path.write_bytes(bytes(path.stat().st_size))
        for _ in range(3):
            yield f"{path.name} has a flipped bit", lambda path=path: flip(path)
        yield f"beside {path.name} is another", path.with_name("stray").touch


def test_no_damage_to_any_file_goes_unseen(tiny: RunSpec, halted: Path, tmp_path: Path, state: TrainState):
    kept, run = halted / "runs" / tiny.id, tmp_path / tiny.id
    shutil.copytree(kept, run)
    names = [path for path in sorted((run / "checkpoints" / "18").rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(names) > 5
    with Checkpoints(run) as checkpoints:
        for what, damage in damaged(names):
            damage()
            with pytest.raises((Unsound, KeyError)):
                checkpoints.restore(18, state)
            assert checkpoints.steps() == [12], what
            for path in (run / "checkpoints").glob("*18"):
                shutil.rmtree(path)
            shutil.copytree(kept / "checkpoints" / "18", run / "checkpoints" / "18")
        assert checkpoints.restore(18, state) and checkpoints.restore(12, state)


@pytest.mark.parametrize("lost", [["18"], ["12", "18"]], ids=str)
def test_a_damaged_checkpoint_costs_steps_and_no_bit(
    tiny: RunSpec, halted: Path, tmp_path: Path, whole, lost: list[str], capfd: pytest.CaptureFixture
):
    """The one before is gone on from, else the beginning; what was set aside is kept, and told of twice."""
    shutil.copytree(halted, tmp_path / "out")
    folder = tmp_path / "out" / "runs" / tiny.id / "checkpoints"
    for step in lost:
        largest = max((path for path in (folder / step).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    record = train(tiny, results=tmp_path / "out", placement=HERE)
    assert record.clock and record.clock.steps == (8 if len(lost) == 1 else 20)
    assert (record.loss, Ledger(tmp_path / "out").curve(tiny.id)) == whole
    assert [path.name for path in sorted(folder.glob("bad-*"))] == [f"bad-{step}" for step in lost]
    assert len(record.notes) == len(lost) and "bad-18: weights/" in record.notes[-1] and "sha256" in record.notes[-1]
    assert RunRecord.from_json(record.to_json()) == record
    assert f"run {tiny.id}: the checkpoint of step 18 is unsound and set aside" in capfd.readouterr().err


def test_what_orbax_cannot_read_is_set_aside_and_numbered(
    tiny: RunSpec, tmp_path: Path, state: TrainState, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / tiny.id).mkdir()
    with Checkpoints(tmp_path / tiny.id) as checkpoints:
        checkpoints.open()
        for _ in range(2):
            checkpoints.save(6, state)
            with monkeypatch.context() as patch, pytest.raises(Unsound):
                patch.setattr(ocp.Checkpointer, "restore", lambda *_, **__: {}["DATA_LOSS"])
                checkpoints.restore(6, state)
        assert sorted(path.name for path in (tmp_path / tiny.id / "checkpoints").iterdir()) == ["bad-6", "bad-6.1"]
        assert len(checkpoints.set_aside()) == 2


def test_a_kill_between_any_two_steps_of_a_commit_leaves_the_checkpoint_before(
    tiny: RunSpec, tmp_path: Path, state: TrainState, monkeypatch: pytest.MonkeyPatch
):
    """Between any two calls that flush or rename something."""
    run = tmp_path / tiny.id
    run.mkdir()
    with Checkpoints(run) as checkpoints:
        checkpoints.open()
        checkpoints.save(6, state)
        weights = run / "checkpoints" / "6" / "weights"
        monkeypatch.setattr(ocp.Checkpointer, "save", lambda _, path, **__: shutil.copytree(weights, path))
        died, at = True, 0
        while died:
            calls = iter([*[None] * at, Killed()])

            def dying(call: Callable, calls: Iterator = calls) -> Callable:
                def of(*values: Any, **names: Any) -> Any:
                    if (death := next(calls, None)) is not None:
                        raise death
                    return call(*values, **names)

                return of

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", dying(os.fsync))
                patch.setattr(Path, "rename", dying(Path.rename))
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the dead clear nothing away
                try:
                    checkpoints.save(12, state, keep=[6])
                    died = False
                except Killed:
                    at += 1
            steps = checkpoints.steps()
            assert steps == [6, 12] or (died and steps == [6])
            assert not any(manifest.check(run / "checkpoints" / str(step)) for step in steps)
            checkpoints.open()
            assert not [*run.glob("checkpoints/.*")]  # swept
            checkpoints.drop(12)
        assert at > 10
        checkpoints.save(12, state)
        assert checkpoints.restore(6, state) and checkpoints.restore(12, state)


def test_many_saves_leave_two_checkpoints_and_nothing_else(tiny: RunSpec, tmp_path: Path, state: TrainState):
    run = tmp_path / tiny.id
    run.mkdir()
    with Checkpoints(run) as checkpoints:
        checkpoints.open()
        for step in range(1, 20):
            checkpoints.save(step, state, keep=[3])
            if step == 5:
                before = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= before
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["18", "19", "3"]
        assert not manifest.check(run / "checkpoints" / "19", {"step": 19, "run": tiny.id})


def test_who_loses_the_race_for_a_name_keeps_what_won(tiny: RunSpec, tmp_path: Path, state: TrainState):
    """Two processes that save the same step by accident; and what is no checkpoint does not stand in the way."""
    run = tmp_path / tiny.id
    (run / "checkpoints" / "12" / "default").mkdir(parents=True)
    with (
        Checkpoints(run) as first,
        Checkpoints(run, lambda: first.save(6, state) if not first.steps() else None) as second,
    ):
        second.save(6, state)
        second.save(12, state)
        assert second.steps() == [6, 12] and second.restore(12, state)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["12", "6", "bad-12"]


class Overtaken(Exception):
    pass


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".part" not in str(path)}


@pytest.mark.parametrize("passed", range(6))
def test_who_has_been_overtaken_writes_nothing_more(tiny: RunSpec, halted: Path, tmp_path: Path, passed: int):
    shutil.copytree(halted, tmp_path / "out")
    seen: list[dict[Path, bytes]] = []
    calls = iter([True] * passed + [False])

    def fence() -> None:
        if not next(calls, True):
            seen.append(content(tmp_path))
            raise Overtaken

    with pytest.raises(Overtaken):
        train(tiny, results=tmp_path / "out", placement=HERE, branch_steps=[19, 20], watch=Watch(fence=fence))
    assert content(tmp_path) == seen[0] and not [*tmp_path.rglob("*.part")]


def test_a_stop_before_the_first_step_writes_nothing(tiny: RunSpec, tmp_path: Path):
    stopped(tiny, tmp_path, 0)
    assert not Ledger(tmp_path).curve_lines(tiny.id) and not Ledger(tmp_path).checkpoint_steps(tiny.id)


def test_the_newest_checkpoint_is_of_the_last_logged_step(tiny: RunSpec, tmp_path: Path):
    run = replace(tiny, steps=1000, optim=replace(tiny.optim, cooldown_steps=200))  # ten steps a row
    for chunks in (1, 2, 1):
        stopped(run, tmp_path, chunks)
        ledger = Ledger(tmp_path)
        assert max(line["step"] for line in ledger.curve_lines(run.id)) == max(ledger.checkpoint_steps(run.id))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, compiled: program.Program) -> Callable[..., None]:
    """Puts another program in the place of every compiled one."""

    def plant(of: Callable[[Placement, int], program.Program]) -> None:
        monkeypatch.setattr(loop, "program", lambda *shape, members: of(shape[-1], members))

    return plant


def exhausted(*_: Any) -> Any:
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.\nmore")


def test_a_step_that_runs_out_of_memory_is_cut_finer_and_the_run_goes_on(
    tiny: RunSpec, halted: Path, tmp_path: Path, whole, compiled: program.Program, planted
):
    """That a batch in parts gives the same curve is held by test_placement_never_changes_the_curve."""
    shutil.copytree(halted, tmp_path / "out")
    planted(lambda placement, _: compiled if placement.microbatches == 4 else compiled._replace(steps=exhausted))
    record = train(tiny, results=tmp_path / "out", placement=HERE)
    assert record.clock and record.clock.steps == 2 and record.loss == pytest.approx(whole[0], rel=1e-5)
    assert [note[:60] for note in record.notes] == [
        f"memory ran out, so it went on from step 18 with {parts} microbatches"[:60] for parts in (2, 4)
    ]


def test_a_run_that_never_fits_says_what_was_tried(tiny: RunSpec, tmp_path: Path, compiled: program.Program, planted):
    tried: list[Placement] = []

    def of(placement: Placement, _: int) -> program.Program:
        tried.append(placement)
        return exhausted()

    planted(of)
    with pytest.raises(OutOfMemory, match="not even with 8 microbatches and remat.* allocating 12 bytes") as told:
        train(tiny, results=tmp_path, placement=HERE)
    assert [(placement.microbatches, placement.remat) for placement in tried] == [
        (0, "none"), (2, "none"), (4, "none"), (8, "none"), (8, "dots"), (8, "blocks")
    ]  # fmt: skip
    assert "\n" not in str(told.value)


def test_a_population_that_does_not_fit_is_trained_one_by_one(
    tiny: RunSpec, tmp_path: Path, whole, compiled: program.Program, planted
):
    planted(lambda _, members: exhausted() if members > 1 else compiled)
    first, second = train_population([tiny, replace(tiny, seed=1)], results=tmp_path, placement=HERE)
    assert first.loss == whole[0] != second.loss
    assert all("population of 2" in record.notes[0] and len(record.notes) == 1 for record in (first, second))


def test_a_compiler_that_runs_out_of_memory_means_that_it_does_not_fit(tiny: RunSpec, monkeypatch: pytest.MonkeyPatch):
    def of(*shape: Any, **_: Any) -> Any:
        return SimpleNamespace(memory=1) if shape[4].remat == "blocks" else exhausted()

    monkeypatch.setattr(program, "program", of)
    assert program.roomy(tiny).remat == "blocks"
    assert program.largest_batch(tiny.model, tiny.optim, 8, 10, HERE) is None


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_later(
    tiny: RunSpec, halted: Path, tmp_path: Path, whole, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    shutil.copytree(halted, out)

    def full(_: Any, path: Path, *__: Any, **___: Any) -> None:
        path.mkdir()
        (path / "half").write_text("half")
        raise ValueError(f'RESOURCE_EXHAUSTED: Failed writing: "{path}": No space left on device [os_error_code=28]')

    def no_room(*_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    for where, what, how in (
        (ocp.Checkpointer, "save", full),
        (loop.Curve, "mark", no_room),
        (failures.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20)),
    ):
        calls = iter([False, True])
        with monkeypatch.context() as patch, pytest.raises(DiskFull, match=f"^{out}: ") as told:
            patch.setattr(where, what, how)
            train(tiny, results=out, placement=HERE, watch=Watch(stop=lambda calls=calls: next(calls)))
        assert isinstance(told.value, OSError) and told.value.errno == errno.ENOSPC and "\n" not in str(told.value)
        assert Ledger(out).checkpoint_steps(tiny.id) == {12, 18} and not [*out.rglob("*.part")]
    assert (train(tiny, results=out, placement=HERE).loss, Ledger(out).curve(tiny.id)) == whole


def test_a_folder_that_is_gone_is_not_made_again(tiny: RunSpec, tmp_path: Path):
    def progress(event: dict[str, Any]) -> None:
        if event["phase"] == "train" and (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")

    calls = iter([False, False])
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "out")):
        train(tiny, results=tmp_path / "out", placement=HERE,
              watch=Watch(progress=progress, stop=lambda: next(calls, True)))  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_an_evaluation_in_pieces_stops_between_them_and_ends_in_the_same_bits(
    tiny: RunSpec, tmp_path: Path, compiled: program.Program, planted
):
    losses = jax.jit(lambda params, window: window_losses(params, window, graphdef=graph(tiny.model, tiny.optim)))

    def of(batches: int) -> program.Program:
        return compiled._replace(losses=losses, eval_shape=(batches, 24, 13))

    planted(lambda *_: of(5))
    at_once = train(tiny, results=tmp_path / "whole", placement=HERE)
    planted(lambda *_: of(1))
    out, said = tmp_path / "stopped", []
    with pytest.raises(Interrupted, match="evaluation"):
        train(tiny, results=out, placement=HERE,
              watch=Watch(progress=said.append, stop=lambda: said[-1].get("done", -1) == 1))  # fmt: skip
    assert said[-1] == {"phase": "evaluate", "done": 1, "of": 5}
    assert Ledger(out).checkpoint_steps(tiny.id) == {tiny.steps}
    record = train(tiny, results=out, placement=HERE)
    assert record.clock and record.clock.steps == 0
    assert (record.loss, record.loss_se) == (at_once.loss, at_once.loss_se)


def test_the_pieces_of_an_evaluation_are_of_bounded_and_equal_length(tiny: RunSpec):
    """Ten batches of 1200 tokens, a forward pass of which takes as many FLOPs as training with 400."""
    a_token = flops_per_token(tiny.model, "exact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "EVAL_TOKENS", 1200)
        for most, batches in ((1, 1), (4, 4), (9, 5), (10, 10), (1000, 10)):
            found = program._eval_shape(12_000, tiny.model, HERE, 1, most * 400 * a_token)
            assert found == (batches, 100, 13)


def test_a_held_out_loss_that_is_not_a_number_keeps_its_weights(
    tiny: RunSpec, tmp_path: Path, compiled: program.Program, planted
):
    def nan(params: Any, window: np.ndarray) -> np.ndarray:
        return np.full(window.shape[:2], np.nan)

    planted(lambda *_: compiled._replace(losses=nan))
    record = train(tiny, results=tmp_path, placement=HERE)
    assert record.status == "diverged" and "held-out" in record.reason
    assert Ledger(tmp_path).checkpoint_steps(tiny.id) == {tiny.steps}


def test_a_branch_whose_trunk_is_unsound_asks_for_it_again(tiny: RunSpec, tmp_path: Path):
    """Trained again up to the step that is lost, and stopped there, the trunk still has a whole curve."""
    ledger, steps = Ledger(tmp_path / "out"), [8, 16]
    trunk = replace(tiny, optim=replace(tiny.optim, cooldown_steps=0, schedule="constant"))
    branch = replace(tiny, steps=12, branch=Branch(trunk=trunk.id, step=8))
    ledger.commit(train(trunk, results=ledger.folder, branch_steps=steps, placement=HERE))
    curve = ledger.curve(trunk.id)
    assert ledger.checkpoint_steps(trunk.id) == {8, 16}
    stray = ledger.run_folder(trunk.id) / "checkpoints" / "8" / "stray"
    stray.touch()
    with pytest.raises(TrunkLost, match=f"{trunk.id} at step 8"):
        train(branch, results=ledger.folder, placement=HERE)
    assert ledger.checkpoint_steps(trunk.id) == {16}
    ledger.reopen(trunk.id)
    stopped(trunk, ledger.folder, 1, branch_steps=steps)
    with pytest.raises(TrunkLost, match="its curve does not reach"):
        trunk_rows(branch, ledger)
    stopped(trunk, ledger.folder, 2, branch_steps=steps)  # after step 8, and before the next that is there
    record = train(trunk, results=ledger.folder, branch_steps=steps, placement=HERE)
    ledger.commit(record)
    assert ledger.curve(trunk.id) == curve and ledger.checkpoint_steps(trunk.id) == {8, 16}
    assert "stray: not in the manifest" in record.notes[0]
    made = train(branch, results=ledger.folder, placement=HERE)
    assert made.loss == train(replace(branch, branch=None), results=tmp_path / "straight", placement=HERE).loss
