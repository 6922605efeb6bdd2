"""What a fit sees of a table of runs: float64 columns, checked. The only file here that knows tables.

A table is ours (see `scaling.record`) or anybody's: a CSV with columns for N, `tokens` and `loss`, and where there are
any `flops`, `loss_se`, `run_id`, `group`, `trunk`, `seed`, `role`, `status`, `d_model`.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.fit.laws import Array
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

GAP = 1e3  # two neighbouring values of a column further apart than this are taken for two units
MOST_LINES = 20  # faults of rows that are printed one by one


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """R runs in a fixed order (by N, D, seed, run_id), whatever the order of the table."""

    n: Array  # [R], parameters, counted as `params` says
    d: Array  # [R], training tokens, repeats included
    flops: Array  # [R], training FLOPs; 6 N D where the table has none
    loss: Array  # [R], nats per token
    loss_se: Array  # [R], standard error of the evaluation, nats per token; NaN where unknown
    run_id: tuple[str, ...]
    group: tuple[str, ...]
    trunk: tuple[str, ...]  # runs of one trunk share noise; the run's own id where there is none
    seed: tuple[str, ...]
    size: tuple[str, ...]  # the same for runs of one model shape: d_model, or N where that is unknown
    params: str  # the column that n is
    flops_measured: bool  # False: 6 N D is assumed
    dropped: dict[str, int] = field(default_factory=dict)  # rows of the table left out, by reason
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.n)

    @property
    def cost(self) -> tuple[float, float]:
        """(k, p): FLOPs per token = k N^p, least squares in logarithms over the runs; (6, 1) where 6 N D is assumed."""
        if not self.flops_measured:
            return 6.0, 1.0
        log_n, log_c = np.log(self.n), np.log(self.flops / self.d)
        spread = log_n - log_n.mean()
        if not np.any(spread):
            return float(np.exp(log_c.mean() - log_n.mean())), 1.0
        p = float(spread @ log_c / (spread @ spread))
        return float(np.exp(log_c.mean() - p * log_n.mean())), p

    def pick(self, rows: Any) -> Observations:
        """The runs at these indices or under this mask."""
        index = np.arange(len(self))[rows]
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in ("n", "d", "flops", "loss", "loss_se")}
        labels: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in index) for name in ("run_id", "group", "trunk", "seed", "size")
        }
        return Observations(
            **columns, **labels, params=self.params, flops_measured=self.flops_measured, dropped=self.dropped,
            warnings=self.warnings,
        )  # fmt: skip


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> pandas.DataFrame:
    """A CSV as text cells, indexed by line number; `columns` maps our names to those of the file.

    Raises `Refusal` for a file that is missing, empty, not UTF-8 text, not separated by commas or without runs.
    """
    import pandas

    path, columns = Path(path), columns or {}
    if not path.is_file():
        raise Refusal(f"{path}: there is no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal(f"{path}: is not UTF-8 text; save it as a CSV in UTF-8") from None
    if not text.strip():
        raise Refusal(f"{path}: is empty; it needs a header line and one line for each run")
    reader = csv.reader(io.StringIO(text))
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise Refusal(f"{path}: line {reader.line_num}: is not a CSV: {error}") from None
    (_, header), *lines = [(number, row) for number, row in lines if any(row)]
    mark = next((mark for mark in ";\t|" if mark in header[0]), None)
    if len(header) == 1 and mark:
        raise Refusal(
            f"{path}: its columns are separated by {mark!r}; save it with commas, and with points in decimals"
        )
    faults = [f"{path}: column {name!r} appears twice" for name in sorted({n for n in header if header.count(n) > 1})]
    faults += [
        f"--columns {ours}={theirs}: there is no column {theirs!r}; there are {', '.join(header)}"
        for ours, theirs in columns.items()
        if theirs not in header
    ]
    faults += [
        f"{path}: line {number}: {len(row)} cells under {len(header)} names"
        for number, row in lines
        if len(row) > len(header)
    ]
    if not lines:
        faults.append(f"{path}: has a header line and no runs")
    if faults:
        raise Refusal(_first(faults))
    names = {theirs: ours for ours, theirs in columns.items()}
    # A column that already has the wanted name gives way to the one that was named for it.
    kept = [i for i, name in enumerate(header) if name in names or name not in columns]
    cells = [[row[i] if i < len(row) else "" for i in kept] for _, row in lines]
    index = pandas.Index([number for number, _ in lines], name="line")
    return pandas.DataFrame(cells, index=index, columns=[names.get(header[i], header[i]) for i in kept], dtype=str)


def observe(
    table: pandas.DataFrame,
    *,
    params: str,
    group: str | None = None,
    roles: Collection[str] | None = None,
    size: str = "d_model",
) -> Observations:
    """The runs of a table that a fit may use, N taken from column `params`.

    Only `finished` rows count where there is a `status`. Where there is a `role` and no group is asked for, only
    `fitted` rows do; with a group, that group's rows but the held-out ones; `roles` says it outright. Rows left out
    are counted in `dropped`. `size` names the column that tells model shapes apart.

    Raises `Refusal` with a line for each missing column, or for each bad cell (empty, not a number, not above zero)
    and each run id used twice, by line of the file.
    """
    faults = [
        f"column {name!r} is missing; there are {', '.join(map(str, table.columns))}; "
        f"if it has another name: --columns {name}=THEIR_NAME"
        for name in dict.fromkeys((params, "tokens", "loss"))
        if name not in table.columns
    ]
    if faults:
        raise Refusal(faults)
    table, dropped = _chosen(table, group, roles)
    if not len(table):
        why = "".join(f"; {count} left out: {reason}" for reason, count in dropped.items())
        raise Refusal(f"the table has no runs to fit{why}")

    where = "line" if table.index.name == "line" else "row"
    lines = [f"{where} {index}" for index in table.index]
    numbers = {name: _numbers(table, name, lines, faults) for name in (params, "tokens", "loss")}
    flops_measured = "flops" in table.columns and any(_text(cell) for cell in table["flops"])
    if flops_measured:
        numbers["flops"] = _numbers(table, "flops", lines, faults)
    if "run_id" in table.columns:
        run_id = [_text(cell) for cell in table["run_id"]]
        first: dict[str, str] = {}
        for name, line in zip(run_id, lines, strict=True):
            if name and name in first:
                faults.append(f"{line}: run_id {name!r} is also on {first[name]}; a run may count once")
            first.setdefault(name, line)
    else:
        run_id = [line.replace(" ", "") for line in lines]
    if not faults:
        faults += _mixed_units(numbers, params)
    if faults:
        raise Refusal(_first(faults))

    n, d, loss = numbers[params], numbers["tokens"], numbers["loss"]
    warnings = []
    flops = numbers.get("flops", 6 * n * d)
    ratio = float(np.median(flops / (6 * n * d)))
    if not 1 / 3 < ratio < 3:
        warnings.append(
            f"flops are {ratio:.3g} times 6 N D: right if {params} leaves much out (embeddings, attention), "
            "else a unit or a column is wrong"
        )
    run_id = [name or line.replace(" ", "") for name, line in zip(run_id, lines, strict=True)]
    trunk = _labels(table, "trunk", run_id)
    seed = _labels(table, "seed", [""] * len(n))
    order = sorted(range(len(n)), key=lambda i: (n[i], d[i], seed[i], run_id[i], loss[i]))

    def labels(values: list[str]) -> tuple[str, ...]:
        return tuple(values[i] for i in order)

    return Observations(
        n=n[order], d=d[order], flops=flops[order], loss=loss[order], loss_se=_errors(table)[order],
        run_id=labels(run_id), group=labels(_labels(table, "group", [""] * len(n))), trunk=labels(trunk),
        seed=labels(seed), size=labels(_labels(table, size, [f"{value:.12g}" for value in n])),
        params=params, flops_measured=flops_measured, dropped=dropped, warnings=tuple(warnings),
    )  # fmt: skip


def _first(faults: list[str]) -> list[str]:
    more = [f"and {len(faults) - MOST_LINES} more faults of this kind"] if len(faults) > MOST_LINES else []
    return faults[:MOST_LINES] + more


def _chosen(
    table: pandas.DataFrame, group: str | None, roles: Collection[str] | None
) -> tuple[pandas.DataFrame, dict[str, int]]:
    """The rows asked for, and how many were left out by reason."""
    dropped: Counter[str] = Counter()

    def keep(name: str, wanted: Any) -> None:
        nonlocal table
        kept = [bool(wanted(_text(cell))) for cell in table[name]]
        out = [_text(cell) for cell, stays in zip(table[name], kept, strict=True) if not stays]
        dropped.update(f"{name} = {value}" for value in out)
        table = table.loc[np.array(kept, bool)]

    if group is not None:
        if "group" not in table.columns:
            raise Refusal(f"group {group!r}: the table has no column 'group'")
        known = sorted({_text(cell) for cell in table["group"]})
        if group not in known:
            raise Refusal(f"group {group!r}: the table has no such group; there are {', '.join(known)}")
        keep("group", lambda value: value == group)
    if "status" in table.columns:
        keep("status", lambda value: value == "finished")
    if "role" in table.columns:
        if roles is not None:
            keep("role", lambda value: value in roles)
        elif group is not None:
            keep("role", lambda value: value != "held_out")
        else:
            keep("role", lambda value: value == "fitted")
    return table, dict(sorted(dropped.items()))


def _text(cell: Any) -> str:
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell).strip()


def _labels(table: pandas.DataFrame, name: str, otherwise: list[str]) -> list[str]:
    if name not in table.columns:
        return otherwise
    return [_text(cell) or other for cell, other in zip(table[name], otherwise, strict=True)]


def _numbers(table: pandas.DataFrame, name: str, lines: list[str], faults: list[str]) -> Array:
    """A column as positive float64; what is wrong is added to `faults`."""
    values = []
    for cell, line in zip(table[name], lines, strict=True):
        text, value = _text(cell), math.nan
        try:
            value = float(text)
        except ValueError:
            what = "is empty" if not text else f"= {text!r} is not a number; write it out, as 70e6 for 70M"
            faults.append(f"{line}: {name} {what}")
        else:
            if not math.isfinite(value) or value <= 0:
                faults.append(f"{line}: {name} = {text}: must be a finite number above zero")
        values.append(value)
    return np.array(values)


def _errors(table: pandas.DataFrame) -> Array:
    if "loss_se" not in table.columns:
        return np.full(len(table), np.nan)
    cells = [_text(cell) for cell in table["loss_se"]]
    try:
        return np.array([float(cell) if cell else math.nan for cell in cells])
    except ValueError as error:
        raise Refusal(f"column 'loss_se': {error}; leave it empty where it is unknown") from None


def _mixed_units(numbers: Mapping[str, Array], params: str) -> list[str]:
    faults = []
    for name in (params, "tokens"):
        values = np.sort(numbers[name])
        jump = values[1:] / values[:-1]
        if len(jump) and jump.max() > GAP:
            low, high = values[jump.argmax()], values[jump.argmax() + 1]
            faults.append(
                f"column {name!r} jumps from {low:g} to {high:g}: two units in one column? write plain counts"
            )
    return faults
