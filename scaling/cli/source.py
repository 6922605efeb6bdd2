"""The table that a command fits: its options, and how they make `Observations`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaling.fitting.observe import Observations, load_runs, read_table
from scaling.fitting.rows import matching
from scaling.fitting.table import names_of
from scaling.record.files import folder_of
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

CONVENTIONS = ("n_params", "n_params_kaplan", "n_params_total")  # our counts, see `scaling.cost`


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", metavar="TABLE|DIR",
        help="runs as CSV, JSON lines (.jsonl) or Parquet (.parquet) with columns tokens, loss and one that counts "
        "parameters, or a results folder",
    )  # fmt: skip
    parser.add_argument(
        "--params", metavar="COLUMN",
        help="the column that counts parameters; no default, for the choice moves the exponents (arXiv:2406.19146). "
        "Ours are n_params (non-embedding and head), n_params_kaplan, n_params_total; `fit` takes all of them as all",
    )  # fmt: skip
    parser.add_argument(
        "--columns", action="append", default=[], metavar="OURS=THEIRS,...",
        help="names and units that differ: OURS=COLUMN, or a product OURS=COLUMN*FACTOR with numbers, ln2 or columns, "
        "e.g. n_params=params_M*1e6,tokens=steps*batch_tokens,loss=bits*ln2; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION",
        help="only rows with COLUMN OP VALUE, OP one of = != < <= > >=, e.g. --where 'n_params>=1e6'; numbers compare "
        "as numbers, anything else as text; repeated, all must hold",
    )  # fmt: skip
    parser.add_argument(
        "--group", metavar="NAME", help="only the runs of this group (default: those with the role fitted)"
    )
    parser.add_argument(
        "--drop-bad", action="store_true", help="leave bad rows out and count them; without it they are refused by line"
    )


def read(
    arguments: argparse.Namespace,
    law: str = "chinchilla",
    *,
    params: str | None = None,
    x: str | None = None,
    extra: Sequence[str] = (),
) -> Observations:
    """The runs that `arguments` name, for a law of `LAWS`; `all` stands for the laws of N and D.

    `params` takes the place of `--params`, as for each of `conventions`; `x` is the variable of a law of any one
    variable. Raises `Refusal` as `load_runs` does.
    """
    params = params or arguments.params
    if params == "all":
        raise Refusal("--params all: is for `scaling fit`; name one column here")
    return load_runs(
        folder_of(arguments.table),
        params=params,
        law=law,
        x=x,
        columns=columns_of(arguments.columns),
        extra=extra,
        where=arguments.where,
        group=arguments.group,
        drop_bad=arguments.drop_bad,
    )


def conventions(arguments: argparse.Namespace) -> tuple[str | None, ...]:
    """The columns that `--params` stands for: itself, or for `all` those of our counts that the table has."""
    if arguments.params != "all":
        return (arguments.params,)
    names = list(frame(arguments).columns)
    found = tuple(name for name in CONVENTIONS if name in names)
    if not found:
        raise Refusal(f"--params all: needs a column of {', '.join(CONVENTIONS)}; there are {names_of(names)}")
    return found


def frame(arguments: argparse.Namespace) -> "pandas.DataFrame":
    """The table itself, its columns renamed and converted, with the rows that `--where` asks for."""
    return matching(read_table(folder_of(arguments.table), columns_of(arguments.columns)), arguments.where)


def columns_of(texts: Sequence[str]) -> dict[str, str]:
    """{ours: theirs} of `--columns`. Raises `Refusal` for what is not OURS=THEIRS and for a name given twice."""
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    pairs = [tuple(word.strip() for word in part.split("=", 1)) for part in parts]
    faults = [
        f"--columns {part}: must be OURS=THEIRS, e.g. tokens=D"
        for part, pair in zip(parts, pairs, strict=True)
        if len(pair) != 2 or not all(pair)
    ]
    ours = [pair[0] for pair in pairs]
    faults += [f"--columns {name}: is given twice" for name in sorted({name for name in ours if ours.count(name) > 1})]
    if faults:
        raise Refusal(faults)
    return {ours: theirs for ours, theirs in pairs}
