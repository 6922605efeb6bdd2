"""What a study found, a line a finding: for the terminal, and the same lines for the page."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.fitting.observe import Observations
from scaling.report import words
from scaling.report.answers import Concept
from scaling.report.findings import Findings, Registered


@dataclass(frozen=True, kw_only=True)
class Line:
    label: str
    text: str
    known: bool = True  # False: the text says why there is no number
    asked: bool = True  # False: the study does not ask
    runs: tuple[str, ...] = ()  # ids of those behind the number


def answers(found: Findings) -> list[Line]:
    """The four concepts in order, each with its answers; one without an answer says why."""
    lines = []
    for concept in get_args(Concept):
        said = [
            Line(label=concept, text=answer.text, runs=answer.runs)
            for answer in found.answers
            if answer.concept == concept
        ]
        lines += said or [silence(found, concept)]
    return lines


def silence(found: Findings, concept: Concept) -> Line:
    """Why a study says nothing of a concept."""

    def line(text: str, asked: bool = True) -> Line:
        return Line(label=concept, text=text, known=False, asked=asked)

    if concept == "algorithms":
        if found.study["analysis"]["algorithms"]:
            return line("no answer: " + "; ".join(found.warnings))
        return line("not asked: the study compares none", asked=False)
    if not found.study["analysis"]["laws"]:
        return line("not asked: the study fits no law of N and D", asked=False)
    if not found.fits:
        return line("not told: " + ("; ".join(found.warnings) or "the study has no runs to fit a law to"))
    return line("not told: " + words.unknown(next(iter(found.fits.values()))))


def checks(found: Findings) -> list[Line]:
    """The fitted law, forecast against measured, the noise, and the floor where its true value is known."""
    law, o = found.headline, found.observations
    fitted = o.run_id if o is not None else ()
    lines = []
    if law is not None:
        status = f"{law.status.replace('_', ' ')} on {words.several(law.runs, 'run')}"
        lines.append(Line(label="fitted law", text=f"{law.name}, {status}: {words.parameters(law)}", runs=fitted))
    elif found.fits:
        text = "; ".join(words.unknown(fit) for fit in found.fits.values())
        lines.append(Line(label="fitted law", text=text, known=False, runs=fitted))
    for ladder in found.ladders:
        power = ladder.fits["power"]
        said = words.parameters(power) if ladder.law else words.unknown(power)
        text = f"power law in {ladder.x.upper()} on {words.several(power.runs, 'run')} of {ladder.group}: {said}"
        runs = ladder.observations.run_id
        lines.append(Line(label="fitted law", text=text, known=ladder.law is not None, runs=runs))
    lines += [
        Line(label="forecast", text=forecast(one), known=one.score is not None, runs=(one.run_id,))
        for one in found.registered
    ]
    if any(planned["role"] == "held_out" for planned in found.study["plan"]) and not found.registered:
        lines.append(Line(label="forecast", text="none was written down before the held-out run", known=False))
    if found.noise is not None:
        text = f"sd of ln loss {found.noise.sd:.2%}, from {words.replicates(found.noise)}"
        lines.append(Line(label="seed noise", text=text, runs=replicated(o) if o is not None else ()))
    else:
        lines.append(Line(label="seed noise", text="unknown: no run is repeated with another seed", known=False))
    if found.floor is not None:
        lines.append(floor(found))
    lines += learning_rates(found)
    cautions = [*(law.warnings if law is not None else ()), *found.warnings]
    if cautions:
        lines.append(Line(label="caution", text="; ".join(cautions), known=False))
    return lines


def replicated(o: Observations) -> tuple[str, ...]:
    """The runs of cells with several seeds, which tell the noise."""
    cells = [*zip(o.group, o.size, o.n.tolist(), o.d.tolist(), strict=True)]
    return tuple(run_id for run_id, cell in zip(o.run_id, cells, strict=True) if cells.count(cell) > 1)


def learning_rates(found: Findings) -> list[Line]:
    """Whether the fitted runs have rates near their best, where `scaling tune` has told, and what they cost."""
    rows = found.table.loc[(found.table["role"] == "fitted") & (found.table["status"] == "finished")]
    if not len(rows):
        return []
    if "lr_over_best" not in rows.columns or not (told := [float(cell) for cell in rows["lr_over_best"] if cell]):
        return [Line(label="learning rates", text="not known to be near their best: see `scaling tune`", known=False)]
    pairs = zip(rows["tuning_excess"], rows["loss"], strict=True)
    shares = [float(excess) / float(loss) for excess, loss in pairs if excess]
    text = f"{min(told):.2g} to {max(told):.2g} times the best of their size and horizon"
    unknown, far = len(rows) - len(told), len(told) - len(shares)
    if shares:
        text += f", which costs at most {max(shares):.2%} of the loss".replace("%", " %")
    if far:
        text += f"; {words.several(far, 'run')} further off than the price is known"
    if unknown:
        text += f"; {words.several(unknown, 'run')} not tuned"
    costly = found.noise is not None and sum(share > found.noise.sd for share in shares)
    if costly:
        text += f"; more than the seed noise in {words.several(costly, 'run')}: `scaling fit --columns loss=tuned_loss`"
    return [Line(label="learning rates", text=text, known=not (costly or far), runs=tuple(rows["run_id"]))]


def forecast(one: Registered) -> str:
    """A forecast and, once its run is finished, what was measured."""
    said = one.forecast
    text = (
        f"loss {words.of_loss(said.loss, said.low, said.high)} written before the run "
        f"({words.beyond(said.extrapolation)})"
    )
    if one.score is None:
        return f"{text}; the run is not finished"
    inside = "inside" if one.score.inside else "OUTSIDE"
    return f"{text}; measured {one.score.measured:.3f}: {words.error(one.score.error)}, {inside} the interval"


def floor(found: Findings) -> Line:
    """The fitted floor on the source of known entropy, against that entropy, and how often repeats of it hold it."""
    assert found.floor is not None
    fitted, entropy, repeats = found.floor.fitted, found.floor.entropy, found.floor.repeats
    again, runs = "", found.floor.observations.run_id
    if repeats:
        told = len(found.floor.told)
        again = (
            f"; of {words.several(len(repeats), 'repeat')} of the design by other seeds {told} tell a floor, and "
            f"{found.floor.held} of their {words.percent(found.level)} intervals hold the entropy"
        )
    if fitted is None:
        text = f"{entropy:.4f} nats; not fitted: {words.unknown(found.floor.fit)}"
        return Line(label="known entropy", text=f"{text}{again}", known=False, runs=runs)
    text = f"fitted E = {words.interval(fitted)} against the exact {entropy:.4f} nats per token"
    if not fitted.low <= fitted.high:  # NaN: E rests on the edge of its range
        text += ": without an interval it cannot be judged"
        return Line(label="known entropy", text=f"{text}{again}", known=False, runs=runs)
    inside = "inside" if fitted.low <= entropy <= fitted.high else "OUTSIDE"
    return Line(label="known entropy", text=f"{text}: {inside} the interval{again}", runs=runs)


def closing(found: Findings, console: Console, page: Path) -> None:
    """Print the closing table: what each concept buys, the law, forecast against measured, the noise, the page."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for line in answers(found):
        grid.add_row(line.label, _shown(line))
    grid.add_row()
    for line in checks(found):
        grid.add_row(line.label, _shown(line))
    grid.add_row("page", escape(words.plain(str(page))))
    level = words.percent(found.level)
    console.print()
    name, question = (escape(words.plain(found.study[key])) for key in ("name", "question"))
    console.print(f"[bold]{name}[/bold]: {question}", highlight=False)
    console.print(f"[dim]brackets hold {level} intervals; losses are in nats per token[/dim]", highlight=False)
    console.print(grid, highlight=False)


def _shown(line: Line) -> str:
    text = escape(words.plain(line.text))
    return text if line.known else f"[yellow]{text}[/yellow]"
