"""One page for all the studies of a folder: what each of the four concepts bought, and how sure that is."""

import math
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import get_args

import numpy as np

from scaling.record.files import commit_text
from scaling.report import concepts, markup, page, points, provenance, words
from scaling.report.answers import Concept
from scaling.report.caption import CAPTIONS
from scaling.report.findings import Findings
from scaling.report.markup import heading, prose, table
from scaling.report.members import Member, scored, verdict
from scaling.report.provenance import Cost
from scaling.report.table import checks, silence

SCORES = (
    "forecasts scored", "inside their interval", "median error", "largest error", "finished runs", "training FLOPs",
    "worker-hours",
)  # fmt: skip
SPECIAL = ("exponents", "other_data", "repeated")  # shown beside the figure of what the study varies


def write(members: Sequence[Member], folder: Path, faults: Sequence[str] = ()) -> Path:
    """Write index.html into the folder; returns its path."""
    telling = [member for member in members if member.found.answers or member.found.registered]
    rest = [member for member in members if member not in telling]
    body = [
        _head(members, telling),
        concepts.cards(telling),
        _scores(members),
        _forecasts(members),
        heading("The studies") if telling else "",
        *(_study(member, i) for i, member in enumerate(telling, 1)),
        _rest(rest),
        _left_out(faults),
        _repeat(members),
    ]
    body.insert(0, markup.contents(body))
    path = folder / "index.html"
    commit_text(path, markup.document("What scale buys: all studies", body, markup.script(*page.SCRIPTS)))
    return path


def _head(members: Sequence[Member], telling: Sequence[Member]) -> str:
    levels = sorted({words.percent(member.found.level) for member in telling})
    told = f"Brackets hold {' or '.join(levels)} intervals. " if levels else ""
    return (
        f'<header>\n<p class="name">{escape(total(members))}</p>\n'
        "<h1>What model size, data, compute and algorithms each buy</h1>\n"
        "<p>Every study asks one question of small language models, trains its runs, fits laws of the loss to them, "
        "and writes down what these say of a run before that run is trained. Here is what they found, and how sure it "
        "is. The loss is a model's mean surprise at the next token of text that it has not seen, in nats (a nat is "
        "1.44 bits): less is better.</p>\n"
        f'</header>\n<p class="soft">{told}{prose(verdict(members))}</p>'
    )


def total(members: Sequence[Member]) -> str:
    """How many studies, runs, FLOPs and hours, in a line."""
    known = [member.cost.hours for member in members if member.cost.hours is not None]
    some = "" if len(known) == len(members) else f" in {len(known)} of them; the others kept no clock"
    said = [
        words.several(len(members), "study").replace("studys", "studies"),
        words.several(sum(member.cost.runs for member in members), "finished run"),
        f"{words.power(sum(member.cost.flops for member in members))} training FLOPs",
    ]
    return " · ".join(said + ([f"{_hours(sum(known))}{some}"] if known else []))


def _hours(hours: float) -> str:
    return f"{hours:.3g} worker-hours" if hours >= 1 else f"{60 * hours:.2g} worker-minutes"


def _scores(members: Sequence[Member]) -> str:
    """How good the forecasts of each study were and what it took, and all together."""
    if not members:
        return ""
    rows = [[member.at, *scores([member]), *spent([member])] for member in members]
    rows.append(["all", *scores(members), *spent(members)])
    links = [*(member.href() for member in members), ""]
    kept = any(member.cost.hours is None for member in members)
    return (
        f"{heading('Scores and cost')}\n"
        '<p class="soft">A forecast is right when the measured loss lies inside its interval; errors are of the loss. '
        "What trunks and their branches share is counted once; hours are of training, evaluating and compiling, over "
        f"all workers{', where they were kept' if kept else ''}.</p>\n"
        + table(("study", *SCORES), rows, label="scores and cost", numbers=range(1, 8), links=links, chosen="all")
    )


def scores(members: Sequence[Member]) -> list[str]:
    """The first four of `SCORES`: of the forecasts of these studies."""
    found = [one.score for _, one in scored(members) if one.score is not None]
    registered = sum(len(member.found.registered) for member in members)
    count = str(len(found)) + (f" of {registered}" if registered > len(found) else "")
    if not found:
        return [count, "-", "-", "-"]
    errors = [abs(score.error) for score in found]
    inside = sum(score.inside for score in found)
    share = f"{inside / len(found):.0%}".replace("%", " %")
    said = (f"{error:.1%}".replace("%", " %") for error in (statistics.median(errors), max(errors)))
    return [count, f"{inside} ({share})", *said]


def spent(members: Sequence[Member]) -> list[str]:
    """The rest of `SCORES`: what these studies took."""
    costs = [member.cost for member in members]
    hours = [cost.hours for cost in costs if cost.hours is not None]
    return [
        f"{sum(cost.runs for cost in costs):,}", words.power(sum(cost.flops for cost in costs)),
        f"{sum(hours):.3g}" if hours else "-",
    ]  # fmt: skip


