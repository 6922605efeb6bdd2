"""Which code runs, and on what."""

import json
import subprocess
from pathlib import Path


def commit() -> dict[str, str]:
    """The commit of this checkout and whether files differ from it; nothing where the package is not in a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {}
    head = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": "yes" if changed else "no"} if head else {}


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


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
