"""Why a run was given up without a record: `failure.json` in its folder, until it gets one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

# blocked: it waited for what was not made; never written down, for it holds of one sweep alone
Kind = Literal["crash", "hang", "out_of_memory", "disk_full", "error", "folder_lost", "trunk_lost", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    kind: Kind
    reason: str  # one line
    attempts: int = 0  # of the participant that gave it up
    log: str = ""  # path from the results folder; empty where there is none

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
