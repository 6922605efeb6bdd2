"""What the studies of a folder say of each of the four concepts, and how sure that is."""

import statistics
from collections.abc import Sequence
from typing import get_args

from scaling.report import words
from scaling.report.answers import CLIMBED, Answer, Concept, Kind
from scaling.report.findings import Findings
from scaling.report.markup import heading, prose
from scaling.report.members import Member, scored
from scaling.report.summary import summary

ASKED: dict[Concept, str] = {
    "model scale": "How much lower the loss is with more parameters, N, on the same data.",
    "data scale": "How much lower it is when the same model is trained on more tokens, D; and what tokens are worth.",
    "compute": "What a budget of training FLOPs, C, buys when it is split between N and D as well as it can be.",
    "algorithms": "How much compute another optimizer, schedule or architecture is worth at the same loss.",
}
FEW = 2  # answers of one kind that stand by themselves; more are folded under what they say together


def cards(members: Sequence[Member]) -> str:
    """A card for each concept: every answer, that of most compute first, and what stands behind them."""
    made = []
    for concept in get_args(Concept):
        telling = [member for member in members if _of(member.found, concept)]
        items = "\n".join(f"<li>{item}</li>" for item in _items(telling, concept))
        sure = "\n".join(
            f"<li>{member.link()}: {prose(_sure(member, concept))}.</li>" for member in _speaking(telling, concept)
        )
        body = (
            f'<ul>\n{items}\n</ul>\n<p class="soft"><b>How sure</b></p>\n<ul class="note">\n{sure}\n</ul>'
            if telling
            else '<p class="unknown">No study here tells.</p>'
        )
        made.append(f'<section class="card"><h3>{concept}</h3>\n<p class="soft">{ASKED[concept]}</p>\n{body}</section>')
    return f'{heading("The four concepts")}\n<div class="cards">\n' + "\n".join(made) + "\n</div>"


def told(found: Findings, concept: Concept, link: str = "") -> list[str]:
    """A study's answers, as HTML; many of one kind are folded under what they say together."""
    found_here = []
    for kind in get_args(Kind):
        mine = [prose(answer.text) for answer in _of(found, concept) if answer.kind == kind]
        together = summary(found, kind) if len(mine) > FEW else ""
        if together:
            found_here.append(_folded(f"{prose(together)} {link}", f"each of the {len(mine)}", mine))
        else:
            found_here += [f"{text} {link}" for text in mine]
    return found_here


def _speaking(members: Sequence[Member], concept: Concept) -> list[Member]:
    """Those whose answers are not folded under another's: of the laws of N and D, that of most compute speaks."""
    by_law = [member for member in members if any(a.kind == "law" for a in _of(member.found, concept))]
    first = max(by_law, key=_reach, default=None)
    return [
        member
        for member in members
        if member is first or any(answer.kind != "law" for answer in _of(member.found, concept))
    ]


def _items(members: Sequence[Member], concept: Concept) -> list[str]:
    """The answers of a law of N and D are one question asked again: the study of most compute speaks first."""
    laws, rest = [], []
    for member in sorted(members, key=_reach, reverse=True):
        of_law = [answer for answer in _of(member.found, concept) if answer.kind == "law"]
        laws += [f"{prose(answer.text)} {member.link()}" for answer in of_law]
        rest += told(member.found, concept, member.link())[len(of_law) :]
    if len(laws) > 1:
        laws = [_folded(laws[0], f"the same by {words.several(len(laws) - 1, 'other law')}", laws[1:])]
    return laws + rest


def _folded(text: str, more: str, items: Sequence[str]) -> str:
    inside = "\n".join(f"<li>{item}</li>" for item in items)
    return f'{text}\n<details class="each"><summary>{more}</summary>\n<ul>\n{inside}\n</ul>\n</details>'


def _of(found: Findings, concept: Concept) -> list[Answer]:
    """In the order of kinds."""
    mine = [answer for answer in found.answers if answer.concept == concept]
    return sorted(mine, key=lambda answer: get_args(Kind).index(answer.kind))


def _reach(member: Member) -> float:
    """The largest fitted compute."""
    return float(member.found.observations.flops.max()) if member.found.observations is not None else 0.0


def _sure(member: Member, concept: Concept) -> str:
    """What stands behind the intervals of a study's answer: forecasts, runs left out of the fit, seeds."""
    found, said = member.found, []
    if concept != "algorithms":
        said += [_forecasts(member), *_left_out(found, concept)]
    if found.noise is not None:
        said.append(f"seeds alone move the loss by {found.noise.sd:.2%}")
        if concept == "algorithms":
            said.append(words.replicates(found.noise))
    elif concept == "algorithms":
        said.append("the noise between seeds is not known, so there are no intervals")
    return "; ".join(filter(None, said)) or "nothing was left out or forecast to test it"


def _left_out(found: Findings, concept: Concept) -> list[str]:
    """How well each law that an answer is read from foretells the runs that were left out of it."""
    laws = [
        (f" of {ladder.group}", ladder.law)
        for ladder in found.ladders
        if CLIMBED[ladder.x] == concept and ladder.law is not None
    ]
    if any(answer.kind in ("law", "varied") for answer in _of(found, concept)) and found.headline is not None:
        laws.append(("", found.headline))
    said = []
    for which, law in laws:
        if (held := law.holdout) is not None:
            most = "of most compute" if law.x is None else f"of largest {law.x.upper()}"
            runs = words.several(int(held["runs"]), "run")
            said.append(f"the {runs}{which} {most}, left out of the fit, predicted {held['error']:.2%} off")
    return said


def _forecasts(member: Member) -> str:
    scores = [(one.forecast, one.score) for _, one in scored([member]) if one.score is not None]
    if len(scores) == 1:
        said, score = scores[0]
        return (
            f"a run at {words.beyond(said.extrapolation)} was forecast {words.error(score.error)}, "
            f"{'inside' if score.inside else 'OUTSIDE'} the interval"
        )
    if not scores:
        return ""
    errors = [abs(score.error) for _, score in scores]
    inside = sum(score.inside for _, score in scores)
    return (
        f"{inside} of {len(scores)} forecasts held the measured loss inside their interval, "
        f"{statistics.median(errors):.1%} off in the median"
    )
