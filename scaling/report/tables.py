"""Tables of the page that say how the best split is known: by each approach, and under what is done otherwise."""

from scaling.fitting.uncertainty import Interval
from scaling.report import words
from scaling.report.findings import Findings
from scaling.report.markup import Behind, heading, table


def frontier(found: Findings) -> str:
    """Exponents of N* and D*, and L*, by the three approaches and by the study's law."""
    if not found.splits:
        return ""
    law, rows = found.headline, []
    for split in found.splits:
        least = "-"
        if isinstance(split.loss, Interval):
            least = words.interval(split.loss)
        elif split.loss is not None:
            least = f"{split.loss:.3f}"
        at = "-" if split.flops is None else words.power(split.flops)
        said = "-" if law is None or split.flops is None else f"{float(law.optimum(split.flops).loss):.3f}"
        rows.append([
            f"{split.approach}: {split.words}" if split.approach in "123" else split.words,
            *(_told(item) for item in (split.exponent_n, split.exponent_d)),
            least, at, said, split.why,
        ])  # fmt: skip
    header = ["approach", "exponent of N*", "exponent of D*", "L*, nats", "at C, FLOPs"]
    header += [f"the {law.name} law there" if law else "", "why not"]
    kept = [i for i in range(len(header)) if header[i] and (i < 6 or any(row[i] for row in rows))]
    return (
        f"{heading('The best split by each approach')}\n"
        '<p class="soft">Approaches 1 to 3 of arXiv:2203.15556 on the same runs. N* and D* are the best size and '
        "number of tokens for C, L* the least loss, at the largest budget of which an approach can speak: for the "
        "first a measured run, and the luckiest; for the second the vertex of a parabola; else what the law gives. "
        "Where approaches differ by more than their intervals, an exponent rests on the approach.</p>\n"
        + table(
            [header[i] for i in kept], [[row[i] for i in kept] for row in rows], label="approaches",
            chosen=rows[-1][0] if law else None,
        )
    )  # fmt: skip


def variations(found: Findings, behind: Behind) -> str:
    """The exponent of N* under what is counted or done otherwise, and how far each lies from the study's own."""
    if not found.varied or found.headline is None or found.observations is None:
        return ""
    law = found.headline
    own = {split.approach: split.exponent_n for split in found.splits}
    mine, valleys = own.get(law.name), own.get("2")
    runs = found.observations.run_id
    rows = [["the study", "as it is", _told(mine), "", _told(valleys), "", str(len(runs))]]
    links = [behind.target(runs, "the best split")]
    for one in found.varied:
        rows.append([
            one.name, one.words, _told(one.exponent), _shift(one.shift(mine, one.exponent)), _told(one.by_valleys),
            _shift(one.shift(valleys, one.by_valleys)), str(len(one.runs)),
        ])  # fmt: skip
        links.append(behind.target(one.runs, one.name))
    header = ["variation", "what is done otherwise", f"by the {law.name} law", "shift", "by parabolas", "shift", "runs"]
    return (
        f"{heading('What moves the exponent')}\n"
        f'<p class="soft">The exponent of N* ~ C^a with {words.percent(found.level)} intervals, and how far it lies '
        "from the study's own. Another way to count reads the same runs: they share their noise, so a shift has no "
        "interval of its own. Other runs count as independent; where they share seeds, the interval of the shift "
        "is too wide.</p>\n"
        + table(
            header, rows, label="variations", chosen="the study", wide=1, numbers=(6,),
            links=[f"#{link}" if link else "" for link in links],
        )
    )  # fmt: skip


def _told(item: Interval | None) -> str:
    return words.interval(item).replace("-", "−") if item is not None else "not told"


def _shift(item: Interval | None) -> str:
    if item is None:
        return "-"
    said = words.interval(item).removesuffix(" (no interval)")
    return (f"+{said}" if item.value > 0 else said).replace("-", "−")
