"""Jobs on TPU VMs by a stand-in for gcloud (tests/launch/gcloud.py), which keeps what it was asked and does as told."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling import chips
from scaling.launch import gcloud, provenance, tpu_job, tpu_vm
from scaling.launch.gcloud import GaveUp, Trouble
from scaling.launch.local import Stop
from scaling.launch.slices import SLICES, fault
from scaling.launch.tpu_job import Job, Over, alone
from scaling.launch.tpu_vm import Request
from scaling.spec import Refusal

HOSTILE = "a b'c\"d$(touch pwn)`touch pwn`;touch pwn;é #&|*"
DONE = "w0 ended with status 0\nw1 ended with status 0"


class Fake:
    """What the stand-in is told, and what it was asked."""

    def __init__(self, folder: Path):
        self.folder = folder

    def tell(self, **what: object) -> None:
        for name, value in what.items():
            (self.folder / name).write_text(json.dumps(value))

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """What was done, in order, without the looks."""
        said = []
        for words in self.calls():
            command = next((w for w in words if w.startswith("--command=")), "")
            said.append(shlex.split(command)[2] if command else words[3])
        return [verb for verb in said if verb != "describe"]

    def left(self) -> bool:
        """Whether anything is rented still."""
        path = self.folder / "state"
        return path.exists() and json.loads(path.read_text())["alive"] is not None


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """gcloud on the PATH, and no pauses."""
    (folder / "bin").mkdir(parents=True)
    script = Path(__file__).parent / "gcloud.py"
    # By the shell: the path of an interpreter after #! may hold no space.
    call = shlex.join([sys.executable, "-ISs", str(script)])
    (folder / "bin" / "gcloud").write_text(f'#!/bin/sh\nexec {call} "$@"\n')
    (folder / "bin" / "gcloud").chmod(0o755)
    monkeypatch.setenv("GCLOUD_FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for module, name in ((tpu_job, "POLL_SECONDS"), (tpu_job, "PAUSE_SECONDS")):
        monkeypatch.setattr(module, name, 0.0)
    for module in (tpu_job, gcloud):
        monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    return Fake(folder)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """With nothing to be sent: what is sent has its own tests."""
    monkeypatch.setattr(tpu_job, "ship", lambda *_: [])
    monkeypatch.setattr(tpu_job, "code", lambda: {"commit": "c0ffee", "dirty": "no"})
    return stand_in(tmp_path / "google", monkeypatch)


def request(**changes) -> Request:
    return Request(**{"name": "sweep-1", "zone": "us-west4-a", "accelerator": "v4-16"} | changes)


def job(
    tmp_path: Path, stop: Stop | None = None, look: Callable[[], None] = lambda: None, **changes
) -> tuple[Job, list[str]]:
    said: list[str] = []
    made = Job(
        request(**changes), tmp_path / "study.py", [".venv/bin/scaling", "run", "study.py"],
        say=said.append, look=look, stop=stop or Stop(), log=tmp_path / "job.log",
    )  # fmt: skip
    return made, said


def test_every_slice_has_the_chips_of_its_shape_on_whole_hosts():
    for name, found in SLICES.items():
        size = int(name.rpartition("-")[2])
        assert found.chips == size // (1 if name.startswith(("v5litepod", "v6e")) else 2)
        assert found.hosts * found.chips_of_host == found.chips
    hosts = {
        name: SLICES[name].hosts
        for name in ("v5litepod-8", "v5litepod-16", "v5litepod-256", "v6e-8", "v4-8", "v5p-128")
    }
    assert hosts == {"v5litepod-8": 1, "v5litepod-16": 4, "v5litepod-256": 64, "v6e-8": 1, "v4-8": 1, "v5p-128": 16}


def test_a_slice_is_the_topology_that_compiles_for_it():
    """By the other table of slices, that of `scaling compile`, which counts a host for every 2x2 chips."""
    for name, found in SLICES.items():
        generation = {"v5litepod": "v5e"}.get(family := name.rpartition("-")[0], family)
        if generation in chips.GENERATIONS and found.chips <= 512:
            known = chips.topology(f"{generation}:{found.topology}")
            assert (known.chips, known.devices) == (found.chips, found.devices)
            assert known.hosts == found.hosts or found.chips_of_host == 8


@pytest.mark.parametrize(
    "name, way",
    [("v5e-16", "v5litepod-16?"), ("v5litepod-17", "v5litepod-32"), ("v5litepod16", "v5litepod-16?"), ("h100", "e.g.")],
)
def test_a_mistyped_slice_is_told_its_name(name: str, way: str):
    assert way in fault(name)


def test_every_fault_of_a_request_is_told_at_once():
    options = {"zone": "z", "labels": "a=b", "B!": "c", "network": "a\nb"}
    bad = request(
        name="Sweep_1",
        zone="us-west4",
        accelerator="v5e-16",
        project="P!",
        runtime_version="A B",
        setup=["a\nb"],
        options=options,
    )
    faults = bad.faults()
    told = ["--name", "--zone", "--accelerator", "--project", "--runtime-version", "--setup"]
    told += ["zone: has", "labels: is", "'B!'", "network ="]
    assert len(faults) == len(told) and all(word in line for word, line in zip(told, faults, strict=True))
    assert request().faults() == []
    assert "--runtime-version" in request(accelerator="tpu7x-8").faults()[0]


def test_hostile_words_reach_a_host_as_they_are():
    (word,) = [w for w in request().host("run", HOSTILE, "--set") if w.startswith("--command=")]
    assert shlex.split(word.removeprefix("--command=")) == ["sh", "tpu_host.sh", "run", HOSTILE, "--set"]


def test_a_job_from_its_slice_to_its_end(fake: Fake, tmp_path: Path):
    fake.tell(lives=[["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]], runs=[[DONE, {}]])
    made, said = job(
        tmp_path, spot=True, project="my-project", options={"network": "n", "reserved": ""}, setup=["ls 'a b'"]
    )
    assert made.run() == 0 and made.leave(keep=False)
    assert fake.verbs() == ["create", "scp", "setup", "run", "delete"] and not fake.left()
    (create,) = [words for words in fake.calls() if "create" in words]
    assert {"--spot", "--accelerator-type=v4-16", "--node-id=sweep-1", "--network=n", "--reserved"} <= {*create}
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    assert all({"--zone=us-west4-a", "--project=my-project", "--quiet"} <= {*words} for words in fake.calls())
    for words in ("waits until", "hosts are starting", "costs money from now on", "sweep-1 is deleted"):
        assert any(words in line for line in said), words


def test_a_slice_that_is_taken_away_is_asked_for_again(fake: Fake, tmp_path: Path):
    """Whether the queued resource says so, or its node alone."""
    taken = ["w0 step 7", {"status": 255, "next": ["SUSPENDING", "SUSPENDING", "SUSPENDED"]}]
    lost = ["", {"status": 255, "node": "PREEMPTED"}]
    fake.tell(runs=[taken, lost, [DONE, {}]])
    made, said = job(tmp_path)
    assert made.run() == 0 and made.leave(keep=False)
    assert fake.verbs() == [*["create", "scp", "setup", "run", "delete"] * 3]
    assert sum("asked for again" in line for line in said) == 2


def test_a_broken_connection_is_made_again_and_nothing_is_rented_anew(fake: Fake, tmp_path: Path):
    fake.tell(runs=[["w0 step 7", {"status": 255}], ["w0 ended with status 0", {"status": 255}], [DONE, {}]])
    fake.tell(fail={"describe": ["", "ERROR: Unable to find the server at tpu.googleapis.com"]})
    made, said = job(tmp_path)
    assert made.run() == 0 and made.leave(keep=False)
    assert fake.verbs().count("run") == 3 and fake.verbs().count("create") == 1
    assert sum("connecting again" in line for line in said) == 2


def test_what_some_runs_failed_is_the_end_and_what_crashes_is_tried_thrice(fake: Fake, tmp_path: Path):
    fake.tell(runs=[["w0 ended with status 1\nw1 ended with status 1", {"status": 1}]])
    made, _ = job(tmp_path)
    assert made.run() == 1 and made.leave(keep=False)
    crash = ["w1 Segmentation fault\nw1 ended with status 139\nw0 ended with status 75", {"status": 139}]
    fake.tell(runs=[crash] * 3)
    made, _ = job(tmp_path)
    with pytest.raises(Over, match="status 139 3 times in a row: Segmentation fault"):
        made.run()
    assert made.leave(keep=False) and not fake.left()
    fake.tell(runs=[["w0 scaling run: no such experiment\nw0 ended with status 2", {"status": 2}]])
    made, _ = job(tmp_path)
    with pytest.raises(Over, match="no such experiment"):
        made.run()
    assert made.leave(keep=False) and not fake.left()


@pytest.mark.parametrize(
    "said, way",
    [
        ("ERROR: (gcloud.compute) RESOURCE_EXHAUSTED: Quota 'TPUV4' exceeded. Limit: 8", "another --zone"),
        ("ERROR: (gcloud.compute) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", "roles/tpu.admin"),
        ("ERROR: (gcloud.compute) You do not currently have an active account selected.", "gcloud auth login"),
        ("ERROR: (gcloud.compute) INVALID_ARGUMENT: Location us-west4-q is not found", "locations list"),
        ("ERROR: (gcloud) Cloud TPU API has not been used in project 1 before", "services enable"),
    ],
)
def test_what_google_refuses_is_one_line_with_the_way_out(fake: Fake, tmp_path: Path, said: str, way: str):
    fake.tell(fail={"create": [f"WARNING: old\n{said}\nmore"]})
    made, _ = job(tmp_path)
    with pytest.raises(Refusal) as refused:
        made.run()
    (line,) = refused.value.faults
    assert said.partition(") ")[2] in line and way in line
    assert made.leave(keep=False) and fake.verbs() == ["create"]


def test_after_a_create_that_may_have_worked_the_slice_is_looked_for_and_deleted(fake: Fake, tmp_path: Path):
    fake.tell(fail={"create": ["ERROR: Connection reset by peer"]})
    made, _ = job(tmp_path)
    with pytest.raises(Over, match="check the connection"):
        made.run()
    assert made.leave(keep=False) and fake.verbs() == ["create", "delete"]


def test_nobody_elses_slice_is_touched(fake: Fake, tmp_path: Path):
    stranger = {"acceleratorType": "v4-16"}
    other = {"acceleratorType": "v4-8", "labels": {"made-by": "scaling"}}
    for node, why in ((stranger, "did not make"), (other, "of v4-8")):
        fake.tell(state={"alive": node, "next": ["ACTIVE"]})
        made, _ = job(tmp_path)
        with pytest.raises(Refusal, match=why):
            made.run()
        assert made.leave(keep=False) and fake.left() and fake.verbs() == []


def test_the_same_command_comes_back_to_its_slice(fake: Fake, tmp_path: Path):
    fake.tell(
        state={"alive": {"acceleratorType": "v4-16", "labels": {"made-by": "scaling"}}, "next": ["ACTIVE"]},
        runs=[[DONE, {}]],
    )
    made, _ = job(tmp_path)
    assert made.run() == 0 and made.leave(keep=True)
    assert fake.verbs() == ["scp", "setup", "run"] and fake.left()


def test_a_slice_that_cannot_be_had_or_was_deleted_by_hand_is_not_asked_for_again(fake: Fake, tmp_path: Path):
    fake.tell(lives=[["ACCEPTED", "FAILED"]])
    made, _ = job(tmp_path)
    with pytest.raises(Over, match="no capacity.*another --zone"):
        made.run()
    assert made.leave(keep=False) and not fake.left()
    fake.tell(runs=[["", {"status": 255}]])
    made, _ = job(tmp_path, look=lambda: (fake.folder / "state").unlink(missing_ok=True))
    with pytest.raises(Over, match="deleted from elsewhere"):
        made.run()
    assert fake.verbs().count("create") == 2


def test_what_is_asked_to_stop_has_the_hosts_save_and_is_deleted(fake: Fake, tmp_path: Path):
    stop = Stop()
    fake.tell(runs=[["w0 step 7", {"status": 255}]])
    made, said = job(tmp_path, stop, look=stop.ask)
    with pytest.raises(GaveUp):
        made.run()
    assert made.leave(keep=False) and fake.verbs()[-2:] == ["stop", "delete"] and not fake.left()


def test_a_slice_that_stays_is_said_with_the_command_that_deletes_it(fake: Fake, tmp_path: Path):
    """Kept on purpose, out of reach, or left in a hurry."""
    by_hand = shlex.join(request().delete())
    lost = ["ERROR: Connection reset"] * 3
    for keep, fails, hurry, given_back in ((True, [], 0, True), (False, lost, 0, False), (False, [], 2, False)):
        fake.tell(runs=[[DONE, {}]], fail={"delete": fails}, state={"alive": None, "next": []})
        stop = Stop()
        made, said = job(tmp_path, stop)
        assert made.run() == 0
        for _ in range(hurry):
            stop.ask()
        assert made.leave(keep) is given_back
        assert by_hand in said[-1] and "COSTS MONEY" in said[-1].upper()


def test_a_setting_up_that_fails_says_what_the_host_said(fake: Fake, tmp_path: Path):
    (fake.folder / "hosts" / "0").mkdir(parents=True)
    tpu_vm.stage("sweep-1").mkdir(parents=True)
    (tpu_vm.stage("sweep-1") / "scaling.tgz").write_text("no archive")
    made, _ = job(tmp_path)
    with pytest.raises(Over, match="w0 tar: .*: w0 setting up failed; all of it is in"):
        made.run()
    assert made.leave(keep=False) and not fake.left()


def test_one_process_follows_a_name(fake: Fake):
    with alone("sweep-1"), pytest.raises(Refusal, match="another process"), alone("sweep-1"):
        pass


BOOTSTRAP = """#!/bin/sh
cd -- "$(dirname -- "$0")"
echo "$1" >>"$HOME/bootstraps"
mkdir -p .venv/bin
cat >.venv/bin/scaling <<'END'
#!/bin/sh
printf '%s\\n' "$@" >"$HOME/words"
echo started
exec sh "$HOME/then"
END
chmod +x .venv/bin/scaling
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose bootstrap.sh makes a `scaling` that leaves marks."""
    root = tmp_path / HOSTILE
    (root / "experiments").mkdir(parents=True)
    (root / "experiments" / "study.py").write_text("STUDY = 1\n")
    (root / "bootstrap.sh").write_text(BOOTSTRAP)
    (root / "bootstrap.sh").chmod(0o755)
    for words in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a"],
    ):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    for module in (provenance, tpu_vm):
        monkeypatch.setattr(module, "ROOT", root)
    return root


def test_only_what_is_committed_is_sent(checkout: Path, tmp_path: Path):
    inside, beside = checkout / "experiments" / "study.py", tmp_path / "mine.py"
    assert tpu_vm.unsent(inside) == [] == tpu_vm.unsent(beside)
    assert tpu_vm.path_there(inside) == "experiments/study.py" and tpu_vm.path_there(beside) == "../mine.py"
    new = checkout / "experiments" / "new.py"
    new.touch()
    assert "not in the last commit" in tpu_vm.unsent(new)[0]
    inside.write_text("STUDY = 2\n")
    assert "differs from its last commit" in tpu_vm.unsent(inside)[0]


def test_hosts_get_the_code_run_the_command_and_are_found_again(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The whole way on two hosts, with the real script: set up, broken off, found again, stopped, started again."""
    fake = stand_in(tmp_path / "google", monkeypatch)
    mine = tmp_path / "mine.py"
    mine.write_text("STUDY = 1\n")
    homes = [fake.folder / "hosts" / str(number) for number in range(2)]
    (fake.folder / "bin" / "hostname").write_text('#!/bin/sh\necho "$HOST"\n')
    (fake.folder / "bin" / "hostname").chmod(0o755)
    for home in homes:
        home.mkdir(parents=True)
        (home / "then").write_text("trap 'exit 75' TERM\nwhile :; do sleep 0.05; done\n")
    words, stop = [".venv/bin/scaling", "run", "../mine.py", "--set", HOSTILE], Stop()

    def begun() -> bool:
        return all((home / "words").exists() for home in homes)

    def a_job(stop: Stop, look: Callable[[], None]) -> Job:
        return Job(request(setup=["touch ready"]), mine, words, say=print, look=look, stop=stop, log=tmp_path / "log")

    first = a_job(stop, lambda: stop.ask() if begun() else None)
    with alone("sweep-1"), pytest.raises(GaveUp):
        first.run()
    pids = [(home / "scaling" / "job.pid").read_text() for home in homes]
    assert all((home / "words").read_text().splitlines() == words[1:] for home in homes)
    for home in homes:
        assert (home / "scaling/mine.py").exists() and (home / "scaling/code/ready").exists()
        assert (home / "bootstraps").read_text() == "tpu\n"
        assert (
            subprocess.run(
                ["git", "-C", home / "scaling/code", "status", "--porcelain", "-uno"], capture_output=True
            ).stdout
            == b""
        )
    # The connection is gone, and the command is not: another call finds it, and has it stop.
    again, started = Stop(), time.monotonic()
    second = a_job(again, lambda: again.ask() if "w1 started" in (tmp_path / "log").read_text()[mark:] else None)
    mark = len((tmp_path / "log").read_text())
    with pytest.raises(GaveUp):
        second.run()
    assert [(home / "scaling" / "job.pid").read_text() for home in homes] == pids
    assert second.leave(keep=True) and time.monotonic() - started < 60
    assert [(home / "scaling" / "job.status").read_text() for home in homes] == ["75\n", "75\n"]
    # What was stopped begins anew, with the code that is there.
    for home in homes:
        (home / "then").write_text("exit 0\n")
    third = a_job(Stop(), lambda: None)
    assert third.run() == 0 and third.leave(keep=False) and not fake.left()
    assert all((home / "bootstraps").read_text() == "tpu\n" for home in homes)
    assert "w0 ended with status 0\n" in (tmp_path / "log").read_text()
    assert not list(tmp_path.rglob("pwn"))


def test_trouble_without_a_word_is_told_too():
    assert "without a word" in str(Trouble("", "do it"))
