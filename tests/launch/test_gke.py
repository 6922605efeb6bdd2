"""Manifests for GKE: what they ask of the cluster, and that they are plain YAML. No cluster has seen one."""

import json
import shlex
from typing import Any

import pytest

from scaling.launch.gke import Request, manifest, text, xpk
from scaling.launch.slices import SLICES

COMMAND = ["scaling", "run", "experiments/smoke.py", "--set", "a=b c: 'd' # $(e)", "--out", "gs://b/smoke"]


def request(**changes) -> Request:
    return Request(**{"name": "sweep-1", "accelerator": "v5litepod-16", "image": "registry/scaling:1"} | changes)


def read(lines: list[str], depth: int = 0) -> Any:
    """What plain YAML says, by its indentation, quotes as in JSON; takes its lines away."""
    found: Any = None
    while lines and len(lines[0]) - len(lines[0].lstrip()) == depth:
        line = lines.pop(0).strip()
        if line.startswith("- "):
            found = [] if found is None else found
            inner = line[2:]
            if inner.startswith('"') or ":" not in inner or " " not in inner and not inner.endswith(":"):
                found.append(scalar(inner))
            else:
                lines.insert(0, " " * (depth + 2) + inner)
                found.append(read(lines, depth + 2))
        else:
            found = {} if found is None else found
            key, _, value = line.partition(":") if not line.startswith('"') else line[1:].partition('":')
            assert key not in found
            found[key] = scalar(value.strip()) if value else read(lines, depth + 2)
    return found


def scalar(word: str) -> Any:
    if word.startswith('"') or word in ("true", "false") or word.isdecimal():
        return json.loads(word)
    assert word[0].isalpha() and not set(word) & set("#&*!|>'\"%@`{}[],=?$ ")
    return word


@pytest.mark.parametrize("changes", [{}, {"spot": True, "queue": "tpus"}, {"accelerator": "v6e-8"}])
def test_the_yaml_says_what_the_manifest_holds(changes: dict):
    asked = request(**changes)
    comment, *lines = text(asked, COMMAND).splitlines()
    assert read(lines) == manifest(asked, COMMAND) and not lines
    assert comment == "# " + shlex.join(xpk(asked, COMMAND))


@pytest.mark.parametrize("name", [name for name, found in SLICES.items() if found.gke])
def test_every_host_is_a_pod_with_all_its_chips(name: str):
    (jobs,) = manifest(request(accelerator=name), COMMAND)["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["completions"] == job["parallelism"] == SLICES[name].hosts
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"] == {"google.com/tpu": chips}
    nodes = job["template"]["spec"]["nodeSelector"]
    shape = [int(n) for n in nodes["cloud.google.com/gke-tpu-topology"].split("x")]
    assert len(shape) == (2 if name.startswith(("v5l", "v6e")) else 3)
    product = shape[0] * shape[1] * (shape[2] if len(shape) == 3 else 1)
    assert chips * job["completions"] == product and nodes["cloud.google.com/gke-tpu-accelerator"].startswith("tpu")


def test_what_is_taken_away_begins_again_as_often_as_that_happens_and_what_fails_does_not():
    spec = manifest(request(spot=True), COMMAND)["spec"]
    assert spec["failurePolicy"]["rules"] == [
        {
            "name": "taken_away",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
        }
    ]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    disrupted, stopped = job["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert stopped["onExitCodes"]["values"] == [75] and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert (
        "tolerations"
        not in manifest(request(), COMMAND)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    )


def test_every_fault_is_told_at_once():
    bad = request(name="A", queue="b_c", accelerator="v3-8", image="a b", zone="x", project="Y")
    faults = bad.faults()
    assert [fault.split(" ")[0] for fault in faults] == [
        "--name",
        "--queue",
        "--accelerator",
        "--image",
        "--zone",
        "--project",
    ]
    assert "GKE" in faults[2] and request().faults() == []
