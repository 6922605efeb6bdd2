"""A slice of TPU VMs of Google Cloud as the commands of `gcloud` that rent it, fill it and give it back.

A slice is a queued resource with one node, both of one name. Every host gets the committed tree, as a clone of depth
one in an archive: so no key of a repository is on the slice, a commit need not be pushed, and records name it. Then all
hosts do the same (`tpu_host.sh`). Sources: https://cloud.google.com/tpu/docs/queued-resources, the reference of
`gcloud compute tpus`, and its code (528.0).
"""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scaling.launch.provenance import ROOT, code, committed
from scaling.launch.slices import SLICES, Slice, fault
from scaling.machine import cache_folder

MARK = "made-by=scaling"  # label of what we rent
HOST_SCRIPT = Path(__file__).with_name("tpu_host.sh")

NAME = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[A-Za-z0-9._=-]+)*/?")
RUNTIME = re.compile(r"[a-z0-9][a-z0-9._-]*")
OURS = {
    "zone": "--zone", "project": "--project", "accelerator-type": "--accelerator", "spot": "--spot",
    "runtime-version": "--runtime-version",
}  # fmt: skip
FIXED = ("async", "format", "labels", "node-count", "node-id", "node-prefix", "quiet", "topology", "type")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The slice that is asked for, and what a host of it needs."""

    name: str
    zone: str
    accelerator: str
    project: str = ""  # "": gcloud's own setting
    spot: bool = False
    runtime_version: str = ""  # "": the documented one
    setup: Sequence[str] = ()  # shell lines, in the code on every host, before its environment is made
    options: Mapping[str, str] = field(default_factory=dict)  # of queued-resources create; "" for one without a value

    @property
    def slice(self) -> Slice:
        return SLICES[self.accelerator]

    def faults(self) -> list[str]:
        lines = []
        if not NAME.fullmatch(self.name):
            lines.append(
                f"--name = {self.name}: must be small letters, digits and '-', at most 50, a letter first and no "
                "'-' last, e.g. sweep-1"
            )
        if not ZONE.fullmatch(self.zone):
            lines.append(f"--zone = {self.zone}: must be a zone of Google Cloud, e.g. us-west4-a")
        if wrong := fault(self.accelerator):
            lines.append(wrong)
        elif not (self.runtime_version or self.slice.runtime):
            lines.append(f"--accelerator = {self.accelerator}: give --runtime-version, which is not known for it")
        if self.project and not PROJECT.fullmatch(self.project):
            lines.append(f"--project = {self.project}: must be the id of a project, e.g. my-project-1")
        if self.runtime_version and not RUNTIME.fullmatch(self.runtime_version):
            lines.append(f"--runtime-version = {self.runtime_version}: must be small letters, digits and '-', '.', '_'")
        lines += [f"--setup {line!r}: must have no line breaks" for line in self.setup if not line.isprintable()]
        for name, value in self.options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                lines.append(f"--gcloud {name!r}: must be KEY=VALUE, KEY a long option without its dashes")
            elif name in OURS:
                lines.append(f"--gcloud {name}: has an option of its own, {OURS[name]}")
            elif name in FIXED:
                lines.append(f"--gcloud {name}: is set by scaling and cannot be changed")
            if not value.isprintable():
                lines.append(f"--gcloud {name} = {value!r}: must have no line breaks")
        return lines

    def _gcloud(self, group: str, verb: str, *words: str) -> list[str]:
        where = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else []), "--quiet"]
        return ["gcloud", "compute", "tpus", group, verb, *words, *where]

    def create(self) -> list[str]:
        more = [f"--{name}={value}" if value else f"--{name}" for name, value in self.options.items()]
        return self._gcloud(
            "queued-resources", "create", self.name,
            f"--node-id={self.name}",
            f"--accelerator-type={self.accelerator}",
            f"--runtime-version={self.runtime_version or self.slice.runtime}",
            f"--labels={MARK}",
            *(["--spot"] if self.spot else []),
            *more,
            "--async",
        )  # fmt: skip

    def describe(self) -> list[str]:
        return self._gcloud("queued-resources", "describe", self.name, "--format=json")

    def node(self) -> list[str]:
        return self._gcloud("tpu-vm", "describe", self.name, "--format=value(state)")

    def delete(self) -> list[str]:
        """With its node, whatever runs there."""
        return self._gcloud("queued-resources", "delete", self.name, "--force")

    def copy(self, *files: Path) -> list[str]:
        return self._gcloud("tpu-vm", "scp", *map(str, files), f"{self.name}:", "--worker=all")

    def host(self, task: str, *words: str) -> list[str]:
        """A task of `tpu_host.sh` on every host. What it says comes over standard output: the option that writes a file
        for each host writes into a folder named None (gcloud 528.0)."""
        command = shlex.join(["sh", "tpu_host.sh", task, *words])
        return self._gcloud("tpu-vm", "ssh", self.name, "--worker=all", f"--command={command}")


def bucket_fault(bucket: str) -> str:
    if BUCKET.fullmatch(bucket):
        return ""
    return f"--bucket = {bucket}: must be gs://BUCKET or gs://BUCKET/FOLDER; the study gets a folder of its name there"


def missing(experiment: Path) -> list[str]:
    """What this machine lacks to send the code of `experiment` and to rent a slice for it."""
    lines = [
        f"--on tpu-vm: there is no {name} on this machine; {way}"
        for name, way in (
            ("gcloud", "install the Google Cloud CLI (cloud.google.com/sdk), then gcloud auth login"),
            ("git", "install it: the slice gets the committed tree"),
        )
        if not shutil.which(name)
    ]
    return lines + unsent(experiment) if not lines else lines


def unsent(experiment: Path) -> list[str]:
    """Why what would run on the slice is not what is here."""
    now = code()
    if "commit" not in now:
        return [f"--on tpu-vm: {ROOT} is no checkout of git, whose committed tree a slice gets"]
    lines = []
    if now["dirty"] != "no":
        lines.append(f"--on tpu-vm: {ROOT} differs from its last commit, which is what a slice gets; commit, or stash")
    if inside(experiment) and not committed(experiment):
        lines.append(f"--on tpu-vm: {experiment} is not in the last commit, which is what a slice gets; commit it")
    return lines


def inside(experiment: Path) -> bool:
    """Whether it comes with the code; else it goes beside."""
    return experiment.is_relative_to(ROOT)


def path_there(experiment: Path) -> str:
    """Of the experiment's file on a host, whose working folder is the code."""
    return str(experiment.relative_to(ROOT)) if inside(experiment) else f"../{experiment.name}"


