"""The report as one HTML file that needs no network, no script and no other file."""

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from scaling.fitting.fitted import Fit
from scaling.record import Ledger
from scaling.record.files import commit_text
from scaling.report import provenance, style, words
from scaling.report.caption import CAPTIONS
from scaling.report.findings import Findings
from scaling.report.table import Line, answers, checks

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # HTML has not, or UTF-8
TITLES = {
    "loss_against_n": "Figure 1. Loss against model size.",
    "loss_against_d": "Figure 2. Loss against data.",
    "ladder_of_sizes": "Figure 1. Loss against model size, all else alike.",
    "ladder_of_horizons": "Figure 2. Loss against data, all else alike.",
    "isoflop": "Figure 3a. Loss at equal compute.",
    "frontier": "Figure 3b. Loss against compute.",
    "allocation": "Figure 3c. The best split of compute.",
    "algorithms": "Figure 4. Algorithms as compute multipliers.",
    "known_entropy": "Figure 5. A floor that is known.",
}
MEANING = {
    "E": "loss that neither size nor data removes, nats",
    "A": "weight of the size term, nats",
    "B": "weight of the data term, nats",
    "alpha": "exponent of the size term",
    "beta": "exponent of the data term",
    "gamma": "change of the data exponent with ln N",
    "Nc": "scale of the size term, parameters",
    "Dc": "scale of the data term, tokens",
    "alpha_n": "exponent of the size term",
    "alpha_d": "exponent of the data term",
}
COLUMNS = (
    ("run_id", "run"), ("group", "group"), ("role", "role"), ("status", "status"), ("n", "N"), ("tokens", "D"),
    ("ratio", "D/N"), ("epochs", "epochs"), ("flops", "C"), ("loss", "loss"), ("loss_se", "± se"),
    ("bits_per_byte", "bits/byte"), ("seed", "seed"), ("d_model", "d_model"), ("n_layers", "layers"),
    ("context", "context"), ("attention", "attention"), ("optimizer", "optimizer"), ("schedule", "schedule"),
    ("peak_lr", "peak lr"), ("batch_tokens", "batch, tokens"), ("steps", "steps"), ("seconds", "seconds"),
    ("reason", "reason"),
)  # fmt: skip
TEXT = ("run_id", "group", "role", "status", "attention", "optimizer", "schedule", "reason")


def write(found: Findings, ledger: Ledger) -> Path:
    """Write figures/*.svg, figures/*.png and report.html into the results folder; returns the page's path."""
    from scaling.report import figure, plots

    drawn = plots.draw(found, ledger.folder / "figures")
    parts = [
        _head(found, ledger),
        _warnings(found),
        _figures(drawn, {name: CAPTIONS[name](found) for name in drawn}),
        _law(found),
        _laws(found),
        _forecasts(found),
        _runs(found, ledger),
        f"<h2>Methods</h2>\n{_list(provenance.methods(found))}",
        _provenance(found, ledger),
    ]
    title = escape(f"{found.study['name']}: {found.study['question']}")
    path = ledger.folder / "report.html"
    html = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{style.sheet(figure.COLOURS)}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )
    commit_text(path, NO_TEXT.sub("\ufffd", html))
    return path


def _head(found: Findings, ledger: Ledger) -> str:
    level = words.percent(found.level)
    return (
        f'<header>\n<p class="name"><b>{escape(found.study["name"])}</b> · '
        f"{escape(provenance.summary(found, ledger))}</p>\n"
        f"<h1>{escape(found.study['question'])}</h1>\n</header>\n{_lines(answers(found))}\n"
        f'<p class="soft">Brackets hold {level} intervals, losses are in nats per token.</p>\n'
        f"<h2>How far to trust it</h2>\n{_lines(checks(found))}"
    )


def _lines(lines: Sequence[Line]) -> str:
    rows = [
        f"<dt>{escape(line.label)}</dt><dd{'' if line.known else ' class=unknown'}>{_prose(line.text)}</dd>"
        for line in lines
    ]
    return '<dl class="answers">\n' + "\n".join(rows) + "\n</dl>"


def _warnings(found: Findings) -> str:
    said = [*found.warnings]
    for fit in found.fits.values():
        said += [f"{fit.name} law: {warning}" for warning in fit.warnings]
    if found.floor is not None:
        said += [f"known entropy: {warning}" for warning in found.floor.fit.warnings]
    if found.isoflop is not None:
        said += [f"approach 2: {warning}" for warning in found.isoflop.warnings]
    for comparison in found.comparisons:
        said += [f"{comparison.algorithm}: {warning}" for warning in comparison.warnings]
    for one in found.registered:
        said += [f"forecast: {warning}" for warning in one.forecast.warnings]
    distinct = dict.fromkeys(said)
    if not distinct:
        return ""
    return f"<details><summary>{words.several(len(distinct), 'warning')}</summary>\n{_list(distinct)}\n</details>"


