"""The studies of a folder: which there are, what each shows and took, and how good their forecasts were."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from scaling.record import Ledger
from scaling.record.files import names
from scaling.report import provenance, words
from scaling.report.findings import Findings, Registered, find
from scaling.report.provenance import Cost
from scaling.spec import Refusal

DEPTH = 3  # folders below one another in which a study is looked for


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

    def link(self, text: str = "") -> str:
        """To its own page, by its name."""
        said, href = escape(text or self.at), self.href()
        return f'<a class="from" href="{escape(href)}">{said}</a>' if href else f'<span class="soft">{said}</span>'


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
