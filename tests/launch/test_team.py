"""How the processes of a team meet, and what they cannot share. Pure Python; scaling.train has the rest."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.launch import hosts, team
from scaling.plan import Analysis, Study, straight
from scaling.record.files import commit_json
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, Refusal, RunSpec


@pytest.fixture
def run() -> RunSpec:
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, d_head=8, vocab_size=192, context=60),
        optim=OptimSpec(peak_lr=1e-3, warmup_steps=2, cooldown_steps=4),
        data=DataSpec(source="zipf-facts"), eval=EvalSpec(tokens=12000), batch=16, steps=400,
    )  # fmt: skip


def lay_down(folder: Path, run: RunSpec) -> None:
    plan = straight(run, [run.model], [run.tokens], group="grid")
    study = Study(name="s", question="?", plan=plan, analysis=Analysis(laws=("chinchilla",)))
    commit_json(folder / "study.json", study.to_json())


def test_processes_meet_and_none_but_theirs_gets_in(tmp_path: Path):
    """The file tells where; who has not its key is turned away; messages keep their order."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(team.gather, tmp_path, "t", 2, team.HERE)
        path = tmp_path / "teams" / "t"
        while not path.exists():
            time.sleep(0.01)
        assert path.stat().st_mode & 0o077 == 0, "the key is its owner's"
        said = json.loads(path.read_text())
        with pytest.raises(team.AuthenticationError):
            team.Client((said["hosts"][0], said["port"]), authkey=b"another")
        lead, coordinator = team.join(tmp_path, "t", 1)
        (other,), same = waiting.result(timeout=10)
    assert coordinator == same and not path.exists()
    lead.leave()
    other.leave()
    for message in (b"one", b"", b"x" * 1_000_000):
        other.send(message)
        assert lead.receive() == message


def test_a_stop_that_one_process_is_asked_for_is_asked_of_the_lead(tmp_path: Path):
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(team.gather, tmp_path, "t", 2, team.HERE)
            lead, _ = team.join(tmp_path, "t", 1)
            (other,), _ = waiting.result(timeout=10)
        lead.send(team.STOP)
        lead.send(b"after")
        assert other.receive() == b"after", "it is no message"
        assert asked == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        lead.leave()
        other.leave()


@pytest.mark.parametrize(
    "text", ["here", "10.0.0.2,4,0", "10.0.0.2:8476,4", "10.0.0.2:8476,4,4", "h:1,0,0", "h:1,2,-1"]
)
def test_a_meeting_that_cannot_be_is_refused(text: str):
    with pytest.raises(Refusal, match=f"--distributed = {text}: "):
        hosts.Meeting.of(text)


def test_a_meeting_is_at_an_address_or_found_by_jax():
    assert hosts.Meeting.of("auto") == hosts.Meeting()
    given = hosts.Meeting.of("[fd00::2]:8476,4,3")
    assert (given.coordinator, given.processes, given.process) == ("[fd00::2]:8476", 4, 3)
    assert given.names() == ["fd00::2"] and hosts.Meeting().names()


def test_no_lead_comes_again_once_its_sweep_is_over(tmp_path: Path):
    assert not team.is_over(tmp_path, "t")
    team.close(tmp_path, "t")
    assert team.is_over(tmp_path, "t")
    with pytest.raises(team.Over):
        team.join(tmp_path, "t", 1)


def test_what_processes_cannot_share_is_refused_with_every_fault(tmp_path: Path, run: RunSpec, capsys):
    lay_down(tmp_path, run)
    words = ("--processes", "3", "--workers", "2", "--population", "4", "--process", "3", "--team", "a/b")
    assert main(["work", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err
    for fault in ("--processes = 3: must divide", "--workers = 2", "--population = 4", "--process = 3", "--team = a/b"):
        assert fault in said
