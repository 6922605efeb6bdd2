"""Claims of several participants, here in one process and in child processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from scaling.record import claims
from scaling.record.claims import Claim, ClaimLost, Holder, Observer, standing

A = "a" * 12

# Takes part, claims what it is told, says so, and waits.
PARTICIPANT = """
import sys, time; from pathlib import Path
from scaling.record.claims import Holder
holder = Holder(Path(sys.argv[1]))
print(*[holder.claim(run_id).token for run_id in sys.argv[2:]], holder.name, flush=True)
time.sleep(60)
"""


class Other:
    """A participant in a process of its own."""

    def __init__(self, folder: Path, *run_ids: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARTICIPANT, str(folder), *run_ids], stdout=subprocess.PIPE, text=True
        )
        *tokens, self.name = self.process.stdout.readline().split()
        self.tokens = [int(token) for token in tokens]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    found = Other(tmp_path, A)
    yield found
    found.kill()


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine: locks tell nothing, beats alone do."""
    monkeypatch.setattr(claims, "kernel", lambda: "another")
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.3)


STRANGE = b'{"beat": 1, "host": 5, "kernel": "", "locks": true, "pid": 1, "runs": [{}]}'


@pytest.mark.parametrize("damage", [b"", bytes(200), b"{}", b"\xff", STRANGE])
def test_a_holder_that_nobody_can_read_is_dead_after_a_lease(tmp_path: Path, no_kernel: None, damage: bytes):
    with Holder(tmp_path) as gone:
        assert gone.claim(A)
        left = {path: path.read_bytes() for path in [*tmp_path.rglob("claim.*")]}
    (tmp_path / "holders" / gone.name).write_bytes(damage)  # as a loss of power leaves it
    for path, content in left.items():
        path.write_bytes(content)
    with Holder(tmp_path) as holder:
        assert holder.claim(A) is None
        time.sleep(0.35)
        assert holder.claim(A) and not holder.others()


@pytest.mark.parametrize("name, content", [
    ("claim.000007", b"\xff\xfe"), ("claim.000007", b"../../../etc"), ("claim.999999", b"x"), ("claim.x", b""),
    ("claim.9999999999999", b""), ("claim.000007", bytes(10_000)),
])  # fmt: skip
def test_a_damaged_claim_keeps_nobody_from_its_run(tmp_path: Path, name: str, content: bytes):
    with Holder(tmp_path) as holder:
        home = tmp_path / "runs" / A
        home.mkdir(parents=True)
        (home / name).write_bytes(content)
        claim = holder.claim(A)
        assert claim and claim.held(tmp_path)
        holder.release(A)
        assert standing(tmp_path, A) is None


def test_a_pipe_among_the_holders_keeps_nobody_waiting(tmp_path: Path):
    with Holder(tmp_path) as holder:
        os.mkfifo(tmp_path / "holders" / ("b" * 12))
        assert not holder.others() and holder.observer.sighting("b" * 12) is None


def test_of_many_participants_one_has_the_claim(tmp_path: Path):
    with ExitStack() as stack:
        holders = [stack.enter_context(Holder(tmp_path)) for _ in range(8)]
        for run_id in (f"{number:012x}" for number in range(20)):
            with ThreadPoolExecutor(8) as pool:
                won = [claim for claim in pool.map(Holder.claim, holders, [run_id] * 8) if claim]
            assert len(won) == 1 and won[0] == standing(tmp_path, run_id) and won[0].held(tmp_path)


def test_a_claim_is_given_again_to_its_holder_and_to_no_other(tmp_path: Path):
    with Holder(tmp_path) as one, Holder(tmp_path) as two:
        assert one.claim(A) == one.claim(A) == Claim(A, 1, one.name)
        assert two.claim(A) is None
        one.release(A)
        assert two.claim(A) and not Claim(A, 1, one.name).held(tmp_path)