def _list(items: Iterable[str]) -> str:
    return '<ul class="note">\n' + "\n".join(f"<li>{_prose(item)}</li>" for item in items) + "\n</ul>"


def _prose(text: str) -> str:
    """A sentence, escaped, its numbers set in type: minus signs, powers of ten, no line break inside an interval."""
    text = re.sub(r"(?<![\w.)\]])-(?=\d)", "−", text)
    text = re.sub(r"\bx(?=\d)", "×", text)
    text = re.sub(r"\b(\d(?:\.\d+)?)e([+-]\d+)\b", lambda m: f"{m[1]}×{words.power(float(f'1e{m[2]}'))}", text)
    text = re.sub(r"(?:\w+ = )?[^\s<>]+(?: nats)? \[[−\d.][^\[\]<>]*\]", r"<span>\g<0></span>", escape(text))
    return re.sub(r"\^([-−]?(?:[\w.]*\w|\((?:[^()]|\([^()]*\))*\)))", r"<sup>\1</sup>", text)


def _figures(drawn: dict[str, str], captions: dict[str, str]) -> str:
    panels = [
        f'<figure id="{name}">\n{_labelled(svg, TITLES[name])}\n'
        f"<figcaption><b>{escape(TITLES[name])}</b> {_prose(captions[name])}</figcaption>\n</figure>"
        for name, svg in drawn.items()
    ]
    return '<h2>Figures</h2>\n<div class="panels">\n' + "\n".join(panels) + "\n</div>" if panels else ""


def _labelled(svg: str, title: str) -> str:
    """The figure under one name for a screen reader."""
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _law(found: Findings) -> str:
    fit = found.headline
    if fit is None:
        silent = [*found.fits.values()]
        return "<h2>The fitted law</h2>\n" + _list(map(words.unknown, silent)) + _partial(silent) if silent else ""
    rows = [
        [words.symbol(name), words.parameter(fit, name, item), MEANING.get(name, "")]
        for name, item in fit.estimates().items()
    ]
    left = ", ".join(f"{count} × {reason}" for reason, count in fit.dropped.items())
    return (
        f'<h2>The fitted law</h2>\n<p class="formula">{_formula(fit.name)}</p>\n'
        f'<p class="soft">{escape(fit.name)}: {escape(fit.status.replace("_", " "))}, '
        f"{words.several(fit.runs, 'run')}{escape(f' (rows of the table left out: {left})') if left else ''}; "
        f"a run scatters by {fit.scale:.2%} about it.</p>\n"
        + _table(("parameter", f"value and {words.percent(fit.level)} interval", "meaning"), rows)
    )


def _partial(fits: Sequence[Fit]) -> str:
    known = [f"{fit.name}: {words.parameters(fit)}" for fit in fits if fit.partial]
    return f"<p>What they do tell:</p>\n{_list(known)}" if known else ""


def _formula(law: str) -> str:
    """The law's formula with its powers raised and its indices lowered."""
    return re.sub(r"_(\w+)", r"<sub>\1</sub>", _prose(words.formula(law)).replace("<sup>-", "<sup>−"))


def _laws(found: Findings) -> str:
    """Every law side by side: where they differ, no single interval tells how uncertain the answer is."""
    if not found.fits:
        return ""
    rows, chosen = [], found.headline
    for fit in found.fits.values():
        held = fit.holdout or {}
        exponents = fit.optimum_intervals(fit.flops_max) if fit.law else {}
        tested = f"{held['error']:.2%} (line: {held['baseline']:.2%})" if held else "untested"
        rows.append(
            [fit.name, fit.status.replace("_", " "), f"{fit.scale:.2%}" if fit.law else "-", tested if fit.law else "-"]
            + [words.interval(exponents[name]) if exponents else "-" for name in ("exponent_n", "exponent_d")]
        )
    if found.isoflop is not None:
        both = (found.isoflop.exponent_n, found.isoflop.exponent_d)
        rows.append(["approach 2", "-", "-", "-", *(words.interval(item) if item else "-" for item in both)])
    details = [
        f"{fit.name}, {words.formula(fit.name)}: {words.parameters(fit) if fit.law else words.unknown(fit)}"
        for fit in found.fits.values()
    ]
    header = ("law", "status", "scatter", "error on the largest runs, left out", "exponent of N*", "exponent of D*")
    return (
        "<h2>What the other laws say</h2>\n"
        '<p class="soft">Laws that fit alike may extrapolate apart; their spread is part of the uncertainty. '
        "In brackets: what a straight line through two points of the frontier would have been off.</p>\n"
        + _table(header, rows, chosen=None if chosen is None else chosen.name)
        + f"\n<details><summary>Parameters of every law</summary>\n{_list(details)}\n</details>"
    )


