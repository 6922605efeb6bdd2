"""A sweep on a slice of TPUs of a GKE cluster, as the manifest of a JobSet, to be applied with kubectl.

One Job of one slice, a Pod for each host, all of which run the same command. It goes on from the bucket: so a Pod that
was taken away has the whole set started again, as often as that happens, any other failure RESTARTS times. Sources:
https://jobset.sigs.k8s.io/docs/tasks/failure_policy/, examples/failure-policy/host-maintenance-event-model.yaml and
examples/tpu-multislice of kubernetes-sigs/jobset; https://cloud.google.com/kubernetes-engine/docs/how-to/tpus and
.../tpu-multislice; https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy;
https://kueue.sigs.k8s.io/docs/tasks/run/jobsets/; `xpk workload create --help` of AI-Hypercomputer/xpk.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.launch.slices import SLICES, Slice, fault
from scaling.launch.tpu_vm import PROJECT, ZONE
from scaling.launch.worker import STOPPED

RESTARTS = 3
LABEL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")  # names of Pods are made of it, of at most 63
IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]*")
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)*")
SAID_OTHERWISE = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # by some reader of YAML


@dataclass(frozen=True, kw_only=True)
class Request:
    """What runs in the cluster, and where."""

    name: str
    accelerator: str
    image: str  # with the code, its environment, and `scaling` on the PATH
    spot: bool = False
    queue: str = ""  # of Kueue; "" for a cluster without
    zone: str = ""  # for xpk alone, as the project
    project: str = ""

    @property
    def slice(self) -> Slice:
        return SLICES[self.accelerator]

    def faults(self) -> list[str]:
        lines = []
        for option, value in (("--name", self.name), ("--queue", self.queue)):
            if (value or option == "--name") and not LABEL.fullmatch(value):
                lines.append(
                    f"{option} = {value}: must be small letters, digits and '-', at most 40, the first a letter"
                )
        if wrong := fault(self.accelerator):
            lines.append(wrong)
        elif not self.slice.gke:
            lines.append(
                f"--accelerator = {self.accelerator}: is not to be had in GKE; take v4, v5litepod, v5p, v6e or tpu7x"
            )
        if not IMAGE.fullmatch(self.image):
            lines.append(f"--image = {self.image}: must be the name of a container image, e.g. my-registry/scaling:1")
        if self.zone and not ZONE.fullmatch(self.zone):
            lines.append(f"--zone = {self.zone}: must be a zone of Google Cloud, e.g. us-west4-a")
        if self.project and not PROJECT.fullmatch(self.project):
            lines.append(f"--project = {self.project}: must be the id of a project, e.g. my-project-1")
        return lines


def manifest(request: Request, command: Sequence[str]) -> dict[str, Any]:
    """The JobSet."""
    hosts, chips = request.slice.hosts, request.slice.chips_of_host
    spot = {"cloud.google.com/gke-spot": "true"} if request.spot else {}
    pod = {
        "restartPolicy": "Never",
        # A TPU host's network is the cluster's only when the Pod shares it.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": 30,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": request.slice.gke,
            "cloud.google.com/gke-tpu-topology": request.slice.topology,
        }
        | spot,
        "tolerations": [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} for key, value in spot.items()
        ],
        "containers": [
            {
                "name": "scaling",
                "image": request.image,
                "command": list(command),
                "resources": {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}},
            }
        ],
    }
    taken_away = [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "scaling", "operator": "In", "values": [STOPPED]}},
    ]
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": taken_away},
        "template": {"spec": {key: value for key, value in pod.items() if value != []}},
    }
    again = {"name": "taken_away", "action": "RestartJobSetAndIgnoreMaxRestarts"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": request.name,
            **({"labels": {"kueue.x-k8s.io/queue-name": request.queue}} if request.queue else {}),
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": RESTARTS,
                "rules": [again | {"onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job}}],
        },
    }


def xpk(request: Request, command: Sequence[str]) -> list[str]:
    """The command of xpk that does the same; CLUSTER is for the user to fill in."""
    where = [f"--{key}={value}" for key, value in (("zone", request.zone), ("project", request.project)) if value]
    return [
        "xpk", "workload", "create", "--cluster=CLUSTER", *where,
        f"--workload={request.name}", f"--tpu-type={request.accelerator}", "--num-slices=1",
        f"--docker-image={request.image}", f"--max-restarts={RESTARTS}", *(["--spot"] if request.spot else []),
        f"--command={shlex.join(command)}",
    ]  # fmt: skip


def text(request: Request, command: Sequence[str]) -> str:
    """The manifest as YAML, with the command of xpk before it as a comment."""
    lines = [f"# {shlex.join(xpk(request, command))}", *yaml(manifest(request, command))]
    return "\n".join(lines) + "\n"


def yaml(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """Lines of plain YAML for maps with text keys, lists, text, whole numbers and truth values, none of them empty."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, (Mapping, list)):
                yield f"{_scalar(key)}:"
                yield from (f"  {line}" for line in yaml(inner))
            else:
                yield f"{_scalar(key)}: {_scalar(inner)}"
    else:
        for inner in value:
            lines = yaml(inner) if isinstance(inner, (Mapping, list)) else iter([_scalar(inner)])
            yield f"- {next(lines)}"
            yield from (f"  {line}" for line in lines)


def _scalar(value: str | int) -> str:
    """Quoted, which JSON does as YAML reads it, wherever a reader might take it for anything but text."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in SAID_OTHERWISE:
        return value
    return json.dumps(value)
