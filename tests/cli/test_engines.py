"""`scaling run --on slurm|ray` as a person meets it: refusals, what is printed, and coming back to a sweep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.cli import engines, main
from scaling.launch import ray, slurm
from scaling.plan import Plan, straight, trunks
from scaling.record import Ledger
from scaling.spec import RunSpec
from tests.cli.test_cli import refused, study  # noqa: F401
from tests.launch.test_slurm import cluster  # noqa: F401

SLURM = ("--on", "slurm", "--hours", "1", "--partition", "p")


def test_every_fault_of_an_engine_is_refused_at_once(capsys: pytest.CaptureFixture, study: Path, tmp_path: Path):  # noqa: F811
    words = ("--on", "slurm", "--hours", "-1", "--cpus", "0", "--at-once", "0", "--gpus", "-1", "--memory-gb", "0")
    words += ("--address", "auto", "--workers", "2", "--slurm", "array=7", "--slurm", "partition=q", "--slurm", "A=b")
    faults = refused(capsys, "run", str(study), "--out", str(tmp_path / "out"), *words)
    for name in words[2::2]:
        assert any(name in fault for fault in faults), name
    assert any("array" in fault for fault in faults) and any("--partition" in fault for fault in faults)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, fault",
    [
        (("--on", "moon"), "--on = moon: must be local, slurm or ray"),
        (("--hours", "3"), "--hours: is for --on slurm, not for --on local"),
        (("--cpus", "3"), "--cpus: is for --on slurm and --on ray, not for --on local"),
        (("--on", "ray", "--dry-run", "--detach"), "--detach: is for --on slurm, not for --on ray"),
        (("--on", "slurm", "--dry-run"), "--hours: must be given"),
    ],
)
def test_options_of_one_engine_are_refused_with_another(
    capsys: pytest.CaptureFixture,
    study: Path,  # noqa: F811
    words: tuple[str, ...],
    fault: str,
):
    (line,) = refused(capsys, "run", str(study), *words)
    assert fault in line


def test_a_missing_engine_names_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert any("login node" in line for line in slurm.missing(to_submit=True))
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert any(slurm.INSTALL in line for line in slurm.missing(to_submit=False))
    assert any(ray.INSTALL in line for line in ray.missing())


def test_refusing_and_printing_need_no_jax(study: Path, tmp_path: Path):  # noqa: F811
    code = (
        "import sys; from scaling.cli import main; "
        f"done = [main(['run', {str(study)!r}, '--out', {str(tmp_path / 'out')!r}, '--dry-run', *words]) for words in "
        "(['--on', 'slurm', '--hours', '1'], ['--on', 'ray'], ['--on', 'ray', '--cpus', '0'])]; "
        "sys.exit(bool({'jax', 'ray'} & set(sys.modules)) or done != [0, 0, 2])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert not (tmp_path / "out").exists()


def test_there_are_no_more_tasks_than_chains_have_use_for(
    capsys: pytest.CaptureFixture,
    study: Path,  # noqa: F811
    tmp_path: Path,
):
    """Three trunks with their branches, and one run on its own."""
    arrays = {(): "0-3%4", ("--at-once", "2"): "0-1%2", ("--cpus", "3"): "0-1%2", ("--cpus", "9"): ""}
    for words, array in arrays.items():
        assert main(["run", str(study), "--out", str(tmp_path / "out"), "--dry-run", *SLURM, *words]) == 0
        said = capsys.readouterr().out
        assert (f"#SBATCH --array={array}\n" in said) if array else ("--array" not in said)


def test_the_same_command_comes_back_and_does_not_submit_twice(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    cluster: Path,  # noqa: F811
    study: Path,  # noqa: F811
    tmp_path: Path,
):
    out = tmp_path / "out"
    words = ["run", str(study), "--out", str(out), *SLURM, "--at-once", "2"]
    monkeypatch.setattr(engines, "work", lambda *_: [sys.executable, "-c", "import sys; sys.exit('the disk is gone')"])

    def calls() -> int:
        return len((cluster / "calls").read_text().splitlines())

    (cluster / "states").write_text("PENDING|Priority\n")
    assert main([*words, "--detach"]) == 0
    assert "submitted 2 tasks, as job 7" in (said := capsys.readouterr().err) and "scancel 7" in said
    assert json.loads((out / "jobs.json").read_text()) == {"engine": "slurm", "id": "7", "tasks": 2}
    assert main([*words, "--detach"]) == 0 and calls() == 1
    assert "already submitted, as job 7" in capsys.readouterr().err
    (cluster / "error").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert main([*words, "--detach"]) == 2 and calls() == 1
    (cluster / "error").unlink()
    # All are gone and nothing is done: the next call submits again, follows, and says what is missing and why.
    (cluster / "states").write_text("FAILED|NonZeroExitCode\n")
    (out / "logs/slurm/8_0_0_log.err").write_text("the disk is gone\n")
    assert main(words) == 1 and calls() == 2
    said = capsys.readouterr().err
    assert "no task of job 8 is left, and 13 runs have no record" in said
    assert "logs/slurm/8_0_0_log.err: " in said and said.count("see logs/slurm") == 13


def test_a_sweep_that_is_done_submits_nothing(
    monkeypatch: pytest.MonkeyPatch,
    cluster: Path,  # noqa: F811
    study: Path,  # noqa: F811
    tmp_path: Path,
):
    monkeypatch.setattr(Plan, "pending", lambda self, done: Plan())
    monkeypatch.setattr("scaling.cli.run._close", lambda *_: 0)
    assert main(["run", str(study), "--out", str(tmp_path / "out"), *SLURM]) == 0
    assert not (cluster / "calls").exists()


def test_a_task_of_ray_waits_for_its_trunk_alone(tiny: RunSpec, tmp_path: Path):
    plan = trunks(tiny, [tiny.model], [960, 1920], group="grid") + straight(tiny, [tiny.model], [4800], group="one")
    made = ray.tasks(plan, plan.pending(Ledger(tmp_path)), lambda ids: ids)
    (trunk,) = plan.with_role("trunk").runs
    assert {task.planned.run.id: task.after for task in made} == {
        p.run.id: p.run.branch.trunk if p.run.branch else "" for p in plan.runs
    }
    assert [task.planned.run.id for task in made].index(trunk.run.id) < min(
        number for number, task in enumerate(made) if task.after
    )
    assert all(list(task.command) == [*([task.after] if task.after else []), task.planned.run.id] for task in made)
    left = ray.tasks(plan, plan.pending({trunk.run.id}), lambda ids: ids)
    assert [task.after for task in left] == ["", "", ""]
    assert sum(task.command[0] == trunk.run.id for task in left) == 2  # may make it again, if its weights are lost


def test_what_hosts_cannot_share_is_refused_on_each_of_them_before_they_meet(
    capsys: pytest.CaptureFixture,
    study: Path,  # noqa: F811
    tmp_path: Path,
):
    words = ("run", str(study), "--out", str(tmp_path / "out"), "--distributed")
    assert "--distributed = here: must be auto or HOST:PORT" in refused(capsys, *words, "here")[0]
    faults = refused(capsys, *words, "10.0.0.2:8476,3,1", "--workers", "2", "--population", "4")
    for fault in ("--workers = 2: must be 1", "--population = 4: must be 1", "--distributed = 3: must divide"):
        assert any(fault in line for line in faults), fault
    (line,) = refused(capsys, *words, "auto", *SLURM)
    assert "is for the hosts themselves, not for --on slurm" in line
    assert not (tmp_path / "out").exists()