def _forecasts(found: Findings) -> str:
    parts = []
    for one in found.registered:
        said, rows = one.forecast, []
        for p in said.predictions:
            missed = words.error(one.score.errors[p.law]) if one.score else "-"
            rows.append([p.law, f"{p.loss:.4f}", f"[{p.low:.4f}, {p.high:.4f}]", missed])
        measured = "is not finished"
        if one.score is not None:
            known = one.measured_se is not None and math.isfinite(one.measured_se)
            inside = "inside" if one.score.inside else "outside"
            measured = f"measured {one.score.measured:.4f}{f' ± {one.measured_se:.4f}' if known else ''}, {inside} it"
        header = ("law", "forecast", f"{words.percent(said.level)} interval", "against measured")
        parts.append(
            f"<p>Run <code>{escape(one.run_id)}</code>, N = {words.short(said.n)}, D = {words.short(said.d)}, "
            f"{said.extrapolation:.2g} times the largest fitted compute. The forecast takes its number from the "
            f"{escape(said.headline)} law and its interval from all: "
            f"{words.of_loss(said.loss, said.low, said.high)}; the run {measured}.</p>\n"
            + _table(header, rows, chosen=said.headline)
        )
    if not parts:
        return ""
    return "<h2>Forecast against measured</h2>\n" + "\n".join(parts)


def _runs(found: Findings, ledger: Ledger) -> str:
    seconds = {record.run.id: record.clock.train for record in ledger if record.clock is not None}
    params = found.observations.params if found.observations is not None else "n_params"
    rows, lost = [], []
    for row in found.table.to_dict("records"):
        cells = {key: str(row.get(key, "")) for key, _ in COLUMNS}
        n, d = _float(row[params]), _float(row["tokens"])
        cells |= {
            "n": words.short(n), "tokens": words.short(d), "ratio": f"{d / n:.{0 if d >= 100 * n else 1}f}",
            "flops": words.power(_float(row["flops"])), "epochs": _rounded(row["epochs"], ".2g"),
            "loss": _rounded(row["loss"], ".4f"), "loss_se": _rounded(row["loss_se"], ".4f"),
            "bits_per_byte": _rounded(row["bits_per_byte"], ".4f"), "peak_lr": _rounded(row["peak_lr"], ".3g"),
            "seconds": _rounded(seconds.get(row["run_id"], ""), ".1f"),
        }  # fmt: skip
        rows.append([cells[key] for key, _ in COLUMNS])
        lost.append(row["status"] != "finished")
    numbers = [i for i, (key, _) in enumerate(COLUMNS) if key not in TEXT]
    failed = f", {sum(lost)} of them without a result: the last column says why" if any(lost) else ""
    return (
        f'<h2>Runs</h2>\n<p class="soft">{words.several(len(rows), "evaluated run")}{failed}. '
        "The same with every column is in <code>runs.csv</code>.</p>\n"
        + _table([label for _, label in COLUMNS], rows, numbers=numbers, lost=lost, kind="runs")
    )


def _float(cell: str) -> float:
    return float(cell) if cell else math.nan


def _rounded(cell: object, digits: str) -> str:
    return "" if cell in ("", None) else format(float(str(cell)), digits)


def _provenance(found: Findings, ledger: Ledger) -> str:
    rows = provenance.rows(ledger)
    table = _table(("", ""), rows, wide=1) if rows else '<p class="soft">The folder holds no records of runs.</p>'
    return (
        f"<h2>Provenance</h2>\n{table}\n<h2>To repeat it</h2>\n"
        f"<pre><code>{escape(provenance.command(found))}</code></pre>\n"
        '<p class="soft">In a checkout at the commit above. Recorded runs are not trained again, missing ones are.</p>'
    )


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    lost: Sequence[bool] = (),
    chosen: str | None = None,
    wide: int | None = None,
    kind: str = "",
) -> str:
    """An HTML table of text cells, all escaped; `chosen` is the first cell of the row to set off."""

    def kinds(i: int) -> str:
        return ' class="number"' if i in numbers else ' class="wide"' if i == wide else ""

    lines = []
    for at, row in enumerate(rows):
        mark = ' class="lost"' if lost and lost[at] else ' class="chosen"' if chosen == row[0] else ""
        cells = "".join(f"<td{kinds(i)}>{escape(cell)}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr{mark}>{cells}</tr>")
    head = "".join(f"<th{kinds(i)}>{escape(cell)}</th>" for i, cell in enumerate(header))
    top = f"<thead><tr>{head}</tr></thead>\n" if any(header) else ""
    return f'<div class="scroll"><table class="{kind}">\n{top}<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
