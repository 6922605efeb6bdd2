"""One page for all the studies of a folder: what each of the four concepts bought, and how sure that is."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import numpy as np

from scaling.record import Ledger
from scaling.record.files import commit_text, names
from scaling.report import markup, page, points, provenance, words
from scaling.report.answers import Concept
from scaling.report.caption import CAPTIONS
from scaling.report.findings import Findings, Registered, find
from scaling.report.markup import heading, prose, table
from scaling.report.provenance import Cost
from scaling.report.table import Line, answers, checks
from scaling.spec import Refusal

DEPTH = 3  # folders below one another in which a study is looked for
ASKED: dict[Concept, str] = {
    "model scale": "How much lower the loss is with more parameters, N, on the same data.",
    "data scale": "How much lower it is when the same model is trained on more tokens, D.",
    "compute": "What a budget of training FLOPs, C, buys when it is split between N and D as well as it can be.",
    "algorithms": "How much compute another optimizer, schedule or architecture is worth at the same loss.",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A study of the folder."""

    at: str  # its folder, from the one of the page: what it is called here
    found: Findings
    cost: Cost
    paged: bool  # its own page is there

    def href(self, fragment: str = "") -> str:
        """Of its own page; empty where there is none."""
        return f"{quote(self.at)}/report.html{fragment}" if self.paged else ""