def apart(chips: int) -> list[str]:
    """Before a command: have JAX see the chips of its own host alone."""
    bounds = {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"}[chips]
    return [
        "env",
        "TPU_PROCESS_BOUNDS=1,1,1",
        f"TPU_CHIPS_PER_PROCESS_BOUNDS={bounds}",
        f"TPU_VISIBLE_CHIPS={','.join(map(str, range(chips)))}",
    ]


def stage(name: str) -> Path:
    """What goes to a slice is made here, and what its hosts say is kept here."""
    return cache_folder() / "tpu-vm" / name


def ship(folder: Path, experiment: Path) -> list[list[str]]:
    """Commands that make scaling.tgz in `folder`."""
    beside = [] if inside(experiment) else ["--directory", str(experiment.parent), experiment.name]
    archive = ["--file", str(folder / "scaling.tgz")]
    return [
        ["rm", "-rf", str(folder / "code")],
        ["git", "clone", "--quiet", "--depth=1", ROOT.as_uri(), str(folder / "code")],
        ["tar", "--create", "--gzip", *archive, "--directory", str(folder), "code", *beside],
    ]


def life(request: Request, experiment: Path, command: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Every command of a job from its beginning to its end, with what it is for."""
    folder = stage(request.name)
    yield "is it there already, from an earlier call?", request.describe()
    for words in ship(folder, experiment):
        yield "the committed tree, in an archive", words
    yield "ask for the slice", request.create()
    yield "again and again, until it is ACTIVE", request.describe()
    yield "code to every host", request.copy(folder / "scaling.tgz", HOST_SCRIPT)
    yield "its environment", request.host("setup", code().get("commit", "COMMIT"), *request.setup)
    yield "the same command on every host; again after a lost connection", request.host("run", *command)
    yield "how it ended: was the slice taken away?", request.describe()
    yield "and its node? (then delete, and on from `ask for the slice`)", request.node()
    yield "at Ctrl-C: have it save", request.host("stop")
    yield "at the end, and at Ctrl-C", request.delete()
