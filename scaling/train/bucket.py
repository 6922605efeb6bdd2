"""Checkpoints of a run whose results folder is in a bucket, where nothing can be renamed.

    checkpoints/<step>.<upload>/    one upload: committed from the moment that its manifest.json is there, written last
    checkpoints/bad-<step>.<upload> why one was set aside; its manifest is gone then, so that nobody takes it for one

Weights are serialized into a folder on this machine's disk and read from one, checked there file by file.
"""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from scaling.record import manifest
from scaling.record.files import commit_text, names, on_store
from scaling.train.checkpoint import Checkpoints


def checkpoints_of(run_folder: Path, fence: Callable[[], None] = lambda: None) -> Checkpoints:
    """Those of a run, wherever its folder is."""
    return BucketCheckpoints(run_folder, fence) if on_store(run_folder) else Checkpoints(run_folder, fence)


def disk_for(folder: Path) -> tuple[Path, bool]:
    """The disk that weights of a results folder are written to, and whether it keeps them."""
    return (Path(tempfile.gettempdir()), False) if on_store(folder) else (folder, True)


class BucketCheckpoints(Checkpoints):
    def __init__(self, run_folder: Path, fence: Callable[[], None] = lambda: None):
        super().__init__(run_folder, fence)
        self._scratch = tempfile.TemporaryDirectory(prefix="scaling-")
        self._fetched: Path | None = None  # the one that was read last

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._scratch.cleanup()

    def steps(self) -> list[int]:
        return sorted(manifest.uploaded(self._folder))

    def open(self) -> None:
        kept = {path.name for paths in manifest.uploaded(self._folder).values() for path in paths}
        there = names(self._folder)
        for name in there:
            if manifest.UPLOAD.fullmatch(name) and name not in kept and f"bad-{name}" not in there:
                self._delete(self._folder / name)

    def drop(self, *steps: int) -> None:
        kept = manifest.uploaded(self._folder)
        for step in steps:
            for path in kept.get(step, ()):
                self._delete(path)

    def set_aside(self) -> list[str]:
        return [
            f"a checkpoint was unsound and is set aside as {self._folder.name}/{name}: "
            f"{(self._folder / name).read_text(encoding='utf-8').strip()}"
            for name in names(self._folder)
            if name.startswith("bad-")
        ]

    def _commit(self, part: Path, step: int) -> None:
        target = self._folder / f"{step}.{uuid.uuid4().hex}"
        assert on_store(target)
        for path in sorted(path for path in part.rglob("*") if path.is_file() and path != part / manifest.NAME):
            (target / path.relative_to(part).as_posix()).upload(path)
        self.fence()
        (target / manifest.NAME).upload(part / manifest.NAME)
        shutil.rmtree(part)

    def _delete(self, path: Path) -> None:
        """The manifest first, so that no half of a checkpoint is ever taken for one."""
        assert on_store(path)
        self.fence()
        (path / manifest.NAME).unlink(missing_ok=True)
        for _, one in path.below():
            self.fence()
            one.unlink(missing_ok=True)

    def _set_aside(self, path: Path, why: str) -> None:
        self.fence()
        aside = path.with_name(f"bad-{path.name}")
        commit_text(aside, f"{why}\n")
        (path / manifest.NAME).unlink(missing_ok=True)
        self._tell(path, aside.name, why)

    def _kept(self, step: int) -> Path:
        return manifest.uploaded(self._folder)[step][0]

    def _readable(self, step: int) -> Path:
        path = self._kept(step)
        assert on_store(path)
        here = Path(self._scratch.name, path.name)
        if here != self._fetched:
            self._forget_fetched()
            for name, one in path.below():
                with contextlib.suppress(FileNotFoundError):  # the manifest tells what is not there
                    one.download(here / name)
            self._fetched = here
        return here

    def _part(self, step: int) -> Path:
        self._forget_fetched()
        return Path(self._scratch.name, f"{step}.part")

    def _forget_fetched(self) -> None:
        if self._fetched:
            shutil.rmtree(self._fetched, ignore_errors=True)
        self._fetched = None
