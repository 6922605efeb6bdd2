"""Files of runs, ours or anybody's, as a table of text cells: nothing is read into a number before it is checked.

CSV, JSON lines (nested objects get dotted names, as an export of W&B has them), Parquet, or a results folder, which
stands for its runs.csv. A file is untrusted: sizes are limited before it is read, and no cell is ever evaluated.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

MOST_LINES = 20  # faults of rows that are printed one by one
MOST_NAMES = 40  # column names that a message lists
MOST_BYTES = 2**26  # of a file: a table of runs has one line for each run
LONGEST_LINE = 2**20  # bytes
MOST_CELLS = 2_000_000  # of a table: the size on disk says little about a Parquet file
CONSTANTS = {"ln2": math.log(2)}  # 1 bit = ln 2 nats

# An apostrophe before what a spreadsheet would run, in full width too, or before white space that it would drop.
MARKED = re.compile("'([\\t\\r\\n]|[ \\t\\r\\n']*[=+@\uff1d\uff0b\uff0d\uff20-])")

Lines = list[tuple[int, list[str]]]  # line number, cells


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> pandas.DataFrame:
    """The runs of a file as text cells, indexed by the line of the file (by row for Parquet).

    `columns` adds columns under our names: {"tokens": "D"} a copy, {"n_params": "params_M*1e6"} a product of a column
    with numbers, `ln2` or further columns. A column that already has the name is replaced; products are of the file's
    own columns.

    Raises `Refusal` for a file that is missing, empty, too large, not UTF-8 text, not separated by commas, ragged or
    without runs, for a name that appears twice, and for a product of something that is not there.
    """
    import pandas

    path = _file(Path(path) if isinstance(path, str) else path)
    read = OTHERS.get(path.suffix.lower(), _csv)
    header, lines = read(path)
    if not lines:
        raise Refusal(f"{path}: has {'a header line and no' if header else 'no'} runs")
    label = "row" if read is _parquet else "line"
    index = pandas.Index([number for number, _ in lines], name=label)
    cells = dict(zip(header, (list(column) for column in zip(*(row for _, row in lines), strict=True)), strict=True))
    return pandas.DataFrame(cells | _products(cells, columns or {}), index=index, dtype=str)


def text_of(cell: Any) -> str:
    """A cell as text; empty where it holds nothing."""
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell).strip()


def plain(cell: str) -> str:
    """A cell of a CSV as it was before a mark made it text for a spreadsheet, which would run it as a formula."""
    return cell[1:] if MARKED.match(cell) else cell


def number_of(text: str) -> float:
    """A plain decimal number. Raises `ValueError` for anything else, 1_000 and 1,000 included."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def is_number(text: str) -> bool:
    try:
        number_of(text)
    except ValueError:
        return False
    return True


def printable(text: str) -> str:
    """Text of a file for a terminal or a page: no control characters, no more than a reader takes in."""
    return text if text.isprintable() and len(text) <= 80 else ascii(text[:80])


def names_of(names: Sequence[Any]) -> str:
    """Column names for a message; there may be thousands."""
    shown = [printable(str(name)) for name in names]
    more = [f"and {len(shown) - MOST_NAMES} more"] if len(shown) > MOST_NAMES else []
    return ", ".join(shown[:MOST_NAMES] + more)


def first(faults: list[str]) -> list[str]:
    """As many faults as a reader takes in, and how many more there are."""
    more = [f"and {len(faults) - MOST_LINES} more faults of this kind"] if len(faults) > MOST_LINES else []
    return faults[:MOST_LINES] + more


def _file(path: Path) -> Path:
    if path.is_dir():
        inside = sorted(
            child.name for child in path.glob("*") if child.suffix.lower() in (".csv", ".jsonl", ".parquet")
        )
        if "runs.csv" not in inside:
            found = f"it holds {names_of(inside)}: give one of them" if inside else "give a table"
            raise Refusal(f"{path}: has no runs.csv, so it is no results folder of `scaling run`; {found}")
        path = path / "runs.csv"
    if not path.is_file():
        raise Refusal(f"{path}: there is no such file")
    if path.suffix.lower() == ".json":
        raise Refusal(f"{path}: write it as JSON lines, one object for each run, in a file named *.jsonl")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise Refusal(f"{path}: has {size / 2**20:.0f} MiB, {MOST_BYTES / 2**20:.0f} are the most: keep one line a run")
    if not size:
        raise Refusal(f"{path}: is empty; it needs a header line and one line for each run")
    return path


def _too_many(path: Path) -> str:
    return f"{path}: has more than {MOST_CELLS:,} cells: keep one line a run and the columns that are needed"


