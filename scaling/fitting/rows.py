"""Which rows of a table count: filters, and what is wrong with each row.

A `Fault` is of one row: `observe` refuses the table for it by line or, asked to, drops the row and counts it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaling.fitting.laws import Array
from scaling.fitting.table import is_number, names_of, number_of, printable, text_of
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

GAP = 1e3  # two neighbouring values of a column further apart than this are taken for two units
OFF = 3.0  # FLOPs this far from what the other runs' say of 6 N D are taken for another unit or column
# Columns, by the start of their names, that configure no run.
RESULTS = ("loss", "status", "role", "run_id", "trunk", "tuned_loss", "tuning_excess")
TINY, HUGE = 1e3, 1e13  # parameters; outside of these a count is more often in millions than right
NEIGHBOURS = 5  # in N, on either side, that tell what a token should cost

CLAUSE = re.compile(r"(?P<column>[^=!<>]+?)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>[^=!<>]*)")
HOLDS = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one row."""

    row: int  # position in the table
    reason: str  # what a row dropped for it is counted under
    words: str  # for the reader of a refusal, without the line


def matching(table: pandas.DataFrame, where: Sequence[str]) -> pandas.DataFrame:
    """The rows for which every condition holds. Raises `Refusal` for what is no condition or names no column."""
    for _, column, sign, value in _clauses(table, where):
        table = table.loc[np.array([_holds(text_of(cell), sign, value) for cell in table[column]], bool)]
    return table


def choose(
    table: pandas.DataFrame, where: Sequence[str], group: str | None, roles: Collection[str] | None
) -> tuple[pandas.DataFrame, dict[str, int]]:
    """The rows asked for, and how many were left out by reason."""
    dropped: Counter[str] = Counter()

    def keep(kept: Sequence[bool], reasons: Sequence[str]) -> None:
        nonlocal table
        dropped.update(reason for stays, reason in zip(kept, reasons, strict=True) if not stays)
        table = table.loc[np.array(kept, bool)]

    def keep_cells(name: str, wanted: Any) -> None:
        cells = [text_of(cell) for cell in table[name]]
        keep([bool(wanted(cell)) for cell in cells], [f"{name} = {printable(cell)}" for cell in cells])

    for clause, column, sign, value in _clauses(table, where):
        keep([_holds(text_of(cell), sign, value) for cell in table[column]], [f"not {clause}"] * len(table))
    if group is not None:
        if "group" not in table.columns:
            raise Refusal(f"group {group!r}: the table has no column 'group'")
        known = sorted({text_of(cell) for cell in table["group"]})
        if group not in known:
            raise Refusal(f"group {group!r}: the table has no such group; there are {names_of(known)}")
        keep_cells("group", lambda value: value == group)
    if "status" in table.columns:
        keep_cells("status", lambda value: value == "finished")
    if "role" in table.columns:
        if roles is not None:
            keep_cells("role", lambda value: value in roles)
        elif group is not None:
            keep_cells("role", lambda value: value != "held_out")
        else:
            keep_cells("role", lambda value: value == "fitted")
    return table, dict(sorted(dropped.items()))


def _clauses(table: pandas.DataFrame, where: Sequence[str]) -> list[tuple[str, str, str, str]]:
    found, faults = [], []
    for clause in where:
        match = CLAUSE.fullmatch(clause.strip())
        if match is None:
            faults.append(
                f"--where {clause!r}: must be COLUMN OP VALUE with OP one of {' '.join(HOLDS)}, "
                "e.g. --where 'n_params>=1e6'; repeat the flag for a second condition"
            )
        elif match["column"] not in table.columns:
            faults.append(
                f"--where {clause}: there is no column {match['column']!r}; there are {names_of(list(table.columns))}"
            )
        elif (
            match["sign"] not in ("=", "!=")
            and not is_number(match["value"].strip())
            and any(is_number(text_of(cell)) for cell in table[match["column"]])
        ):
            faults.append(f"--where {clause}: {match['value'].strip()!r} is not a number and the column has numbers")
        else:
            found.append((clause.strip(), match["column"], match["sign"], match["value"].strip()))
    if faults:
        raise Refusal(faults)
    return found


def _holds(cell: str, sign: str, value: str) -> bool:
    """As numbers where both are, else as text; a cell that is no number is neither above nor below one."""
    if is_number(cell) and is_number(value):
        return HOLDS[sign](number_of(cell), number_of(value))
    return HOLDS[sign](cell, value) if sign in ("=", "!=") or not is_number(value) else False


