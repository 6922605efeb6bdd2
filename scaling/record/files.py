"""Writing a file so that a reader sees all of it or nothing, whatever happens meanwhile."""

import json
import os
from pathlib import Path
from typing import Any


def commit_text(path: Path, text: str) -> None:
    """Replace `path` by `text`: written aside, flushed to the disk, renamed, the folder flushed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)  # a full disk gets its room back
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def commit_json(path: Path, value: Any) -> None:
    """`commit_text` of one JSON document; raises ValueError on a number that JSON has not."""
    commit_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
