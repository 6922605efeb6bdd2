"""The tournament of laws for a reader: held-out error, weight, and what laws say tenfold further out."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scaling.fitting.tournament import Tournament


def show_tournament(found: Tournament, console: Console) -> None:
    best = found.entrants[0]
    held = f"held-out error {best.error:.2%}, weight {best.weight:.2f}" if found.cuts else "untested"
    console.print(f"[bold]{best.law}[/bold] extrapolates best of {len(found.entrants)} laws: {held}", highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    factors = [f"> C/{cut.factor:g}" for cut in found.cuts]
    for name in ("law", "weight", "error", "bias", "inside", *factors, "in sample", "L* 10x"):
        table.add_column(name, justify="left" if name == "law" else "right", no_wrap=name == "law")
    for one in found.entrants:
        by_factor = {item.factor: f"{item.error:.2%}" for item in one.rounds}
        table.add_row(
            one.law, f"{one.weight:.2f}", _share(one.error), _share(one.bias, "+"), _share(one.inside, digits=0),
            *(by_factor.get(cut.factor, "not told") for cut in found.cuts), _share(one.scale),
            f"{one.at_ten:.4f}" if one.at_ten == one.at_ten else "",
        )  # fmt: skip
    for name, key in (
        ("line by two points", "line"),
        ("nearest run", "nearest"),
        ("laws differ by", "disagreement"),
    ):
        table.add_row(name, "", "", "", "", *(f"{getattr(cut, key):.2%}" for cut in found.cuts), "", "")
    console.print(table)
    if found.disagreement == found.disagreement:
        console.print(f"at ten times the largest compute the laws differ by {found.disagreement:.2%}", highlight=False)
    for warning in found.warnings:
        console.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False, soft_wrap=True)


def _share(value: float, sign: str = "", digits: int = 2) -> str:
    return "" if value != value else f"{value:{sign}.{digits}%}"
