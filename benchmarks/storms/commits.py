"""What a loss of power would leave: the order of writes, flushes and renames, as the kernel was asked for them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .ground import Found, Ground, Row

CALLS = (
    "openat,creat,mkdir,mkdirat,write,pwrite64,writev,pwritev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat"
)
# Who lives (scaling.record.claims), and what was printed: worth nothing after a loss of power.
WORTHLESS = ("holders", "logs")

STUDY = """
from scaling.plan import Study, trunks
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

MODEL = ModelSpec(n_layers=1, d_model=16, d_ff=64, d_head=8, vocab_size=192, context=33)
BASE = RunSpec(model=MODEL, optim=OptimSpec(peak_lr=5e-3), data=DataSpec(source="zipf-facts"),
               eval=EvalSpec(tokens=1320), batch=8, steps=1)
STUDY = Study(name="commits", question="Is it on the disk?", plan=trunks(BASE, [MODEL], [5e4, 1e5], group="grid"))
"""

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?:<([^>]*)>)?")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")


def storm(ground: Ground, seed: int, short: bool) -> Row:
    """`scaling run` of a trunk and two branches under strace. Every name that readers look for in the results folder
    must be of flushed contents, and its folder be flushed after."""
    row, out = Row(storm="commit order"), ground.folder / "traced"
    if not shutil.which("strace"):
        row.skipped = "strace is not on this machine"
        return row
    trace, study = ground.folder / "trace.txt", ground.folder / "commits.py"
    study.write_text(STUDY)
    command = [sys.executable, "-m", "scaling", "run", str(study), "--out", str(out), "--workers", "1"]
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", str(trace), *command],
        env=ground.environment(out), capture_output=True, text=True, cwd=ground.folder,
    )  # fmt: skip
    with open(trace, errors="replace") as lines:
        disk = Disk.after(calls(lines), out)
    if done.returncode:
        row.note("the traced sweep", Found(wrong=[f"status {done.returncode}: {done.stderr.strip()[-200:]}"]))
    for path, fault in disk.commits:
        row.judge(str(path.relative_to(out)), Found(wrong=[fault] if fault else []))
    return row


class Call(NamedTuple):
    pid: int
    name: str
    paths: tuple[str, ...]  # of its arguments: descriptors by the file that they are open on, and names
    words: str  # the arguments as they stand


def calls(lines: Iterable[str]) -> Iterator[Call]:
    """The calls that succeeded, each at the moment it returned."""
    waiting: dict[str, str] = {}
    for line in lines:
        line = line.rstrip("\n")
        if begun := _UNFINISHED.match(line):
            waiting[begun[1]] = begun[2]
            continue
        if ended := _RESUMED.match(line):
            line = f"{ended[1]} {waiting.pop(ended[1], '')}{ended[2]}"
        if (found := _LINE.match(line)) and not found[4].startswith(("-", "?")):
            yield Call(int(found[1]), found[2], tuple(_paths(found[3])), found[3])


def _paths(words: str) -> Iterator[str]:
    """A name is relative to the folder that stands before it; AT_FDCWD and descriptors are given with theirs."""
    base = ""
    for descriptor, name in re.findall(r'(?:AT_FDCWD|\d+)<([^>]*)>|"((?:[^"\\]|\\.)*)"', words):
        if descriptor:
            base = descriptor
        elif name:
            yield str(Path(base, name)) if base else name
            base = ""
    if base:
        yield base


@dataclass
class Disk:
    """What of a results folder would be left without the page cache."""

    out: Path
    written: set[Path] = field(default_factory=set)  # files with contents that are not flushed
    named: dict[Path, list[int]] = field(default_factory=dict)  # folders with new names: the commits that wait for it
    commits: list[tuple[Path, str]] = field(default_factory=list)  # every commit, with its fault
    last: dict[int, int] = field(default_factory=dict)  # commit of each thread

    @classmethod
    def after(cls, calls: Iterable[Call], out: Path) -> "Disk":
        disk = cls(out)
        for call in calls:
            paths = [Path(path) for path in call.paths]
            if any(path.is_relative_to(out) for path in paths):
                disk._see(call, paths)
        for thread in disk.last:
            disk._flushed_by(thread)
        return disk

    def _see(self, call: Call, paths: list[Path]) -> None:
        if call.name in ("openat", "creat", "mkdir", "mkdirat"):
            if "O_CREAT" in call.words or call.name != "openat":
                self.named.setdefault(paths[-1].parent, [])
        elif call.name in ("write", "pwrite64", "writev", "pwritev", "ftruncate"):
            self.written.add(paths[0])
        elif call.name in ("fsync", "fdatasync"):
            self.written.discard(paths[0])
            self.named.pop(paths[0], None)
        elif call.name.startswith(("rename", "link")):
            self._commit(call.pid, *paths[:2], moved=call.name.startswith("rename"))

    def _commit(self, thread: int, source: Path, target: Path, moved: bool) -> None:
        """A name becomes visible. Names that readers ignore are no commits, but what they hold has to be flushed."""
        if not _read(target.relative_to(self.out) if target.is_relative_to(self.out) else target):
            self._move(source, target, moved)
            self.named.setdefault(target.parent, [])
            return
        unwritten = sorted(path for path in self.written if path.is_relative_to(source))
        unnamed = sorted(path for path in self.named if path.is_relative_to(source))
        lines = [f"{path.relative_to(source)} is not flushed" for path in unwritten]
        lines += [f"the names in {path.relative_to(source)} are not flushed" for path in unnamed]
        self.commits.append((target, "; ".join(lines)))
        self._move(source, target, moved)
        self._flushed_by(thread)
        self.last[thread] = len(self.commits) - 1
        self.named.setdefault(target.parent, []).append(self.last[thread])

    def _move(self, source: Path, target: Path, moved: bool) -> None:
        def there(path: Path) -> Path:
            return target / path.relative_to(source) if path.is_relative_to(source) else path

        if moved:
            self.written = {there(path) for path in self.written}
            self.named = {there(path): waiting for path, waiting in self.named.items()}

    def _flushed_by(self, thread: int) -> None:
        """A thread flushes the folder of what it commits before it commits anything more."""
        commit = self.last.get(thread, -1)
        if any(commit in waiting for waiting in self.named.values()):
            path, fault = self.commits[commit]
            late = "its folder is not flushed before the next commit"
            self.commits[commit] = (path, f"{fault}; {late}" if fault else late)


def _read(path: Path) -> bool:
    """Whether readers of the results folder look for this name."""
    hidden = any(part.startswith(".") or part.endswith(".part") or "tmp" in part for part in path.parts)
    return not path.is_absolute() and not hidden and path.parts[0] not in WORTHLESS
