"""Why a run was given up without a record: `failure.json` in its folder, until it gets one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

# blocked: it waited for what was not made; never written down, for it holds of one sweep alone
Kind = Literal["crash", "hang", "out_of_memory", "disk_full", "error", "folder_lost", "trunk_lost", "blocked"]

WAY_OUT: dict[Kind, str] = {
    "crash": "the same command tries it again",
    "hang": "the same command tries it again; --patience SECONDS waits longer",
    "out_of_memory": "a machine with more memory, or a smaller model or batch; then --retry",
    "disk_full": "make room; the same command goes on with it",
    "error": "mend the cause; then the same command with --retry",
    "folder_lost": "bring the folder back; the same command goes on",
    "trunk_lost": "the same command trains its trunk again",
    "blocked": "the same command goes on once that is done",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run was given up. `failure.json` in its folder says it; a record takes its place."""

    kind: Kind
    reason: str  # one line
    attempts: int = 0  # of the participant that gave it up
    log: str = ""  # path from the results folder, or machine:path of one in a bucket; empty where there is none

    @property
    def way_out(self) -> str:
        """What has the run tried again."""
        return WAY_OUT[self.kind]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Failure":
        """Raises ValueError, TypeError or KeyError for what `to_json` does not give."""
        failure = cls(**{name: values[name] for name in ("kind", "reason", "attempts", "log")})
        for name, kind in {"reason": str, "attempts": int, "log": str}.items():
            if type(getattr(failure, name)) is not kind:
                raise ValueError(f"{name} = {getattr(failure, name)!r:.60}")
        if failure.kind not in get_args(Kind):
            raise ValueError(f"kind = {failure.kind!r:.60}: must be one of {', '.join(get_args(Kind))}")
        return failure
