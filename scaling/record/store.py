"""A results folder in a bucket: names of objects instead of files. Imported for gs:// alone.

What a disk has and a bucket has not: folders, appending, renaming, locks. What a bucket has: an object is written whole
or not at all, a reader sees the newest one at once, lists are never behind, and an object can be made on the condition
that there is none of its name (https://cloud.google.com/storage/docs/consistency, .../docs/request-preconditions).
"""

import contextlib
import errno
import functools
import inspect
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from scaling.spec import Refusal

if TYPE_CHECKING:  # it is used where a `Path` is
    from pathlib import Path as PosixGPath
else:
    from etils.epath.gpath import PosixGPath

INSTALL = "pip install '.[gcs]' in the checkout, or pip install --upgrade gcsfs"
LARGE_BYTES = 64 << 20  # of an object, from which on it is read in parts
CLIENTS = ("gcsfs", "fsspec", "aiohttp", "google", "requests")  # packages whose errors are the store's


@dataclass(frozen=True, kw_only=True)
class Stat:
    """Of an object, with the names that `os.stat` gives; the inode is another one for every version."""

    st_size: int
    st_ino: int
    st_mtime_ns: int = 0
    st_dev: int = 0


class StorePath(PosixGPath):
    """An object, or the common beginning of several; used like a `Path`, and every answer comes from the store.

    Raises the OSErrors that a file would: what the client cannot say otherwise is an EIO.
    """

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        try:
            self.stat()
            return True
        except (FileNotFoundError, IsADirectoryError):
            return False

    def is_dir(self) -> bool:
        return next(self.iterdir(), None) is not None

    def is_symlink(self) -> bool:
        return False

    def absolute(self) -> "StorePath":
        return self

    def resolve(self, strict: bool = False) -> "StorePath":
        return self

    def stat(self) -> Stat:  # pyright: ignore[reportIncompatibleMethodOverride]
        with _errors(self):
            found = _store().info(str(self))
        if found["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, "is no object", str(self))
        version = f"{found.get('generation')} {found.get('etag')} {found.get('md5Hash')}"
        return Stat(st_size=int(found["size"]), st_ino=zlib.crc32(version.encode()))

    def read_bytes(self) -> bytes:
        with _errors(self):
            return _store().cat_file(str(self), concurrency=1)  # in parts, it could be of two versions

    def read_text(self, encoding: str | None = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors)

    def open(self, mode: str = "rb", **_: Any) -> IO[bytes]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """To read bytes; an object is written whole, by `write_bytes`."""
        if mode != "rb":
            raise ValueError(f"mode = {mode!r}: an object is read as bytes and written whole")
        if self.stat().st_size > LARGE_BYTES:  # weights, which nobody replaces
            with _errors(self):
                return _store().open(str(self), mode)
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes) -> int:
        """The whole object, in the place of the one before."""
        with _errors(self):
            _store().pipe_file(str(self), data)
        return len(data)

    def create(self, data: bytes) -> bool:
        """The whole object, by the condition that there is none; False where there is one."""
        try:
            with _errors(self):
                _store().pipe_file(str(self), data, mode="create")
            return True
        except FileExistsError:
            return False

    def upload(self, file: Path) -> None:
        with _errors(self):
            _store().put_file(str(file), str(self))

    def download(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _errors(self):
            _store().get_file(str(self), str(file))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _errors(self):
                _store().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> Iterator["StorePath"]:
        yield from (self / name for name in self.names())

    def names(self) -> list[str]:
        """The next part of every name that begins here, sorted."""
        try:
            with _errors(self):
                found = _store().ls(str(self), detail=False)
        except FileNotFoundError:
            return []
        home = _key(self) + "/"
        return sorted(
            {name.removeprefix(home).strip("/") for name in map(_bare, found) if name.startswith(home)} - {""}
        )

    def below(self) -> Iterator[tuple[str, "StorePath"]]:
        """Every object whose name begins here: the rest of the name, and the path."""
        try:
            with _errors(self):
                found = _store().find(str(self))
        except FileNotFoundError:
            return
        home = _key(self) + "/"
        for name in sorted(map(_bare, found)):
            rest = PurePosixPath(name.removeprefix(home))
            if not name.startswith(home) or name.endswith("/"):
                continue
            if not rest.is_absolute() and ".." not in rest.parts:  # no name of ours, and none leads out of a folder
                yield name.removeprefix(home), self / name.removeprefix(home)

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        parts = len(PurePosixPath(pattern).parts)
        for name, path in self.below():
            if len(PurePosixPath(name).parts) == parts and PurePosixPath(name).match(pattern):
                yield path

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """There are no folders."""

    def rename(self, target: object) -> "StorePath":
        raise NotImplementedError("a store has no rename: an object is written in its place")

    replace = copy = rename  # pyright: ignore[reportAssignmentType]


def path_of(text: str) -> StorePath:
    """Raises `Refusal` for what names no folder in a bucket, and where there is no client that can make one safely."""
    bucket, _, name = text.removeprefix("gs://").partition("/")
    if not bucket or not name.strip("/"):
        raise Refusal(f"{text}: must be gs://BUCKET/NAME")
    if re.search(r"[*?\[\]#]|//", bucket + "/" + name.rstrip("/")):
        raise Refusal(f"{text}: a name in a bucket may have none of * ? [ ] # and no //")
    try:
        from gcsfs import GCSFileSystem  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Refusal(f"{text}: the package gcsfs is not installed; {INSTALL}") from None
    if "mode" not in inspect.signature(GCSFileSystem._pipe_file).parameters:
        raise Refusal(f"{text}: this gcsfs cannot make an object that must not exist yet; {INSTALL}")
    return StorePath(text.rstrip("/"))


@functools.cache
def _store() -> Any:
    """The client. It would answer from lists that it has seen, so that what others write were unseen."""
    import fsspec

    return fsspec.filesystem("gcs", use_listings_cache=False)


def _bare(name: str) -> str:
    return name.removeprefix("gs://").removeprefix("gcs://")


def _key(path: StorePath) -> str:
    return _bare(str(path)).rstrip("/")


@contextlib.contextmanager
def _errors(path: StorePath) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        said = (str(error).splitlines() or [""])[0]
        raise OSError(errno.EIO, f"{type(error).__name__}: {said}", str(path)) from error
