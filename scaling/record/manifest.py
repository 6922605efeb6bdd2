"""What a folder of files must hold: their sizes and sha256, in its manifest.json, which is sealed by its own sha256.

A folder is committed when its manifest is there, and sound when it holds exactly what the manifest lists. In a bucket
(`scaling.record.store`) a folder is the beginning of names, and the manifest is written last.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scaling.record.files import files_below

NAME = "manifest.json"
UPLOAD = re.compile(r"(\d+)\.[0-9a-f]{32}")  # a checkpoint in a bucket: its step, and whose upload it is


def make(folder: Path, facts: Mapping[str, Any]) -> str:
    """The text of the manifest of every file below `folder`; `facts` is what else it says, by name."""
    files = {name: {"size": path.stat().st_size, "sha256": _sha256(path)} for name, path in sorted(_files(folder))}
    return _sealed({**facts, "files": files})


def is_committed(folder: Path) -> bool:
    return (folder / NAME).is_file()


def uploaded(folder: Path) -> dict[int, list[Path]]:
    """The committed checkpoints in a bucket, by step; several where several participants had the same step."""
    found: dict[int, list[Path]] = {}
    for name, path in files_below(folder):
        if (of := UPLOAD.fullmatch(name.removesuffix(f"/{NAME}"))) and name.endswith(f"/{NAME}"):
            found.setdefault(int(of[1]), []).append(path.parent)
    return found


def read(folder: Path) -> dict[str, Any]:
    """What a manifest says, unchecked; `check` tells whether it may be believed."""
    return json.loads((folder / NAME).read_text(encoding="utf-8"))


def check(folder: Path, facts: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a folder, a line each; empty where it is sound.

    Every file is there with its size and hash, and no file more; the manifest says `facts`. What cannot be read is
    wrong too: this raises nothing.
    """
    try:
        text = (folder / NAME).read_bytes().decode("utf-8")
        values = json.loads(text)
        wanted = {name: (of["size"], of["sha256"]) for name, of in values["files"].items()}
        if _sealed({key: value for key, value in values.items() if key != "sha256"}) != text:
            return [f"{NAME}: not as it was written (its own sha256 does not fit)"]
    except (FileNotFoundError, NotADirectoryError):
        return [f"{NAME}: not there"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{NAME}: not a manifest ({error!r})"]
    faults = [
        f"{NAME}: {key} is {values.get(key)!r} instead of {value!r}"
        for key, value in (facts or {}).items()
        if values.get(key) != value
    ]
    found = dict(_files(folder))
    faults += [f"{name}: not in the manifest" for name in sorted(found.keys() - wanted.keys())]
    for name, (size, sha256) in wanted.items():
        if fault := _fault(found.get(name), size, sha256):
            faults.append(f"{name}: {fault}")
    return faults


def _fault(path: Path | None, size: int, sha256: str) -> str:
    if path is None:
        return "not there"
    try:
        if (now := path.stat().st_size) != size:
            return f"{now} bytes instead of {size}"
        return "" if _sha256(path) == sha256 else "its sha256 is not the one in the manifest"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of everything below `folder` but the manifest itself."""
    yield from ((name, path) for name, path in files_below(folder) if name != NAME)


def _sealed(values: Mapping[str, Any]) -> str:
    """One text for one content, with the hash of the content in it."""
    seal = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return json.dumps({**values, "sha256": seal}, indent=1) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
