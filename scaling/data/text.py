"""Bytes as tokens: a file or a folder (`text:PATH`)."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from scaling.data.corpus import Corpus, Documents, read_at_random
from scaling.spec import Refusal

Stamp = tuple[str, int, int]  # path, bytes, time of the last change in ns: what tells one state of a file from another

BYTE = np.dtype(np.uint8)
_HELD_OUT_PART = 20  # one document, or one token of a single file, in this many is held out

_COMPRESSED = (".gz", ".xz", ".bz2", ".zst", ".zip", ".7z", ".lz4")


def _not_hidden(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".")


def walk(root: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[Stamp]:
    """Files below `root`, sorted by their paths with forward slashes; links to folders are not followed."""

    def below(folder: str, prefix: str) -> Iterator[Stamp]:
        with os.scandir(folder) as entries:
            for entry in filter(wanted, entries):
                if entry.is_dir(follow_symlinks=False):
                    yield from below(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file():
                    stat = entry.stat()
                    yield prefix + entry.name, stat.st_size, stat.st_mtime_ns

    return sorted(below(root, ""))


def held_out_documents(paths: Iterable[str]) -> set[str]:
    """The paths with sha256(path) % 20 = 0: a rule that adding or removing other documents does not move.

    At least one document is held out and one is not; where the rule fails to, the smallest hash alone is held out.
    """
    hashes = {path: int(hashlib.sha256(os.fsencode(path)).hexdigest(), 16) for path in paths}
    chosen = {path for path, value in hashes.items() if value % _HELD_OUT_PART == 0}
    return chosen if 0 < len(chosen) < len(hashes) else {min(hashes, key=hashes.__getitem__)}


def split_end(tokens: int) -> int:
    """Where the held-out last twentieth of a single file begins."""
    return tokens - tokens // _HELD_OUT_PART


def open_text(name: str, argument: str) -> Corpus:
    """A file, whose last twentieth is held out, or a folder, whose files are documents; hidden files are skipped.

    Nothing is read before a window asks for it, and files are memory-mapped, so any size will do.
    """
    path = Path(argument).expanduser().absolute()
    where = f"data.source = {name!r}"
    if not path.exists():
        raise Refusal(f"{where}: there is no file or folder {path}")
    try:
        if not path.is_dir():
            stat = path.stat()
            return _file(name, (str(path), stat.st_size, stat.st_mtime_ns))
        return _folder(name, str(path), tuple(walk(str(path), _not_hidden)))
    except OSError as error:
        raise Refusal(f"{where}: cannot read {error.filename}: {error.strerror}") from None


def _unreadable(name: str, paths: list[str]) -> list[str]:
    where = f"data.source = {name!r}"
    faults = [f"{where}: {p} is compressed; decompress it first" for p in paths if p.lower().endswith(_COMPRESSED)]
    return faults + [f"{where}: cannot read {p}: no permission" for p in paths if not os.access(p, os.R_OK)]


@functools.lru_cache(maxsize=8)
def _file(name: str, stamp: Stamp) -> Corpus:
    path, size, _ = stamp
    faults = _unreadable(name, [path])
    if not size:
        faults.append(f"data.source = {name!r}: {path} is empty")
    if faults:
        raise Refusal(faults)

    def part(start: int, end: int) -> Documents:
        return Documents(sizes=(end - start,), open_document=lambda _: _mapped(stamp)[start:end])

    split = split_end(size)
    return Corpus(
        name=name, kind="bytes", dtype=BYTE, whole=part(0, size), train=part(0, split), held_out=part(split, size)
    )


@functools.lru_cache(maxsize=8)
def _folder(name: str, root: str, listing: tuple[Stamp, ...]) -> Corpus:
    faults = _unreadable(name, [os.path.join(root, path) for path, _, _ in listing])
    listing = tuple(stamp for stamp in listing if stamp[1])
    if not listing:
        faults.append(f"data.source = {name!r}: {root} holds no text")
    elif len(listing) == 1:
        faults.append(
            f"data.source = {name!r}: a folder needs at least two documents, one of them held out; "
            f"for this one say text:{os.path.join(root, listing[0][0])}"
        )
    if faults:
        raise Refusal(faults)

    def documents(chosen: list[Stamp]) -> Documents:
        def open_document(i: int) -> np.ndarray:
            path, size, mtime_ns = chosen[i]
            return _mapped((os.path.join(root, path), size, mtime_ns))

        return Documents(sizes=tuple(size for _, size, _ in chosen), open_document=open_document)

    held_out = held_out_documents(path for path, _, _ in listing)
    return Corpus(
        name=name,
        kind="bytes",
        dtype=BYTE,
        whole=documents([*listing]),
        train=documents([stamp for stamp in listing if stamp[0] not in held_out]),
        held_out=documents([stamp for stamp in listing if stamp[0] in held_out]),
        facts=(("held_out_files", str(len(held_out))),),
    )


@functools.lru_cache(maxsize=64)  # each map holds a file descriptor, and a process may have as few as 256
def _mapped(stamp: Stamp) -> np.ndarray:
    path, size, _ = stamp
    return read_at_random(np.asarray(np.memmap(path, BYTE, mode="r", shape=(size,))))
