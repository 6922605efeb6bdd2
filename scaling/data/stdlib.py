"""The running interpreter's own library: `bytes:stdlib`, and of it `bytes:stdlib-prose` and `bytes:stdlib-code`."""

import functools
import os
import platform
import sysconfig

import numpy as np

from scaling.data import prose
from scaling.data.corpus import Corpus, in_memory
from scaling.data.text import BYTE, held_out_documents, walk
from scaling.spec import Refusal

# What distributions split off, what is generated, what is a table rather than prose, and what others installed.
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "distutils", "tkinter", "turtledemo", "ensurepip", "encodings",
             "pydoc_data", "msilib", "site-packages", "dist-packages"}  # fmt: skip
_LEFT_OUT_PREFIXES = ("config-", "_sysconfigdata")

_WHOLE, _PROSE, _CODE = "bytes:stdlib", "bytes:stdlib-prose", "bytes:stdlib-code"
STDLIB = (_WHOLE, _PROSE, _CODE)


@functools.cache
def open_stdlib(name: str) -> Corpus:
    """One of `STDLIB`: the Python sources of the standard library, read into memory, about 8 MB; their docstrings and
    comments alone, about 2 MB; or the same files without these (`scaling.data.prose`), about 5 MB.

    The content depends on the Python version and the distribution: `provenance` has the version and a sha256. The
    same documents are held out of all three.
    """
    content = _library() if name == _WHOLE else {path: halves[name] for path, halves in _halves().items()}
    content = {path: data for path, data in content.items() if len(data)}
    held_out = held_out_documents(_library())
    train, tested = ([data for path, data in content.items() if (path in held_out) == side] for side in (False, True))
    if not train or not tested:
        raise Refusal(f"data.source = {name!r}: the library here has too little of it; use text:PATH")
    return Corpus(
        name=name,
        kind="bytes",
        dtype=BYTE,
        whole=in_memory([*content.values()]),
        train=in_memory([np.concatenate(train)]),
        held_out=in_memory([np.concatenate(tested)]),
        facts=(
            ("python", f"{platform.python_implementation()} {platform.python_version()}"),
            ("held_out_files", str(len(tested))),
        ),
    )


@functools.cache
def _library() -> dict[str, np.ndarray]:
    """Bytes by path, of files that hold any."""
    root = sysconfig.get_paths()["stdlib"]
    try:
        paths = [path for path, _, _ in walk(root, _in_selection) if path.endswith(".py")]
        content = {path: np.fromfile(os.path.join(root, path), BYTE) for path in paths}
    except OSError as error:
        raise Refusal(f"data.source = {_WHOLE!r}: cannot read {error.filename}: {error.strerror}") from None
    content = {path: data for path, data in content.items() if len(data)}
    if len(content) < 2:
        raise Refusal(f"data.source = {_WHOLE!r}: {root} holds no Python sources; use text:PATH")
    return content


@functools.cache
def _halves() -> dict[str, dict[str, np.ndarray]]:
    """Bytes by path and source. A file that this Python cannot read is in neither."""
    found = {}
    for path, data in _library().items():
        try:
            halves = prose.split(data.tobytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        found[path] = {name: np.frombuffer(half, BYTE) for name, half in zip((_PROSE, _CODE), halves, strict=True)}
    return found


def _in_selection(entry: os.DirEntry[str]) -> bool:
    return entry.name not in _LEFT_OUT and not entry.name.startswith(_LEFT_OUT_PREFIXES)