def _forecasts(members: Sequence[Member]) -> str:
    rows, lost, links = [], [], []
    for member in members:
        for one in member.found.registered:
            said, score = one.forecast, one.score
            rows.append([
                member.at, one.run_id, words.power(said.flops), f"{said.extrapolation:.2g}",
                words.of_loss(said.loss, said.low, said.high),
                f"{score.measured:.3f}" if score else "not finished",
                words.error(score.error) if score else "",
                "" if score is None else "inside" if score.inside else "OUTSIDE",
            ])  # fmt: skip
            lost.append(score is not None and not score.inside)
            links.append(member.href(f"#{markup.anchor(one.run_id)}"))
    if not rows:
        return ""
    header = ("study", "run", "C", "times the largest fitted", "forecast", "measured", "error", "its interval")
    return (
        f"{heading('Forecasts against what was measured')}\n"
        f"<p>{prose(verdict(members))}</p>\n"
        '<p class="soft">Each was written down before its run was trained, and stands as it was; misses are '
        "shown.</p>\n" + table(header, rows, label="forecasts", numbers=(2, 3), lost=lost, links=links)
    )


def _study(member: Member, i: int) -> str:
    found, href = member.found, member.href()
    title = f'<a href="{escape(href)}">{escape(member.at)}</a>' if href else escape(member.at)
    more = f'<span class="runs-of"> · {member.link("all of it")}</span>' if href else ""
    first, *others = _figures(member, i) or [""]
    panels = '<div class="panels">\n' + "\n".join(others) + "\n</div>\n" if others else ""
    trust = [
        (line.label, f"<dd{'' if line.known else ' class=unknown'}>{prose(line.text)}</dd>")
        for line in checks(found)
        if line.label != "caution"
    ]
    return (
        f'<section class="study">\n{markup.data(points.facts(found), f"facts-{i}")}\n<h3 id="study-{i}">{title}</h3>\n'
        f'<p class="question">{escape(found.study["question"])}</p>\n'
        f'<div class="beside">\n{first}\n<div>\n{_answers(found)}\n'
        f"<details><summary>how far to trust it</summary>\n{markup.answers(trust)}\n</details>\n"
        f'<p class="soft">{escape(_took(member.cost))}{more}</p>\n'
        f"</div>\n</div>\n{panels}</section>"
    )


def _took(cost: Cost) -> str:
    said = [words.several(cost.runs, "finished run"), f"{words.power(cost.flops)} training FLOPs"]
    said += [_hours(cost.hours)] if cost.hours is not None else ["its hours were not kept"]
    return " · ".join([*said, *filter(None, [cost.device])])


def _answers(found: Findings) -> str:
    """Concept by concept; of one that is not asked about, nothing."""
    items = []
    for concept in get_args(Concept):
        said = concepts.told(found, concept)
        items += [(concept, f"<dd>{text}</dd>") for text in said]
        if not said and (silent := silence(found, concept)).asked:
            items.append((concept, f"<dd class=unknown>{prose(silent.text)}</dd>"))
    return markup.answers(items)


def headline(found: Findings) -> list[str]:
    """Figures by how well they show what the study is about, best first."""
    o = found.observations
    compared = sum(group in found.study["analysis"]["algorithms"] for group in found.table["group"].tolist())
    if found.comparisons and (o is None or compared > len(o)):
        return ["algorithms", "frontier", "loss_against_n"]
    if found.ladders:
        return ["ladder_of_sizes" if found.ladders[0].x == "n" else "ladder_of_horizons"]
    if o is None:
        return ["known_entropy"]
    if found.isoflop is not None and not any(valley.slice.interpolated for valley in found.isoflop.valleys):
        return ["frontier", "isoflop", "loss_against_n"]
    sizes, horizons = (len(np.unique(np.round(np.log(x), 2))) for x in (o.n, o.d))
    if abs(math.log(sizes / horizons)) < math.log(1.5):
        return ["frontier", "loss_against_n"]
    return ["loss_against_n"] if sizes > horizons else ["loss_against_d"]


def _figures(member: Member, i: int) -> list[str]:
    """What the study varies, and beside it what it asks in particular."""
    from scaling.report import plots

    drawn: dict[str, plots.Drawn] = {}
    for name in (*headline(member.found), *SPECIAL):
        if (name in SPECIAL or not drawn) and (one := plots.one(member.found, name, f"s{i}-{name}")) is not None:
            drawn[name] = one

    def target(runs: tuple[str, ...]) -> str:
        return member.href(f"#{markup.anchor(runs[0])}") if len(runs) == 1 and markup.anchor(runs[0]) else ""

    def figure(name: str, one: plots.Drawn) -> str:
        label = f"{member.at}: {name.replace('_', ' ')}"
        return (
            f"<figure>\n{points.shown(one, label, points.placed(one.marks, target), f'facts-{i}')}\n"
            f"<figcaption>{prose(CAPTIONS[name](member.found))}</figcaption>\n</figure>"
        )

    return [figure(name, one) for name, one in drawn.items()]


def _rest(members: Sequence[Member]) -> str:
    """Studies that say nothing of the four concepts, such as sweeps of learning rates."""
    if not members:
        return ""
    items = "\n".join(
        f"<li>{member.link()}: {escape(member.found.study['question'])} "
        f'<div class="soft">{escape(_took(member.cost))}</div></li>'
        for member in members
    )
    return f"{heading('Beside these')}\n<ul>\n{items}\n</ul>"


def _left_out(faults: Sequence[str]) -> str:
    if not faults:
        return ""
    items = "\n".join(f"<li>{escape(fault)}</li>" for fault in faults)
    return f'{heading("Left out")}\n<ul class="warn">\n{items}\n</ul>'


def _repeat(members: Sequence[Member]) -> str:
    rows = [[member.at, member.cost.device, provenance.command(member.found)] for member in members]
    header = ("study", "ran on", "command")
    return f"{heading('To repeat them')}\n{table(header, rows, label='to repeat them')}"