def numbers(table: pandas.DataFrame, name: str, sign: Literal["positive", "error", "any"]) -> tuple[Array, list[Fault]]:
    """A column as float64, NaN where a cell is at fault.

    A `positive` cell is a finite number above zero. An `error` may be zero and `any` may be negative; both may be
    empty or nan where they are unknown.
    """
    rule = "must be a finite number" + {"positive": " above zero", "error": ", at least zero", "any": ""}[sign]
    values, faults = np.full(len(table), np.nan), []
    for row, cell in enumerate(table[name]):
        text = text_of(cell)
        if sign != "positive" and text.lower() in ("", "nan"):
            continue
        try:
            value = number_of(text)
        except ValueError:
            if text:
                faults.append(
                    Fault(row=row, reason=f"{name} not a number", words=f"{name} = {text[:60]!r} {_way_out(text)}")
                )
            else:
                faults.append(Fault(row=row, reason=f"{name} empty", words=f"{name} is empty"))
            continue
        if math.isfinite(value) and (value > 0 or sign == "any" or (sign == "error" and value == 0)):
            values[row] = value
        else:
            reason = f"{name} {'not above zero' if math.isfinite(value) else 'not finite'}"
            faults.append(Fault(row=row, reason=reason, words=f"{name} = {text[:60]}: {rule}"))
    return values, faults


def _way_out(text: str) -> str:
    if re.fullmatch(r"[+-]?\d{1,3}([,_' \u00a0]\d{3})+(\.\d*)?", text) and text.count(",") != 1:
        return "has thousands separators; write it without them"
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return "has a comma; write decimals with a point and thousands without a separator"
    if re.match(r"[+-]?[\d.]", text):
        return "is not a number; write it out, as 70e6 for 70M, or give the factor: --columns OURS=COLUMN*1e6"
    return "is not a number"


def repeated_ids(table: pandas.DataFrame, lines: Sequence[str], bad: Collection[int]) -> list[Fault]:
    """A run may count once, rows that are `bad` aside. Of equal rows all but the first are at fault, else all are."""
    if "run_id" not in table.columns:
        return []
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, cell in enumerate(table["run_id"]):
        if text_of(cell) and row not in bad:
            rows[text_of(cell)].append(row)
    faults = []
    for name, same in rows.items():
        if len(same) == 1:
            continue
        copies = len({tuple(text_of(cell) for cell in table.iloc[row]) for row in same}) == 1
        reason = "run_id repeated" if copies else "run_id repeated with other values"
        # Without a copy that may stay, none may: which one comes first is an accident of the file.
        for row in same[1:] if copies else same:
            other = lines[same[0] if row != same[0] else same[1]]
            values = "" if copies else " with other values"
            words = f"run_id {name!r} is also on {other}{values}; a run may count once: --where keeps one of them"
            faults.append(Fault(row=row, reason=reason, words=words))
    return faults


def strange_flops(n: Array, d: Array, flops: Array) -> list[Fault]:
    """Rows, each [R], whose FLOPs C are more than 3x off the table's own multiple of 6 N D.

    That multiple changes smoothly with N where a count leaves embeddings or the head out, so a row is at fault only if
    it is also more than 3x off the rows of its own N, or outside of those of smaller and of larger models.
    """
    known = np.flatnonzero(np.isfinite(n) & np.isfinite(d) & np.isfinite(flops))
    if len(known) < 3:
        return []
    log_n, cost = np.log(n[known]), np.log(flops[known] / d[known])
    ratio = cost - np.log(6) - log_n
    usual = float(np.median(ratio))
    order = np.lexsort((cost, log_n))  # the same neighbours for any order of the rows
    faults = []
    for i in np.flatnonzero(np.abs(ratio - usual) > math.log(OFF)):
        same = np.abs(log_n - log_n[i]) < 1e-9
        smaller = order[(log_n < log_n[i])[order] & ~same[order]][-NEIGHBOURS:]
        larger = order[(log_n > log_n[i])[order] & ~same[order]][:NEIGHBOURS]
        if same.sum() > 2 and abs(ratio[i] - np.median(ratio[same])) > math.log(OFF):
            strange = True
        elif len(smaller) and len(larger):
            sides = np.median(ratio[smaller]), np.median(ratio[larger])
            strange = not min(sides) - math.log(OFF) < ratio[i] < max(sides) + math.log(OFF)
        else:
            # At an end a trend may go on: a token of a smaller model may cost anything up to that of a larger one.
            side = np.append(smaller, larger)
            low, high = ratio[side].min() - math.log(OFF), ratio[side].max() + math.log(OFF)
            strange = bool(
                (ratio[i] > high and (len(smaller) or cost[i] > cost[side].min()))
                or (ratio[i] < low and (len(larger) or cost[i] < cost[side].max()))
            )
        if strange:
            words = (
                f"flops = {flops[known[i]]:g} are {math.exp(ratio[i]):.3g} times 6 N D, the table's are "
                f"{math.exp(usual):.3g} times: a unit or a column is wrong; if not, fit without the column flops"
            )
            faults.append(Fault(row=int(known[i]), reason="flops off 6 N D", words=words))
    return faults


