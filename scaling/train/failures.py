"""Why a run could not go on, and how the libraries below say so."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from scaling.record.files import FULL

FULL_TEXTS = ("No space left on device", "Disk quota exceeded")  # tensorstore has the text alone


class Interrupted(Exception):
    """Training was asked to stop; what was done is saved, and the same call goes on from there."""


class OutOfMemory(Exception):
    """A run that does not fit, however finely its batch is cut."""


class DiskFull(OSError):
    """There is no room for the weights or the curve; the last checkpoint is as it was."""

    def __init__(self, message: str):
        super().__init__(message)
        self.errno = errno.ENOSPC


class TrunkLost(Exception):
    """The trunk's weights at the step of a branch are missing or unsound: the trunk has to be trained again."""

    def __init__(self, message: str, trunk: str):
        super().__init__(message)
        self.trunk = trunk  # its run id


class Unsound(Exception):
    """A checkpoint that does not hold what was written. It is set aside by now."""


def out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(cause))
        for cause in _causes(error)
    )


def disk_full(error: BaseException) -> bool:
    return any(
        getattr(cause, "errno", None) in FULL or any(text in str(cause) for text in FULL_TEXTS)
        for cause in _causes(error)
    )


def require_room(folder: Path, need: int) -> None:
    """Raises `DiskFull` where less than `need` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DiskFull(
            f"{folder}: the weights need {need / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free; free some room "
            "and the run goes on, or give another --out"
        )


@contextlib.contextmanager
def telling_a_full_disk(folder: Path) -> Iterator[None]:
    """A disk that fills up in here is a `DiskFull`, however the libraries say so."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not disk_full(error):
            raise
        raise DiskFull(
            f"{folder}: the disk is full; the last checkpoint is kept; free some room and the run goes on"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