def folders(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The results folders below a folder, in order of their names; none inside another, and none by two names.

    Of two of one name the one less deep: one's own results/quickstart, and not results/reference/quickstart, too.
    """
    found: dict[Path, Path] = {}
    for name in names(folder):
        inner = folder / name
        if name.startswith(".") or not inner.is_dir():
            continue
        below = [inner] if (inner / "study.json").is_file() else folders(inner, depth - 1) if depth > 1 else []
        for each in below:
            found.setdefault(each.resolve(), each)
    own = {each.name for each in found.values() if each.parent == folder}
    return [each for each in found.values() if each.parent == folder or each.name not in own]


def gather(folder: Path) -> tuple[list[Member], list[str]]:
    """What the studies below a folder show, and a line for each that cannot be read."""
    members, faults = [], []
    for inner in folders(folder):
        ledger = Ledger(inner)
        try:
            found = find(ledger)
            cost = provenance.cost(found, ledger)
        except Refusal as refusal:
            faults += refusal.faults
            continue
        at = inner.relative_to(folder).as_posix()
        members.append(Member(at=at, found=found, cost=cost, paged=(inner / "report.html").is_file()))
    return members, faults


def write(members: Sequence[Member], folder: Path, faults: Sequence[str] = ()) -> Path:
    """Write index.html into the folder; returns its path."""
    telling = [member for member in members if member.found.answers or member.found.registered]
    rest = [member for member in members if member not in telling]
    body = [
        _head(members, telling),
        _concepts(telling),
        _forecasts(members),
        heading("The studies") if telling else "",
        *(_study(member, i) for i, member in enumerate(telling, 1)),
        _rest(rest),
        _left_out(faults),
        _costs(members),
    ]
    body.insert(0, markup.contents(body))
    path = folder / "index.html"
    commit_text(path, markup.document("What scale buys: all studies", body, markup.script(*page.SCRIPTS)))
    return path


def scored(members: Sequence[Member]) -> list[tuple[Member, Registered]]:
    """Every forecast whose run is finished."""
    return [(member, one) for member in members for one in member.found.registered if one.score is not None]


def verdict(members: Sequence[Member]) -> str:
    """How good the forecasts were, in a sentence."""
    said = scored(members)
    waiting = sum(len(member.found.registered) for member in members) - len(said)
    if not said:
        return "No forecast has been scored yet." if waiting else "No study here has registered a forecast."
    errors = [abs(one.score.error) for _, one in said if one.score]
    inside = sum(one.score.inside for _, one in said if one.score)
    text = (
        f"{inside} of {words.several(len(said), 'forecast')} ({inside / len(said):.0%}) held the measured loss inside "
        f"their interval; the median error is {statistics.median(errors):.1%}, the largest {max(errors):.1%}"
    ).replace("%", " %")
    return text + (f". {waiting} more wait for their run." if waiting else ".")


def _head(members: Sequence[Member], telling: Sequence[Member]) -> str:
    levels = sorted({words.percent(member.found.level) for member in telling})
    told = f"Brackets hold {' or '.join(levels)} intervals, losses are in nats per token. " if levels else ""
    return (
        f'<header>\n<p class="name">{escape(_total(members))}</p>\n'
        "<h1>What model size, data, compute and algorithms each buy</h1>\n"
        "<p>Every study asks one question of small language models, trains its runs, fits laws of the loss to them, "
        "and writes down what these say of a run before that run is trained. Here is what they found, and how sure it "
        "is.</p>\n"
        f'</header>\n<p class="soft">{told}{prose(verdict(members))}</p>'
    )


def _total(members: Sequence[Member]) -> str:
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


def _concepts(members: Sequence[Member]) -> str:
    cards = []
    for concept in get_args(Concept):
        said = [
            (member, line)
            for member in members
            for line in answers(member.found)
            if line.label == concept and line.known
        ]
        items = "\n".join(f"<li>{prose(line.text)} {_link(member)}</li>" for member, line in said)
        sure = dict.fromkeys(_sure(member, concept) for member, _ in said)
        body = (
            f'<ul>\n{items}\n</ul>\n<p class="soft"><b>How sure:</b> {"; ".join(map(prose, sure))}.</p>'
            if said
            else '<p class="unknown">No study here tells.</p>'
        )
        cards.append(
            f'<section class="card"><h3>{concept}</h3>\n<p class="soft">{ASKED[concept]}</p>\n{body}</section>'
        )
    return f'{heading("The four concepts")}\n<div class="cards">\n' + "\n".join(cards) + "\n</div>"


def _sure(member: Member, concept: Concept) -> str:
    """What stands behind the intervals of a study's answer."""
    found, law = member.found, member.found.headline
    if concept == "algorithms":
        if found.noise is None:
            return f"{member.at}: the noise between seeds is not known"
        return f"{member.at}: seeds alone move the loss by {found.noise.sd:.2%}, by {words.replicates(found.noise)}"
    if law is None or law.holdout is None:
        return f"{member.at}: too few runs to leave any out"
    held = law.holdout
    return (
        f"{member.at}: the {words.several(int(held['runs']), 'run')} of most compute, left out of the fit, are "
        f"predicted {held['error']:.2%} off"
    )


def _link(member: Member, text: str = "") -> str:
    """To the study's own page, by its name."""
    said, href = escape(text or member.at), member.href()
    return f'<a class="from" href="{escape(href)}">{said}</a>' if href else f'<span class="soft">{said}</span>'


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
    more = f'<span class="runs-of"> · {_link(member, "all of it")}</span>' if href else ""
    trust = [line for line in checks(found) if line.label != "caution"]
    return (
        f'<section class="study">\n<h3 id="study-{i}">{title}</h3>\n'
        f'<p class="question">{escape(found.study["question"])}</p>\n'
        f'<div class="beside">\n{_figure(member, i)}\n<div>\n{_lines(answers(found))}\n'
        f"<details><summary>how far to trust it</summary>\n{_lines(trust)}\n</details>\n"
        f'<p class="soft">{escape(_took(member.cost))}{more}</p>\n'
        "</div>\n</div>\n</section>"
    )


def _took(cost: Cost) -> str:
    said = [words.several(cost.runs, "finished run"), f"{words.power(cost.flops)} training FLOPs"]
    said += [_hours(cost.hours)] if cost.hours is not None else ["its hours were not kept"]
    return " · ".join([*said, *filter(None, [cost.device])])


def _lines(lines: Sequence[Line]) -> str:
    rows = [
        f"<dt>{escape(line.label)}</dt><dd{'' if line.known else ' class=unknown'}>{prose(line.text)}</dd>"
        for line in lines
    ]
    return '<dl class="answers">\n' + "\n".join(rows) + "\n</dl>"


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


def _figure(member: Member, i: int) -> str:
    from scaling.report import plots

    for name in headline(member.found):
        drawn = plots.one(member.found, name, f"s{i}-{name}")
        if drawn is not None:
            break
    else:
        return ""

    def target(runs: tuple[str, ...]) -> str:
        return member.href(f"#{markup.anchor(runs[0])}") if len(runs) == 1 and markup.anchor(runs[0]) else ""

    label = f"{member.at}: {name.replace('_', ' ')}"
    return (
        f"<figure>\n{points.shown(drawn, label, points.placed(drawn.marks, target), f'facts-{i}')}\n"
        f"<figcaption>{prose(CAPTIONS[name](member.found))}</figcaption>\n</figure>\n"
        + markup.data(points.facts(member.found), f"facts-{i}")
    )


def _rest(members: Sequence[Member]) -> str:
    """Studies that say nothing of the four concepts, such as sweeps of learning rates."""
    if not members:
        return ""
    items = "\n".join(
        f"<li>{_link(member)}: {escape(member.found.study['question'])} "
        f'<div class="soft">{escape(_took(member.cost))}</div></li>'
        for member in members
    )
    return f"{heading('Beside these')}\n<ul>\n{items}\n</ul>"


def _left_out(faults: Sequence[str]) -> str:
    if not faults:
        return ""
    items = "\n".join(f"<li>{escape(fault)}</li>" for fault in faults)
    return f'{heading("Left out")}\n<ul class="warn">\n{items}\n</ul>'


def _costs(members: Sequence[Member]) -> str:
    rows = [
        [
            member.at, str(member.cost.runs), words.power(member.cost.flops),
            "" if member.cost.hours is None else f"{member.cost.hours:.3g}", member.cost.device,
            provenance.command(member.found),
        ]
        for member in members
    ]  # fmt: skip
    header = ("study", "finished runs", "training FLOPs", "worker-hours", "device", "to repeat it")
    return (
        f"{heading('Cost')}\n"
        '<p class="soft">What trunks and their branches share is counted once; hours are of training, evaluating and '
        "compiling, over all workers.</p>\n" + table(header, rows, label="cost", numbers=(1, 2, 3))
    )
