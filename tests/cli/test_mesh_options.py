"""`--placement` and `--mesh`: what is refused before any compute, and how they reach whoever trains."""

import argparse
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from scaling.cli import engines, main, mesh, sweep
from scaling.launch import local
from scaling.plan import Plan, straight
from scaling.record import Ledger
from scaling.spec import RunSpec
from tests.cli.test_work_command import folder  # noqa: F401


def asked(*words: str, population: str = "auto") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    mesh.mesh_options(parser)
    return argparse.Namespace(**vars(parser.parse_args(words)), population=population)


def test_an_option_has_a_size_for_every_field_of_a_placement():
    from scaling.train import Placement

    text = "member=1,data=2,fsdp=3,tensor=4,microbatches=5,remat=blocks"
    assert mesh.sizes(text).keys() == {field.name for field in fields(Placement)}
    assert Placement(**mesh.sizes(text)) == Placement(data=2, fsdp=3, tensor=4, microbatches=5, remat="blocks")
    assert mesh.sizes(str(Placement(fsdp=2, remat="blocks"))) == {"fsdp": 2, "remat": "blocks"}
    assert mesh.sizes("remat=none") == {"remat": "none"}
    assert get_args(get_type_hints(Placement)["remat"]) == mesh.REMAT


@pytest.mark.parametrize(
    "words, said",
    [
        (["--placement", "pmap"], "--placement = pmap: must be auto, data or fsdp"),
        (["--placement", "data", "--mesh", "data=2"], "is a placement of its own; leave --placement data out"),
        (["--mesh", "model=2"], "--mesh model=2: no such axis; there are member, data, fsdp, tensor"),
        (["--mesh", "data"], "--mesh data: must be a positive whole number"),
        (["--mesh", "data=0"], "--mesh data=0: must be a positive whole number"),
        (["--mesh", "data=2,data=4"], "--mesh data=4: data is given twice"),
        (["--mesh", "remat=yes"], "--mesh remat=yes: must be none, dots or blocks"),
        (
            ["--mesh", "data=3"],
            "--mesh data * fsdp = 3: must divide batch of every run that is left, and does not with 2 of them",
        ),
        (["--mesh", "data=2,microbatches=3"], "--mesh data * fsdp * microbatches = 6: must divide batch"),
        (["--mesh", "fsdp=32"], "--mesh fsdp = 32: must divide model.d_model of every run"),
        (["--mesh", "tensor=4"], "--mesh tensor = 4: must divide heads of every run"),
        (["--mesh", "tensor=64"], "--mesh tensor = 64: must divide model.d_ff of every run"),
        (["--mesh", "tensor=5"], "--mesh tensor = 5: must divide model.vocab_size of every run"),
        (["--mesh", "member=2"], "--mesh member=2: deals out the runs of a population, and --population = auto"),
    ],
)
def test_what_no_devices_could_make_good_is_refused(tiny: RunSpec, words: list[str], said: str):
    runs = [tiny, *(p.run for p in straight(tiny, [tiny.model], [1920], group="g").runs)]
    (*_, line) = [line for line in mesh.unfit(asked(*words), runs) if said in line] or [""]
    assert said in line


def test_sizes_that_every_run_takes_are_not_refused(tiny: RunSpec):
    for text in ("data=8", "data=2,fsdp=4", "tensor=2", "data=4,microbatches=2,remat=blocks"):
        assert mesh.unfit(asked("--mesh", text), [tiny]) == []
    assert mesh.unfit(asked("--mesh", "member=2", population="4"), [tiny]) == []
    assert "multiple of 2" in mesh.unfit(asked("--mesh", "member=2", population="3"), [tiny])[0]


def test_more_devices_than_a_worker_has_are_refused_where_that_is_known(tiny: RunSpec, monkeypatch: pytest.MonkeyPatch):
    plan = straight(tiny, [tiny.model], [1920, 3840], group="g")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(local, "given_cores", lambda: 4)
    (line,) = mesh.unfit_devices(asked("--mesh", "data=2"), plan, workers=4)
    assert "needs 2 devices, and a worker has 1; with --workers 1 it has every core" in line
    assert mesh.unfit_devices(asked("--mesh", "data=4"), plan, workers=1) == []
    assert "needs 8 devices, and a worker has 4" in mesh.unfit_devices(asked("--mesh", "data=8"), plan, workers=1)[0]
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert mesh.unfit_devices(asked("--mesh", "data=8"), plan, workers=1) == []  # the worker itself will see
    on = argparse.Namespace(**vars(asked("--mesh", "data=8")), on="slurm", gpus=2, nodes=2)
    assert "needs 8 devices, and a worker has 4; give more --gpus or --nodes" in mesh.unfit_devices(on, plan, 1)[0]
    on = argparse.Namespace(**vars(asked("--mesh", "data=8")), on="slurm", gpus=None, nodes=None, slurm=["exclusive"])
    assert "needs 8 devices, and a worker has 1; give more --gpus" in mesh.unfit_devices(on, plan, 1)[0]
    on.slurm = ["gres=gpu:a100:8"]  # how many there are sbatch knows
    assert mesh.unfit_devices(on, plan, 1) == []


def test_only_the_runs_that_are_left_have_to_be_divided(folder: Path, capsys: pytest.CaptureFixture[str]):  # noqa: F811
    """So the last and largest runs of a study can have a mesh that its first could not."""
    runs = [p.run.id for p in Plan.from_json(Ledger(folder).study()["plan"]).runs]
    words = ["work", str(folder), "--mesh", "data=7"]
    assert main(words) == 2 and f"with {len(runs)} of them" in capsys.readouterr().err
    assert main([*words, "--only", runs[-1]]) == 2 and f"with 1 of them, e.g. {runs[-1]}" in capsys.readouterr().err


def test_all_faults_are_said_at_once_and_before_jax_is_imported(folder: Path):  # noqa: F811
    words = ["work", str(folder), "--mesh", "data=3,tensor=64", "--placement", "pmap", "--workers", "0"]
    code = f"import sys; from scaling.cli import main; s = main({words!r}); sys.exit(9 if 'jax' in sys.modules else s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 7, done.stderr


def test_a_placement_reaches_every_worker(folder: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    """Those of a sweep here, of a team's other nodes, and of the tasks of an engine."""
    for words in (["--mesh", "fsdp=2"], ["--placement", "fsdp"], []):
        options = asked(*words)
        command = sweep.worker_command(Ledger(folder), options)
        assert command[command.index("--population") + 2 :] == words
        engine = argparse.Namespace(**vars(options), patience=60.0, sinks=[], retry=False)
        assert words == [] or " ".join(words) in " ".join(engines._participant(engine, Ledger(folder)))
    sent: list[list[str]] = []
    monkeypatch.setattr("scaling.cli.work.attend", lambda command, *_: sent.append(command) or 0)
    team = ["--team", "t", "--processes", "2", "--process", "1", "--placement", "data"]
    assert main(["work", str(folder), *team]) == 0
    assert "--placement data" in " ".join(sent[0])
