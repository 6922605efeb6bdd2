"""Runs whose results folder is in a bucket (tests/bucket, in memory): the records and bits of a disk."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from scaling.plan import Analysis, Study, trunks
from scaling.record import Ledger, manifest, table
from scaling.record.claims import ClaimLost
from scaling.record.files import commit_json, commit_text, folder_of, names
from scaling.record.verify import verify
from scaling.spec import RunSpec
from scaling.train import Interrupted, Placement, TrunkLost, Watch, forget_weights, train
from scaling.train.bucket import checkpoints_of

HERE = Placement()  # known to fit
pytestmark = pytest.mark.usefixtures("small_chunks")


class Killed(BaseException):
    """In the place of a signal that nothing survives."""


@pytest.fixture(scope="module")
def study(tiny: RunSpec) -> Study:
    """A trunk and a branch."""
    return Study(
        name="s", question="?", plan=trunks(tiny, [tiny.model], [20 * 96], group="grid"),
        analysis=Analysis(laws=("chinchilla",)),
    )  # fmt: skip


@pytest.fixture
def folder(bucket: ModuleType) -> Path:
    return folder_of("gs://bucket/study")


def make(study: Study, folder: Path, stop: Callable[[], bool] = lambda: False) -> None:
    ledger = Ledger(folder)
    commit_json(folder / "study.json", study.to_json())
    for planned in study.plan.pending(ledger).runs:
        steps = study.plan.branch_steps(planned.run.id)
        ledger.commit(train(planned.run, results=folder, branch_steps=steps, watch=Watch(stop=stop), placement=HERE))
        if not steps:
            forget_weights(planned.run, folder)
    table.write(ledger)


@pytest.fixture(scope="module")
def on_disk(study: Study, small_chunks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    make(study, folder)
    return folder


def same(study: Study, folder: Path, other: Path) -> bool:
    """Whether the results are, to the bit."""
    curves = [[(home, Ledger(home).curve(p.run.id)) for p in study.plan.runs] for home in (folder, other)]
    rows = [[rows for _, rows in of] for of in curves]
    return rows[0] == rows[1] and (folder / "runs.csv").read_bytes() == (other / "runs.csv").read_bytes()


def flip(bucket: ModuleType, name: str) -> None:
    data = bytearray(bucket.objects.get(name))
    data[len(data) // 2] ^= 1
    bucket.objects.put(name, bytes(data))


def test_a_study_in_a_bucket_is_the_study_on_a_disk(
    study: Study, folder: Path, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make(study, folder)
    assert not [*tmp_path.glob("scaling-*")], "this machine keeps nothing"
    assert same(study, folder, on_disk)
    found, wanted = verify(Ledger(folder)), verify(Ledger(on_disk))
    assert not found.findings and found.counts == wanted.counts and found.counts["checkpoints"] == 1
    for planned in study.plan.runs:
        steps = {*study.plan.branch_steps(planned.run.id)}
        assert Ledger(folder).checkpoint_steps(planned.run.id) == steps


def test_a_study_that_is_stopped_all_the_time_ends_in_the_same_bits(study: Study, folder: Path, on_disk: Path):
    stops = 0
    for _ in range(20):
        calls = iter([False, True])
        try:
            make(study, folder, stop=lambda calls=calls: next(calls, True))
            break
        except Interrupted:
            stops += 1
            assert not verify(Ledger(folder)).faults
    assert stops > 2 and same(study, folder, on_disk)
    assert not verify(Ledger(folder)).findings


def test_an_upload_that_dies_before_its_manifest_is_no_checkpoint(
    study: Study, folder: Path, on_disk: Path, bucket: ModuleType
):
    def dies(what: str, name: str) -> None:
        if what == "overwrite" and name.endswith(manifest.NAME):
            raise Killed

    trunk = study.plan.runs[0].run
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bucket, "before", dies)
        make(study, folder)
    home = Ledger(folder).run_folder(trunk.id) / "checkpoints"
    assert names(home) and not Ledger(folder).checkpoint_steps(trunk.id)
    assert [finding.level for finding in verify(Ledger(folder)).findings] == ["note"]
    make(study, folder)
    assert len(names(home)) == 1, "what was left half done is cleared away"
    assert same(study, folder, on_disk)


def test_whoever_was_overtaken_commits_nothing_more(study: Study, folder: Path):
    trunk, calls = study.plan.runs[0].run, iter([None] * 2)

    def fence() -> None:
        if next(calls, "over"):
            raise ClaimLost

    with pytest.raises(ClaimLost):
        train(trunk, results=folder, branch_steps=[16], watch=Watch(fence=fence), placement=HERE)
    assert not Ledger(folder).checkpoint_steps(trunk.id)


def test_any_object_that_changed_is_noticed(study: Study, folder: Path, bucket: ModuleType):
    make(study, folder)
    said = [name for name in bucket.objects.names() if not name.endswith("study.json")]
    assert len([name for name in said if "/checkpoints/" in name]) > 3
    for name in said:
        before = bucket.objects.get(name)
        flip(bucket, name)
        assert verify(Ledger(folder)).faults, name
        bucket.objects.put(name, before)
    assert not verify(Ledger(folder)).faults


def test_unsound_weights_are_set_aside_and_made_again(
    study: Study, folder: Path, on_disk: Path, bucket: ModuleType, capsys: pytest.CaptureFixture[str]
):
    trunk, branch = (p.run for p in study.plan.runs)
    ledger, steps = Ledger(folder), study.plan.branch_steps(trunk.id)
    commit_json(folder / "study.json", study.to_json())
    ledger.commit(train(trunk, results=folder, branch_steps=steps, placement=HERE))
    weights = [name for name in bucket.objects.names() if "/checkpoints/" in name and manifest.NAME not in name]
    flip(bucket, max(weights, key=lambda name: len(bucket.objects.get(name))))
    with pytest.raises(TrunkLost, match="unsound"):
        train(branch, results=folder, placement=HERE)
    assert "set aside as bad-" in capsys.readouterr().err and not ledger.checkpoint_steps(trunk.id)
    marks = [name for name in names(ledger.run_folder(trunk.id) / "checkpoints") if name.startswith("bad-")]
    assert len(marks) == 1 and not verify(ledger).faults
    ledger.reopen(trunk.id)
    make(study, folder)
    assert same(study, folder, on_disk)
    assert any("set aside" in note for note in ledger[trunk.id].notes)


def test_a_copy_on_a_disk_holds_the_results(
    study: Study, folder: Path, bucket: ModuleType, on_disk: Path, tmp_path: Path
):
    make(study, folder)
    for name in bucket.objects.names():
        path = tmp_path / name.removeprefix("bucket/study/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.objects.get(name))
    assert same(study, tmp_path, on_disk) and not verify(Ledger(tmp_path)).faults


def test_a_checkpoint_that_is_half_deleted_is_none(folder: Path, bucket: ModuleType):
    home, deleted = Ledger(folder).run_folder("a" * 12), iter([None])
    for name in ("a", "z", manifest.NAME):
        commit_text(home / "checkpoints" / f"5.{'0' * 32}" / name, "{}")

    def dies(what: str, name: str) -> None:
        if what == "delete" and next(deleted, "second"):
            raise Killed

    with checkpoints_of(home) as checkpoints:
        assert checkpoints.steps() == [5]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(bucket, "before", dies)
            checkpoints.drop(5)
        assert not checkpoints.steps() and len(names(home / "checkpoints")) == 1
        checkpoints.open()
    assert not names(home)