def _text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without its byte-order mark; a line too long is refused before it is in memory."""
    with path.open("rb") as file:
        for number in range(1, MOST_BYTES):
            line = file.readline(LONGEST_LINE + 1)
            if len(line) > LONGEST_LINE:
                raise Refusal(f"{path}: line {number} is longer than {LONGEST_LINE} bytes: is it a table of runs?")
            if not line:
                return
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise Refusal(f"{path}: line {number}: is not UTF-8 text; save it in UTF-8") from None


def _csv(path: Path) -> tuple[list[str], Lines]:
    reader = csv.reader(_text_lines(path), strict=True)
    lines: Lines = []
    number = 1  # of the line that a row starts on
    width = 0
    try:
        for row in reader:
            cells = [plain(cell.strip()) for cell in row]
            if any(cells):
                lines.append((number, cells))
                width = max(width, len(cells))  # short rows are filled up to it
            if width * len(lines) > MOST_CELLS:
                raise Refusal(_too_many(path))
            number = reader.line_num + 1
    except csv.Error as error:
        raise Refusal(f"{path}: line {number}: is not a CSV: {error}") from None
    if not lines:
        raise Refusal(f"{path}: is empty; it needs a header line and one line for each run")
    (_, header), *lines = lines
    mark = next((mark for mark in ";\t|" if mark in header[0]), None)
    if len(header) == 1 and mark:
        raise Refusal(
            f"{path}: its columns are separated by {mark!r}; save it with commas, and with points in decimals"
        )
    faults = [
        f"{path}: column {name!r} appears twice"
        for name in sorted(name for name, count in Counter(header).items() if name and count > 1)
    ]
    faults += [
        f"{path}: line {number}: {len(row)} cells under {len(header)} names; a comma inside a number or a text?"
        for number, row in lines
        if len(row) > len(header)
    ]
    if faults:
        raise Refusal(first(faults))
    kept = [i for i, name in enumerate(header) if name]  # pandas writes its index under an empty name
    names = [header[i] for i in kept]
    return names, [(number, [row[i] if i < len(row) else "" for i in kept]) for number, row in lines]


def _json_lines(path: Path) -> tuple[list[str], Lines]:
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[str] = []
    for number, line in enumerate(_text_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_once)
            if not isinstance(value, dict):
                raise ValueError("must be an object {column: value, ...}")
            rows.append((number, _once(list(_flat(value)))))
        except (ValueError, RecursionError) as error:
            faults.append(f"{path}: line {number}: is not a run in JSON: {str(error)[:100]}")
    if faults:
        raise Refusal(first(faults))
    header = list(dict.fromkeys(name for _, row in rows for name in row))
    if len(header) * len(rows) > MOST_CELLS:
        raise Refusal(_too_many(path))
    return header, [(number, [row.get(name, "") for name in header]) for number, row in rows]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice")
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Cells under dotted names; lists are no cells."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        elif not isinstance(item, list):
            yield f"{prefix}{name}", "" if item is None else str(item).strip()


def _parquet(path: Path) -> tuple[list[str], Lines]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Refusal(f"{path}: Parquet needs pyarrow: pip install -e '.[tables]', or save it as a CSV") from None
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            if sum(group.column(i).num_values for group in groups for i in range(group.num_columns)) > MOST_CELLS:
                raise Refusal(_too_many(path))
            rows = file.read().to_pylist()
    except Refusal:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Refusal(f"{path}: is not a Parquet file: {str(error).splitlines()[0][:100]}") from None
    flat = [dict(_flat(row)) for row in rows]
    header = list(dict.fromkeys(name for row in flat for name in row))
    return header, [(number, [row.get(name, "") for name in header]) for number, row in enumerate(flat, 1)]


OTHERS = {".jsonl": _json_lines, ".parquet": _parquet}  # by suffix; anything else is a CSV


def _products(cells: Mapping[str, list[str]], columns: Mapping[str, str]) -> dict[str, list[str]]:
    """Each of our columns from the file's own: a column, times numbers, `ln2` or columns."""
    found, faults = {}, []
    for ours, theirs in columns.items():
        # A name that holds an asterisk is a name.
        terms = [theirs] if theirs in cells else [term.strip() for term in theirs.split("*")]
        factor, named = 1.0, []
        for i, term in enumerate(terms):
            if term in cells:
                named.append(cells[term])
            elif i and term in CONSTANTS:
                factor *= CONSTANTS[term]
            elif i and is_number(term) and 0 < number_of(term) < math.inf:
                factor *= number_of(term)
            else:
                is_not = "there is no column" if not i else "there is no number above zero, ln2 or column"
                faults.append(f"--columns {ours}={theirs}: {is_not} {term!r}; there are {names_of(list(cells))}")
        if not faults:
            plain = len(terms) == 1
            found[ours] = named[0] if plain else [_product(row, factor) for row in zip(*named, strict=True)]
    if faults:
        raise Refusal(first(faults))
    return found


def _product(cells: Sequence[str], factor: float) -> str:
    """The product as text that reads back to the same number; a cell that is no number stands as it is."""
    for cell in cells:
        if not is_number(cell):
            return cell
        factor *= number_of(cell)
    return repr(factor)
