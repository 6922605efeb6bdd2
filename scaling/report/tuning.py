"""What a learning-rate transfer study found, in words: optima, drifts, verdicts, and how a fit uses them."""

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.fitting.tuning import Drift, Tuned
from scaling.fitting.uncertainty import Interval
from scaling.fitting.valley import Optimum
from scaling.report import words


def closing(found: Sequence[Tuned], folder: Path, files: Iterable[Path], console: Console) -> None:
    """Print the optima, each group's verdicts, and how to use them."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("group", "N", "D", "best rate", "best / planned", "loss", "planned costs"):
        table.add_column(name, justify="left" if name == "group" else "right", no_wrap=True)
    for group in found:
        for one in group.optima:
            table.add_row(*map(escape, row(group.group, one)))
    console.print(table)
    for group in found:
        console.print(f"[bold]{escape(group.group)}[/bold]", highlight=False)
        for line in verdicts(group):
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
        for warning in group.warnings:
            console.print(f"  [yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)
    if found:
        console.print(f"[dim]brackets hold {words.percent(found[0].level)} intervals; losses in nats per token[/dim]")
    for line in usage(found, folder):
        console.print(escape(line), highlight=False, soft_wrap=True)
    console.print(f"[dim]{escape(', '.join(map(str, files)))}[/dim]", highlight=False, soft_wrap=True)


def row(group: str, one: Optimum) -> list[str]:
    """The cells of an optimum's line in the table; one that is not resolved has no numbers."""
    cell = one.cell
    start = [group, words.short(cell.n), words.short(cell.d)]
    if one.status != "resolved":
        return [*start, one.status, "", "", ""]
    return [*start, f"{one.rate.value:.3g}", words.interval(one.factor), f"{one.loss:.3f}", _cost(one)]


def _cost(one: Optimum) -> str:
    """What the planned rate of a resolved cell costs."""
    if math.isnan(one.excess):
        return "unknown"
    if math.isinf(one.excess):
        return "diverged"
    share = 100 * one.excess / one.loss
    return f"{one.excess:.4f} nats ({share:.{2 if share < 10 else 0}f} %)"


def verdicts(group: Tuned) -> list[str]:
    """What a group's rates do over sizes and horizons, and whether the planned ones are close to the best."""
    lines = [_drift(group, drift) for drift in (group.sizes, group.horizons) if drift is not None]
    if group.factor is None:
        return ["no optimum is resolved: nothing is known of its rates", *_silent(group)]
    factor = f"the best common factor to peak_lr is {words.interval(group.factor)}"
    worst = max(group.resolved, key=lambda one: -1.0 if math.isnan(one.excess) else one.excess)
    cost = "one of them diverged" if math.isinf(worst.excess) else f"they cost at most {_cost(worst)}"
    lines.append(
        {
            "tuned": f"planned rates: tuned: each is within a factor of √2 of its best; {cost}; {factor}",
            "off": f"planned rates: off by more than a factor of √2 somewhere; {cost}; {factor}",
            "unresolved": f"planned rates: not known to be within a factor of √2 of the best; {cost}; {factor}",
        }[group.verdict]
    )
    if group.kappa is not None:
        price = -math.expm1(-group.kappa.value * math.log(2) ** 2)
        lines.append(f"a rate off by a factor of 2 costs {100 * price:.2g} % of the loss")
    return lines + _silent(group)


def _silent(group: Tuned) -> list[str]:
    return [
        f"{one.status} at N = {words.short(one.cell.n)}, D = {words.short(one.cell.d)}: {one.why}"
        for one in group.optima
        if one.status != "resolved"
    ]


def _drift(group: Tuned, drift: Drift) -> str:
    variable = "N" if drift.over == "sizes" else "D"
    span = f"{variable} from {words.short(drift.low)} to {words.short(drift.high)}"
    exponents = f"as {variable}^{words.interval(drift.exponent)}"
    if drift.over == "sizes" and (power := _of_width(group, drift.exponent)) is not None:
        exponents += f", d_model^{words.interval(power)}"
    moved = f"the best multiple moves by a factor of {words.interval(drift.factor)} over {span} ({exponents})"
    if drift.direct is not None:
        alike = "at one horizon" if drift.over == "sizes" else "in one model"
        moved += f"; the two furthest apart {alike} differ by {words.interval(drift.direct)}"
    why = f" ({drift.why})" if drift.why else ""
    return f"{drift.over}: {drift.verdict}{why}: {moved}"


def _of_width(group: Tuned, exponent: Interval) -> Interval | None:
    """An exponent of N as one of d_model, where the sizes differ in width alone."""
    cells = [one.cell for one in group.resolved]
    small, large = min(cells, key=lambda c: c.n), max(cells, key=lambda c: c.n)
    if len({cell.n_layers for cell in cells}) > 1 or small.d_model == large.d_model:
        return None
    by = math.log(large.n / small.n) / math.log(large.d_model / small.d_model)
    low, high = sorted((exponent.low * by, exponent.high * by))
    return Interval(value=exponent.value * by, se=exponent.se * abs(by), low=low, high=high)


def usage(found: Sequence[Tuned], folder: Path) -> list[str]:
    """How a fit leaves badly tuned runs out, or uses what they would have reached."""
    if not any(group.plane is not None and group.kappa is not None for group in found):
        return []
    fit = f"scaling fit {shlex.quote(str(folder))} --params n_params"
    has = "has" if (folder / "runs.csv").exists() else "will have, once `scaling run` has trained it,"
    return [
        f"runs.csv of the study {has} lr_over_best, tuning_excess (nats) and tuned_loss, empty beyond what was tuned:",
        f"  {fit} --where 'tuning_excess<0.005'           # leaves out what a better rate would gain more",
        f"  {fit} --columns loss=tuned_loss --drop-bad    # the loss that each would have at its best rate",
    ]
