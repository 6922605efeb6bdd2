"""Which code runs, and on what."""

import hashlib
import importlib.metadata
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout, where the package is in one

DECISIVE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas")  # for a number
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", re.MULTILINE)


def code() -> dict[str, str]:
    """What of the code enters every record: the checkout's commit and what differs from it, and the lock.

    `commit`, `dirty`: no, unknown, or yes with `difference`, the sha256 of `git diff HEAD`; nothing where the package
    is not in a checkout. `lock`: the first 16 digits of the sha256 of requirements.lock. `lock_differs`: which of the
    `DECISIVE` packages are installed in another version, name have/pinned; absent where none is.
    """
    return _commit() | _lock(ROOT / "requirements.lock")


def committed(file: Path) -> bool:
    """Whether a file of the checkout is in its last commit."""
    return _git("cat-file", "-e", f"HEAD:{file.relative_to(ROOT).as_posix()}") is not None


def _commit() -> dict[str, str]:
    if not (ROOT / ".git").exists():
        return {}
    if not (head := _git("rev-parse", "HEAD")):
        return {}
    said = {"commit": head.decode().strip()}
    difference = _git("diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    if not difference:
        return said | {"dirty": "unknown" if difference is None else "no"}
    return said | {"dirty": "yes", "difference": hashlib.sha256(difference).hexdigest()}


def _lock(path: Path) -> dict[str, str]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    pinned = dict(PINNED.findall(text.decode(errors="replace")))
    versions = {name: (_version(name), pinned[name]) for name in DECISIVE if name in pinned}
    differs = ", ".join(f"{name} {have}/{want}" for name, (have, want) in versions.items() if have != want)
    return {"lock": hashlib.sha256(text).hexdigest()[:16]} | ({"lock_differs": differs} if differs else {})


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


ASK_DEVICES = (
    "import jax, json; d = jax.devices(); "
    "print(json.dumps({'backend': jax.default_backend(), 'kind': d[0].device_kind, 'count': len(d)}))"
)


def devices(python: str) -> dict[str, str | int]:
    """What JAX sees, asked in a child process: backend, kind and count, or the error."""
    try:
        done = subprocess.run([python, "-c", ASK_DEVICES], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _git(*words: str) -> bytes | None:
    """What git prints; None where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
