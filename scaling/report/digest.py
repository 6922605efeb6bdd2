"""The studies of a folder in Markdown, for a README: what each answers, how good its forecasts were, what it took."""

from collections.abc import Sequence
from html import unescape
from typing import get_args

from scaling.report import words
from scaling.report.answers import Concept, Kind
from scaling.report.concepts import FEW
from scaling.report.findings import Findings
from scaling.report.members import Member, scored, verdict
from scaling.report.overview import SCORES, scores, spent, total
from scaling.report.summary import summary


def digest(members: Sequence[Member]) -> str:
    """Tables of the studies and of the forecasts, and each study's answers; links lead to the folders."""
    lines = [f"{total(members)}. {verdict(members)}", "", *_studies(members), "", *forecasts(members)]
    for member in members:
        if said := answers(member.found):
            lines += ["", f"### {member.at}", "", member.found.study["question"], "", *said]
    return "\n".join(lines) + "\n"


def _studies(members: Sequence[Member]) -> list[str]:
    rows = [[f"[{m.at}]({m.at}/)", _command(m.found), *scores([m]), *spent([m])] for m in members]
    return _table(("study", "command", *SCORES), [*rows, ["all", "", *scores(members), *spent(members)]])


def _command(found: Findings) -> str:
    said = found.study.get("command", "")
    return f"`{said}`" if said else ""


def forecasts(members: Sequence[Member]) -> list[str]:
    """A table of those that are scored; nothing where none is."""
    rows = []
    for member, one in scored(members):
        said, score = one.forecast, one.score
        assert score is not None
        rows.append([
            member.at, one.run_id, words.power(said.flops), f"{said.extrapolation:.2g}",
            words.of_loss(said.loss, said.low, said.high), f"{score.measured:.3f}", words.error(score.error),
            "inside" if score.inside else "**outside**",
        ])  # fmt: skip
    header = ("study", "run", "C", "times the largest fitted", "forecast", "measured", "error", "its interval")
    return _table(header, rows) if rows else []


def answers(found: Findings) -> list[str]:
    """By concept; many of one kind are folded into what they say together, as on the page."""
    lines = []
    for concept in get_args(Concept):
        for kind in get_args(Kind):
            mine = [a.text for a in found.answers if a.concept == concept and a.kind == kind]
            together = summary(found, kind) if len(mine) > FEW else ""
            lines += [f"- {concept}: {text}" for text in ([together] if together else mine)]
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(unescape(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]
