"""Which code ran."""

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


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
