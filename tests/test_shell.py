"""`./run` and `./check` on machines that we do not have: a copy of the scripts, and stand-ins that log their calls.

The stand-in for Python answers `-c` with a real interpreter that believes it is another version, so the rules in
`bootstrap.sh` are what is tested; only `-m venv` and the installers do nothing but leave a mark.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-tpu.lock")
SCRIPTS = ("run", "check", "bootstrap.sh", ".ci/run", "pyproject.toml", "requirements-uv.lock", *LOCKS)
TOOLS = ("sh", "cat", "cksum", "cp", "dirname", "flock", "mkdir", "perl", "readlink", "rm", "sleep", "tail")

INSTALL = """install() { # leaves what an installation leaves
    sleep ${SLOW:-0}
    [ -z "$BROKEN" ] || { echo "the index is out of reach" >&2; exit 1; }
    case "$*" in
    *"-e .") for name in scaling ruff pytest; do
        printf '#!/bin/sh\\necho %s "$@"\\n' $name >.venv/bin/$name; /bin/chmod +x .venv/bin/$name; done ;;
    esac
}
"""

PYTHON = f"""#!/bin/sh
echo "@name@ $*" >>"$LOG"
{INSTALL}
case "$*" in
"-c "*) exec "{sys.executable}" -ISc "import sys; sys.version_info = @version@; sys.modules.update(@modules@); $2" ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo >.venv/pyvenv.cfg ;;
"-m pip --version") exit @pip@ ;;
"-m pip install "*"--target .venv/uv "*) mkdir -p .venv/uv/bin && cp "@uv@" .venv/uv/bin/uv ;;
"-m pip install "*) install "$@" ;;
"-m pytest"* | "-m pyright"*) echo "$*" ;;
esac
"""

UV = f"""#!/bin/sh
echo "uv $*" >>"$LOG"
{INSTALL}
case "$1" in
venv) mkdir -p .venv/bin && cp "@python@" .venv/bin/python && echo >.venv/pyvenv.cfg ;;
pip) install "$@" ;;
esac
"""


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def python_script(name: str, version: tuple[int, int], venv: bool = True, uv: Path | None = None) -> str:
    """`uv`: what its pip would install; without it there is no pip where there is no venv."""
    modules = {} if venv else {"ensurepip": None}  # None: importing it fails, as on Debian without python3-venv
    filled = PYTHON.replace("@name@", name).replace("@version@", str((*version, 0)))
    return filled.replace("@modules@", str(modules)).replace("@uv@", str(uv)).replace("@pip@", "0" if uv else "1")


class Machine:
    """A clone under a path with spaces, on a machine with the interpreters and installers that a test puts on it."""

    def __init__(self, folder: Path):
        self.clone = folder / "a clone"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.bin.mkdir()
        self.log.touch()
        (self.clone / ".ci").mkdir(parents=True)
        for name in SCRIPTS:
            shutil.copy(ROOT / name, self.clone / name)
        for tool in TOOLS:
            if where := shutil.which(tool):
                (self.bin / tool).symlink_to(where)

    def add_python(self, name: str, version: tuple[int, int], *, venv: bool = True, uv: Path | None = None) -> None:
        write_script(self.bin / name, python_script(name, version, venv, uv))

    def add_uv(self, folder: Path | None = None) -> Path:
        """uv on the PATH or in a folder, and out of the PATH an interpreter that it finds."""
        python = self.bin.parent / "python"
        write_script(python, python_script("python", (3, 12)))
        uv = (folder or self.bin) / "uv"
        write_script(uv, UV.replace("@python@", str(python)))
        return uv

    def start(self, script: str | Path, *args: str, **environ: str) -> subprocess.Popen:
        environ = {"PATH": str(self.bin), "LOG": str(self.log), **environ}
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        command = [str(self.clone / script), *args]
        return subprocess.Popen(command, cwd="/", env=environ, start_new_session=True, **pipes)  # type: ignore[call-overload]

    def call(self, script: str | Path, *args: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(script, *args, **environ)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """What was asked of uv and the interpreters since the last look."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def ready(machine: Machine) -> Machine:
    machine.add_uv()
    assert machine.call("run")[0] == 0
    machine.calls()
    return machine


SETTING_UP = "setting up .venv (once, about a minute) ...\n"


