"""Writing a file so that a reader sees all of it or nothing, whatever happens meanwhile.

What differs between a disk and a bucket (`scaling.record.store`) is known here: on a disk a file is written aside,
flushed and renamed; in a bucket an object is written in its place, which is whole or not there.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from scaling.spec import Refusal

FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk, or of what one may have of it

if TYPE_CHECKING:
    from scaling.record.store import StorePath


def folder_of(text: str | os.PathLike[str]) -> Path:
    """A results folder on a disk or, as gs://BUCKET/NAME, in a bucket: that is used like a `Path`, too.

    Raises `Refusal` for another kind of store, and where the client is missing.
    """
    if on_store(text):
        return text
    scheme = re.match(r"([A-Za-z][\w+.-]*)://", os.fspath(text))
    if not scheme:
        return Path(text)
    if scheme[1] != "gs":
        raise Refusal(
            f"{text}: a results folder is on a disk or in a bucket of Google Cloud Storage (gs://BUCKET/NAME)"
        )
    from scaling.record.store import path_of

    return path_of(os.fspath(text))


def disk_folder_of(text: str | os.PathLike[str], command: str) -> Path:
    """A results folder, for a command that has to have it on a disk."""
    if on_store(folder := folder_of(text)):
        raise Refusal(f"{text}: `scaling {command}` needs the results on a disk: copy them there")
    return folder


def on_store(path: object) -> "TypeGuard[StorePath]":
    """Whether a path is one in a bucket."""
    return not isinstance(path, (str, Path)) and hasattr(path, "below")


def commit_text(path: Path, text: str) -> None:
    """`commit_bytes` of a text, in UTF-8."""
    commit_bytes(path, text.encode())


def commit_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written aside, flushed to the disk, renamed, the folder flushed too."""
    if on_store(path):
        path.write_bytes(content)
        return
    aside = _written_aside(path, content)
    try:
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def create_text(path: Path, text: str) -> bool:
    """Make `path` with `text`, complete from the moment that it is there; False where it was there already.

    Of any number of processes that try, on machines that share the folder, exactly one is told True. (In a bucket none
    may be: when the answer was lost on its way, and the client asked again.)
    """
    if on_store(path):
        return path.create(text.encode())
    aside = _written_aside(path, text.encode())
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    flush_folder(path.parent)
    return True


def commit_json(path: Path, value: Any) -> None:
    """`commit_text` of one JSON document; raises ValueError on a number that JSON has not."""
    commit_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, most: int, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """One JSON document of at most `most` bytes. Raises OSError, and ValueError, one line, for what is none.

    `object_hook` as in `json.loads`.
    """
    try:
        return json.loads(read_bytes(path, most=most), object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_bytes(path: Path, *, most: int) -> bytes:
    """What is in a file of at most `most` bytes. Raises OSError, and ValueError, one line, for a larger one and for a
    device or a pipe, which might never end."""
    found = path.stat()
    if not on_store(path) and not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > most:
        raise ValueError(f"it has {found.st_size / 2**20:,.0f} MiB, {most / 2**20:,.0f} are the most")
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    """What is in a folder, sorted; nothing where there is none."""
    if on_store(folder):
        return folder.names()
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name below `folder`, with forward slashes, and path, of everything there but folders."""
    if on_store(folder):
        yield from folder.below()
        return
    for root, _, found in os.walk(folder):
        for name in found:
            path = Path(root, name)
            yield path.relative_to(folder).as_posix(), path


def flush_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk: a rename outlives a loss of power only then."""
    if not on_store(folder):
        flush_file(folder)


def flush_file(path: Path) -> None:
    """Put what was written to `path` on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def beside(path: Path) -> Path:
    """A name in the same folder that no other process or thread uses; it says whose it is (`scaling.record.litter`)."""
    return path.with_name(f".{path.name}.{processes()}-{os.getpid()}.{uuid.uuid4().hex}.part")


@functools.cache
def processes() -> str:
    """What tells processes apart by their numbers: one boot of a machine, and of it one container. `none` where it
    cannot be told."""
    try:
        name_space = os.readlink("/proc/self/ns/pid")
    except OSError:
        name_space = ""
    return hashlib.sha256(f"{kernel()} {name_space}".encode()).hexdigest()[:8] if kernel() else "none"


@functools.cache
def kernel() -> str:
    """The boot of this machine: processes of one kernel see one another, and one another's locks. Empty where it cannot
    be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        name = platform.node() if platform.system() == "Darwin" else ""
        return hashlib.sha256(name.encode()).hexdigest() if name else ""


def _make(folder: Path) -> None:
    """A folder and those it lies in, each with its name on the disk: what is flushed below is found by way of them."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make(folder.parent)
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # a folder that may be written to and not read
        flush_folder(folder.parent)


def _written_aside(path: Path, content: bytes) -> Path:
    """A flushed file with `content` beside `path`, under a name that no other process or thread uses."""
    _make(path.parent)
    aside = beside(path)
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)  # a full disk gets its room back
        raise
    return aside
