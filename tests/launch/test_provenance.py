import hashlib
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from scaling.launch import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("x = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    return tmp_path


def test_each_uncommitted_difference_has_a_hash_of_its_own(checkout: Path):
    clean = provenance.code()
    assert clean.keys() == {"commit", "dirty"} and clean["dirty"] == "no" and len(clean["commit"]) == 40
    seen = []
    for text in ("x = 2\n", "x = 3\n", "x = 2\n"):
        (checkout / "code.py").write_text(text)
        said = provenance.code()
        assert said["dirty"] == "yes" and said["commit"] == clean["commit"]
        seen.append(said["difference"])
    assert seen[0] == seen[2] != seen[1]


def test_a_difference_that_git_cannot_tell_is_not_called_none(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    git = provenance._git
    monkeypatch.setattr(provenance, "_git", lambda *words: None if words[0] == "diff" else git(*words))
    assert provenance.code()["dirty"] == "unknown"


def test_a_package_that_is_not_the_locked_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code() == {}
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"jax=={version('jax')} \\\n    --hash=sha256:00\nnumpy==0.1 \\\nnot-decisive==0.1\n")
    said = provenance.code()
    assert said == {
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest()[:16],
        "lock_differs": f"numpy {version('numpy')}/0.1",
    }
    lock.write_text(f"numpy=={version('numpy')} ; python_version > '3'\n")
    assert provenance.code().keys() == {"lock"}
