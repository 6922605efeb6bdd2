"""`scaling run --on tpu-vm|gke` as a person meets it: refusals, dry runs, a job by a stand-in, its results."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scaling.cli import main
from scaling.cli.follow import Following
from scaling.cli.locate import study_of
from scaling.launch import tpu_job, tpu_vm
from scaling.plan import Plan
from scaling.record.files import commit_json, files_below, folder_of
from tests.cli.test_cli import refused, study  # noqa: F401
from tests.launch.test_tpu_vm import DONE, Fake, stand_in

SLICE = ("--name", "sweep-1", "--zone", "us-west4-a", "--accelerator", "v4-16", "--bucket", "gs://bucket")
TPU, GKE = ("--on", "tpu-vm", *SLICE), ("--on", "gke", *SLICE, "--image", "registry/scaling:1")


def test_every_fault_is_refused_at_once_and_before_anything(capsys: pytest.CaptureFixture, study: Path):  # noqa: F811
    words = ("--name", "A", "--zone", "here", "--accelerator", "v5e-16", "--bucket", "s3://x", "--project", "P")
    words += (
        "--gcloud",
        "zone=x",
        "--gpus",
        "1",
        "--image",
        "x",
        "--log",
        "tensorboard",
        "--out",
        "x",
        "--patience",
        "-1",
    )
    faults = refused(capsys, "run", str(study), "--on", "tpu-vm", "--dry-run", *words)
    for name in words[::2]:
        assert any(name in fault for fault in faults), name
    assert "did you mean v5litepod-16?" in next(fault for fault in faults if "--accelerator" in fault)


@pytest.mark.parametrize(
    "words, fault",
    [
        (("--on", "tpu-vm", "--dry-run", *SLICE[2:]), "--name: must be given with --on tpu-vm, e.g. sweep-1"),
        (("--on", "gke", "--dry-run", *SLICE), "--image: must be given with --on gke"),
        (GKE, "kubectl apply -f"),
        (("--accelerator", "v4-8"), "--accelerator: is for --on tpu-vm and --on gke, not for --on local"),
        ((*TPU, "--dry-run", "--population", "4"), "give --apart"),
        ((*TPU, "--dry-run", "--mesh", "data=4"), "takes 4 devices, and v4-16 has 8; give sizes"),
        ((*TPU, "--dry-run", "--apart", "--mesh", "data=8"), "takes 8 devices, and a host has 4; give sizes"),
        (("--on", "tpu-vm", "--dry-run", *SLICE[:4], *SLICE[6:], "--accelerator", "v4-8", "--apart"), "--apart: v4-8"),
    ],
)
def test_what_does_not_go_together_is_refused(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    study: Path,  # noqa: F811
    words: tuple[str, ...],
    fault: str,
):
    monkeypatch.setattr(tpu_vm, "ROOT", study.parent)
    (line,) = refused(capsys, "run", str(study), *words)
    assert fault in line


def test_a_machine_without_gcloud_is_told_what_to_install(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    study: Path,  # noqa: F811
):
    monkeypatch.setenv("PATH", "")
    assert ["gcloud auth login" in line or "git" in line for line in refused(capsys, "run", str(study), *TPU)] == [
        True
    ] * 2


def test_a_dry_run_needs_no_gcloud_no_network_no_data_and_no_jax(study: Path, tmp_path: Path):  # noqa: F811
    study.write_text(study.read_text().replace("zipf-facts", "tokens:not-here"))
    code = (
        "import sys, socket; socket.socket = None; from scaling.cli import main; "
        f"done = [main(['run', {str(study)!r}, '--dry-run', *words]) for words in ({TPU!r}, {(*TPU, '--apart')!r})]; "
        "sys.exit(bool({'jax', 'gcsfs', 'etils'} & set(sys.modules)) or done != [0, 0])"
    )
    environ = {"PATH": "", "HOME": str(tmp_path / "home"), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "home").exists()
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    together, apart = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    verbs = [line[4] if line[0] == "gcloud" else line[0] for line in together]
    assert verbs == [
        "describe", "rm", "git", "tar", "create", "describe", "scp", "ssh", "ssh", "describe", "describe", "ssh",
        "delete",
    ]  # fmt: skip

    def there(life: list[list[str]]) -> list[str]:
        (command,) = [word for line in life for word in line if word.startswith("--command=") and " run " in word]
        return shlex.split(command.removeprefix("--command="))[3:]

    words = [".venv/bin/scaling", "run", "../tiny.py", "--out", "gs://bucket/tiny"]
    assert there(together) == [*words, "--distributed", "auto"]
    assert there(apart)[0] == "env" and there(apart)[-5:] == words


def test_the_manifest_alone_is_on_standard_output(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    study: Path,  # noqa: F811
):
    monkeypatch.setattr(tpu_vm, "ROOT", study.parent)
    assert main(["run", str(study), *GKE, "--dry-run", "--retry", "--set", "optim.peak_lr=1e-3"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("# xpk workload create ") and "\napiVersion: jobset.x-k8s.io/v1alpha2\n" in said.out
    assert "--set optim.peak_lr=1e-3 --out gs://bucket/tiny --distributed auto --retry" in said.out.splitlines()[0]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: ModuleType) -> Fake:
    monkeypatch.setattr(tpu_job, "ship", lambda *_: [])
    monkeypatch.setattr(tpu_job, "code", lambda: {"commit": "c0ffee", "dirty": "no"})
    monkeypatch.setattr(tpu_vm, "unsent", lambda _: [])
    return stand_in(tmp_path / "google", monkeypatch)


def test_results_are_closed_here_as_those_of_any_sweep(
    capsys: pytest.CaptureFixture,
    fake: Fake,
    study: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    """What the slice left in the bucket is reported, what it did not make is told, what its hosts said is kept."""
    fake.tell(runs=[[f"w0 step 7\n{DONE}", {}]])
    assert main(["run", str(study), *TPU]) == 1
    said = capsys.readouterr().err
    assert said.count("pending") == 13 and "sweep-1 is deleted" in said and not fake.left()
    ((_, log),) = files_below(folder_of("gs://bucket/tiny/logs"))
    assert log.read_text().startswith("w0 step 7\n") and str(log) in said
    closed = []
    monkeypatch.setattr(Plan, "pending", lambda self, done: Plan())
    monkeypatch.setattr("scaling.cli.run._close", lambda *found: closed.append(found) or 0)
    before = len(fake.calls())
    assert main(["run", str(study), *TPU]) == 0 and len(closed) == 1
    assert len(fake.calls()) == before  # nothing is rented where nothing is left


def test_a_closed_terminal_leaves_nothing_rented(
    capsys: pytest.CaptureFixture,
    fake: Fake,
    study: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    fake.tell(runs=[["w0 step 7", {"status": 255}]])
    monkeypatch.setattr(Following, "show", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    assert main(["run", str(study), *TPU]) == 75
    assert fake.verbs()[-2:] == ["stop", "delete"] and not fake.left()
    assert "To go on: scaling" in capsys.readouterr().err


def test_what_hosts_cannot_share_or_a_folder_cannot_take_is_refused_before_renting(
    capsys: pytest.CaptureFixture,
    fake: Fake,
    study: Path,  # noqa: F811
):
    (line,) = refused_last(capsys, "run", str(study), *TPU, "--accelerator", "v4-256")
    assert "13 of 13 runs cannot be dealt out to its 32 hosts with 128 devices" in line
    other = study_of(str(study), [])[0].to_json() | {"name": "other"}
    commit_json(folder_of("gs://bucket/tiny/study.json"), other)
    (line,) = refused_last(capsys, "run", str(study), *TPU)
    assert "holds the study other" in line and fake.calls() == []


def refused_last(capsys: pytest.CaptureFixture, *words: str) -> list[str]:
    """After the plan was shown."""
    return [line for line in refused(capsys, *words) if line.startswith("scaling run:")]
