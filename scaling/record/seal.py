"""A document that carries the sha256 of the rest of itself, so that no byte of it changes unseen."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.record.files import read_json

SEAL, CURVE = "sha256", "curve_sha256"  # a document with the second has the first, or its name was damaged


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, SEAL: digest(values)}


def fits(values: Mapping[str, Any]) -> bool | None:
    """Whether the seal is that of the rest; None where there is none, as in records of older versions."""
    return values[SEAL] == digest(values) if SEAL in values else (False if CURVE in values else None)


def digest(values: Mapping[str, Any]) -> str:
    """Of the canonical JSON: names sorted, no white space, ASCII."""
    rest = {name: value for name, value in values.items() if name != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_sealed(path: Path, *, most: int) -> dict[str, Any]:
    """The object in a file of at most so many bytes. Raises ValueError, one line, for no object or a broken seal."""
    values = read_json(path, most=most)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    if fits(values) is False:
        raise ValueError("it is not as it was written: its sha256 is another")
    return values


def file_digest(path: Path) -> str | None:
    """Of a file's bytes; None where there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