def test_uv_is_used_where_there_is_one(machine):
    machine.add_uv()
    machine.add_python("python3", (3, 12))
    assert machine.call("run", "plan", "two words") == (0, "scaling plan two words\n", SETTING_UP)
    calls = machine.calls()
    assert any(call.startswith("uv venv ") for call in calls)
    assert any(call.startswith("uv pip ") and "--require-hashes -r requirements.lock" in call for call in calls)
    assert not any(call.startswith("python3 ") for call in calls)


def test_venv_and_pip_stand_in_for_uv(machine):
    machine.add_python("python3", (3, 12))
    assert machine.call("run", "plan") == (0, "scaling plan\n", SETTING_UP)
    calls = machine.calls()
    assert "python3 -m venv .venv" in calls
    assert any("-m pip install" in call and "--require-hashes -r requirements.lock" in call for call in calls)


def test_a_uv_that_does_not_run_is_no_uv(machine):
    machine.add_python("python3", (3, 12))
    write_script(machine.bin / "uv", "#!/bin/sh\nexit 127\n")
    assert machine.call("run", "plan") == (0, "scaling plan\n", SETTING_UP)


def test_the_first_python_that_can_make_an_environment_is_taken(machine):
    machine.add_python("python3.13", (3, 13), venv=False)
    machine.add_python("python3.11", (3, 11))
    machine.add_python("python3", (3, 10))
    assert machine.call("run")[0] == 0
    assert "python3.11 -m venv .venv" in machine.calls()


@pytest.mark.parametrize(
    "pythons, said",
    [
        ([], "(there is no python3)"),
        ([("python3", (3, 10), True)], "(python3 is 3.10): install uv"),
        ([("python3", (3, 15), True)], "(python3 is 3.15): install uv"),
        ([("python3", (3, 11), False)], "apt install python3.11-venv, or install uv"),
    ],
)
def test_a_machine_without_means_is_told_in_one_line_what_to_install(machine, pythons, said):
    for name, version, venv in pythons:
        machine.add_python(name, version, venv=venv)
    status, out, err = machine.call("run", "plan")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (machine.clone / ".venv").exists()


def test_a_python_that_is_too_old_fetches_uv_which_brings_a_newer_one(machine, tmp_path):
    """As the images of TPU VMs have it: 3.10, with pip."""
    machine.add_python("python3", (3, 10), uv=machine.add_uv(tmp_path))
    status, _, err = machine.call("bootstrap.sh", "tpu")
    assert (status, err) == (0, SETTING_UP)
    calls = machine.calls()
    fetched = next(i for i, call in enumerate(calls) if "--target .venv/uv" in call)
    assert "--require-hashes -r requirements-uv.lock" in calls[fetched]
    made = next(i for i, call in enumerate(calls) if call.startswith("uv venv ") and ">=3.11" in call)
    assert fetched < made and any("--require-hashes -r requirements-tpu.lock" in call for call in calls[made:])
    assert not (machine.bin / "uv").exists()  # it goes with .venv
    assert machine.call("bootstrap.sh", "tpu") == (0, "", "") == machine.call("bootstrap.sh", "run")
    assert machine.calls() == []


