"""The record of one run: written once, when the run is over, and never edited."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scaling.cost import count_flops, count_params
from scaling.spec import RunSpec, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where the time of a run went, in seconds of the process that ended it. Never enters a result.

    The runs of a population have an equal share of its seconds each, so rates are those of the whole population.
    """

    compile: float
    train: float
    evaluate: float
    steps: int  # optimizer steps that `train` covers; fewer than the run's after a branch or a restart
    tokens_per_second: float  # in training, compilation excluded
    flops_per_second: float  # the same in useful training FLOPs (`cost.FlopCount.exact`)
    members: int = 1  # of the population that shared the time
    checkpoint: float = 0.0  # opening, restoring and saving weights; older records have the saving in `train`
    mfu: float | None = None  # flops_per_second over peak_flops; None in older records
    peak_flops: float | None = None  # FLOP/s of all devices of the process in the model's compute type
    peak_source: str = ""  # documented (by the device's vendor) | measured (the best product on this machine)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Losses are on the held-out windows; None where there is none, as for a trunk or a run that diverged."""

    run: RunSpec
    status: Literal["finished", "diverged"]
    reason: str  # empty when finished
    tokens: int  # trained on, repeats and those before the branch included
    unique_tokens: int
    epochs: float  # how often each of the unique tokens was seen, on average
    loss: float | None  # nats per token
    loss_se: float | None  # standard error of that mean over blocks of held-out text, nats per token
    bits_per_byte: float | None  # None where a token's length in bytes is unknown
    entropy: float | None  # the source's exact entropy, nats per token, where it is known
    clock: Clock | None  # None for a run that never took a step
    data: Mapping[str, str]  # content hashes and origin of the text
    machine: Mapping[str, str]  # device, versions, commit
    averaged_loss: float | None = None  # of the averaged weights, nats per token, where the optimizer keeps them
    averaged_loss_se: float | None = None
    noise_tokens: float | None = None  # gradient noise scale at the end of training (arXiv:1812.06162)
    spikes: int = 0  # rows of the curve with a step far above the row's own mean
    notes: tuple[str, ...] = ()  # what befell the run: checkpoints set aside, a batch cut finer; not in the table

    def faults(self) -> list[str]:
        """One line for each field that holds what no run can show; the spec is `spec.faults`'s."""
        kinds = {str: ("reason",), int: ("tokens", "unique_tokens", "spikes"), Mapping: ("data", "machine")}
        kinds[(int, float)] = ("epochs",)
        kinds[(int, float, type(None))] = (
            "loss", "loss_se", "bits_per_byte", "entropy", "averaged_loss", "averaged_loss_se", "noise_tokens",
        )  # fmt: skip
        strange = [name for kind, names in kinds.items() for name in names if not isinstance(getattr(self, name), kind)]
        strange += ["status"] if self.status not in ("finished", "diverged") else []
        return [f"{name} = {getattr(self, name)!r:.60}" for name in strange]

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "id": self.run.id,
            "run": to_json(self.run),
            "clock": dataclasses.asdict(self.clock) if self.clock else None,
            "data": dict(self.data),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "params": dataclasses.asdict(count_params(self.run.model)),
            "flops_per_token": dataclasses.asdict(count_flops(self.run.model)),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunRecord":
        """The counts in the file are for readers of the file; ours follow from the spec, so a mended count reaches
        old runs too."""
        known = {name: values[name] for name, optional in OPTIONAL.items() if name in values or not optional}
        known["run"] = from_json(RunSpec, values["run"])
        known["clock"] = Clock(**values["clock"]) if values["clock"] else None
        known["notes"] = tuple(known.get("notes", ()))
        return cls(**known)


OPTIONAL = {field.name: field.default is not dataclasses.MISSING for field in dataclasses.fields(RunRecord)}
