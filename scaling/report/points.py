"""What a page's script says of a point that a reader points at: facts of the runs, and the marks of the figures."""

from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from scaling.report import markup, words
from scaling.report.findings import Findings

if TYPE_CHECKING:
    from scaling.report.marks import Mark
    from scaling.report.plots import Drawn

FACTS = ("group", "N", "D", "C", "loss", "the law says")  # of a run; without an answer a fact is left out


def facts(found: Findings) -> dict[str, Any]:
    """Of every run of the table, once for all figures: {"names": FACTS, "runs": {id: values}}."""
    from scaling.report.marks import said_by  # matplotlib

    law, o = found.headline, found.observations
    said = said_by(law, o) if law is not None and o is not None else {}
    params = o.params if o is not None else "n_params"
    rows = {}
    for row in found.table.to_dict("records"):
        loss = f"{float(row['loss']):.4f}" if row["loss"] else row["status"]
        if row["loss"] and row["loss_se"]:
            loss += f" ± {float(row['loss_se']):.2g}"
        rows[row["run_id"]] = [
            row["group"] if row["role"] == "fitted" else f"{row['group']}, {row['role'].replace('_', ' ')}",
            words.short(float(row[params])), words.short(float(row["tokens"])), words.power(float(row["flops"])), loss,
            said.get(row["run_id"], ""),
        ]  # fmt: skip
    return {"names": [*FACTS[:-1], f"{law.name} law" if law else FACTS[-1]], "runs": rows}


def placed(marks: "Iterable[tuple[float, float, Mark]]", target: Callable[[tuple[str, ...]], str]) -> list[list[Any]]:
    """[x, y, run, link, title, facts] of each mark, left to right: x and y in units of the SVG, the run where there is
    one alone, and where `target` says that its runs are shown."""
    found = [
        [
            round(x, 1), round(y, 1), mark.runs[0] if len(mark.runs) == 1 else "", target(mark.runs), mark.title,
            [list(fact) for fact in mark.facts],
        ]
        for x, y, mark in marks
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one[0], one[1]))


def shown(one: "Drawn", label: str, placed: list[list[Any]], facts: str = "facts") -> str:
    """A figure that can be pointed at; `facts` is the id of the runs' facts."""
    svg = one.svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)  # one name for a screen reader
    return f'<div class="plot" data-facts="{facts}">{svg}</div>\n{markup.data(placed)}'
