"""The report of a study as one HTML file that needs no network and no other file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.fitting.fitted import Fit
from scaling.fitting.forecast import MEAN
from scaling.record import Ledger
from scaling.record.files import commit_text
from scaling.report import markup, points, provenance, tables, whatif, words
from scaling.report.caption import CAPTIONS
from scaling.report.checklist import checklist
from scaling.report.findings import Findings
from scaling.report.markup import Behind, heading, listed, prose, table
from scaling.report.table import Line, answers, checks

if TYPE_CHECKING:
    from scaling.report.plots import Drawn

SCRIPTS = ("words.js", "repeat.js", "panel.js", "page.js")

TITLES = {
    "loss_against_n": "Figure 1. Loss against model size.",
    "loss_against_d": "Figure 2. Loss against data.",
    "ladder_of_sizes": "Figure 1. Loss against model size, all else alike.",
    "ladder_of_horizons": "Figure 2. Loss against data, all else alike.",
    "other_data": "Figure 2b. What a token of other data is worth.",
    "repeated": "Figure 2c. Repeated tokens.",
    "isoflop": "Figure 3a. Loss at equal compute.",
    "frontier": "Figure 3b. Loss against compute.",
    "allocation": "Figure 3c. The best split of compute.",
    "exponents": "Figure 3d. What moves the best split.",
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
    """Write figures/*.svg and .png, cost.json and report.html into the results folder; returns the page's path."""
    from scaling.report import plots

    drawn, behind = plots.draw(found, ledger.folder / "figures"), Behind()
    provenance.keep_cost(found, ledger)
    body = [
        _head(found, ledger, behind),
        _warnings(found),
        _figures(drawn, {name: CAPTIONS[name](found) for name in drawn}, behind),
        whatif.section(found, ledger),
        _law(found),
        _laws(found),
        tables.frontier(found),
        tables.variations(found, behind),
        _forecasts(found, behind),
        _runs(found, ledger, behind),
        _checklist(found, ledger, behind),
        f"{heading('Methods')}\n{listed(provenance.methods(found))}",
        _provenance(found, ledger),
        markup.data(points.facts(found), "facts"),
    ]
    body.insert(0, markup.contents(body))
    path = ledger.folder / "report.html"
    title = f"{found.study['name']}: {found.study['question']}"
    commit_text(path, markup.document(title, body, markup.script(*SCRIPTS)))
    return path


def _head(found: Findings, ledger: Ledger, behind: Behind) -> str:
    level = words.percent(found.level)
    return (
        f'<header>\n<p class="name"><b>{escape(found.study["name"])}</b> · '
        f"{escape(provenance.summary(found, ledger))}</p>\n"
        f"<h1>{escape(found.study['question'])}</h1>\n</header>\n{_lines(answers(found), behind)}\n"
        f'<p class="soft">Brackets hold {level} intervals, losses are in nats per token.</p>\n'
        f"{heading('How far to trust it')}\n{_lines(checks(found), behind)}"
    )


def _lines(lines: Sequence[Line], behind: Behind) -> str:
    return markup.answers(
        (
            line.label,
            f"<dd{'' if line.known else ' class=unknown'}>{prose(line.text)}{behind.link(line.runs, line.label)}</dd>",
        )
        for line in lines
    )


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
    return f"<details><summary>{words.several(len(distinct), 'warning')}</summary>\n{listed(distinct)}\n</details>"


def _figures(drawn: "Mapping[str, Drawn]", captions: Mapping[str, str], behind: Behind) -> str:
    def target(runs: tuple[str, ...]) -> str:
        at = behind.target(runs)
        return f"#{at}" if at else ""

    panels = [
        f'<figure id="{name}">\n{points.shown(one, TITLES[name], points.placed(one.marks, target))}\n'
        f"<figcaption><b>{escape(TITLES[name])}</b> {prose(captions[name])}</figcaption>\n</figure>"
        for name, one in drawn.items()
    ]
    if not panels:
        return ""
    return (
        f"{heading('Figures')}\n"
        '<p class="soft">Point at what is drawn, or reach it by Tab and the arrow keys, for its values and its runs. '
        "As files: <code>figures/</code>, SVG and PNG.</p>\n"
        '<div class="panels">\n' + "\n".join(panels) + "\n</div>"
    )


def _law(found: Findings) -> str:
    fit = found.headline
    if fit is None:
        silent = [*found.fits.values()]
        return (
            f"{heading('The fitted law')}\n" + listed(map(words.unknown, silent)) + _partial(silent) if silent else ""
        )
    rows = [
        [words.symbol(name), words.parameter(fit, name, item), MEANING.get(name, "")]
        for name, item in fit.estimates().items()
    ]
    left = ", ".join(f"{count} × {reason}" for reason, count in fit.dropped.items())
    return (
        f'{heading("The fitted law")}\n<p class="formula">{_formula(fit.name)}</p>\n'
        f'<p class="soft">{escape(fit.name)}: {escape(fit.status.replace("_", " "))}, '
        f"{words.several(fit.runs, 'run')}{escape(f' (rows of the table left out: {left})') if left else ''}; "
        f"a run scatters by {fit.scale:.2%} about it.</p>\n"
        + table(("parameter", f"value and {words.percent(fit.level)} interval", "meaning"), rows, label="parameters")
    )


def _partial(fits: Sequence[Fit]) -> str:
    known = [f"{fit.name}: {words.parameters(fit)}" for fit in fits if fit.partial]
    return f"<p>What they do tell:</p>\n{listed(known)}" if known else ""


def _formula(law: str) -> str:
    """The law's formula with its powers raised and its indices lowered."""
    return re.sub(r"_(\w+)", r"<sub>\1</sub>", prose(words.formula(law)).replace("<sup>-", "<sup>−"))


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
    details = [
        f"{fit.name}, {words.formula(fit.name)}: {words.parameters(fit) if fit.law else words.unknown(fit)}"
        for fit in found.fits.values()
    ]
    header = ("law", "status", "scatter", "error on the largest runs, left out", "exponent of N*", "exponent of D*")
    return (
        f"{heading('What the other laws say')}\n"
        '<p class="soft">Laws that fit alike may extrapolate apart; their spread is part of the uncertainty. '
        "In brackets: what a straight line through two points of the frontier would have been off.</p>\n"
        + table(header, rows, label="laws", chosen=None if chosen is None else chosen.name)
        + f"\n<details><summary>Parameters of every law</summary>\n{listed(details)}\n</details>"
    )


def _forecasts(found: Findings, behind: Behind) -> str:
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
            f"<p>Run {_run(one.run_id)}, N = {words.short(said.n)}, D = {words.short(said.d)}, "
            f"{words.beyond(said.extrapolation)}. The forecast takes its number from the "
            f"{escape(said.headline)}{'' if said.headline == MEAN else ' law'} and its interval from all: "
            f"{words.of_loss(said.loss, said.low, said.high)}; the run {measured}.</p>\n"
            + table(header, rows, label=f"forecast of {one.run_id}", chosen=said.headline)
        )
    if not parts:
        return ""
    return f"{heading('Forecast against measured')}\n" + "\n".join(parts)


def _run(run_id: str) -> str:
    """A run's id, linked to its row."""
    target = markup.anchor(run_id)
    return f'<a class="id" href="#{target}">{run_id}</a>' if target else f"<code>{escape(run_id)}</code>"


def _runs(found: Findings, ledger: Ledger, behind: Behind) -> str:
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
        f'{heading("Runs")}\n<p class="soft">{words.several(len(rows), "evaluated run")}{failed}. '
        "The same with every column is in <code>runs.csv</code>.</p>\n"
        + table(
            [label for _, label in COLUMNS],
            rows,
            label="runs",
            numbers=numbers,
            lost=lost,
            kind="runs",
            ids=[markup.anchor(row[0]) for row in rows],
        )
        + _saved(found, ledger)
        + f'\n<div class="behind">\n<h3>The runs behind each number</h3>\n{behind.lists()}\n</div>'
    )


def _saved(found: Findings, ledger: Ledger) -> str:
    """Downloads that need no server: the table, and every fit but its resamples, which may be long."""
    table_text = (ledger.folder / "runs.csv").read_text(encoding="utf-8")
    links = [markup.download("runs.csv", "text/csv", table_text)]
    if found.every_fit:
        fits = {name: fit.to_json() | {"draws": None} for name, fit in found.every_fit.items()}
        links.append(markup.download("fits.json", "application/json", json.dumps(fits, allow_nan=False)))
    return f'<p class="save">To save: {" ".join(links)}</p>'


def _checklist(found: Findings, ledger: Ledger, behind: Behind) -> str:
    parts = []
    for group, lines in checklist(found, ledger).items():
        untold = sum(not line.known for line in lines)
        count = f"{len(lines)} answers" + (f", {untold} wanting" if untold else "")
        parts.append(f"<details><summary>{group} · {count}</summary>\n{_lines(lines, behind)}\n</details>")
    return (
        f"{heading('Checklist')}\n"
        '<p class="soft">What a scaling study should tell, after (Mis)Fitting (arXiv:2502.18969), in our words; filled '
        "in from the plan, the records and the fits.</p>\n" + "\n".join(parts)
    )


def _float(cell: str) -> float:
    return float(cell) if cell else math.nan


def _rounded(cell: object, digits: str) -> str:
    return "" if cell in ("", None) else format(float(str(cell)), digits)


def _provenance(found: Findings, ledger: Ledger) -> str:
    rows = provenance.rows(ledger)
    said = (
        table(("", ""), rows, label="provenance", wide=1)
        if rows
        else '<p class="soft">The folder holds no records of runs.</p>'
    )
    return (
        f"{heading('Provenance')}\n{said}\n{heading('To repeat it')}\n"
        f"<pre><code>{escape(provenance.command(found))}</code></pre>\n"
        '<p class="soft">In a checkout at the commit above. Recorded runs are not trained again, missing ones are.</p>'
    )
