"""The trackers that people watch curves in: TensorBoard and Weights & Biases. `scaling.launch.mirror` feeds them."""

import importlib.util
import json
import netrc
import os
import shlex
import sys
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from scaling.spec import Refusal

INIT_SECONDS = 30.0  # for a service to answer
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # by name of the sink


class Sink(Protocol):
    """A tracker. Any number of runs may be open in it at once; each begins, gets rows and ends."""

    name: str

    def begin(self, run_id: str, config: Mapping[str, Any]) -> None:
        """`config`: name, group and role of the run, and `run`, its spec."""
        ...

    def row(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """One logged interval that ends at optimizer step `step`; `tokens` is among the values."""
        ...

    def end(self, run_id: str, summary: Mapping[str, Any] | None) -> None:
        """`summary` is the run's record, or None where the run is not over."""
        ...

    def close(self) -> None: ...


def missing(names: Iterable[str]) -> list[str]:
    """One line for each sink whose package is not installed."""
    return [
        f"{name}: the package {PACKAGES[name]} is not installed; pip install '.[{name}]' in the checkout, or "
        f"pip install {PACKAGES[name]}"
        for name in dict.fromkeys(names)
        if importlib.util.find_spec(PACKAGES[name]) is None
    ]


def opened(name: str, folder: Path, study: str) -> Sink:
    """The sink of this name for a results folder. Raises `Refusal` where its package is missing."""
    if faults := missing([name]):
        raise Refusal(faults)
    return TensorBoard(folder / "tensorboard") if name == "tensorboard" else WandB(folder, study)


class TensorBoard:
    """Event files in tensorboard/<run id>/; the horizontal axis of every scalar is tokens, since runs differ in what a
    step is. The record is a text."""

    name = "tensorboard"

    def __init__(self, folder: Path):
        tracker = importlib.import_module(PACKAGES[self.name])
        self._open: Callable[[str], Any] = lambda run_id: tracker.SummaryWriter(
            str(folder / run_id),
            filename_suffix=f".{uuid.uuid4().hex}",  # two files of one second would be one file
        )
        self._writers: dict[str, Any] = {}
        self._tokens: dict[str, int] = {}

    def begin(self, run_id: str, config: Mapping[str, Any]) -> None:
        self._writers[run_id] = self._open(run_id)
        self._writers[run_id].add_text("spec", _fenced(config), 0)
        self._tokens[run_id] = 0

    def row(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        self._tokens[run_id] = tokens = int(values["tokens"])
        for key, value in values.items():
            if key != "tokens":
                self._writers[run_id].add_scalar(key, value, tokens)
        self._writers[run_id].add_scalar("step", step, tokens)
        self._writers[run_id].flush()

    def end(self, run_id: str, summary: Mapping[str, Any] | None) -> None:
        writer, tokens = self._writers.pop(run_id), self._tokens.pop(run_id)
        for key, value in _results(summary).items():
            writer.add_scalar(key, value, int((summary or {}).get("tokens", tokens)))
        if summary:
            writer.add_text("record", _fenced(summary), int(summary.get("tokens", tokens)))
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WandB:
    """One W&B run for each of ours, under its id, in a project named after the study; files in wandb/ of the folder.

    Offline where WANDB_MODE says so, or where no key is known. Its step is the optimizer's; charts are drawn against
    tokens.
    """

    name = "wandb"

    def __init__(self, folder: Path, project: str):
        wandb = importlib.import_module(PACKAGES[self.name])
        wandb.setup(wandb.Settings(silent=True))
        mode = os.environ.get("WANDB_MODE", "")
        self._offline = mode == "offline" or not (mode or _wandb_key(wandb.Settings().base_url))
        settings: dict[str, Any] = {"silent": True, "console": "off", "disable_git": True, "disable_code": True}
        settings |= {"x_disable_stats": True, "init_timeout": INIT_SECONDS}
        if self._offline:
            settings["mode"] = "offline"
        self._init: Callable[..., Any] = lambda **of: wandb.init(
            project=project, dir=str(folder), resume="allow", reinit="create_new",
            settings=wandb.Settings(**settings), **of,
        )  # fmt: skip
        self._folder, self._runs = folder, {}

    def begin(self, run_id: str, config: Mapping[str, Any]) -> None:
        run = self._init(
            id=run_id, name=config["name"], group=config["group"], job_type=config["role"], config=dict(config["run"])
        )
        run.define_metric("*", step_metric="tokens")
        self._runs[run_id] = run

    def row(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        self._runs[run_id].log(dict(values), step=step)

    def end(self, run_id: str, summary: Mapping[str, Any] | None) -> None:
        run = self._runs.pop(run_id)
        if summary:
            run.summary.update({"status": summary["status"], "reason": summary["reason"]} | _results(summary))
        run.finish(exit_code=0 if summary and summary["status"] == "finished" else 1)

    def close(self) -> None:
        for run_id in [*self._runs]:
            self.end(run_id, None)
        if self._offline:
            where = shlex.quote(str(self._folder / "wandb"))
            print(f"W&B was offline; to upload: wandb sync {where}/offline-run-*", file=sys.stderr)


def _wandb_key(service: str) -> bool:
    """Whether W&B knows who we are; it would ask on the terminal otherwise."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return known.authenticators(urllib.parse.urlsplit(service).hostname or "") is not None


def _results(summary: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers of a record that a run is judged by, under names that no column of a curve has."""
    names = ("loss", "loss_se", "bits_per_byte", "averaged_loss", "averaged_loss_se", "noise_tokens", "spikes")
    return {f"result/{name}": summary[name] for name in names if summary.get(name) is not None} if summary else {}


def _fenced(value: Mapping[str, Any]) -> str:
    """JSON as a block of Markdown code, which TensorBoard shows as it is."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=1).splitlines())
