"""The live view of a sweep, on standard error: a line a worker on a terminal, a line a finished run elsewhere."""

import statistics
import time
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from scaling.cost import count_params
from scaling.launch.process import Event
from scaling.plan import Plan
from scaling.plan.clock import seconds
from scaling.plan.plan import Planned
from scaling.record import Ledger
from scaling.report.words import plain, short

SLOW = 2.0  # times the usual pace from which a run is said to be slow
SLOW_AFTER = 4  # runs, when it is known what is usual
SLOW_SECONDS = 1.0  # of training, below which a pace is noise


class SweepView:
    """Called with every event of a sweep; `with` shows it while the sweep lasts."""

    def __init__(self, plan: Plan, ledger: Ledger, workers: int):
        self.console = Console(stderr=True)
        self._ledger = ledger
        self._planned = {p.run.id: p for p in plan.runs}
        pending = plan.pending(ledger).runs
        self._estimate = {p.run.id: seconds(p) for p in pending}
        self._before = len(plan) - len(pending)
        self._latest: dict[int, tuple[Planned, dict[str, Any]]] = {}  # by worker
        self._done: set[str] = set()
        self._paces: list[float] = []  # seconds in training over those estimated, of the runs done here
        self._workers = min(workers, max(1, len(pending)))
        self._started = time.monotonic()
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "SweepView":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        planned = self._planned.get(event.run_id)
        if planned is None:
            return
        if event.kind == "progress":
            values = self._latest.get(event.worker, (planned, {}))
            known = values[1] if values[0] is planned else {}
            self._latest[event.worker] = (planned, known | event.values)
            return
        self._latest.pop(event.worker, None)
        if event.kind in ("done", "elsewhere"):
            self._done.add(event.run_id)
            left = "" if self.console.is_terminal else f", about {self._time_left():.0f} s left"
            where = " elsewhere" if event.kind == "elsewhere" else ""
            line = self._line(planned, event.values["status"]) + where + self._slowness(planned) + left
            self.console.print(line, highlight=False, soft_wrap=True)
        elif event.kind == "failed":
            self.console.print(
                f"[red]failed[/red]   {label(planned)}: {escape(plain(event.values['reason']))}",
                highlight=False,
                soft_wrap=True,
            )
        elif event.kind in ("gone", "lost"):
            what = "worker lost" if event.kind == "gone" else "taken over by another participant"
            self.console.print(f"[red]{what}[/red]: {escape(label(planned))}", highlight=False, soft_wrap=True)

    def _line(self, planned: Planned, status: str) -> str:
        record = self._ledger[planned.run.id]
        clock = record.clock
        speed = f"{clock.tokens_per_second:9,.0f} tok/s {clock.flops_per_second / 1e9:6.1f} GFLOP/s" if clock else ""
        if clock and clock.mfu is not None:
            speed += f" {clock.mfu:4.0%} MFU"
        result = (
            "trunk" if planned.role == "trunk" else f"loss {record.loss:.4f}" if record.loss else f"[red]{status}[/red]"
        )
        count = f"{self._before + len(self._done):3d}/{len(self._planned)}"
        return f"{count} {label(planned):<46} {result:<12} {speed}"

    def _slowness(self, planned: Planned) -> str:
        """Said of a run that took much longer than the others did, by their estimates: something else was at work."""
        clock, estimate = self._ledger[planned.run.id].clock, self._estimate.get(planned.run.id)
        if clock is None or not estimate:
            return ""
        pace, usual = clock.train / estimate, statistics.median(self._paces or [0.0])
        self._paces.append(pace)
        slow = len(self._paces) > SLOW_AFTER and pace > SLOW * usual and clock.train > SLOW_SECONDS
        return f" [yellow]slow: {pace / usual:.1f} times the usual[/yellow]" if slow else ""

    def _fraction(self, planned: Planned, values: dict[str, Any]) -> float:
        begin = planned.run.branch.step if planned.run.branch else 0
        return max(0.0, (values.get("step", begin) - begin) / max(1, planned.run.steps - begin))

    def _time_left(self) -> float:
        """By the plan's estimate, corrected by how the finished part went."""
        partial = {i: self._fraction(p, v) for p, v in self._latest.values() for i in v.get("ids", [p.run.id])}
        spent = sum(
            self._estimate.get(i, 0) * (1.0 if i in self._done else partial.get(i, 0.0)) for i in self._estimate
        )
        left = sum(self._estimate.values()) - spent
        elapsed = time.monotonic() - self._started
        pace = elapsed * self._workers / spent if spent > 5 else 1.0
        return left * pace / self._workers

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        total = sum(self._estimate.values()) or 1.0
        left = self._time_left()
        done = self._before + len(self._done)
        table.add_row(f"[bold]{done}/{len(self._planned)} runs", _bar(1 - left / total), f"about {left:.0f} s left")
        for _, (planned, values) in sorted(self._latest.items()):
            fraction, members = self._fraction(planned, values), len(values.get("ids", ())) or 1
            speed, loss = values.get("tokens_per_second"), values.get("loss")
            steps = planned.run.steps - (planned.run.branch.step if planned.run.branch else 0)
            steps_left = members * (1 - fraction) * steps
            table.add_row(
                label(planned) + (f" and {members - 1} like it" if members > 1 else ""),
                _bar(fraction),
                values.get("phase", ""),
                f"loss {loss:.3f}" if loss else "",
                f"{speed:,.0f} tok/s" if speed else "",
                f"{values['flops_per_second'] / 1e9:.1f} GFLOP/s" if speed else "",
                f"{steps_left * planned.run.batch_tokens / speed:.0f} s left" if speed else "",
            )
        return table


def _bar(fraction: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=min(1.0, max(0.0, fraction)), width=24)


def label(planned: Planned) -> str:
    """A run in a few words: its group, N and D."""
    run = planned.run
    kind = "trunk to" if planned.role == "trunk" else "D"
    seed = f" seed {run.seed}" if run.seed else ""
    return f"{planned.group}: N {short(count_params(run.model).matmul)}, {kind} {short(run.tokens)}{seed}"
