"""A bucket for tests, under the name of the client that it stands in for: objects by name, nothing else.

An object is put whole or not at all, may be made on the condition that there is none, and is listed at once. There are
no folders; whoever renames, copies or appends fails. Objects are in memory, or, where SCALING_TEST_BUCKET names a
folder, in that, so that processes share them.
"""

import io
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

from fsspec import AbstractFileSystem


class Objects(Protocol):
    def names(self) -> list[str]: ...
    def get(self, name: str) -> bytes: ...
    def put(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> None: ...
    def delete(self, name: str) -> None: ...
    def version(self, name: str) -> str: ...


class Memory:
    def __init__(self) -> None:
        self._of: dict[str, tuple[int, bytes]] = {}
        self._lock, self._count = threading.Lock(), 0

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._of)

    def get(self, name: str) -> bytes:
        return self._found(name)[1]

    def version(self, name: str) -> str:
        return str(self._found(name)[0])

    def put(self, name: str, data: bytes) -> None:
        with self._lock:
            self._put(name, data)

    def create(self, name: str, data: bytes) -> None:
        with self._lock:
            if name in self._of:
                raise FileExistsError(name)
            self._put(name, data)

    def delete(self, name: str) -> None:
        with self._lock:
            if self._of.pop(name, None) is None:
                raise FileNotFoundError(name)

    def _put(self, name: str, data: bytes) -> None:
        self._count += 1
        self._of[name] = self._count, data

    def _found(self, name: str) -> tuple[int, bytes]:
        with self._lock:
            if name not in self._of:
                raise FileNotFoundError(name)
            return self._of[name]


class Shared:
    def __init__(self, folder: Path):
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(unquote(name) for name in os.listdir(self._folder) if not name.startswith("."))

    def get(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def version(self, name: str) -> str:
        return str(self._path(name).stat())

    def put(self, name: str, data: bytes) -> None:
        self._aside(data).replace(self._path(name))

    def create(self, name: str, data: bytes) -> None:
        aside = self._aside(data)
        try:
            os.link(aside, self._path(name))
        finally:
            aside.unlink()

    def delete(self, name: str) -> None:
        self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / quote(name, safe="")

    def _aside(self, data: bytes) -> Path:
        aside = self._folder / f".{uuid.uuid4().hex}"
        aside.write_bytes(data)
        return aside


shared = os.environ.get("SCALING_TEST_BUCKET")
objects: Objects = Shared(Path(shared)) if shared else Memory()


def nothing(what: str, name: str) -> None:
    """In the place of what a test has happen before a request."""


before: Callable[[str, str], None] = nothing


class HttpError(Exception):
    """What the client says of a store that does not answer."""


class GCSFileSystem(AbstractFileSystem):
    protocol = ("gs", "gcs")

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        before("get", name := self._strip_protocol(path))
        return objects.get(name)[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        before(mode, name := self._strip_protocol(path))
        (objects.create if mode == "create" else objects.put)(name, bytes(value))

    _pipe_file = pipe_file

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def rm_file(self, path: str) -> None:
        before("delete", name := self._strip_protocol(path))
        objects.delete(name)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        before("info", name := self._strip_protocol(path))
        try:
            return {
                "name": name, "type": "file", "size": len(objects.get(name)), "generation": objects.version(name)
            }  # fmt: skip
        except FileNotFoundError:
            if any(one.startswith(f"{name}/") for one in objects.names()):
                return {"name": name, "type": "directory", "size": 0}
            raise

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        before("list", name := self._strip_protocol(path))
        below = [one.removeprefix(f"{name}/") for one in objects.names() if one.startswith(f"{name}/")]
        found = sorted({f"{name}/{one.partition('/')[0]}" for one in below})
        if not found:
            raise FileNotFoundError(name)
        return [self.info(one) for one in found] if detail else found

    def find(self, path: str, *_: Any, **__: Any) -> list[str]:
        before("list", name := self._strip_protocol(path))
        return [one for one in objects.names() if one.startswith(f"{name}/") or one == name]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        assert mode == "rb", "an object is put whole"
        return io.BytesIO(self.cat_file(path))

    def _never(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a store has no rename, no copy and no folders")

    mv = move = rename = copy = cp_file = mkdir = makedirs = mkdirs = touch = _never