def mixed_units(columns: Mapping[str, Array], lines: list[str]) -> list[str]:
    """A column with values on both sides of an empty factor of 1,000 holds two units; no row tells which is right."""
    faults = []
    for name, column in columns.items():
        order = np.argsort(column, kind="stable")[: int(np.isfinite(column).sum())]  # NaN sorts last
        values = column[order]
        jump = values[1:] / values[:-1]
        if len(jump) and jump.max() > GAP:
            cut = int(jump.argmax()) + 1
            fewer = sorted((order[:cut] if 2 * cut <= len(order) else order[cut:]).tolist())
            shown = ", ".join(lines[row] for row in fewer[:5]) + (", ..." if len(fewer) > 5 else "")
            faults.append(
                f"column {name!r} jumps from {values[cut - 1]:g} to {values[cut]:g}: two units in one column "
                f"({shown})? write plain counts, or keep one side: --where '{name}>={values[cut]:g}'"
            )
    return faults


def unfinished(table: pandas.DataFrame) -> list[str]:
    """An export of W&B says in `State` what our tables say in `status`."""
    for name in ("State", "state"):
        if "status" not in table.columns and name in table.columns:
            states = Counter(text_of(cell) for cell in table[name])
            other = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if state != "finished")
            if other and "finished" in states:
                return [f"column {name!r} has runs that are not finished ({other}): --where {name}=finished"]
    return []


def doubts(
    table: pandas.DataFrame, columns: Mapping[str, Array], params: str | None, response: str, run_id: Sequence[str]
) -> list[str]:
    """What may be wrong with the table as a whole, or may well be right."""
    found = []
    ratio = columns["c"] / (6 * columns["n"] * columns["d"])
    measured = bool(np.isfinite(ratio).any())
    usual = float(np.median(ratio[np.isfinite(ratio)])) if measured else 1.0
    if not 1 / OFF < usual < OFF:
        found.append(
            f"flops are {usual:.3g} times 6 N D: right if {params} leaves much out (embeddings, attention), "
            "else a unit or a column is wrong"
        )
    sizes = columns["n"][np.isfinite(columns["n"])]
    odd = sizes[(sizes < TINY) | (sizes > HUGE)]
    if len(odd) and not (measured and 0.01 < usual < 100):  # FLOPs that agree with N vouch for its unit
        found.append(
            f"{len(odd)} runs have {params} from {odd.min():g} to {odd.max():g}: plain counts? "
            f"else name the unit, as in --columns {params}=COLUMN*1e6 for millions"
        )
    if response != "loss":
        return found
    if "eval_source" in table.columns and len(texts := sorted({text_of(cell) for cell in table["eval_source"]})) > 1:
        found.append(
            f"the losses are of {len(texts)} texts ({names_of(texts)}), which no law compares: keep one, as in "
            f"--where eval_source={printable(texts[0])}"
        )
    told = {tuple(table[name]) for name in ("loss", "run_id") if name in table.columns}  # under whatever name
    known = [name for name in table.columns if not str(name).startswith(RESULTS) and tuple(table[name]) not in told]
    settings = list(zip(*([text_of(cell) for cell in table[name]] for name in known), strict=True))
    seen = Counter(settings)
    again = sorted(name for name, setting in zip(run_id, settings, strict=True) if seen[setting] > 1)
    if again:
        shown = ", ".join(again[:6]) + (f" and {len(again) - 6} more" if len(again) > 6 else "")
        found.append(
            f"{len(again)} runs differ from another in nothing but their result ({shown}): copies count twice; "
            "if they are seeds, say so in a column 'seed'"
        )
    return found
