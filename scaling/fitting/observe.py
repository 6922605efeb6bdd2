"""What a fit sees of a table of runs: float64 columns, checked. The one door from tables to laws.

A table is ours (see `scaling.record`) or anybody's, read by `read_table`: columns for N, `tokens` and `loss`, and where
there are any `flops`, `unique_tokens`, `loss_se`, `run_id`, `group`, `trunk`, `seed`, `role`, `status`, `d_model`. A
law of other variables needs their columns instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaling.fitting import rows
from scaling.fitting.laws import LAWS, Array
from scaling.fitting.rows import Fault
from scaling.fitting.table import first, names_of, printable, read_table, text_of
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

__all__ = ["Observations", "load_runs", "observe", "read_table"]

COLUMN = {"d": "tokens", "c": "flops", "u": "unique_tokens"}  # of a law's variable; n is counted as `params` says


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """R runs in a fixed order (by N, D, seed, run_id), whatever the order of the table.

    A column that no law asked for and the table lacks is NaN.
    """

    n: Array  # [R], parameters, counted as `params` says
    d: Array  # [R], training tokens, repeats included
    flops: Array  # [R], training FLOPs; 6 N D where the table has none
    unique: Array  # [R], different tokens among those of `d`; `d` where the table has none
    loss: Array  # [R], nats per token
    loss_se: Array  # [R], standard error of the evaluation, nats per token; NaN where unknown
    run_id: tuple[str, ...]
    group: tuple[str, ...]
    trunk: tuple[str, ...]  # runs of one trunk share noise; the run's own id where there is none
    seed: tuple[str, ...]
    size: tuple[str, ...]  # the same for runs of one model shape: d_model, or N where that is unknown
    params: str  # the column that n is; empty where no law asked for one
    flops_measured: bool  # False: 6 N D is assumed
    columns: dict[str, Array] = field(default_factory=dict)  # [R] each, further columns by the table's names
    dropped: dict[str, int] = field(default_factory=dict)  # rows of the table left out, by reason
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    def variable(self, name: str) -> Array:
        """[R], a variable of a law: n, d, c (FLOPs), u (unique tokens), loss, or a further column by its name.

        Raises `Refusal` for a column that was not asked for.
        """
        known = {"n": self.n, "d": self.d, "c": self.flops, "u": self.unique, "loss": self.loss} | self.columns
        if name not in known:
            raise Refusal(f"{name!r}: is no column of these runs; there are {names_of(list(known))}")
        return known[name]

    @property
    def cost(self) -> tuple[float, float]:
        """(k, p): FLOPs per token = k N^p, least squares in logarithms over the runs; (6, 1) where 6 N D is assumed."""
        known = np.isfinite(self.n) & np.isfinite(self.d) & np.isfinite(self.flops)
        if not self.flops_measured or not known.any():
            return 6.0, 1.0
        log_n, log_c = np.log(self.n[known]), np.log(self.flops[known] / self.d[known])
        spread = log_n - log_n.mean()
        if np.ptp(log_n) < 1e-6:  # one size, whose logarithms need not equal their mean to the last digit
            return float(np.exp(log_c.mean() - log_n.mean())), 1.0
        p = float(spread @ log_c / (spread @ spread))
        return float(np.exp(log_c.mean() - p * log_n.mean())), p

    def pick(self, rows: Any) -> Observations:
        """The runs at these indices or under this mask."""
        index = np.arange(len(self))[rows]
        arrays: dict[str, Any] = {
            name: getattr(self, name)[index] for name in ("n", "d", "flops", "unique", "loss", "loss_se")
        }
        labels: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in index) for name in ("run_id", "group", "trunk", "seed", "size")
        }
        return Observations(
            **arrays, **labels, params=self.params, flops_measured=self.flops_measured, dropped=self.dropped,
            columns={name: column[index] for name, column in self.columns.items()}, warnings=self.warnings,
        )  # fmt: skip

    def ordered(self) -> Observations:
        """In the order that `observe` gives, for runs picked in another."""
        return self.pick(sorted(range(len(self)), key=self._rank))

    def _rank(self, row: int) -> tuple[Any, ...]:
        """Where a run stands: by all that is known of it, so that equal tables give equal bytes."""
        # Not a number has no place in an order.
        numbers = [-1.0 if value != value else float(value) for value in (self.n[row], self.d[row])]
        further = [self.loss, self.flops, self.unique, self.loss_se, *(self.columns[k] for k in sorted(self.columns))]
        rest = [-1.0 if column[row] != column[row] else float(column[row]) for column in further]
        return (*numbers, self.seed[row], self.run_id[row], *rest, self.group[row], self.trunk[row], self.size[row])


def load_runs(
    path: str | Path,
    *,
    params: str | None = None,
    law: str = "chinchilla",
    x: str | None = None,
    columns: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    where: Sequence[str] = (),
    group: str | None = None,
    drop_bad: bool = False,
) -> Observations:
    """The runs of a CSV, JSON-lines or Parquet file or of a results folder, as `law` needs them.

    `params` names the column that counts parameters; laws of N have no default for it. `x` is the variable of a law
    of any one variable. `columns` is {our name: their name, or a product such as "params_M*1e6"}; `law` may be "all",
    for the laws of N and D. The rest is `observe`'s. Units: tokens in D, FLOPs in C, nats per token in the loss.

    Raises `Refusal` as `read_table` and `observe` do, and for an unknown law.
    """
    needs, response = ("n", "d"), "loss"
    if law != "all":
        if law not in LAWS:
            raise Refusal(f"--law {law}: there is no such law; there are {', '.join(LAWS)}")
        if LAWS[law].variables == ("curve",):
            raise Refusal(f"--law {law}: is of whole training curves and not of end points; `scaling curves` fits it")
        needs, response = LAWS[law].variables, LAWS[law].response
    if "x" in needs and not x:
        raise Refusal(f"--law {law}: is of one variable: say which, as --x n, --x d, --x c or --x COLUMN")
    return observe(
        read_table(path, columns),
        params=params,
        needs=tuple(x if name == "x" and x else name for name in needs),
        response=response,
        extra=extra,
        where=where,
        group=group,
        drop_bad=drop_bad,
    )


def observe(
    table: pandas.DataFrame,
    *,
    params: str | None = None,
    needs: Sequence[str] = ("n", "d"),
    response: str = "loss",
    extra: Sequence[str] = (),
    where: Sequence[str] = (),
    group: str | None = None,
    roles: Collection[str] | None = None,
    size: str = "d_model",
    drop_bad: bool = False,
) -> Observations:
    """The runs of a table that a fit may use, N taken from column `params`.

    `needs` are the variables of the law, `response` what it gives: their cells must be finite numbers above zero.
    `extra` names further columns, of any sign, empty where unknown. Each of `where` is COLUMN OP VALUE with OP one of
    = != < <= > >=, compared as numbers where both are and else as text; all must hold. Only `finished` rows count
    where there is a `status`. Where there is a `role` and no group is asked for, only `fitted` rows do; with a group,
    that group's rows but the held-out ones; `roles` says it outright. `size` names the column that tells model shapes
    apart. Rows left out are counted in `dropped`; with `drop_bad` so are those at fault, by reason.

    Raises `Refusal` with a line for each missing column, or for each bad row by line of the file: a cell that is
    empty, not a number or not above zero, a run id used twice, FLOPs that contradict the other rows' (`rows`); and for
    a column in two units, which no dropping mends.
    """
    if faults := _missing(table, params, needs, response, extra):
        raise Refusal(faults)
    table, dropped = rows.choose(table, where, group, roles)
    warnings = rows.unfinished(table)
    _refuse_empty(table, dropped)
    lines = _lines(table)
    columns, bad = _columns(table, params, needs, response, extra)
    bad += rows.repeated_ids(table, lines, {fault.row for fault in bad})
    at_fault = {fault.row for fault in bad}
    bad += [f for f in rows.strange_flops(columns["n"], columns["d"], columns["c"]) if f.row not in at_fault]
    if bad:
        bad.sort(key=lambda fault: fault.row)
        if not drop_bad:
            raise Refusal(first([f"{lines[fault.row]}: {fault.words}" for fault in bad]))
        reasons = {fault.row: fault.reason for fault in reversed(bad)}  # the first of a row
        dropped = dropped | dict(sorted(Counter(f"bad row: {reason}" for reason in reasons.values()).items()))
        kept = np.array([row not in reasons for row in range(len(table))], bool)
        table, columns = table.loc[kept], {name: column[kept] for name, column in columns.items()}
        _refuse_empty(table, dropped)
        lines = _lines(table)
    counts = {
        {"n": params or "", **COLUMN}[name]: columns[name]
        for name in ("n", "d", "u")
        if np.isfinite(columns[name]).all()
    }
    if faults := rows.mixed_units({name: column for name, column in counts.items() if name in table.columns}, lines):
        raise Refusal(faults)
    return _assembled(table, columns, params, needs, response, extra, size, dropped, warnings)


def _lines(table: pandas.DataFrame) -> list[str]:
    label = "line" if table.index.name == "line" else "row"
    return [f"{label} {index}" for index in table.index]


def _refuse_empty(table: pandas.DataFrame, dropped: dict[str, int]) -> None:
    if not len(table):
        why = "".join(f"; {count} left out: {reason}" for reason, count in dropped.items())
        raise Refusal(f"the table has no runs to fit{why}")


def _missing(
    table: pandas.DataFrame, params: str | None, needs: Sequence[str], response: str, extra: Sequence[str]
) -> list[str]:
    """A line for each column that the law cannot do without and the table does not have."""
    if "n" in needs and params is None:
        return [
            "--params COLUMN: say which column counts parameters; there is no default, for the choice moves the "
            "exponents (arXiv:2406.19146)"
        ]
    wanted = []
    for name in (*needs, response, *extra):
        if name == "n":
            wanted.append(params)
        elif name == "c" and "flops" not in table.columns and params in table.columns and "tokens" in table.columns:
            continue  # 6 N D stands for them
        elif name == "u" and "unique_tokens" not in table.columns:
            wanted.append("tokens")
        else:
            wanted.append(COLUMN.get(name, name))
    return [
        f"column {name!r} is missing; there are {names_of(list(table.columns))}; "
        f"if it has another name: --columns {name}=THEIR_NAME"
        for name in dict.fromkeys(wanted)
        if name not in table.columns
    ]


def _columns(
    table: pandas.DataFrame, params: str | None, needs: Sequence[str], response: str, extra: Sequence[str]
) -> tuple[dict[str, Array], list[Fault]]:
    """The variables n, d, c, u, loss, loss_se and further columns, and what is wrong with those that are needed."""
    found: dict[str, Array] = {}
    bad: list[Fault] = []

    def read(name: str, needed: bool, sign: Literal["positive", "error", "any"] = "positive") -> Array:
        if name not in table.columns:
            return np.full(len(table), np.nan)
        values, faults = rows.numbers(table, name, sign)
        bad.extend(faults if needed else ())
        return values

    by_product = "c" in needs and "flops" not in table.columns
    found["n"] = read(params or "", "n" in needs or by_product)
    found["d"] = read("tokens", "d" in needs or by_product or ("u" in needs and "unique_tokens" not in table.columns))
    surface = "n" in needs and "d" in needs
    has_flops = "flops" in table.columns and any(text_of(cell) for cell in table["flops"])
    found["c"] = read("flops", "c" in needs or surface) if has_flops or "c" in needs else np.full(len(table), np.nan)
    found["u"] = read("unique_tokens", "u" in needs)
    found["loss"] = read("loss", "loss" in (*needs, response))
    found["loss_se"] = read("loss_se", "loss" in (*needs, response), "error")
    for name in (*needs, response):
        if name not in ("n", "d", "c", "u", "loss") and name not in found:
            found[name] = read(name, True)
    for name in extra:
        if name not in found:
            found[name] = read(name, True, "any")
    return found, bad


def _assembled(
    table: pandas.DataFrame, columns: dict[str, Array], params: str | None, needs: Sequence[str], response: str,
    extra: Sequence[str], size: str, dropped: dict[str, int], warnings: list[str],
) -> Observations:  # fmt: skip
    n, d, loss = columns["n"], columns["d"], columns["loss"]
    product = 6 * n * d
    flops_measured = bool(np.isfinite(columns["c"]).any())
    flops = columns["c"] if flops_measured else product
    run_id = _named(table, {name: columns[name] for name in needs if name in columns} | {response: columns[response]})
    further = {name: columns[name] for name in (*needs, response, *extra) if name not in ("n", "d", "c", "u", "loss")}
    labels = {
        "group": _labels(table, "group", [""] * len(n)),
        "trunk": _labels(table, "trunk", run_id),
        "seed": _labels(table, "seed", [""] * len(n)),
        "size": _labels(table, size, ["" if value != value else f"{value:.12g}" for value in n]),
    }
    observations = Observations(
        n=n, d=d, flops=flops, unique=np.where(np.isfinite(columns["u"]), np.minimum(columns["u"], d), d), loss=loss,
        loss_se=columns["loss_se"], run_id=tuple(run_id), **{name: tuple(label) for name, label in labels.items()},
        params=params if params in table.columns and params else "", flops_measured=flops_measured, columns=further,
        dropped=dropped, warnings=(*warnings, *rows.doubts(table, columns, params, response, run_id)),
    )  # fmt: skip
    return observations.ordered()


def _named(table: pandas.DataFrame, values: dict[str, Array]) -> list[str]:
    """The runs' ids; a run without one is called after its values, which no order of the rows changes."""
    plain = [",".join(f"{name}={column[row]:.6g}" for name, column in values.items()) for row in range(len(table))]
    names = _labels(table, "run_id", plain)
    taken: Counter[str] = Counter()
    # Runs of one name differ in the order of all their cells, in which equal rows are the same either way round.
    cells = [tuple(text_of(cell) for cell in line) for line in table.itertuples(index=False)]
    for row in sorted(range(len(names)), key=lambda row: (names[row], cells[row])):
        taken[names[row]] += 1
        if taken[names[row]] > 1:
            names[row] += f" ({taken[names[row]]})"
    return names


def _labels(table: pandas.DataFrame, name: str, otherwise: list[str]) -> list[str]:
    if name not in table.columns:
        return list(otherwise)
    return [printable(text_of(cell)) or other for cell, other in zip(table[name], otherwise, strict=True)]