def test_a_participant_that_ends_leaves_nothing(tmp_path: Path):
    with Holder(tmp_path) as one:
        one.claim(A)
    assert Observer(tmp_path).working() == [] and standing(tmp_path, A) is None
    assert [*(tmp_path / "holders").iterdir()] == []


def test_what_was_in_the_hands_of_a_killed_process_is_free_at_once(tmp_path: Path, other: Other):
    with Holder(tmp_path) as mine:
        assert mine.claim(A) is None and [said.runs for said in mine.others()] == [(A,)]
        other.kill()
        assert mine.claim(A).token == other.tokens[0] + 1
        assert mine.others() == [] and len(mine.observer.names()) == 1


def test_a_silent_machine_loses_its_claims_after_the_lease_and_not_before(tmp_path: Path, other: Other, no_kernel):
    os.kill(other.process.pid, signal.SIGSTOP)
    with Holder(tmp_path) as mine:
        began = time.monotonic()
        while (claim := mine.claim(A)) is None:
            assert time.monotonic() - began < 2 * claims.LEASE_SECONDS
            time.sleep(0.02)
        assert time.monotonic() - began >= claims.LEASE_SECONDS
        assert claim.token == 2


def test_a_beating_machine_keeps_its_claims(tmp_path: Path, no_kernel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    with Holder(tmp_path) as one, Holder(tmp_path) as two:
        one.claim(A)
        until = time.monotonic() + 3 * claims.LEASE_SECONDS
        while time.monotonic() < until:
            assert two.claim(A) is None
            time.sleep(0.02)


def test_who_comes_back_from_the_dead_finds_its_claim_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", -1.0)
    monkeypatch.setattr(claims, "kernel", lambda: "")
    with Holder(tmp_path) as sleeper, Holder(tmp_path) as taker:
        old = sleeper.claim(A)
        assert taker.claim(A) is None  # seen for the first time
        new = taker.claim(A)
        assert new.token == old.token + 1 and new.held(tmp_path)
        with pytest.raises(ClaimLost, match="run a+ was taken over"):
            old.check(tmp_path)
        sleeper.release(A)  # takes nothing from the new holder
        assert new.held(tmp_path)
        taker.release(A)
        # Tokens begin again once a run is released; a name with an old token is no claim.
        assert sleeper.claim(A).token == 1 and not Claim(A, 1, taker.name).held(tmp_path)


def test_no_wall_clock_is_asked(tmp_path: Path, no_kernel, monkeypatch: pytest.MonkeyPatch):
    """Files dated a day ahead or behind change nothing, nor does a wall clock that jumps."""
    with Holder(tmp_path) as one, Holder(tmp_path) as two:
        one.claim(A)
        for day in (-86400, 86400):
            monkeypatch.setattr(time, "time", lambda now=1e9 + day: now)
            for path in [*tmp_path.rglob("claim.*"), *(tmp_path / "holders").iterdir()]:
                os.utime(path, (1e9 + day, 1e9 + day))
            assert two.claim(A) is None


def test_who_slept_beyond_its_lease_says_its_name_again(tmp_path: Path, no_kernel, monkeypatch: pytest.MonkeyPatch):
    """Others have deleted its file by then; the folder is not lost for that."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.6)
    with Holder(tmp_path) as sleeper, Holder(tmp_path) as other:
        path = tmp_path / "holders" / sleeper.name
        other.others()
        time.sleep(0.4)
        assert other.others() == [] and not path.exists() and sleeper.lost() == ""
        time.sleep(0.6)
        assert path.exists() and [said.name for said in other.others()] == [sleeper.name]


def test_a_folder_that_is_taken_away_is_noticed(tmp_path: Path):
    (tmp_path / "here").mkdir()
    with Holder(tmp_path / "here") as mine:
        assert mine.lost() == ""
        (tmp_path / "here").rename(tmp_path / "there")
        assert "deleted, moved or unmounted" in mine.lost()