def test_the_second_call_does_nothing_from_any_folder_or_link(ready, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(ready.clone / "run")
    assert ready.call("run", "plan") == (0, "scaling plan\n", "")
    assert ready.call(link, "plan") == (0, "scaling plan\n", "")
    assert ready.calls() == []


def test_no_arguments_mean_the_main_job(ready):
    assert ready.call("run") == (0, "scaling run quickstart\n", "")


def test_check_adds_its_tools_once_and_run_needs_nothing_more(ready):
    assert ready.call("check", "-x")[2] == SETTING_UP
    calls = ready.calls()
    assert any("-r requirements-dev.lock" in call for call in calls)
    assert not any(call.startswith("uv venv") for call in calls)
    assert ready.call("run", "plan") == (0, "scaling plan\n", "")
    assert ready.call("check", "-x")[2] == ""


def test_check_with_arguments_is_pytest_and_without_is_everything(ready):
    assert ready.call("check", "-k", "no token")[1] == "-m pytest -k no token\n"
    everything = ready.call("check")[1].splitlines()
    assert [line.removeprefix("-m ").split()[0] for line in everything] == ["ruff", "ruff", "pyright", "pytest"]
    assert ready.call(".ci/run")[1].splitlines() == everything


def test_check_runs_the_suites_of_clusters_alone(ready):
    assert ready.call("check", "--slurm", "-x")[1] == "-m pytest tests/cluster/test_slurm.py -x\n"


def test_check_fails_with_its_first_failure(ready):
    ready.call("check")
    (ready.clone / ".venv/bin/ruff").write_text("#!/bin/sh\nexit 3\n")
    assert ready.call("check") == (3, "", "")


def test_a_failed_installation_shows_why_and_the_next_call_starts_afresh(machine):
    machine.add_uv()
    status, out, err = machine.call("run", BROKEN="1")
    assert (status, out) == (1, "")
    assert "the index is out of reach" in err
    (machine.clone / ".venv/half").touch()
    assert machine.call("run", "plan") == (0, "scaling plan\n", SETTING_UP)
    assert not (machine.clone / ".venv/half").exists()


def test_an_installation_that_was_killed_is_made_afresh(machine):
    machine.add_uv()
    process = machine.start("run", SLOW="20")
    while "pip install" not in machine.log.read_text():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (machine.clone / ".venv/half").touch()
    assert machine.call("run", "plan") == (0, "scaling plan\n", SETTING_UP)
    assert not (machine.clone / ".venv/half").exists()


@pytest.mark.parametrize("tool", ["flock", "perl"])  # perl: where macOS has no flock
def test_simultaneous_first_calls_install_once(machine, tool):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} on this machine")
    (machine.bin / {"flock": "perl", "perl": "flock"}[tool]).unlink(missing_ok=True)
    machine.add_uv()
    processes = [machine.start("run", name, SLOW="0.3") for name in ("one", "two")]
    while "pip install" not in machine.log.read_text():
        assert processes[0].poll() is None
    processes.append(machine.start("run", "while it installs"))
    outs = [process.communicate(timeout=30)[0] for process in processes]
    assert outs == ["scaling one\n", "scaling two\n", "scaling while it installs\n"]
    assert sum(call.startswith("uv venv") for call in machine.calls()) == 1


def test_new_pins_are_installed_into_the_environment_that_is_there(ready):
    (ready.clone / ".venv/added by the user").touch()
    with open(ready.clone / "requirements.lock", "a") as lock:
        lock.write("# changed\n")
    assert ready.call("run", "plan") == (0, "scaling plan\n", SETTING_UP)
    assert (ready.clone / ".venv/added by the user").exists()


def test_a_clone_that_moved_gets_a_new_environment(ready):
    moved = ready.clone.rename(ready.clone.with_name("moved"))
    ready.clone = moved
    assert ready.call("run", "plan") == (0, "scaling plan\n", SETTING_UP)
    assert any(call.startswith("uv venv") for call in ready.calls())


def test_an_environment_made_by_hand_is_used_and_never_changed(ready):
    (ready.clone / ".venv/state").unlink()
    before = sorted((ready.clone / ".venv").rglob("*"))
    assert ready.call("run", "plan") == (0, "scaling plan\n", "")
    (ready.clone / ".venv/bin/pytest").unlink()
    status, _, err = ready.call("check")
    assert (status, err.count("\n")) == (2, 1)
    assert "made by hand" in err
    assert ready.calls() == []
    assert set(before) - set((ready.clone / ".venv").rglob("*")) == {ready.clone / ".venv/bin/pytest"}


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text(), flags=re.MULTILINE))


def test_every_pin_has_a_hash_and_no_lock_names_an_index():
    for lock in (*LOCKS, "requirements-uv.lock"):
        text = (ROOT / lock).read_text()
        entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
        assert len(entries) == len(pins(lock)) > (0 if "uv" in lock else 30)
        assert all("--hash=sha256:" in entry for entry in entries)
        assert not re.search(r"://|index-url|find-links|^/", text, flags=re.MULTILINE)


def test_a_host_of_a_slice_has_the_versions_of_every_machine():
    lean, slice_ = pins("requirements.lock"), pins("requirements-tpu.lock")
    assert lean.items() <= slice_.items() and {"libtpu", "gcsfs"} <= slice_.keys() - lean.keys()


def test_both_locks_agree_and_hold_all_that_the_project_asks_for():
    lean, full = pins("requirements.lock"), pins("requirements-dev.lock")
    assert lean.items() <= full.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[>=]", line)[0] for line in project["dependencies"]}
    assert wanted <= lean.keys()
    tools = {re.split(r"[\[>=]", line)[0] for line in project["optional-dependencies"]["dev"]}
    assert tools <= full.keys()
    assert not tools & lean.keys()
