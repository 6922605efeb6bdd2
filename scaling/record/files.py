"""Writing a file so that a reader sees all of it or nothing, whatever happens meanwhile."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def commit_text(path: Path, text: str) -> None:
    """`commit_bytes` of a text, in UTF-8."""
    commit_bytes(path, text.encode())


def commit_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written aside, flushed to the disk, renamed, the folder flushed too."""
    aside = _written_aside(path, content)
    try:
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def create_text(path: Path, text: str) -> bool:
    """Make `path` with `text`, complete from the moment that it is there; False where it was there already.

    Of any number of processes that try, on machines that share the folder, exactly one is told True.
    """
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
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size / 2**20:,.0f} MiB, {most / 2**20:,.0f} are the most")
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def flush_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk: a rename outlives a loss of power only then."""
    flush_file(folder)


def flush_file(path: Path) -> None:
    """Put what was written to `path` on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _written_aside(path: Path, content: bytes) -> Path:
    """A flushed file with `content` beside `path`, under a name that no other process or thread uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)  # a full disk gets its room back
        raise
    return aside
